"""Command lines of trtexec. All files lie in the folder that the program runs in.

Sources: NVIDIA/TensorRT, samples/common/sampleOptions.cpp, in the releases of `TENSORRT_RELEASES`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgevit.errors import TargetError
from edgevit.profiling import MeasurePlan
from edgevit.targets.boards.versions import TensorRTRelease

MODEL, ENGINE, LAYERS = "model.onnx", "model.engine", "layers.json"
TIMING_CACHE = "timing.cache"
INPUT, OUTPUTS, TIMES, PROFILE = "input.raw", "outputs.json", "times.json", "profile.json"
DETAILED = "--profilingVerbosity=detailed"
ONCE = ("--iterations=1", "--warmUp=0", "--duration=0")
IN_FLIGHT = 4  # runs that begin in the warm-up and end after it: trtexec counts them, and leaves out their times

PLAIN_NAME = re.compile(r"[\w./-]+", re.ASCII)  # trtexec splits its options at ":" and ","


@dataclass(frozen=True)
class TimingFiles:
    """The names of an engine, of its input, and of the times that a run writes."""

    engine: str
    input: str
    times: str


ALONE = TimingFiles(ENGINE, INPUT, TIMES)


@dataclass(frozen=True)
class BatchProfile:
    """The batch sizes of an engine with an open batch size. It takes 1 to `most` images.

    Attributes:
        best: the batch size that the engine is tuned for.
    """

    best: int
    most: int


@dataclass(frozen=True)
class Input:
    """The model's input: its name, and its shape without the batch."""

    name: str
    image_shape: tuple[int, ...]

    def sized(self, batch_size: int) -> str:
        """`image:8x3x224x224`"""
        return f"{self.plain_name}:{'x'.join(map(str, (batch_size, *self.image_shape)))}"

    @property
    def plain_name(self) -> str:
        """The name. Raises TargetError if trtexec cannot take it as an option."""
        if not PLAIN_NAME.fullmatch(self.name):
            raise TargetError(
                "trtexec cannot be given the name of the model's input",
                got=self.name,
                expected="letters, digits, '.', '_', '-' and '/'",
                next="rename the input in the ONNX file",
            )
        return self.name


def build_arguments(
    release: TensorRTRelease,
    source: Input,
    profile: BatchProfile | None,
    builder_level: int,
    workspace_mib: int | None,
    timing: MeasurePlan | None = None,
    *,
    has_timing_cache: bool = False,
) -> tuple[str, ...]:
    """Build MODEL into ENGINE. Float32 stays float32: TF32 is off.

    Args:
        profile: None for a model with a fixed batch size.
        workspace_mib: memory that a kernel may use; None for all of the GPU's.
        timing: a plan by which the engine runs on random numbers after its build, and writes TIMES. Its batch size is
            the best of the profile.
        has_timing_cache: read the times of kernels from TIMING_CACHE, if it is there, and add to it.
    """
    run = ("--skipInference",) if timing is None else (*release.run_flags, *_timed(timing, TIMES))
    return (
        f"--onnx={MODEL}",
        f"--saveEngine={ENGINE}",
        *dict.fromkeys((*run, *release.build_flags)),  # trtexec refuses an option that is given twice
        "--noTF32",
        DETAILED,
        *((f"--timingCacheFile={TIMING_CACHE}",) if has_timing_cache else ()),
        f"--builderOptimizationLevel={builder_level}",
        *(() if workspace_mib is None else (f"--memPoolSize=workspace:{workspace_mib}",)),
        *(() if profile is None else _shapes(source, profile)),
    )


def layers_arguments(release: TensorRTRelease, source: Input, batch_size: int, is_open: bool) -> tuple[str, ...]:
    """Run ENGINE once on random numbers, and write LAYERS.

    A build with --skipInference makes no execution context, without which the inspector tells no types of tensors for
    an open batch.
    """
    return (*_load(source, batch_size, is_open), *release.run_flags, DETAILED, f"--exportLayerInfo={LAYERS}", *ONCE)


def outputs_arguments(release: TensorRTRelease, source: Input, batch_size: int, is_open: bool) -> tuple[str, ...]:
    """Run ENGINE once on INPUT, and write OUTPUTS."""
    return (*_run(release, source, batch_size, is_open), f"--exportOutput={OUTPUTS}", *ONCE)


def timing_arguments(
    release: TensorRTRelease, source: Input, plan: MeasurePlan, is_open: bool, files: TimingFiles = ALONE
) -> tuple[str, ...]:
    """Run an engine on its input by a plan, and write the times."""
    return (
        *_run(release, source, plan.batch_size, is_open, files),
        *_timed(plan, files.times),
    )


def _timed(plan: MeasurePlan, times: str) -> Sequence[str]:
    return (
        f"--exportTimes={times}",
        f"--iterations={plan.min_runs + IN_FLIGHT}",
        f"--warmUp={math.ceil(plan.warmup_s * 1000)}",
        f"--duration={plan.duration_s:g}",
    )


def profile_arguments(release: TensorRTRelease, source: Input, plan: MeasurePlan, is_open: bool) -> tuple[str, ...]:
    """Run ENGINE by a plan and write TIMES; then run it with TensorRT's profiler, and write PROFILE.

    TensorRT 11 always profiles in a run of its own. It warns of the flag that asks for it.
    """
    apart = ("--separateProfileRun",) if release.version < (11,) else ()
    return (*timing_arguments(release, source, plan, is_open), f"--exportProfile={PROFILE}", *apart)


def _shapes(source: Input, profile: BatchProfile) -> Sequence[str]:
    sizes = {"min": 1, "opt": profile.best, "max": profile.most}
    return [f"--{name}Shapes={source.sized(size)}" for name, size in sizes.items()]


def _run(
    release: TensorRTRelease, source: Input, batch_size: int, is_open: bool, files: TimingFiles = ALONE
) -> tuple[str, ...]:
    inputs = f"--loadInputs={source.plain_name}:{files.input}"
    return (*_load(source, batch_size, is_open, files.engine), inputs, *release.run_flags)


def _load(source: Input, batch_size: int, is_open: bool, engine: str = ENGINE) -> tuple[str, ...]:
    return (f"--loadEngine={engine}", *((f"--shapes={source.sized(batch_size)}",) if is_open else ()))
