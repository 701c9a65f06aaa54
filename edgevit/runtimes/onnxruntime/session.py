"""An ONNX file, or an engine made from one, in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from edgevit.artifacts import Artifact, IOSpec, Json
from edgevit.errors import ArtifactError, TargetError
from edgevit.profiling import Measurement, MeasurePlan, measure
from edgevit.runtimes.base import Arrays, SessionOptions, end_to_end, random_images, receipt
from edgevit.runtimes.files import onnx_file

PROVIDER = "CPUExecutionProvider"
LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
ERRORS_ONLY = 3


class OnnxruntimeSession:
    """A loaded ONNX file."""

    def __init__(
        self, path: Path, spec: IOSpec, session_options: Json, threads: int, conditions: Mapping[str, Any] | None = None
    ) -> None:
        self.spec = spec
        self._session = inference_session(path, session_options, threads)
        self._conditions = conditions or {}

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        names = [output.name for output in self.spec.outputs]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))

    def latencies_ms(self, plan: MeasurePlan) -> Measurement:
        return measure(self.work(plan), plan, conditions=self._conditions)

    def work(self, plan: MeasurePlan) -> Callable[[], object]:
        """What is timed: for `compute`, one run on images that are in place already."""
        if plan.boundary == "end_to_end":
            return end_to_end(self, plan.batch_size)
        feed = {self.spec.inputs[0].name: random_images(self.spec, plan.batch_size)}
        names = [output.name for output in self.spec.outputs]
        return lambda: self._session.run(names, feed)


def open_session(model: Artifact, options: SessionOptions) -> OnnxruntimeSession:
    """Load the ONNX file of an artifact with the session options that travel with it."""
    if options.precision != "float32":
        raise TargetError(
            "ONNX Runtime runs a file in the precision that the file says",
            got=f"precision: {options.precision}",
            expected="precision: float32",
            next="leave 'precision' out; it is for torch on local-gpu",
        )
    return OnnxruntimeSession(
        onnx_file(model),
        model.io,
        model.manifest.session_options,
        options.threads,
        receipt(model, "onnxruntime", "cpu", options),
    )


def inference_session(
    path: Path, session_options: Json, threads: int, optimized_path: Path | None = None, spins: bool = True
) -> onnxruntime.InferenceSession:
    """ONNX Runtime's own session: one provider, `threads` threads, no other fallback.

    Args:
        session_options: {"graph_optimization_level": "all" | "disabled", "disabled_optimizers": [names]}.
        optimized_path: where the graph is written as it was optimised.
        spins: whether threads that wait for work keep their cores busy; no, where other work alternates with it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    if not spins:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = LEVELS[session_options.get("graph_optimization_level", "all")]
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    disabled = session_options.get("disabled_optimizers")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[PROVIDER], disabled_optimizers=disabled)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise ArtifactError(f"ONNX Runtime cannot load it: {str(error).splitlines()[0]}", where=path) from None
    if session.get_providers() != [PROVIDER]:
        raise TargetError("ONNX Runtime chose other providers", got=session.get_providers(), expected=PROVIDER)
    return session
