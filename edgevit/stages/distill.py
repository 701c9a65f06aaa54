"""distill: teachers and images, labelled or not → the student's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Distill
from edgevit.context import Context
from edgevit.models.checkpoints import checkpoint_contents
from edgevit.training.distributed.processes import on_ranks
from edgevit.training.loop.metrics_log import METRICS
from edgevit.training.loop.setup import distillation_setup


@on_ranks
def run(config: Distill, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    setup, teacher = distillation_setup(config, inputs, context)
    trained, val_top1 = setup.train(config, context, out)
    metrics, origin = {"val_top1": val_top1}, {**setup.computed_in, **teacher.summary()}
    return checkpoint_contents(trained, setup.classes, out, metrics, origin, METRICS, unnamed=setup.unnamed)
