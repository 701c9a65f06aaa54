"""What is in a TensorRT engine, and, on the target that built it, the time of each layer."""

from __future__ import annotations

from edgevit.actions.engine_files import source_of_engine
from edgevit.artifacts import Artifact
from edgevit.checking.engine_inspection import EngineInspection, inspect_engine
from edgevit.context import Context
from edgevit.errors import TargetError
from edgevit.profiling import MeasurePlan
from edgevit.profiling.layer_times import LayerTimes
from edgevit.runtimes.base import SessionOptions, fixed_batch
from edgevit.targets import target_for


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
    times = None if target is None else _times(engine, target, batch_size, context)
    return inspect_engine(engine, source_of_engine(engine), times)


def _times(engine: Artifact, target: str, batch_size: int | None, context: Context) -> LayerTimes:
    plan = MeasurePlan(batch_size=batch_size or fixed_batch(engine.io) or 1)
    with target_for(target, context).open(engine, SessionOptions()) as session:
        times = session.layers(plan)
    if times is None:
        got = engine.model_file.runtime
        raise TargetError("the target does not tell the time of each layer", where=target, got=got)
    return times
