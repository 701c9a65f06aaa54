"""A whole recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgevit.artifacts import Frozen
from edgevit.configs.datasets import DatasetConfig
from edgevit.configs.fields import LONGEST_ID, references
from edgevit.configs.stage import Budget
from edgevit.configs.stages import StageConfig

MOST_STAGES = 1000  # with the copies of for_each
MOST_DATASETS = 1000


class Recipe(Frozen):
    """A name, a budget, named data sets and a list of stages in the order in which they run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=LONGEST_ID)] = Field(
        description="Name of the recipe and of its folder in runs/."
    )
    budget: Budget = Field(Budget(), description="Limits that the report judges the deployed model by.")
    datasets: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=LONGEST_ID)], DatasetConfig] = Field(
        max_length=MOST_DATASETS, description="Data sets by their names."
    )
    stages: tuple[StageConfig, ...] = Field(
        min_length=1, max_length=MOST_STAGES, description="Stages in the order in which they run."
    )

    def dataset_names(self) -> list[str]:
        """The data sets and roles ("digits.support") that stages refer to, each once; no results of stages."""
        stage_ids = {stage.id for stage in self.stages}
        names = [name for stage in self.stages for _, name, takes in references(stage) if takes.kinds == ("dataset",)]
        return [name for name in dict.fromkeys(names) if name not in stage_ids]
