"""prune: checkpoint → a smaller checkpoint, without the heads, hidden units and blocks of least importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from edgevit.artifacts import Artifact, Contents, Json
from edgevit.compression.importance import known_labels, taylor_importance
from edgevit.compression.latency_search import LatencySearch, LatencyTrial
from edgevit.compression.pruning import (
    Importance,
    Removable,
    magnitude_importance,
    plan_removal,
    prunable,
    pruned_model,
    smallest_share,
    unit_counts,
)
from edgevit.configs import Prune
from edgevit.configs.runtimes import TENSORRT
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.data.image_statistics import check_images
from edgevit.models.checkpoints import checkpoint_contents, open_to_reshape
from edgevit.models.cost import share_left
from edgevit.models.creation import BuiltModel
from edgevit.progress import Progress
from edgevit.stages.trial_engines import ENGINES, engine_builder, kept_logs
from edgevit.targets import target_for


def run(config: Prune, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    whole, classes = open_to_reshape(inputs["model"]), inputs["model"].io.classes
    unnamed = not inputs["model"].io.names_its_classes
    importance = _importance(whole, classes, config, inputs, context)
    keep, trials = _keep(whole, importance, config, context, out)
    removal = plan_removal(whole, importance, config.cost, keep)
    contents = checkpoint_contents(pruned_model(whole, removal), classes, out, {}, {}, unnamed=unnamed)
    _say_what_is_left(unit_counts(whole.module, removal), inputs["model"].metrics, contents.metrics, context.progress)
    # Measurements differ between runs, so they are no part of the result.
    timed = {"timed": [trial.as_json() for trial in trials]} if trials else {}
    return replace(contents, log_metrics=timed, logs=tuple(kept_logs(out)))


def _keep(
    whole: BuiltModel, importance: Importance, config: Prune, context: Context, out: Path
) -> tuple[float, list[LatencyTrial]]:
    """The share of the cost that stays, and the trials that found it."""
    if config.keep is not None:
        return config.keep, []
    assert config.keep_latency is not None

    def cut(keep: float) -> BuiltModel:
        return pruned_model(whole, plan_removal(whole, importance, config.cost, keep))

    least, target = smallest_share(whole, importance, config.cost), target_for(config.target, context)
    search = LatencySearch(config.id, target, config.threads, context.progress)
    if config.runtime == TENSORRT.name:
        search = replace(search, precision="float16", deployed=engine_builder(config, context, out / ENGINES))
    return search.share(whole, cut, least, config.keep_latency)


def _importance(
    whole: BuiltModel, classes: Sequence[str], config: Prune, inputs: Mapping[str, Artifact], context: Context
) -> Importance:
    structures, blocks = prunable(whole.module, config.structures)
    if config.score == "magnitude":
        return magnitude_importance(structures)
    dataset = open_dataset(inputs["data"]).sample(config.images, config.seed)
    for doubt in check_images(dataset, whole.preprocess, classes, config.id):
        context.progress.say(f"    {config.id}: doubtful images to score by: {doubt}")
    labels = known_labels(dataset, classes)
    if labels is None:
        context.progress.say(
            f"    {dataset.name} has no labels of the model's classes: the model's own answers are used"
        )
    device = torch.device(context.device)
    return taylor_importance(whole, structures, blocks, dataset, labels, device, config.seed, context.progress)


def _say_what_is_left(
    structures: Mapping[Removable, tuple[int, int]], before: Json, after: Json, progress: Progress
) -> None:
    names = {"heads": "heads", "hidden": "hidden units", "blocks": "blocks"}
    counts = ", ".join(f"{left} of {count} {names[kind]}" for kind, (count, left) in structures.items() if count)
    progress.say(f"    left: {share_left(before, after)}; {counts}")
