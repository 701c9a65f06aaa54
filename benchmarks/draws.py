"""A recipe that runs once for each draw of its labelled images, with other seeds of its trainings."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from typing import Any

from benchmarks.pretraining import paired_interval
from edgevit.artifacts import Artifact
from edgevit.recipe import Recipe


def seeded(recipe: Recipe, seed: int, trainings: Collection[str]) -> Recipe:
    """The recipe with a seed for each stage of these names."""
    stages = (stage.model_copy(update={"seed": seed}) if stage.stage in trainings else stage for stage in recipe.stages)
    return recipe.model_copy(update={"stages": tuple(stages)})


def accuracy(made: Sequence[dict[str, Artifact]], evaluation: str) -> dict[str, Any]:
    """The top-1 of an evaluation: the mean, and that of each draw."""
    each = [float(draw[evaluation].metrics["top1"]["value"]) for draw in made]
    return {"mean": statistics.mean(each), "each": each}


def paired(more: dict[str, Any], less: dict[str, Any], scale: float = 1.0) -> dict[str, Any]:
    """The differences of two accuracies, paired by draws."""
    each = [scale * (one - other) for one, other in zip(more["each"], less["each"], strict=True)]
    return {"mean": statistics.mean(each), "each": each, "interval": paired_interval(each)}
