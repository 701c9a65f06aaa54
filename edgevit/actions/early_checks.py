"""Before the first stage of a recipe: whether its GPU and pages can be had, and its student will be fast enough."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import cache
from pathlib import Path

from edgevit import pipeline
from edgevit.actions.early_gpu import check_gpu_early
from edgevit.actions.early_latency import check_latency_early
from edgevit.actions.early_page import check_pages_early
from edgevit.artifacts import Artifact
from edgevit.configs import Recipe
from edgevit.context import Context


def check_before_run(
    recipe: Recipe, base: Path, runs: Path, context: Context, fresh: Collection[str] = (), anyway: bool = False
) -> dict[str, Artifact]:
    """Check what would otherwise fail after the training.

    Args:
        fresh: ids of stages to make again.
        anyway: leave out the check of the latency.

    Returns:
        The data sets and roles of the recipe by name, for `pipeline.run`.

    Raises:
        TargetError: as `check_gpu_early`.
        ArtifactError: as `check_pages_early`.
        MissingDependency: as both.
        CheckFailed: as `check_latency_early`.
        RecipeError: there is no stage of an id in `fresh`.
    """
    pipeline.check_ids(fresh, recipe)
    context = replace(context, folder=base)
    datasets = pipeline.datasets_of(recipe, base, runs, context)

    @cache  # one plan for all checks, and none for a recipe that needs no check
    def pending() -> frozenset[str]:
        return pipeline.pending(pipeline.plan(recipe, base, datasets, runs, fresh))

    check_gpu_early(recipe, pending, context)
    check_pages_early(recipe, pending, context)
    if not anyway:
        check_latency_early(recipe, datasets, pending, context)
    return datasets
