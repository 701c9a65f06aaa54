"""The setup of the stage `pretrain`: its backbone, method, views and learner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from edgevit.artifacts import Artifact
from edgevit.configs import Auto, Jigsaw, Pirl, Pretrain
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.inference.precision import Precision
from edgevit.models.checkpoints import starting_model
from edgevit.models.creation import BuiltModel
from edgevit.models.timm_models import classifier_prefixes, timm_model
from edgevit.progress import duration
from edgevit.training.decisions import keep_decision, kept_decision
from edgevit.training.distributed import processes
from edgevit.training.loop.batches import TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.ssl.checks import (
    check_batch,
    check_is_not_sharded,
    mention_enlarged_crops,
    mention_initial_share,
    mention_new_statistics,
)
from edgevit.training.ssl.learners import learner_for
from edgevit.training.ssl.method_choice import SUITED, epoch_seconds, suited_method, with_method
from edgevit.training.ssl.tiles import tile_side
from edgevit.training.ssl.view_sizes import check_takes, let_size_vary

UNTRAINED_CLASSES = ("0",)  # of the classifier of a new backbone
DECISION = "method"


class Pretrained(NamedTuple):
    """A trained backbone, the name of the method that trained it, and the precision that it was trained in."""

    built: BuiltModel
    method: str
    precision: Precision


def pretrained(config: Pretrain, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Pretrained:
    """The backbone, trained on images without labels. Its classifier is that of `init`, or new and untrained.

    Raises:
        RecipeError: the method cannot use the backbone, the views, the number of images or the number of ranks; or the
            weights are to be sharded.
        TrainingError: the outputs collapsed.
    """
    check_is_not_sharded(config, context)
    dataset = open_dataset(inputs["data"])
    stream = TrainingStream(dataset, labelled=False)
    if dataset.labels is not None:
        context.progress.say(f"    {config.id}: the labels of {dataset.name} are not used")
    if isinstance(config.method, Auto):
        config = _with_suited_method(config, inputs, stream, context)
    check_batch(config, dataset)
    start = _start(config, inputs)
    varies = let_views_vary(config, start)
    mention_initial_share(config, dataset, context)
    mention_new_statistics(config, start.module, inputs.get("init"), context)
    mention_enlarged_crops(config, dataset, start.preprocess.height, context)
    learner = learner_for(config, start, len(dataset))
    trained, _ = fit(learner, [stream], config, context, out=out, views=config.views)
    if varies:
        let_size_vary(trained, False)
    return Pretrained(start._replace(module=trained), config.method.type, learner.precision)


def _start(config: Pretrain, inputs: Mapping[str, Artifact]) -> BuiltModel:
    """The model that training starts from, with a classifier that is not trained."""
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
    heads = classifier_prefixes(start.module)
    for name, parameter in timm_model(start.module).named_parameters():
        if name.startswith(heads):
            parameter.requires_grad_(False)
    return start


def _with_suited_method(
    config: Pretrain, inputs: Mapping[str, Artifact], stream: TrainingStream, context: Context
) -> Pretrain:
    """The stage with the method that suits it. Method, reason and the expected time of an epoch are said.

    A training that goes on keeps its method.
    """
    method = kept_decision(DECISION, SUITED, context)
    if method is not None:
        context.progress.say(f"    method auto goes on with {method}, by which this training began")
        return with_method(config, method)
    config = _with_new_choice(config, inputs, stream, context)
    if not processes.rank():
        keep_decision(DECISION, config.method.type, context)
    return config


def _with_new_choice(
    config: Pretrain, inputs: Mapping[str, Artifact], stream: TrainingStream, context: Context
) -> Pretrain:
    """The stage with the method that suits it, whose time of an epoch is measured. All ranks have to call it."""
    start, images = _start(config, inputs), len(stream.dataset)
    choice = suited_method(start.module, images, config.batch_size, context.device)
    config = with_method(config, choice.method)
    context.progress.say(f"    method auto takes {choice.method}: {choice.reason}")
    if not config.epochs:
        return config
    check_batch(config, stream.dataset)
    let_views_vary(config, start)
    seconds = epoch_seconds(learner_for(config, start, images), stream, config, context)
    in_all = f", and {config.epochs} epochs {duration(config.epochs * seconds)}" if config.epochs > 1 else ""
    context.progress.say(f"    an epoch will take about {duration(seconds)}{in_all}, by the time of a few steps")
    return config


def let_views_vary(config: Pretrain, start: BuiltModel) -> bool:
    """Prepare the model for views and tiles of other sizes than its own. Returns whether it was changed.

    Raises RecipeError if the model does not take one of these sizes.
    """
    own, method = start.preprocess.height, config.method
    sizes = {view.size for view in config.views if view.size is not None}
    if isinstance(method, (Jigsaw, Pirl)):
        sizes.add(tile_side(start.module, method.grid, own))
    others = sizes - {own}
    changed = bool(others) and let_size_vary(start.module, True)
    for size in others:
        check_takes(start.module, size)
    return changed
