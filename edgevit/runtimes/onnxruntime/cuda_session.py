"""An ONNX file in ONNX Runtime's CUDA provider, on the first NVIDIA GPU of this machine."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto

from edgevit.artifacts import Artifact, IOSpec
from edgevit.configs.runtimes import ONNXRUNTIME
from edgevit.configs.targets import LOCAL_GPU
from edgevit.errors import ArtifactError, TargetError, shortened
from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.graphs.tensors import types_and_shapes
from edgevit.model_file import RuntimeOptions
from edgevit.profiling import Measurement, MeasurePlan, Work, measure
from edgevit.profiling.loop import Part
from edgevit.runtimes.base import Arrays, HostSession, SessionOptions, check_batch, end_to_end, random_images, receipt
from edgevit.runtimes.loading import PROVIDER
from edgevit.runtimes.onnxruntime.session import errors_explained, inference_session, run_session
from edgevit.runtimes.sessions import check_own_precision

CUDA = "CUDAExecutionProvider"
CUDA_OPTIONS = {"device_id": "0", "use_tf32": "0"}  # products of float32 are computed in float32
RECORD_PROVIDERS = {"session.record_ep_graph_assignment_info": "1"}
LONGEST_REASON = 400  # characters: two paths are in it
_REASON = re.compile(r"\[E:onnxruntime:.*?\[ONNXRuntimeError\] : \d+ : \w+ : (.+)")


class CudaSession(HostSession):
    """A loaded ONNX file.

    Attributes:
        operators_on_cpu: the operators that ONNX Runtime has left to the CPU, with the number of each.
        other_than_shapes: those of them that compute more than shapes. ONNX Runtime keeps shapes on the CPU by choice.
    """

    def __init__(
        self, path: Path, spec: IOSpec, options: RuntimeOptions, threads: int, conditions: Mapping[str, Any]
    ) -> None:
        self._path, self._session = path, _session_on_gpu(path, options, threads)
        self.operators_on_cpu = operators_on_cpu(self._session)
        self.other_than_shapes = operators_on_cpu(self._session, without=shape_nodes(path))
        own = {"provider": CUDA, "provider_options": CUDA_OPTIONS, "operators_on_cpu": self.operators_on_cpu}
        super().__init__(spec, {**conditions, **own})

    def measure(self, plan: MeasurePlan) -> Measurement:
        """As `Session.measure`. The temperature of the GPU is not in the kernel's thermal zones."""
        return measure(
            self.work(plan),
            plan,
            conditions=self._conditions,
            temperature_c=lambda: None,
            meters=self.meters,
            processor="gpu",
        )

    def work(self, plan: MeasurePlan) -> Work:
        """One timed run. For boundary `compute`, inputs and outputs are on the GPU; the run ends when the GPU does."""
        check_batch(self.spec, plan.batch_size)
        if plan.boundary == "end_to_end":
            names = self.spec.inputs[0].name, [output.name for output in self.spec.outputs]
            return end_to_end(self, plan.batch_size, parts_on_device(self._session, *names, "cuda", self._path))
        feed = {self.spec.inputs[0].name: random_images(self.spec, plan.batch_size)}
        return run_on_device(self._session, [output.name for output in self.spec.outputs], feed, "cuda", self._path)

    def _run(self, outputs: list[str], feed: Arrays) -> list[NDArray[Any]]:
        return run_session(self._session, outputs, feed, self._path)


def cuda_opener(model: Artifact, options: SessionOptions) -> Callable[[], CudaSession]:
    """A function that loads the ONNX file of an artifact anew at each call. The file's hash is checked once, here.

    Raises:
        ArtifactError: the file was compiled for a CPU.
        TargetError: another precision is asked for than the file's.
    """
    if model.is_compiled:
        raise ArtifactError(
            "the model was compiled for a CPU", where=model.id, next="take the ONNX file that it was compiled from"
        )
    check_own_precision(options)
    conditions = receipt(model, ONNXRUNTIME.name, "cuda", options)
    return partial(
        CudaSession, onnx_file(model), model.io, model.model_file.options, options.threads_here, conditions
    )  # fmt: skip


def check_uses_cuda(session: onnxruntime.InferenceSession, printed: str) -> None:
    """Raise TargetError if a session was made without the CUDA provider, since its libraries cannot be loaded.

    Args:
        printed: what ONNX Runtime printed meanwhile. It tells the reason in no other way.
    """
    if CUDA not in session.get_providers():
        reason = _REASON.search(printed)
        raise TargetError(
            f"{ONNXRUNTIME.title} could not start its CUDA provider",
            where=LOCAL_GPU,
            got=shortened(reason[1], LONGEST_REASON) if reason else ", ".join(session.get_providers()),
            expected=CUDA,
            next=f"pip install '{ONNXRUNTIME.package_with_cuda}[cuda,cudnn]=={onnxruntime.__version__}' gets its CUDA "
            "and cuDNN",
        )


