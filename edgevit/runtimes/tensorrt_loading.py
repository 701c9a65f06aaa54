"""TensorRT engines by TensorRT's Python module and the CUDA runtime: build, load, run, time, describe.

It needs Python 3.8 or later, numpy, TensorRT 10.3 or later and libcudart. Bundles hold this file, and devices run it,
as it is. Python needs nothing of CUDA: the CUDA runtime is called by ctypes.

Sources: NVIDIA's TensorRT Python API reference (10.3 to 11.4) and CUDA Runtime API reference (11 to 13).
"""

from __future__ import annotations

import ctypes
import glob
import os
import time
import weakref
from collections import deque
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple  # noqa: UP035 - for Python 3.8

import numpy as np
import tensorrt as trt

Run = Callable[[List[str], Dict[str, Any]], Sequence[Any]]  # noqa: UP006 - (names of outputs, input by its name)
Say = Callable[[str, str], None]  # (E, W or I, message)
Shape = Tuple[int, ...]  # noqa: UP006

IN_FLIGHT = 2  # runs that are queued on the GPU, so that it never waits for the CPU between two runs
MOST_RUNS = 10_000_000
MOST_MESSAGES = 50
LONGEST_MESSAGE = 2_000  # characters
NUMPY_TYPES = {  # by TensorRT's names; numpy lacks the others
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
PLAN = "Layers:"  # begins the verbose message that lists an engine's layers
LETTERS = {"INTERNAL_ERROR": "E", "ERROR": "E", "WARNING": "W", "INFO": "I"}  # as trtexec prints them

CUDA_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
CUDA_PLACES = ("/usr/local/cuda/lib64", "/usr/local/cuda*/targets/*/lib")  # that need not be on the loader's path
TO_GPU, TO_HOST = 1, 2  # cudaMemcpyKind
SPIN = 1  # cudaDeviceScheduleSpin
NON_BLOCKING = 1  # cudaStreamNonBlocking


class TensorrtError(RuntimeError):
    """TensorRT or CUDA refuses something. The text holds their messages.

    Attributes:
        kind: `model`: it does not take the model, or does not run it. `engine`: it does not load the engine. `import`:
            CUDA cannot be used.
    """

    kind = "model"


class EngineRefused(TensorrtError):
    """The engine cannot be loaded: it is of another GPU or another TensorRT, or damaged."""

    kind = "engine"


class CudaMissing(TensorrtError):
    """There is no CUDA runtime that finds a GPU."""

    kind = "import"


class Times(NamedTuple):
    """The times of one run in ms, under the names that trtexec gives them.

    Attributes:
        h2dMs, computeMs, d2hMs: of the copy to the GPU, of the engine, and of the copy back, by CUDA events.
        startEnqMs, endEnqMs: when the CPU began and ended to queue the engine's work.
    """

    h2dMs: float
    computeMs: float
    d2hMs: float
    startEnqMs: float
    endEnqMs: float


class Profile(NamedTuple):
    """The shapes of an input that an engine takes: the least, the one that it is tuned for, and the largest."""

    least: Shape
    best: Shape
    most: Shape


class BuildOptions(NamedTuple):
    """How an engine is built.

    Attributes:
        profiles: by the name of an input with an open size.
        builder_level: effort of the builder, 0 to 5.
        workspace_bytes: memory that a kernel may use; None for all of the GPU's.
        timing_cache: the cache of an earlier build, or b"" for a new one; None for a build without one.
        version_compatible: whether later TensorRT of the major version may load the engine.
    """

    profiles: dict[str, Profile]
    builder_level: int = 3
    workspace_bytes: int | None = None
    timing_cache: bytes | None = None
    version_compatible: bool = False


class Built(NamedTuple):
    """A serialized engine, and the timing cache after its build; None without one."""

    engine: bytes
    timing_cache: bytes | None


def in_tensorrt(model: Path, session_options: dict[str, Any], threads: int) -> Run:
    """A loaded engine: a function from names of outputs and the input to the outputs.

    Args:
        session_options: {"version_compatible": true} for an engine that was built so. Others do not matter here.
        threads: does not matter: the GPU computes.

    Raises:
        EngineRefused: TensorRT does not load the engine. The text holds its messages.
        CudaMissing: there is no CUDA runtime that finds a GPU.
        TensorrtError: there is too little memory.
    """
    return Engine(model.read_bytes(), bool(session_options.get("version_compatible"))).run


LOADERS = {"tensorrt": in_tensorrt}


class Engine:
    """A loaded engine, with memory for one batch.

    Args:
        content: the serialized engine.
        version_compatible: whether it was built so. Such an engine holds code that this process then runs.
    """

    def __init__(self, content: bytes, version_compatible: bool = False, say: Say | None = None) -> None:
        self._log, self._cuda = _log_with_plugins(say), cuda()
        self._runtime = trt.Runtime(self._log)
        if version_compatible:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise EngineRefused(self._log.text or "TensorRT does not load the engine")
        self._log.forget()
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise TensorrtError(self._log.text or "TensorRT makes no execution context")
        self._stream = self._cuda.stream()
        self._buffers: dict[str, Buffer] = {}
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self.inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in self.inputs]

    def run(self, outputs: list[str], feed: dict[str, Any]) -> list[Any]:
        """The named outputs for arrays by the names of the inputs. They are copies in host memory."""
        if unknown := [name for name in outputs if name not in self.outputs]:
            raise TensorrtError(f"the engine's outputs are {self.outputs}, not {unknown}")
        self._place(feed)
        self._queue_copies(self.inputs, TO_GPU)
        self._queue_engine()
        self._queue_copies(outputs, TO_HOST)
        self._cuda.wait_for_stream(self._stream)
        return [self._buffers[name].array.copy() for name in outputs]

    def times(self, feed: dict[str, Any], warmup_s: float, duration_s: float, min_runs: int) -> list[Times]:
        """The times of each run after the warm-up, for at least `duration_s` and at least `min_runs` runs.

        As in trtexec, inputs and outputs are copied in each run, the CPU waits actively, there is no CUDA graph, and
        the next run is queued before one has ended. Unlike in trtexec, one stream holds copies and engine, so that
        they never overlap.
        """
        self._place(feed)
        events = [[self._cuda.event() for _ in range(4)] for _ in range(IN_FLIGHT)]
        queued: deque[tuple[list[int], float, float, bool]] = deque()
        times: list[Times] = []
        start_s = time.perf_counter()
        counted, index = 0, 0
        while counted < min_runs or time.perf_counter() < start_s + warmup_s + duration_s:
            if len(queued) == IN_FLIGHT:
                times += self._ended(*queued.popleft())
            counts = time.perf_counter() >= start_s + warmup_s
            queued.append((*self._queue_run(events[index % IN_FLIGHT], start_s), counts))
            counted, index = counted + counts, index + 1
            if counted == MOST_RUNS:
                break
        while queued:
            times += self._ended(*queued.popleft())
        return times

    def layer_times(
        self, feed: dict[str, Any], warmup_s: float, duration_s: float, min_runs: int
    ) -> dict[str, list[float]]:
        """The times of each layer in ms, for as many runs as `times` would count. The sum is more than a run takes.

        The engine reports layers ever after: do this last.
        """
        self._place(feed)
        self._queue_copies(self.inputs, TO_GPU)
        start_s = time.perf_counter()
        while time.perf_counter() < start_s + warmup_s:
            self._queue_engine()
            self._cuda.wait_for_stream(self._stream)
        self._profiler = LayerTimes()  # TensorRT keeps its address
        self._context.profiler = self._profiler
        runs, start_s = 0, time.perf_counter()
        while runs < min_runs or time.perf_counter() < start_s + duration_s:
            self._queue_engine()
            self._cuda.wait_for_stream(self._stream)
            runs += 1
        return self._profiler.times

    def layers(self, shapes: dict[str, Shape]) -> str:
        """The layers as JSON by TensorRT's inspector, for inputs of these shapes. It tells no types without them."""
        for name, shape in shapes.items():
            self._set_shape(name, shape)
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def shape(self, name: str) -> Shape:
        """The shape of a tensor; -1 for an open size."""
        return _sizes(self._engine.get_tensor_shape(name))

    def dtype(self, name: str) -> Any:
        """The numpy type of a tensor. Raises TensorrtError if numpy lacks it."""
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in NUMPY_TYPES:
            raise TensorrtError(f"'{name}' is {kind}, which numpy lacks")
        return np.dtype(NUMPY_TYPES[kind])

    def _place(self, feed: dict[str, Any]) -> None:
        """Copy inputs into host memory that the GPU can read, and give each tensor its place on the GPU."""
        if set(feed) != set(self.inputs):
            raise TensorrtError(f"the engine's inputs are {self.inputs}, not {list(feed)}")
        for name in self.inputs:
            array = np.ascontiguousarray(feed[name])
            self._set_shape(name, array.shape)
            buffer = self._buffer(name, array.shape)
            if array.dtype != buffer.array.dtype:
                raise TensorrtError(f"input '{name}' is {buffer.array.dtype}, not {array.dtype}")
            buffer.array[...] = array
        for name in self.outputs:
            self._buffer(name, _sizes(self._context.get_tensor_shape(name)))

    def _set_shape(self, name: str, shape: Shape) -> None:
        self._log.forget()
        if not self._context.set_input_shape(name, shape):
            taken = self.shape(name)
            raise TensorrtError(self._log.text or f"input '{name}' takes the shape {taken}, not {shape}")

    def _buffer(self, name: str, shape: Shape) -> Buffer:
        """The memory of a tensor of this shape."""
        if min(shape, default=1) < 0:
            raise TensorrtError(f"the shape of '{name}' depends on the values of the input: {shape}")
        before = self._buffers.get(name)
        if before is None or before.array.shape != shape:
            self._buffers[name] = Buffer(self._cuda, shape, self.dtype(name))
            self._context.set_tensor_address(name, self._buffers[name].gpu)
        return self._buffers[name]

    def _queue_copies(self, names: Sequence[str], kind: int) -> None:
        for name in names:
            buffer = self._buffers[name]
            to, source = (buffer.gpu, buffer.host) if kind == TO_GPU else (buffer.host, buffer.gpu)
            self._cuda.copy(to, source, buffer.array.nbytes, kind, self._stream)

    def _queue_engine(self) -> None:
        self._log.forget()
        if not self._context.execute_async_v3(self._stream):
            raise TensorrtError(self._log.text or "TensorRT does not run the engine")

    def _queue_run(self, events: list[int], start_s: float) -> tuple[list[int], float, float]:
        """Queue copies and engine with events around them. Returns the events, and start and end of queueing in ms."""
        self._cuda.record(events[0], self._stream)
        self._queue_copies(self.inputs, TO_GPU)
        self._cuda.record(events[1], self._stream)
        before_s = time.perf_counter()
        self._queue_engine()
        after_s = time.perf_counter()
        self._cuda.record(events[2], self._stream)
        self._queue_copies(self.outputs, TO_HOST)
        self._cuda.record(events[3], self._stream)
        return events, (before_s - start_s) * 1e3, (after_s - start_s) * 1e3

    def _ended(self, events: list[int], start_ms: float, end_ms: float, counts: bool) -> list[Times]:
        """Wait for the end of a run. Its times, if it counts."""
        self._cuda.wait_for_event(events[3])
        to_gpu, compute, to_host = (self._cuda.between_ms(events[place], events[place + 1]) for place in range(3))
        return [Times(to_gpu, compute, to_host, start_ms, end_ms)] if counts else []


