"""Before a recipe trains: whether this machine's GPU has what the stages need that run on it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from edgevit.configs import Compile, Recipe, Stage, kinds_of, makers_of, models_of
from edgevit.configs.runtimes import ONNXRUNTIME, TORCH
from edgevit.configs.targets import LOCAL_GPU
from edgevit.context import Context
from edgevit.targets import target_info


def check_gpu_early(recipe: Recipe, pending: Callable[[], Collection[str]], context: Context) -> None:
    """Look at the GPU and the runtimes of the stages that would run on local-gpu.

    Args:
        pending: gives the ids of the stages that would run.

    Raises:
        MissingDependency: a runtime is not installed, or ONNX Runtime has no CUDA provider.
        TargetError: there is no NVIDIA GPU, or TensorRT is not here.
    """
    stages = {stage.id: stage for stage in recipe.stages}
    on_gpu = [stage for stage in recipe.stages if LOCAL_GPU in stage.runs_on()]
    runtimes = [runtime_on_gpu(stage, stages) for stage in on_gpu if stage.id in pending()]
    for runtime in dict.fromkeys(runtimes):
        target_info(LOCAL_GPU, runtime, context)


def runtime_on_gpu(stage: Stage, stages: Mapping[str, Stage]) -> str:
    """The runtime of a stage of local-gpu: its own, or that of the model, which an earlier stage makes."""
    named = stage.runtime_on(LOCAL_GPU)
    if named is not None:
        return named
    maker = next(makers_of(models_of(stage)[0], stages))  # the models of a selection are of one kind
    if isinstance(maker, Compile):
        return maker.runtime
    return TORCH.name if kinds_of(stages.values())[maker.id] == "checkpoint" else ONNXRUNTIME.name
