"""An ONNX file in ONNX Runtime's CUDA provider, on the first NVIDIA GPU of this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from edgevit.artifacts import Artifact, IOSpec
from edgevit.configs.runtimes import ONNXRUNTIME
from edgevit.configs.targets import LOCAL_GPU
from edgevit.errors import ArtifactError, MissingDependency, TargetError
from edgevit.graphs.files import onnx_file
from edgevit.model_file import RuntimeOptions, json_of_options
from edgevit.profiling import Measurement, MeasurePlan, Work, measure
from edgevit.runtimes.base import Arrays, HostSession, SessionOptions, check_batch, random_images, receipt
from edgevit.runtimes.loading import PROVIDER as ON_CPU
from edgevit.runtimes.loading import onnxruntime_options
from edgevit.runtimes.onnxruntime.session import errors_explained, run_session
from edgevit.runtimes.sessions import check_own_precision

CUDA = "CUDAExecutionProvider"
CUDA_OPTIONS = {"device_id": "0", "use_tf32": "0"}  # products of float32 are computed in float32
RECORD_PROVIDERS = "session.record_ep_graph_assignment_info"


class CudaSession(HostSession):
    """A loaded ONNX file.

    Attributes:
        on_cpu: the operators that ONNX Runtime has left to the CPU, with the number of each.
    """

    def __init__(
        self, path: Path, spec: IOSpec, options: RuntimeOptions, threads: int, conditions: Mapping[str, Any]
    ) -> None:
        self._path, self._session = path, _inference_session(path, options, threads)
        self.on_cpu = operators_on_cpu(self._session)
        own = {"provider": CUDA, "provider_options": CUDA_OPTIONS, "operators_on_cpu": self.on_cpu}
        super().__init__(spec, {**conditions, **own})

    def measure(self, plan: MeasurePlan) -> Measurement:
        """As `Session.measure`. The temperature of the GPU is not in the kernel's thermal zones."""
        return measure(self.work(plan), plan, conditions=self._conditions, temperature_c=lambda: None)

    def work(self, plan: MeasurePlan) -> Work:
        """One timed run. For boundary `compute`, inputs and outputs are on the GPU; the run ends when the GPU does."""
        if plan.boundary == "end_to_end":
            return super().work(plan)
        check_batch(self.spec, plan.batch_size)
        feed = {self.spec.inputs[0].name: random_images(self.spec, plan.batch_size)}
        return run_on_device(self._session, [output.name for output in self.spec.outputs], feed, "cuda")

    def _run(self, outputs: list[str], feed: Arrays) -> list[NDArray[Any]]:
        return run_session(self._session, outputs, feed, self._path)


def cuda_opener(model: Artifact, options: SessionOptions) -> Callable[[], CudaSession]:
    """A function that loads the ONNX file of an artifact anew at each call. The file's hash is checked once, here.

    Raises:
        ArtifactError: the file was compiled for a CPU.
        MissingDependency: the installed ONNX Runtime has no CUDA provider.
        TargetError: another precision is asked for than the file's.
    """
    if model.is_compiled:
        raise ArtifactError(
            "the model was compiled for a CPU", where=model.id, next="take the ONNX file that it was compiled from"
        )
    check_own_precision(options)
    check_has_cuda(onnxruntime.get_available_providers())
    conditions = receipt(model, ONNXRUNTIME.name, "cuda", options)
    return partial(
        CudaSession, onnx_file(model), model.io, model.model_file.options, options.threads_here, conditions
    )  # fmt: skip


def check_has_cuda(providers: Sequence[str]) -> None:
    """Raise MissingDependency if the providers of the installed ONNX Runtime lack that of CUDA."""
    if CUDA not in providers:
        raise MissingDependency(
            f"the installed {ONNXRUNTIME.title} has no CUDA provider",
            where=LOCAL_GPU,
            got=f"{onnxruntime.__version__} with {', '.join(providers)}",
            next=f"pip uninstall {ONNXRUNTIME.package}, then pip install {ONNXRUNTIME.package_with_cuda}",
        )


def check_uses_cuda(session: onnxruntime.InferenceSession) -> None:
    """Raise TargetError if a session was made without the CUDA provider, since its libraries cannot be loaded."""
    if CUDA not in session.get_providers():
        raise TargetError(
            f"{ONNXRUNTIME.title} could not start its CUDA provider",
            where=LOCAL_GPU,
            got=", ".join(session.get_providers()),
            expected=CUDA,
            next=f"install the CUDA and cuDNN that {ONNXRUNTIME.package_with_cuda} {onnxruntime.__version__} needs",
        )


def operators_on_cpu(session: onnxruntime.InferenceSession) -> dict[str, int]:
    """The number of each operator that a session runs on the CPU, of a session that records its providers."""
    on_cpu = (graph for graph in session.get_provider_graph_assignment_info() if graph.ep_name == ON_CPU)
    return dict(Counter(node.op_type for graph in on_cpu for node in graph.get_nodes()))


def run_on_device(session: onnxruntime.InferenceSession, outputs: Sequence[str], feed: Arrays, device: str) -> Work:
    """A run whose inputs are on a device from now on, and whose outputs stay there."""
    binding = session.io_binding()
    for name, values in feed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(values, device, 0))
    for name in outputs:
        binding.bind_output(name, device)

    def run() -> object:
        session.run_with_iobinding(binding)
        return binding

    return run


def _inference_session(path: Path, options: RuntimeOptions, threads: int) -> onnxruntime.InferenceSession:
    """A session on the GPU. It is never replaced by one on the CPU."""
    recorded = json_of_options(options)
    session_options = onnxruntime_options(recorded, threads)
    session_options.add_session_config_entry(RECORD_PROVIDERS, "1")
    with errors_explained(f"{ONNXRUNTIME.title} cannot load it on the GPU", path):
        session = onnxruntime.InferenceSession(
            path,
            session_options,
            providers=[(CUDA, CUDA_OPTIONS), ON_CPU],
            disabled_optimizers=recorded.get("disabled_optimizers"),
            enable_fallback=0,
        )
    check_uses_cuda(session)
    return session