def build(model: Path, options: BuildOptions, say: Say | None = None) -> Built:
    """Build an ONNX file into an engine. Each operator runs in the type that the file gives it. TF32 is off.

    Args:
        say: receives TensorRT's messages as they come.

    Raises:
        TensorrtError: the parser does not take the file, or the builder fails. The text names the node if it is known.
    """
    log = _log_with_plugins(say)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(model)):
        raise TensorrtError("\n".join(_refusals(parser)) or log.text or "TensorRT's parser does not take the file")
    config = builder.create_builder_config()
    _configure(config, options)
    if options.profiles:
        config.add_optimization_profile(_optimization_profile(builder, options.profiles))
    cache = _timing_cache(config, options.timing_cache)
    plan: Any = builder.build_serialized_network(network, config)
    if plan is None:
        raise TensorrtError(log.text or "TensorRT's builder gives no engine")
    return Built(bytes(plan), None if cache is None else bytes(cache.serialize()))


def _timing_cache(config: trt.IBuilderConfig, content: bytes | None) -> Any:
    """The timing cache of a build: with the content of an earlier one, or empty where TensorRT does not take that."""
    if content is None:
        return None
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _refusals(parser: trt.OnnxParser) -> list[str]:
    """The parser's errors as lines, with their nodes."""
    errors: list[trt.ParserError] = [parser.get_error(index) for index in range(parser.num_errors)]
    return [
        f"In node {error.node()} with name: {error.node_name()} and operator: {error.node_operator()}: {error.desc()}"
        for error in errors
    ]


