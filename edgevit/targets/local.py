"""The targets on this machine: its CPU and its first NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from edgevit.artifacts import Artifact, Json
from edgevit.configs import Compile
from edgevit.configs.runtimes import ONNXRUNTIME, OPENVINO, RUNTIMES, TENSORRT, TORCH
from edgevit.configs.targets import LOCAL_CPU, LOCAL_GPU
from edgevit.errors import MissingDependency, TargetError
from edgevit.model_file import TargetInfo
from edgevit.profiling import Clock, Comparison, MeasurePlan, Opener, interleaved
from edgevit.profiling.conditions import cpu, gpus
from edgevit.provenance import version_of
from edgevit.runtimes.base import LocalSession, Session, SessionOptions, runtime_of
from edgevit.targets.base import Check, Compiled, unchecked

# Runtimes are imported in the functions that use them: a finished recipe only calls `describe`, which needs none.

Load = Callable[[], LocalSession]  # loads a model anew at each call


class LocalCpu:
    """The CPU of this machine."""

    name = LOCAL_CPU
    runtimes = (ONNXRUNTIME.name, OPENVINO.name, TORCH.name)

    def describe(self, runtime: str) -> TargetInfo:
        return _info(self.name, runtime, self.runtimes, dict(cpu()))

    def compile(self, model: Artifact, out: Path, config: Compile, check: Check = unchecked) -> Compiled:
        from edgevit.runtimes.onnxruntime.engine import engine_from_onnx

        file = engine_from_onnx(model, out, self.describe(config.runtime))
        return Compiled(file, check(file))

    @contextmanager
    def open(self, model: Artifact, options: SessionOptions) -> Iterator[Session]:
        yield self._opener(model, options)()

    def race(self, a: Artifact, b: Artifact, options: SessionOptions, plan: MeasurePlan) -> Comparison:
        return _race(self._opener(a, options), self._opener(b, options), plan)

    def _opener(self, model: Artifact, options: SessionOptions) -> Load:
        if runtime_of(model) == TORCH.name:
            from edgevit.runtimes.torch.session import open_session

            return partial(open_session, model, options, "cpu")
        from edgevit.runtimes.sessions import session_opener

        return session_opener(model, options)


class LocalGpu:
    """The first NVIDIA GPU of this machine. Its runtime is torch."""

    name = LOCAL_GPU
    runtimes = (TORCH.name,)

    def describe(self, runtime: str) -> TargetInfo:
        devices = gpus()
        if not devices:
            raise TargetError(
                "there is no NVIDIA GPU here",
                where=self.name,
                got="nvidia-smi lists none",
                next="set target: local-cpu, or install NVIDIA's driver",
            )
        return _info(self.name, runtime, self.runtimes, {"gpu": devices[0], "cpu": cpu()["model"]})

    def compile(self, model: Artifact, out: Path, config: Compile, check: Check = unchecked) -> Compiled:
        raise _not_here(config.runtime, self.name, self.runtimes)

    @contextmanager
    def open(self, model: Artifact, options: SessionOptions) -> Iterator[Session]:
        yield self._opener(model, options)()

    def race(self, a: Artifact, b: Artifact, options: SessionOptions, plan: MeasurePlan) -> Comparison:
        from edgevit.runtimes.torch.session import CudaClock

        return _race(self._opener(a, options), self._opener(b, options), plan, CudaClock())

    def _opener(self, model: Artifact, options: SessionOptions) -> Load:
        self.describe(runtime_of(model))
        from edgevit.runtimes.torch.session import open_session

        return partial(open_session, model, options, "cuda")


def _race(a: Load, b: Load, plan: MeasurePlan, clock: Clock | None = None) -> Comparison:
    def opener(load: Load) -> Opener:
        return lambda: nullcontext(load().work(plan))

    return interleaved(opener(a), opener(b), plan, clock)


def _info(name: str, runtime: str, runtimes: tuple[str, ...], hardware: Json) -> TargetInfo:
    if runtime not in runtimes:
        raise _not_here(runtime, name, runtimes)
    version = version_of(RUNTIMES[runtime].package)
    if version is None:
        raise MissingDependency(f"{runtime} is not installed", where=name, next=RUNTIMES[runtime].install_command)
    return TargetInfo(name=name, runtime=runtime, versions={runtime: version}, hardware=hardware)


def _not_here(runtime: str, name: str, runtimes: tuple[str, ...]) -> TargetError:
    advice = f"set target: {LOCAL_CPU}" if name == LOCAL_GPU else None
    if runtime == TENSORRT.name:
        advice = "name the board that builds and runs the engine: --target NAME, in a recipe target: NAME"
    return TargetError(f"{runtime} does not run on {name}", expected=f"{' or '.join(runtimes)} there", next=advice)
