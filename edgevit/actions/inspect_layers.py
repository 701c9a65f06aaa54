"""The time of each layer of a model on a target, and what bounds it."""

from __future__ import annotations

from typing import get_args

from edgevit.actions.engine_files import is_engine
from edgevit.artifacts import Artifact
from edgevit.checking.timed_layers import TimedModel, timed_in
from edgevit.configs.runtimes import FileRuntime
from edgevit.configs.targets import LOCAL_CPU
from edgevit.context import Context
from edgevit.errors import RecipeError, TargetError
from edgevit.profiling import MeasurePlan
from edgevit.profiling.layer_times import LayerTimes
from edgevit.runtimes.base import SessionOptions, fixed_batch, for_runtime, runtime_of
from edgevit.targets import target_for


def layer_times_of(
    model: Artifact, target: str, batch_size: int | None, threads: int | None, context: Context
) -> LayerTimes:
    """The times of the layers of a model on a target, from a run of their own.

    Args:
        batch_size: images in a run; None for 1, or the batch size that the model fixes.
        threads: CPU threads; None for 1.

    Raises:
        TargetError: the target does not run the model, or does not tell the times.
    """
    plan = MeasurePlan(batch_size=batch_size or fixed_batch(model.io) or 1)
    with target_for(target, context).open(model, SessionOptions(threads=threads or 1)) as session:
        times = session.layers(plan)
    if times is None:
        raise TargetError(
            "the target does not tell the time of each layer",
            where=target,
            got=runtime_of(model),
        )
    return times


def check_runtime(runtime: str | None, where: str) -> None:
    """Raise RecipeError if no runtime with this name opens an ONNX file on a CPU."""
    names = get_args(FileRuntime)
    if runtime is not None and runtime not in names:
        raise RecipeError("there is no such runtime", where=where, got=runtime, expected=" or ".join(names))


def timed_model(
    model: Artifact, target: str, runtime: str | None, batch_size: int | None, threads: int | None, context: Context
) -> TimedModel:
    """The times of the layers of a checkpoint or an ONNX file, under the roofline of this machine.

    Args:
        runtime: what opens an ONNX file; the file's own if it is None.

    Raises:
        RecipeError: the target is not this machine's CPU.
        TargetError: the model is an engine, or another runtime cannot open it.
        ArtifactError: the model cannot be read.
    """
    if target != LOCAL_CPU:
        raise RecipeError(
            f"a target times the layers of a TensorRT engine alone; other models are timed on {LOCAL_CPU}",
            where=model.id,
            got=target,
            expected=LOCAL_CPU,
            next="edgevit profile measures the whole model there",
        )
    opened = for_runtime(model, runtime)
    if is_engine(opened):
        raise TargetError("an engine tells its layers by itself", where=opened.id, next="edgevit inspect shows them")
    plan = MeasurePlan(batch_size=batch_size or fixed_batch(opened.io) or 1)
    with target_for(target, context).open(opened, SessionOptions(threads=threads or 1)) as session:
        timed = timed_in(session, opened, plan, threads or 1, context.progress.say)
    assert timed is not None  # every runtime on the CPU tells them
    return timed