def _configure(config: trt.IBuilderConfig, options: BuildOptions) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = options.builder_level
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def _optimization_profile(builder: trt.Builder, profiles: dict[str, Profile]) -> trt.IOptimizationProfile:
    profile = builder.create_optimization_profile()
    for name, shapes in profiles.items():
        profile.set_shape(name, *(trt.Dims(list(shape)) for shape in shapes))
    return profile


class Log(trt.ILogger):  # type: ignore[misc]
    """Keeps TensorRT's errors, and passes on its messages. Of the verbose ones, it passes on the list of layers."""

    def __init__(self, say: Say | None = None) -> None:
        trt.ILogger.__init__(self)
        self._say = say
        self._errors: list[str] = []

    @property
    def text(self) -> str:
        """The errors since the last `forget`, a line each."""
        return "\n".join(self._errors)

    def forget(self) -> None:
        """Forget the errors until now: they are not those of the next call."""
        self._errors.clear()

    def log(self, severity: Any, msg: str) -> None:
        letter = "I" if msg.startswith(PLAN) else LETTERS.get(severity.name)
        if letter is None:
            return
        if self._say is not None:
            self._say(letter, msg)
        if letter == "E" and len(self._errors) < MOST_MESSAGES:
            self._errors.append(msg[:LONGEST_MESSAGE])


