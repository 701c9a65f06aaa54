"""The targets on this machine: its CPU and its first NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgevit.artifacts import Artifact, Json
from edgevit.configs import Compile
from edgevit.configs.runtimes import ONNXRUNTIME, OPENVINO, RUNTIMES, TENSORRT, TORCH
from edgevit.configs.targets import LOCAL_CPU, LOCAL_GPU
from edgevit.errors import MissingDependency, TargetError
from edgevit.model_file import TargetInfo
from edgevit.profiling import Clock, Comparison, Measurement, MeasurePlan, Opener, SpanMeter, SpanReading, interleaved
from edgevit.profiling.conditions import cpu, gpus
from edgevit.provenance import version_of
from edgevit.runtimes.base import LocalSession, Session, SessionOptions, receipt, runtime_of
from edgevit.runtimes.onnxruntime.cuda_provider import check_has_cuda_provider
from edgevit.targets.agent_host import AgentHost
from edgevit.targets.base import Check, Compiled, unchecked
from edgevit.targets.machine_meter import MachineMeter
from edgevit.targets.named import NamedTarget
from edgevit.targets.nvidia_gpus import check_one_kind, no_answer, no_gpu
from edgevit.targets.sampling import doubts_of_telemetry
from edgevit.targets.visits import facts_of

if TYPE_CHECKING:
    from edgevit.runtimes.onnxruntime.cuda_session import CudaSession

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
        load = self._opener(model, options)
        session = load()
        meter = MachineMeter()
        session.meters = (meter,)
        if runtime_of(model) == TORCH.name:
            session.starter = partial(_measure_loaded_anew, load, session.meters)
        else:
            from edgevit.targets.model_process import measure_in_process

            conditions = receipt(model, runtime_of(model), "cpu", options)
            session.starter = partial(
                measure_in_process,
                model,
                options,
                conditions=conditions,
                meters=session.meters,
                follow=meter.follow,
            )
        yield session

    def race(self, models: Sequence[Artifact], options: SessionOptions, plan: MeasurePlan) -> tuple[Comparison, ...]:
        openers, meter = [self._opener(model, options) for model in models], MachineMeter()
        meter.start(plan)
        try:
            comparisons = _race(openers, plan)
        finally:
            reading = meter.stop()
        return _doubted(comparisons, reading)

    def _opener(self, model: Artifact, options: SessionOptions) -> Load:
        if runtime_of(model) == TORCH.name:
            return _torch_opener(model, options, "cpu")
        from edgevit.runtimes.sessions import session_opener

        return session_opener(model, options)


class LocalGpu:
    """The first NVIDIA GPU of this machine.

    Checkpoints run in torch, ONNX files in the CUDA provider of ONNX Runtime, and engines in TensorRT, by an agent.

    Args:
        say: receives a line where a user waits.
    """

    name = LOCAL_GPU
    runtimes = (TORCH.name, ONNXRUNTIME.name, TENSORRT.name)

    def __init__(self, say: Callable[[str], None]) -> None:
        self._target, self._say = NamedTarget(self.name), say
        self._engines = AgentHost(self._target, say)

    def describe(self, runtime: str) -> TargetInfo:
        if runtime == TENSORRT.name:
            facts = facts_of(self._target, self._say)
            if not facts.has_nvidia_gpu:
                raise no_answer(self.name) if facts.is_nvidia_smi_silent else no_gpu(self.name)
            return self._engines.describe(runtime)
        info = _info(self.name, runtime, self.runtimes, {"gpu": self._gpu(), "cpu": cpu()["model"]})
        if runtime == ONNXRUNTIME.name:
            check_has_cuda_provider()
        return info

    def compile(self, model: Artifact, out: Path, config: Compile, check: Check = unchecked) -> Compiled:
        self.describe(config.runtime)
        return self._engines.compile(model, out, config, check)

    @contextmanager
    def open(self, model: Artifact, options: SessionOptions) -> Iterator[Session]:
        runtime = runtime_of(model)
        self.describe(runtime)
        if runtime == TENSORRT.name:
            with self._engines.open(model, options) as session:
                yield session
        else:
            load = self._opener(model, options)
            session = load()
            session.starter = partial(_measure_loaded_anew, load, session.meters)
            yield session

    def race(self, models: Sequence[Artifact], options: SessionOptions, plan: MeasurePlan) -> tuple[Comparison, ...]:
        runtimes = [runtime_of(model) for model in models]
        for runtime in runtimes:
            self.describe(runtime)
        if TENSORRT.name in runtimes:
            return self._engines.race(models, options, plan)
        clock = None  # a run of ONNX Runtime ends when the GPU does
        if TORCH.name in runtimes:
            from edgevit.runtimes.torch.session import CudaClock

            clock = CudaClock()
        return _race([self._opener(model, options) for model in models], plan, clock)

    def _opener(self, model: Artifact, options: SessionOptions) -> Load:
        if runtime_of(model) == TORCH.name:
            return _torch_opener(model, options, "cuda")
        from edgevit.runtimes.onnxruntime.cuda_session import cuda_opener

        return _saying_what_stays_on_cpu(model, cuda_opener(model, options), self._say)

    def _gpu(self) -> dict[str, str]:
        """What nvidia-smi says of the GPU. Raises TargetError if there is none, or GPUs of several kinds."""
        try:
            devices = gpus()
        except TimeoutError:
            raise no_answer(self.name) from None
        if not devices:
            raise no_gpu(self.name)
        check_one_kind(self.name, [gpu["model"] for gpu in devices])
        return devices[0]


def _measure_loaded_anew(load: Load, meters: Sequence[SpanMeter], plan: MeasurePlan) -> Measurement:
    """Time a model that this process loads for that."""
    session = load()
    session.meters = meters
    return session.measure(plan)


def _saying_what_stays_on_cpu(model: Artifact, load: Callable[[], CudaSession], say: Callable[[str], None]) -> Load:
    """As `load`, which names to the user the operators that ONNX Runtime leaves to the CPU, at the first call alone."""
    said = list[str]()

    def loaded() -> CudaSession:
        session = load()
        if session.other_than_shapes and not said:
            counts = ", ".join(f"{count} × {operator}" for operator, count in session.other_than_shapes.items())
            said.append(f"note: {model.id}: ONNX Runtime leaves operators to the CPU: {counts}")
            say(said[0])
        return session

    return loaded


def _torch_opener(model: Artifact, options: SessionOptions, device: Literal["cpu", "cuda"]) -> Load:
    from edgevit.runtimes.torch.session import open_session

    return partial(open_session, model, options, device)


def _race(loads: Sequence[Load], plan: MeasurePlan, clock: Clock | None = None) -> tuple[Comparison, ...]:
    def opener(load: Load) -> Opener:
        return lambda: nullcontext(load().work(plan))

    return interleaved([opener(load) for load in loads], plan, clock)


def _doubted(comparisons: Sequence[Comparison], reading: SpanReading) -> tuple[Comparison, ...]:
    """The comparisons with the state of the machine during the race.

    A disturbed race is not invalid, only doubted: other work hits the models alike, and the interval is over starts.
    """
    doubts = doubts_of_telemetry(reading.telemetry)
    if reading.telemetry is not None:
        telemetry = reading.telemetry.without_clocks()  # they fall while a model is loaded
        doubts = (*telemetry.invalid("cpu"), *telemetry.doubts("cpu"))

    def doubted(measured: Measurement) -> Measurement:
        conditions = {**measured.conditions, **reading.conditions}
        return replace(measured, conditions=conditions, doubts=(*measured.doubts, *doubts))

    first = doubted(comparisons[0].a)
    return tuple(replace(compared, a=first, b=doubted(compared.b)) for compared in comparisons)


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
        advice = f"name {LOCAL_GPU}, or the board that runs the engine: --target NAME, in a recipe target: NAME"
    return TargetError(f"{runtime} does not run on {name}", expected=f"{' or '.join(runtimes)} there", next=advice)
