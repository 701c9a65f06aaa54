"""What is in a TensorRT engine, and, on the target that built it, the time of each layer."""

from __future__ import annotations

from edgevit.actions.engine_files import source_of_engine
from edgevit.actions.inspect_layers import layer_times_of
from edgevit.artifacts import Artifact
from edgevit.checking.engine_inspection import EngineInspection, inspect_engine
from edgevit.context import Context


def inspected_engine(
    engine: Artifact, target: str | None, batch_size: int | None, context: Context
) -> EngineInspection:
    """The layers of an engine.

    Args:
        target: where the layers are timed; None to time nothing.
        batch_size: images in a timed run; None for 1, or the batch size that the engine fixes.

    Raises:
        TargetError: the target did not build the engine, or does not tell the times.
        ArtifactError: the layers cannot be read, or a file was altered.
    """
    times = None if target is None else layer_times_of(engine, target, batch_size, None, context)
    return inspect_engine(engine, source_of_engine(engine), times)