class LayerTimes(trt.IProfiler):  # type: ignore[misc]
    """Keeps the times of layers.

    Attributes:
        times: in ms, by the name of the layer, in the order of the runs.
    """

    def __init__(self) -> None:
        trt.IProfiler.__init__(self)
        self.times: dict[str, list[float]] = {}

    def report_layer_time(self, layer_name: str, ms: Any) -> None:
        self.times.setdefault(layer_name, []).append(float(ms))


def _log_with_plugins(say: Say | None) -> Log:
    """A new log, to which TensorRT's own plugins report: some ONNX operators are plugins."""
    log = Log(say)
    logger: Any = log  # a capsule by its signature, which no logger is
    trt.init_libnvinfer_plugins(logger, "")
    return log


class Buffer:
    """The memory of a tensor on the GPU and on the host. It is freed with this object.

    Attributes:
        gpu, host: the addresses.
        array: the tensor in host memory, which the GPU copies from and to directly.
    """

    def __init__(self, cuda: Cuda, shape: Shape, kind: Any) -> None:
        size = max(1, int(np.prod(shape, dtype=np.int64)) * kind.itemsize)
        self.gpu, self.host = cuda.allocated(size), cuda.allocated_on_host(size)
        weakref.finalize(self, cuda.free, self.gpu).atexit = False  # the process's end frees it
        weakref.finalize(self, cuda.free_on_host, self.host).atexit = False
        memory = (ctypes.c_char * size).from_address(self.host)
        self.array = np.frombuffer(memory, kind, int(np.prod(shape, dtype=np.int64))).reshape(shape)


