"""train: labelled images → checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Train
from edgevit.context import Context
from edgevit.models.checkpoints import checkpoint_contents
from edgevit.training.distributed.processes import on_ranks
from edgevit.training.loop.metrics_log import METRICS
from edgevit.training.loop.setup import supervised_setup


@on_ranks
def run(config: Train, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    setup = supervised_setup(config, inputs)
    trained, val_top1 = setup.train(config, context, out)
    return checkpoint_contents(trained, setup.classes, out, {"val_top1": val_top1}, setup.computed_in, METRICS)
