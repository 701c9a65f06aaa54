"""The setup of the stage `pretrain`: its backbone, learner and views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgevit.artifacts import Artifact
from edgevit.configs import Byol, Dino, Mae, Moco, Pretrain, SimClr
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.data.dataset import Dataset
from edgevit.errors import RecipeError
from edgevit.models.checkpoints import starting_model
from edgevit.models.creation import BuiltModel
from edgevit.models.timm_models import classifier_prefixes, timm_model
from edgevit.training.distributed import processes
from edgevit.training.loop.batches import TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.ssl.byol import ByolLearner
from edgevit.training.ssl.dino import DinoLearner
from edgevit.training.ssl.mae import MaeLearner
from edgevit.training.ssl.moco import MocoLearner
from edgevit.training.ssl.momentum import initial_share, momentum_for
from edgevit.training.ssl.moving_teacher import WithMovingTeacher
from edgevit.training.ssl.self_supervised import SelfSupervised
from edgevit.training.ssl.simclr import SimClrLearner
from edgevit.training.ssl.view_sizes import check_takes, let_size_vary

MUCH_OF_THE_START = 0.1  # of the weights in a moving average
UNTRAINED_CLASSES = ("0",)  # of the classifier of a new backbone


def pretrained(config: Pretrain, inputs: Mapping[str, Artifact], context: Context, out: Path) -> BuiltModel:
    """The backbone, trained on images without labels. Its classifier is that of `init`, or new and untrained.

    The weights are not sharded.

    Raises:
        RecipeError: the method cannot use the backbone, the views, the number of images or the number of ranks.
        TrainingError: the outputs collapsed.
    """
    dataset = open_dataset(inputs["data"])
    _check_batch(config, dataset)
    _mention_initial_share(config, dataset, context)
    if dataset.labels is not None:
        context.progress.say(f"    {config.id}: the labels of {dataset.name} are not used")
    init = inputs.get("init")
    start = starting_model(
        config.model,
        init,
        UNTRAINED_CLASSES if init is None else init.io.classes,
        config.image_size,
        config.model_args,
        drop_rates=config.model_rates,
        seed=config.seed,
    )
    _freeze_classifier(start)
    varies = _let_views_vary(config, start)
    trained, _ = fit(
        learner_for(config, start),
        [TrainingStream(dataset, labelled=False)],
        config,
        replace(context, shard=False),
        out=out,
        views=config.views,
    )
    if varies:
        let_size_vary(trained, False)
    return start._replace(module=trained)


def learner_for(config: Pretrain, start: BuiltModel) -> SelfSupervised:
    """The learner of the stage's method."""
    method, seed = config.method, config.seed
    if isinstance(method, Dino):
        return DinoLearner(start, method, config.views[0].count, seed)
    if isinstance(method, SimClr):
        return SimClrLearner(start, method, seed)
    if isinstance(method, Mae):
        return MaeLearner(start, method, seed)
    if isinstance(method, Byol):
        return ByolLearner(start, method, seed)
    assert isinstance(method, Moco)
    return MocoLearner(start, method, seed)


def _freeze_classifier(start: BuiltModel) -> None:
    heads = classifier_prefixes(start.module)
    for name, parameter in timm_model(start.module).named_parameters():
        if name.startswith(heads):
            parameter.requires_grad_(False)


def _let_views_vary(config: Pretrain, start: BuiltModel) -> bool:
    """Prepare the model for views of other sizes than its own. Returns whether it was changed."""
    sizes = {view.size for view in config.views if view.size not in (None, start.preprocess.height)}
    changed = bool(sizes) and let_size_vary(start.module, True)
    for size in filter(None, sizes):
        check_takes(start.module, size)
    return changed


def _check_batch(config: Pretrain, dataset: Dataset) -> None:
    ranks = processes.count()
    if isinstance(config.method, Mae):
        return
    if config.batch_size % ranks or config.batch_size < 2 * ranks:
        raise RecipeError(
            f"{config.method.type} needs two images of a batch on each rank, and as many on each",
            where=f"stage '{config.id}'",
            got=f"batch_size {config.batch_size}, {ranks} ranks",
            expected=f"a multiple of {ranks}, at least {2 * ranks}",
        )
    if len(dataset) < config.batch_size:
        raise RecipeError(
            f"{config.method.type} takes an image once in a batch, and there are fewer images than a batch has",
            where=dataset.name,
            got=f"{len(dataset)} images, batch_size {config.batch_size}",
            expected=f"at least {config.batch_size} images",
            next=_smaller_batch(len(dataset), ranks),
        )
    if isinstance(config.method, Moco) and len(dataset) <= config.method.queue:
        raise RecipeError(
            "the queue would hold several keys of each image",
            where=dataset.name,
            got=f"{len(dataset)} images, queue {config.method.queue}",
            expected="a queue that is shorter than the number of images",
            next=f"method: {{type: moco, queue: {max(config.batch_size, len(dataset) // 4)}}}",
        )


def _smaller_batch(images: int, ranks: int) -> str:
    half = images // 2 // ranks * ranks
    return f"batch_size: {half}, or more images" if half >= 2 * ranks else "more images"


def _mention_initial_share(config: Pretrain, dataset: Dataset, context: Context) -> None:
    """Say if the moving average keeps much of the weights that the training starts from."""
    method, steps = config.method, -(-config.epochs * len(dataset) // config.batch_size)
    if not isinstance(method, Dino | Byol | Moco) or not steps:
        return
    learner = MocoLearner if isinstance(method, Moco) else WithMovingTeacher
    usual = momentum_for(learner.papers_momentum, learner.rises, steps)
    momentum = usual if method.momentum is None else method.momentum
    share = initial_share(momentum, learner.rises, steps)
    if share > MUCH_OF_THE_START:
        whose = "the result" if isinstance(method, Dino) else "the teacher"
        advice = "take more epochs" if momentum <= usual else f"take more epochs, or momentum {usual:.3g}"
        context.progress.say(
            f"    {share:.0%} of the initial weights stay in {whose} (momentum {momentum:.3g}, {steps} steps): {advice}"
        )