def operators_on_cpu(
    session: onnxruntime.InferenceSession, without: frozenset[str] = frozenset()
) -> dict[str, int]:  # fmt: skip
    """The number of each operator that a session runs on the CPU, of a session that records its providers.

    Args:
        without: names of nodes that are left out.
    """
    on_cpu = (graph for graph in session.get_provider_graph_assignment_info() if graph.ep_name == PROVIDER)
    nodes = (node for graph in on_cpu for node in graph.get_nodes() if node.name not in without)
    return dict(Counter(node.op_type for node in nodes))


def shape_nodes(path: Path) -> frozenset[str]:
    """The names of the nodes of a file that compute shapes: all their outputs are of int64."""
    model = read_onnx(path)
    types, _ = types_and_shapes(model)
    computes_shapes = (
        node for node in model.graph.node if {types.get(name) for name in node.output} == {int(TensorProto.INT64)}
    )
    return frozenset(node.name for node in computes_shapes if node.name)


def run_on_device(
    session: onnxruntime.InferenceSession, outputs: Sequence[str], feed: Arrays, device: str, where: object
) -> Work:
    """A run whose inputs are on a device from now on, and whose outputs stay there.

    `run_on_device` and the run raise ArtifactError if ONNX Runtime cannot place the inputs or run the graph.

    Args:
        where: the file, for errors.
    """
    binding = session.io_binding()
    with errors_explained(f"{ONNXRUNTIME.title} cannot place its inputs and outputs on '{device}'", where):
        for name, values in feed.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(values, device, 0))
        for name in outputs:
            binding.bind_output(name, device)

    def run() -> object:
        with errors_explained(f"{ONNXRUNTIME.title} cannot run it", where):
            session.run_with_iobinding(binding)
        return binding

    return run


def parts_on_device(
    session: onnxruntime.InferenceSession, source: str, outputs: Sequence[str], device: str, where: object
) -> Sequence[Part]:
    """From the input tensor in host memory to outputs there by name, each part to its end: copy in, compute, copy out.

    A part raises ArtifactError if ONNX Runtime cannot place the tensors or run the graph.

    Args:
        source: the name of the input.
        where: the file, for errors.
    """
    place = f"{ONNXRUNTIME.title} cannot place its inputs and outputs on '{device}'"

    def copy_in(tensor: NDArray[Any]) -> Any:
        binding = session.io_binding()
        with errors_explained(place, where):
            binding.bind_ortvalue_input(source, onnxruntime.OrtValue.ortvalue_from_numpy(tensor, device, 0))
            for name in outputs:
                binding.bind_output(name, device)
            binding.synchronize_inputs()
        return binding

    def compute(binding: Any) -> Any:
        with errors_explained(f"{ONNXRUNTIME.title} cannot run it", where):
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        return binding

    def copy_out(binding: Any) -> Arrays:
        with errors_explained(place, where):
            return dict(zip(outputs, binding.copy_outputs_to_cpu(), strict=True))

    return ("copy in", copy_in), ("compute", compute), ("copy out", copy_out)


def _session_on_gpu(path: Path, options: RuntimeOptions, threads: int) -> onnxruntime.InferenceSession:
    """A session on the GPU. It is never replaced by one on the CPU."""
    _preload_cuda()
    with stderr_kept() as printed:
        session = inference_session(
            path, options, threads, providers=[(CUDA, CUDA_OPTIONS), PROVIDER], entries=RECORD_PROVIDERS
        )
    check_uses_cuda(session, "".join(printed))
    return session


@cache
def _preload_cuda() -> None:
    """Load CUDA and cuDNN from the packages that pip installed: ONNX Runtime's provider does not look there itself."""
    with contextlib.redirect_stdout(io.StringIO()):  # a library that is missing is named again by `check_uses_cuda`
        onnxruntime.preload_dlls()


@contextlib.contextmanager
def stderr_kept() -> Iterator[list[str]]:
    """What the process prints to stderr in the block, also from C++. It is in the list after the block.

    If the block fails, it is printed to stderr then.
    """
    kept, stderr = list[str](), os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield kept
        except BaseException:
            os.dup2(stderr, 2)
            file.seek(0)
            os.write(2, file.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        file.seek(0)
        kept.append(file.read().decode("utf-8", "replace"))
