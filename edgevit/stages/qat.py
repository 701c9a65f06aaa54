"""qat: checkpoint → a checkpoint trained under fake quantization, with the ranges of its activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Qat
from edgevit.context import Context
from edgevit.models.checkpoints import checkpoint_contents
from edgevit.models.ranges import TrainedRanges, save_ranges
from edgevit.quantization.fake_quantization import load_trained
from edgevit.training.distributed.processes import on_ranks
from edgevit.training.loop.metrics_log import METRICS
from edgevit.training.qat import quantization_aware_setup, with_decided_range


@on_ranks
def run(config: Qat, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    # Not sharded: layers share the scales that they learn. The models that become INT8 are small.
    context = replace(context, shard=False)
    config = with_decided_range(config, context)
    setup, teacher, student = quantization_aware_setup(config, inputs, context)
    trained, val_top1 = setup.train(config, context, out)
    ranges = load_trained(trained.module, student.module)
    is_reduced = bool(config.reduce_range)
    save_ranges(TrainedRanges(runtime=config.runtime, reduce_range=is_reduced, layers=ranges), out)
    metrics = {"val_top1": val_top1, "rounded_layers": len(ranges), **({"reduce_range": True} if is_reduced else {})}
    origin = {**setup.computed_in, **teacher.summary()}
    return checkpoint_contents(student, setup.classes, out, metrics, origin, METRICS, unnamed=setup.unnamed)
