"""An ONNX file in OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from edgevit.artifacts import IOSpec
from edgevit.configs.runtimes import OPENVINO
from edgevit.errors import ArtifactError, MissingDependency, first_line, is_out_of_memory
from edgevit.model_file import RuntimeOptions, json_of_options
from edgevit.profiling import MeasurePlan
from edgevit.profiling.layer_times import LayerTimes
from edgevit.runtimes.base import Arrays, HostSession, fixed_batch
from edgevit.runtimes.loading import openvino_properties

try:
    import openvino
except ImportError:
    raise MissingDependency(f"{OPENVINO.title} is not installed", next=OPENVINO.install_command) from None

T = TypeVar("T")

DEVICE = "CPU"
CANNOT_LOAD = "OpenVINO cannot load it"
ERROR_ORIGINS = ("Exception from", "Check '", "FrontEnd API failed")


class OpenvinoSession(HostSession):
    """A loaded ONNX file, compiled for each batch size that occurs: fixed shapes run faster than open ones."""

    def __init__(
        self,
        path: Path,
        spec: IOSpec,
        options: RuntimeOptions,
        threads: int,
        conditions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(spec, conditions)
        self._path, self._threads = path, threads
        self._properties = openvino_properties(json_of_options(options), threads)
        self._model = explained(CANNOT_LOAD, path, lambda: core().read_model(path))
        self._requests: dict[int, openvino.InferRequest] = {}
        self._request(fixed_batch(spec) or 1)

    def layers(self, plan: MeasurePlan) -> LayerTimes:
        """The time of each kernel by OpenVINO's performance counters, in runs that follow those of the plan."""
        from edgevit.runtimes.openvino.layer_times import times_in_openvino

        plain = self.measure(plan)
        feed = self.feed(plan.batch_size)
        return times_in_openvino(self._path, self._properties, self._threads, self.spec, feed, plain)

    def _run(self, outputs: list[str], feed: Arrays) -> list[NDArray[Any]]:
        request = self._request(len(feed[self.spec.inputs[0].name]))
        values = explained("OpenVINO cannot run it", self._path, lambda: request.infer(feed))
        return [values[name] for name in outputs]

    def _request(self, batch: int) -> openvino.InferRequest:
        if batch not in self._requests:
            self._requests[batch] = self._compiled(batch).create_infer_request()
        return self._requests[batch]

    def _compiled(self, batch: int) -> openvino.CompiledModel:
        return compiled(self._model, self.spec, batch, self._properties, self._path)


FileSession = OpenvinoSession


def compiled(
    model: openvino.Model, spec: IOSpec, batch: int, properties: Mapping[str, Any], path: Path
) -> openvino.CompiledModel:
    """A model for one batch size. Raises ArtifactError if OpenVINO fails."""
    image, of_batch = spec.inputs[0], model.clone()

    def work() -> openvino.CompiledModel:
        of_batch.reshape({image.name: [batch, *image.shape[1:]]})
        return core().compile_model(of_batch, DEVICE, dict(properties))

    return explained(CANNOT_LOAD, path, work)


@cache
def core() -> openvino.Core:
    """OpenVINO's core object, created once."""
    return openvino.Core()


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16."""
    return "BF16" in core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


def explained(what: str, path: Path, work: Callable[[], T]) -> T:
    """The result of `work`. Raises ArtifactError if OpenVINO fails."""
    try:
        return work()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError(_reason(error)) from None
        raise ArtifactError(f"{what}: {_reason(error)}", where=path) from None


def _reason(error: RuntimeError) -> str:
    """The first line of OpenVINO's summary or message, without the position in its source files."""
    message, _, summary = str(error).partition("\nSummary:\n")
    lines = [line for line in (summary or message).splitlines() if line and not line.startswith(ERROR_ORIGINS)]
    return lines[0].removeprefix("-- ") if lines else first_line(error)
