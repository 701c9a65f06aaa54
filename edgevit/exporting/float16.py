"""An exported graph in float16."""

from __future__ import annotations

from onnx import ModelProto

from edgevit.artifacts import IOSpec
from edgevit.context import usable_cpus
from edgevit.graphs.float16 import with_float16
from edgevit.graphs.norms import with_fused_norms
from edgevit.progress import Progress
from edgevit.runtimes.base import fixed_batch, random_images
from edgevit.runtimes.float16_range import beyond_float16, beyond_float16_text
from edgevit.runtimes.parity import PROBES


def in_float16(model: ModelProto, spec: IOSpec, where: str, progress: Progress) -> ModelProto:
    """A float32 graph in float16, but for what leaves the range of float16 on seeded images. A line names that.

    Args:
        where: the stage's id, for the line and for errors.

    Raises:
        ArtifactError: the graph cannot be written in float16.
    """
    fused = with_fused_norms(model)
    beyond = beyond_float16(fused, lambda: [random_images(spec, fixed_batch(spec) or PROBES)], threads=usable_cpus())
    if beyond:
        progress.say(f"    {where}: {beyond_float16_text(beyond, 'random images')}")
    return with_float16(fused, where, beyond)
