"""A model on another machine as a session: each inference and each timing is a program that runs there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from edgevit.artifacts import Artifact, Frozen, Json
from edgevit.configs.runtimes import TENSORRT
from edgevit.data.preprocess import fit_to_size
from edgevit.graphs.files import read_onnx
from edgevit.model_file import ModelFile, TensorrtOptions
from edgevit.profiling import Comparison, Measurement, MeasurePlan, comparisons_of_turns
from edgevit.profiling.loop import STARTS, Soak, Start, WarmUp
from edgevit.profiling.measure import (
    conditions_of_runs,
    conditions_of_soak,
    disturbed_runs,
    doubts_of_soak,
    doubts_of_warm_up,
)
from edgevit.provenance import version_of
from edgevit.runtimes.base import (
    Arrays,
    Session,
    SessionOptions,
    check_batch,
    fixed_batch,
    precision_of,
    runtime_of,
)
from edgevit.runtimes.onnxruntime.engine import compiled_file, write_engine
from edgevit.targets.boards.heat import temperatures_c
from edgevit.targets.remote_worker import RemoteWorker
from edgevit.targets.sampling import conditions_of_telemetry, doubts_of_telemetry
from edgevit.targets.worker_requests import (
    LOADING_S,
    MODEL,
    SECONDS_A_RUN,
    input_file,
    limit_s,
    model_for_worker,
    one_file,
    side_for_worker,
)

SHARD_BYTES = 32 * 2**20  # of input that travels together
MOST_TIMES_LARGER = 4  # than its source is a compiled graph: INT8 weights of operators without a kernel become float32
BESIDE_WEIGHTS = 2**24  # bytes of a compiled graph

N = TypeVar("N", bound=tuple[float | None, ...])
MOST = 2**62  # bytes, seconds or runs

_Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
_Samples = Annotated[list[_Milliseconds], Field(min_length=1, max_length=10_000_000)]


def _bounded(soak: Soak) -> Soak:
    """A soak that a machine tells. Raises ValueError for numbers that no soak has."""
    numbers = (soak.seconds, soak.start_c, soak.end_c, soak.slope_c_per_min)
    if soak.seconds < 0 or not all(math.isfinite(number) for number in numbers if number is not None):
        raise ValueError("the numbers of a soak are finite, and its time is not negative")
    return soak


def _plausible(numbers: N) -> N:
    """Times and sizes that a machine tells. Raises ValueError if one is negative or not finite."""
    if not all(0 <= number < MOST for number in numbers if number is not None):
        raise ValueError("times and sizes are finite and not negative")
    return numbers


class _Moment(Frozen):
    load_average_1min: float | None
    cpu_frequency: dict[str, str]
    thermal_zones: dict[str, str]


class _Conditions(Frozen):
    cpu: Json
    before: _Moment
    after: _Moment


class _Timed(Frozen):
    conditions: _Conditions
    versions: dict[str, str]


class _Measured(_Timed):
    start: Annotated[Start, AfterValidator(_plausible)]
    warm_up: Annotated[WarmUp, AfterValidator(_plausible)]
    seconds: _Seconds
    cpu_s: _Seconds
    parts_ms: dict[Annotated[str, Field(max_length=20)], _Seconds] = Field(max_length=10)
    soak: Annotated[Soak, AfterValidator(_bounded)] | None
    samples_ms: _Samples


class _Raced(_Timed):
    starts: list[list[_Samples]] = Field(min_length=STARTS, max_length=STARTS)


class _Output(Frozen):
    type: Literal["float16", "float32", "float64"]
    shape: tuple[int, ...]


class _Computed(Frozen):
    outputs: list[_Output]
    versions: dict[str, str]


class RemoteSession(Session):
    """A model that is loaded anew by each program."""

    def __init__(self, worker: RemoteWorker, model: Artifact, options: SessionOptions) -> None:
        self.spec = model.io
        self._worker, self._model, self._options = worker, model, options

    def outputs(self, images: Iterable[NDArray[np.uint8]], batch_size: int) -> Iterator[Arrays]:
        """As `Session.outputs`. The images travel resized, and stay in the target's cache."""
        rule = self.spec.preprocess
        size = rule.model_dump(include={"height", "width", "resize", "crop_pct", "interpolation"})
        resized = (fit_to_size(image, **size) for image in images)
        most = max(1, SHARD_BYTES // (rule.height * rule.width * 3))
        while shard := list(itertools.islice(resized, most)):
            yield self._outputs(np.stack(shard), batch_size, rule.model_dump(mode="json"))

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        tensor = inputs[self.spec.inputs[0].name]
        return self._outputs(tensor, len(tensor), None)

    def infer_each(self, batches: Iterable[NDArray[Any]]) -> Iterator[Arrays]:
        """As `Session.infer_each`. Batches of equal size travel together."""
        for size, group in itertools.groupby(batches, len):
            tensors = list(group)
            outputs = self._outputs(np.concatenate(tensors), size, None)
            for start in range(0, size * len(tensors), size):
                yield {name: values[start : start + size] for name, values in outputs.items()}

    def measure(self, plan: MeasurePlan) -> Measurement:
        check_batch(self.spec, plan.batch_size)
        with TemporaryDirectory() as folder:
            source = input_file(self.spec, plan, Path(folder))
            request = {"do": "measure", **side_for_worker(self._model, MODEL, source.name), "plan": vars(plan)}
            files = {MODEL: one_file(self._model, Path(folder)), source.name: source}
            asked = {**request, "threads": self._threads}
            answer, telemetry = self._worker.timed(
                asked, files, _Measured, limit_s(plan), lambda timed: timed.seconds, plan.idle_s
            )
        if len(answer.samples_ms) < plan.min_runs:
            raise self._worker.no_answer(f"{len(answer.samples_ms)} runs of at least {plan.min_runs}")
        conditions = {
            **self._worker.conditions,
            **_conditions(self._model, answer),
            **conditions_of_soak(answer.soak),
            **conditions_of_runs(answer.warm_up, answer.seconds, answer.cpu_s),
            **conditions_of_telemetry(telemetry),
            "threads": self._threads,
            **vars(plan),
        }
        samples_ms, label = np.asarray(answer.samples_ms), self._worker.label
        return Measurement(
            samples_ms,
            plan,
            conditions,
            label,
            doubts=(
                *doubts_of_soak(answer.soak),
                *doubts_of_warm_up(answer.warm_up),
                *doubts_of_telemetry(telemetry),
            ),
            telemetry=telemetry,
            disturbed=disturbed_runs(samples_ms, plan),
            parts_ms=answer.parts_ms,
            start=answer.start,
            seconds=answer.seconds,
        )

    @property
    def _threads(self) -> int:
        return self._options.threads or self._worker.cpus

    @property
    def _max_batch(self) -> int | None:
        """The largest batch that an engine takes."""
        options = self._model.model_file.options
        return options.max_batch if isinstance(options, TensorrtOptions) else None

    @property
    def _name(self) -> str:
        """The name of the model's file in the folder of a program."""
        return self._model.model_file.name if runtime_of(self._model) == TENSORRT.name else MODEL

    def _file(self, folder: Path) -> Path:
        """The model as one file."""
        if runtime_of(self._model) == TENSORRT.name:
            return self._model.file(self._model.model_file.name)
        return one_file(self._model, folder)

    def _outputs(self, images: NDArray[Any], batch_size: int, preprocess: Json | None) -> Arrays:
        """The outputs for images, uint8 (n, H, W, 3), that the target preprocesses; or for the input tensor itself."""
        request = {
            "do": "outputs",
            "model": model_for_worker(self._model, self._name),
            "threads": self._threads,
            "batch_size": min(batch_size, self._max_batch or batch_size),
            "fixed_batch": fixed_batch(self.spec),
            "preprocess": preprocess,
            "images": "images.npy",
        }
        with TemporaryDirectory() as folder:
            file = Path(folder) / "images.npy"
            np.save(file, images)
            files = {self._name: self._file(Path(folder)), file.name: file}
            shapes = [(len(images), *output.shape[1:]) for output in self.spec.outputs]
            most_bytes = sum(math.prod(map(int, shape)) for shape in shapes) * np.dtype(np.float64).itemsize
            longest_s = LOADING_S + SECONDS_A_RUN * len(images)
            answer, content = self._worker.outputs(request, files, _Computed, longest_s, most_bytes)
        if [output.shape for output in answer.outputs] != shapes:
            raise self._worker.no_answer(f"outputs {[output.shape for output in answer.outputs]}, not {shapes}")
        if len(content) != sum(_size(output) for output in answer.outputs):
            raise self._worker.no_answer(f"{len(content):,} bytes of outputs")
        return dict(zip((output.name for output in self.spec.outputs), _arrays(answer.outputs, content), strict=True))


def race_on(
    worker: RemoteWorker, models: Sequence[Artifact], options: SessionOptions, plan: MeasurePlan
) -> tuple[Comparison, ...]:
    """Measure models in turns on the target of a worker."""
    sides: list[Json] = []
    files: dict[str, Path] = {}
    with TemporaryDirectory() as folder:
        for index, model in enumerate(models):
            check_batch(model.io, plan.batch_size)
            own = Path(folder) / str(index)
            own.mkdir()
            source, name = input_file(model.io, plan, own), f"{index}_{MODEL}"
            sides.append(side_for_worker(model, name, f"{index}_{source.name}"))
            files |= {name: one_file(model, own), f"{index}_{source.name}": source}
        request = {"do": "race", "threads": options.threads or worker.cpus, "models": sides, "plan": vars(plan)}
        answer, telemetry = worker.timed(request, files, _Raced, len(models) * limit_s(plan), lambda _: math.inf)
    if any(len(turns) != len(models) for turns in answer.starts):
        raise worker.no_answer(f"starts of {[len(turns) for turns in answer.starts]} models, not {len(models)}")
    load = {"load_average_1min_at_start": answer.conditions.before.load_average_1min}
    conditions, doubts = {**load, **conditions_of_telemetry(telemetry)}, doubts_of_telemetry(telemetry)
    return comparisons_of_turns(answer.starts, plan, conditions, worker.label, telemetry, doubts)


def compile_on(worker: RemoteWorker, model: Artifact, out: Path) -> ModelFile:
    """Write the graph that ONNX Runtime optimizes for the target of a worker into folder `out`."""
    request = {"do": "compile", "threads": 1, "model": model_for_worker(model, MODEL)}
    with TemporaryDirectory() as folder:
        source = one_file(model, Path(folder))
        most_bytes = MOST_TIMES_LARGER * source.stat().st_size + BESIDE_WEIGHTS
        optimized = Path(folder) / "optimized.onnx"
        optimized.write_bytes(worker.compiled(request, {MODEL: source}, LOADING_S, most_bytes))
        write_engine(read_onnx(optimized), model, out)
    return compiled_file(model, worker.info)


def _size(output: _Output) -> int:
    return math.prod(output.shape) * np.dtype(output.type).itemsize


def _arrays(outputs: Sequence[_Output], content: bytes) -> Iterator[NDArray[Any]]:
    start = 0
    for output in outputs:
        array = np.frombuffer(content, np.dtype(output.type), math.prod(output.shape), start)
        yield array.reshape(output.shape)
        start += _size(output)


def _conditions(model: Artifact, answer: _Timed) -> Json:
    """The conditions of a timing, as `runtimes.base.receipt` gives them for this machine."""
    return {
        "runtime": runtime_of(model),
        "device": "cpu",
        "precision": precision_of(model, SessionOptions()),
        "cpu": answer.conditions.cpu,
        "before": _moment(answer.conditions.before),
        "after": _moment(answer.conditions.after),
        "load_average_1min_at_start": answer.conditions.before.load_average_1min,
        "versions": {**answer.versions, "edgevit": version_of("edgevit")},
        "file_sha256": model.content_sha256,
    }


def _moment(moment: _Moment) -> Json:
    return {"cpu_frequency": moment.cpu_frequency, "temperatures_c": temperatures_c(moment.thermal_zones)}
