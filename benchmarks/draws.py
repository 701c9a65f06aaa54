"""Benchmarks that run a recipe once for each draw: the command line, the loop, and accuracies paired by draw."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import ROOT
from edgevit import pipeline
from edgevit.artifacts import Artifact
from edgevit.cli.output import terminal_context
from edgevit.recipe import Recipe, load_recipe


def parser_of_draws(description: str | None, *paths: str, draws: int = 3) -> argparse.ArgumentParser:
    """The command line: these paths, the number of draws, and the folder that keeps the results."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in paths:
        parser.add_argument(name, type=Path)
    parser.add_argument("--draws", type=int, default=draws)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    return parser


def artifacts_of_draws(recipe_of: Callable[[int], Recipe], draws: int, runs: Path) -> list[dict[str, Artifact]]:
    """The artifacts of each draw's recipe, by stage, on one thread. What RUNS holds is not made again."""
    torch.set_num_threads(1)
    return [pipeline.run(recipe_of(draw), ROOT / "benchmarks", runs, terminal_context()) for draw in range(draws)]


def recipe_of_draw(
    file: Path, draw: int, folders: Mapping[str, Path], settings: Sequence[str], trainings: Collection[str]
) -> Recipe:
    """A benchmark's recipe for one draw, which is also the seed of the stages of these names.

    Args:
        folders: the folder of each data set.
        settings: of other values, as for `--set`.
    """
    of_data = [
        setting
        for name, folder in folders.items()
        for setting in (f"datasets.{name}.path={folder.absolute()}", f"datasets.{name}.few_shot.draw={draw}")
    ]
    return _seeded(load_recipe(file, [*of_data, *settings]), draw, trainings)


def stages_of(recipe: Recipe, names: Collection[str]) -> dict[str, Any]:
    """The stages of these names, by id, with all their options."""
    return {stage.id: stage.model_dump(mode="json") for stage in recipe.stages if stage.stage in names}


def accuracy(made: Sequence[dict[str, Artifact]], evaluation: str) -> dict[str, Any]:
    """The top-1 of an evaluation: the mean, and that of each draw."""
    return summary([float(draw[evaluation].metrics["top1"]["value"]) for draw in made])


def summary(each: Sequence[float]) -> dict[str, Any]:
    """The values of draws or seeds, and their mean."""
    return {"mean": statistics.mean(each), "each": each}


def paired(more: dict[str, Any], less: dict[str, Any], scale: float = 1.0) -> dict[str, Any]:
    """The differences of two accuracies, paired by draws."""
    each = [scale * (one - other) for one, other in zip(more["each"], less["each"], strict=True)]
    return {**summary(each), "interval": paired_interval(each)}


def paired_interval(gains: Sequence[float]) -> tuple[float, float] | None:
    """The 95% interval of the mean of paired differences, by Student's t; None for a single seed."""
    if len(gains) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(gains) - 1)) * statistics.stdev(gains) / len(gains) ** 0.5
    return statistics.mean(gains) - half, statistics.mean(gains) + half


def _seeded(recipe: Recipe, seed: int, trainings: Collection[str]) -> Recipe:
    """The recipe with a seed for each stage of these names."""
    stages = (stage.model_copy(update={"seed": seed}) if stage.stage in trainings else stage for stage in recipe.stages)
    return recipe.model_copy(update={"stages": tuple(stages)})
