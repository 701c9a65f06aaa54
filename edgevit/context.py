"""The circumstances of a stage, beside its configuration and inputs. Only the budget enters keys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgevit.configs import Budget
from edgevit.progress import Progress, SilentProgress

MOST_WORKERS = 8


def usable_cpus() -> int:
    """The number of CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Context:
    """Where and how a stage runs.

    Attributes:
        device: the torch device that training uses, "cpu" or "cuda".
        workers: processes that load images; 0 loads them in the training process.
        ranks: processes that share a training, each with its rows of every batch; on CUDA, each has its own GPU.
        shard: the ranks split the weights between them (FSDP).
        progress: receives lines and bars.
        budget: the recipe's budget; only stages that declare `reads_budget` may read it.
        stage_id: the id of the stage that is running.
        work: a folder of this stage's key that survives a kill, for the state of a training. It is removed once the
            stage is published.
        training: the training that `work` belongs to: its stage's key.
        cache: a folder that all stages share and that may be removed at any time (teacher outputs, embeddings).
        check: compute a sample of the cached teacher outputs again, and compare.
        tensorboard: the folder of event files for TensorBoard, with a folder for each stage.
        recipe_name: for titles.
        dropped: of a stage `select`: the models of the recipe that were never made, with the reasons.
        folder: the project's folder, whose targets.yaml counts: that of the recipe. None: the current folder.
    """

    device: str = "cpu"
    workers: int = field(default_factory=lambda: min(MOST_WORKERS, max(0, usable_cpus() - 2)))
    ranks: int = 1
    shard: bool = False
    progress: Progress = field(default_factory=SilentProgress)
    budget: Budget = field(default_factory=Budget)
    stage_id: str = ""
    work: Path = Path()
    training: str = ""
    cache: Path | None = None
    check: bool = False
    tensorboard: Path | None = None
    recipe_name: str = ""
    dropped: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None

    def at(self, stage_id: str, work: Path, cache: Path | None, training: str = "") -> Context:
        """The context of one stage."""
        tensorboard = self.tensorboard and self.tensorboard / self.recipe_name / stage_id
        return replace(self, stage_id=stage_id, work=work, training=training, cache=cache, tensorboard=tensorboard)