class Cuda:
    """The functions of the CUDA runtime that engines need. They raise TensorrtError where CUDA refuses."""

    def __init__(self) -> None:
        self._library = _cuda_runtime()
        self._call("cudaSetDeviceFlags", ctypes.c_uint(SPIN))

    def stream(self) -> int:
        """A stream, which lives as long as the process."""
        return self._new("cudaStreamCreateWithFlags", ctypes.c_uint(NON_BLOCKING))

    def event(self) -> int:
        """An event, which lives as long as the process."""
        return self._new("cudaEventCreate")

    def allocated(self, size: int) -> int:
        """Memory on the GPU."""
        return self._new("cudaMalloc", ctypes.c_size_t(size))

    def allocated_on_host(self, size: int) -> int:
        """Memory on the host that the GPU copies from and to directly."""
        return self._new("cudaMallocHost", ctypes.c_size_t(size))

    def free(self, address: int) -> None:
        self._library.cudaFree(ctypes.c_void_p(address))

    def free_on_host(self, address: int) -> None:
        self._library.cudaFreeHost(ctypes.c_void_p(address))

    def copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        """Queue a copy."""
        to_and_source = ctypes.c_void_p(to), ctypes.c_void_p(source)
        rest = ctypes.c_size_t(size), ctypes.c_int(kind), ctypes.c_void_p(stream)
        self._call("cudaMemcpyAsync", *to_and_source, *rest)

    def record(self, event: int, stream: int) -> None:
        """Queue an event."""
        self._call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def wait_for_event(self, event: int) -> None:
        self._call("cudaEventSynchronize", ctypes.c_void_p(event))

    def wait_for_stream(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def between_ms(self, first: int, second: int) -> float:
        """The time between two events that have happened."""
        value = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(value), ctypes.c_void_p(first), ctypes.c_void_p(second))
        return value.value

    def _new(self, function: str, *arguments: Any) -> int:
        value = ctypes.c_void_p()
        self._call(function, ctypes.byref(value), *arguments)
        return value.value or 0

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise TensorrtError(f"{function}: {_cuda_error(self._library, status)}")


@lru_cache(maxsize=1)
def cuda() -> Cuda:
    """The CUDA runtime of this machine, which is loaded once."""
    return Cuda()


def _cuda_runtime() -> Any:
    """The first libcudart here that finds a GPU: the newest may need a newer driver."""
    beside = [path for place in CUDA_PLACES for path in sorted(glob.glob(os.path.join(place, "libcudart.so.[0-9]*")))]
    problem = "no libcudart.so of CUDA 11 to 13 is found"
    for name in (*CUDA_LIBRARIES, *beside):
        try:
            library = ctypes.CDLL(name)
            library.cudaGetErrorString.restype = ctypes.c_char_p
        except (OSError, AttributeError):
            continue
        count = ctypes.c_int()
        status = library.cudaGetDeviceCount(ctypes.byref(count))
        if status == 0 and count.value > 0:
            return library
        problem = f"{name}: {_cuda_error(library, status) if status else 'it finds no GPU'}"
    raise CudaMissing(f"the CUDA runtime cannot be used: {problem}")


def _cuda_error(library: Any, status: int) -> str:
    text = library.cudaGetErrorString(ctypes.c_int(status))
    return text.decode("utf-8", "replace") if text else f"error {status}"


def _sizes(dimensions: trt.Dims) -> Shape:
    """TensorRT's dimensions as a tuple; -1 for an open size."""
    return tuple(int(dimensions[index]) for index in range(len(dimensions)))
