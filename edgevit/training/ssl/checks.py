"""Checks and notes before a pre-training: the batch, the images, the moving average."""

from __future__ import annotations

from statistics import median

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgevit.artifacts import Artifact
from edgevit.configs import Moco, Pirl, Pretrain, SelfDistillation
from edgevit.context import Context
from edgevit.data.dataset import Dataset
from edgevit.errors import RecipeError
from edgevit.provenance import WEIGHTS_FROM
from edgevit.training.distributed import processes
from edgevit.training.ssl.moco import MocoLearner
from edgevit.training.ssl.momentum import initial_share, momentum_for
from edgevit.training.ssl.moving_teacher import WithMovingTeacher

MUCH_OF_THE_START = 0.1  # of the weights in a moving average
LOOKED_AT = 8  # images, spread over the data set
MUCH_ENLARGED = 4.0  # times the side of a crop


def check_is_not_sharded(config: Pretrain, context: Context) -> None:
    """Raise RecipeError if the weights are to be sharded: a moving teacher and the heads are whole on each rank."""
    if context.shard:
        raise RecipeError(
            "a stage pretrain does not shard its weights",
            where=f"stage '{config.id}'",
            got="--shard",
            expected="whole weights on each rank",
            next="run once without --shard; finished stages are kept, so --shard may then be given for the others",
        )


def check_batch(config: Pretrain, dataset: Dataset) -> None:
    """Raise RecipeError if a batch does not suit the ranks, the images or the method."""
    if config.method.compares_images:
        _check_size(config, dataset)
    if isinstance(config.method, Moco) and len(dataset) <= config.method.queue:
        raise RecipeError(
            "the queue would hold several keys of each image",
            where=dataset.name,
            got=f"{len(dataset)} images, queue {config.method.queue}",
            expected="a queue that is shorter than the number of images",
            next=f"method: {{type: moco, queue: {max(config.batch_size, len(dataset) // 4)}}}",
        )
    if isinstance(config.method, Pirl) and len(dataset) <= config.method.negatives:
        raise RecipeError(
            "there are fewer memories of other images than negatives",
            where=dataset.name,
            got=f"{len(dataset)} images, negatives {config.method.negatives}",
            expected="fewer negatives than images",
            next=f"method: {{type: pirl, negatives: {len(dataset) // 2}}}",
        )


def mention_initial_share(config: Pretrain, dataset: Dataset, context: Context) -> None:
    """Say if the moving average keeps much of the weights that the training starts from."""
    method, steps = config.method, -(-config.epochs * len(dataset) // config.batch_size)
    if not method.has_moving_teacher or not steps:
        return
    learner = MocoLearner if isinstance(method, Moco) else WithMovingTeacher
    usual = momentum_for(learner.papers_momentum, learner.rises, steps)
    momentum = usual if method.momentum is None else method.momentum  # type: ignore[union-attr]
    share = initial_share(momentum, learner.rises, steps)
    if share > MUCH_OF_THE_START:
        whose = "the result" if isinstance(method, SelfDistillation) else "the teacher"
        advice = "take more epochs" if momentum <= usual else f"take more epochs, or momentum {usual:.3g}"
        context.progress.say(
            f"    {share:.0%} of the initial weights stay in {whose} (momentum {momentum:.3g}, {steps} steps): {advice}"
        )


def mention_new_statistics(config: Pretrain, model: nn.Module, init: Artifact | None, context: Context) -> None:
    """Say that batch normalization gets other statistics, where weights came from a file or a hub.

    `freeze_batch_norm: false` in the recipe silences it.
    """
    if init is None or not config.epochs or "freeze_batch_norm" in config.model_fields_set:
        return
    origin = init.manifest.provenance.get(WEIGHTS_FROM) or {}
    is_given = origin.get("body") in ("pretrained", "file")
    if is_given and any(isinstance(module, _BatchNorm) for module in model.modules()):
        context.progress.say(
            f"    batch normalization of {init.id} gets the statistics of these images; with few images, "
            "freeze_batch_norm: true is better"
        )


def mention_enlarged_crops(config: Pretrain, dataset: Dataset, side: int, context: Context) -> None:
    """Say if the views are much larger than the crops that they are made from.

    Args:
        side: the side of the model's input in pixels.
    """
    looked_at = range(0, len(dataset), max(1, len(dataset) // LOOKED_AT))
    image = median((height * width) ** 0.5 for height, width, _ in (dataset.image(index).shape for index in looked_at))
    for view in config.views:
        crop = image * (sum(view.scale) / 2) ** 0.5
        if (view.size or side) > MUCH_ENLARGED * crop:
            context.progress.say(
                f"    views of {view.size or side} px are made from crops of about {crop:.0f} px (images of "
                f"{image:.0f} px): take a smaller image_size or size, which takes less time"
            )


def _check_size(config: Pretrain, dataset: Dataset) -> None:
    ranks = processes.count()
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


def _smaller_batch(images: int, ranks: int) -> str:
    half = images // 2 // ranks * ranks
    return f"batch_size: {half}, or more images" if half >= 2 * ranks else "more images"
