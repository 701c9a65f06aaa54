"""TensorRT's Python module of a stand-in board: NVIDIA's classes as far as edgevit uses them, on ONNX Runtime.

Its engines are those of the stand-in's trtexec, and so are its messages. Addresses are those of the stand-in libcudart
(`cudart.c`): the host's memory. `play` tells it which board it is of. Names and arguments follow NVIDIA's bindings.
"""

from __future__ import annotations

import ctypes
import enum
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from tests.targets.standin.trtexec import engine as engines
from tests.targets.standin.trtexec.building import built
from tests.targets.standin.trtexec.inspector import layers_json
from tests.targets.standin.trtexec.log import Failed, Log
from tests.targets.standin.trtexec.options import Options
from tests.targets.standin.trtexec.parser import parsed
from tests.targets.standin.trtexec.program import counted, spoiled, variant_in
from tests.targets.standin.trtexec.settings import TrtexecSettings, Variant, read_settings

__version__ = ""
_settings: TrtexecSettings
_variant: Variant
_builds: Path


def play(settings: Path, variant: Path) -> None:
    """Be the module of this board."""
    global __version__, _settings, _variant, _builds
    _settings, (_variant, _), _builds = read_settings(settings), variant_in(variant), variant.with_name("builds")
    __version__ = ".".join(map(str, _settings.version))


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH, STRONGLY_TYPED = range(2)


class ProfilingVerbosity(enum.IntEnum):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class LayerInformationFormat(enum.IntEnum):
    ONELINE, JSON = range(2)


class TensorIOMode(enum.IntEnum):
    NONE, INPUT, OUTPUT = range(3)


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class BuilderFlag(enum.IntEnum):
    TF32, VERSION_COMPATIBLE = range(2)


class DataType(enum.IntEnum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, INT64 = range(7)


TYPES = {
    TensorProto.FLOAT: DataType.FLOAT, TensorProto.FLOAT16: DataType.HALF, TensorProto.UINT8: DataType.UINT8,
    TensorProto.INT64: DataType.INT64,
}  # fmt: skip


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        pass

    def log(self, severity: enum.IntEnum, msg: str) -> None:
        raise NotImplementedError


class IProfiler:
    def __init__(self) -> None:
        pass

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class _ModuleLog(Log):
    """Passes on the messages of TensorRT; those of trtexec itself are left out."""

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def info(self, text: str = "") -> None:
        self._pass_on(Severity.INFO, text)

    def warning(self, text: str) -> None:
        self._pass_on(Severity.WARNING, text)

    def error(self, text: str) -> None:
        self._pass_on(Severity.ERROR, text)

    def fail(self, *texts: str) -> NoReturn:
        for text in texts:
            self.error(text)
        raise Failed

    def _pass_on(self, severity: Severity, text: str) -> None:
        if text.startswith(("[TRT] ", "Error[")):
            self._logger.log(severity, text.removeprefix("[TRT] "))


def init_libnvinfer_plugins(logger: ILogger, namespace: str) -> bool:
    return True


class Dims(tuple[int, ...]):
    pass


class IOptimizationProfile:
    def __init__(self) -> None:
        self.ends: tuple[dict[str, tuple[int, ...]], ...] = ({}, {}, {})

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        for end, shape in zip(self.ends, (min, opt, max), strict=True):
            end[input] = tuple(shape)


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class IBuilderConfig:
    def __init__(self) -> None:
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.builder_optimization_level = 3
        self.flags, self.profiles = {BuilderFlag.TF32}, [IOptimizationProfile()]
        self.cache: ITimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        assert pool_size > 0

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles = [profile]
        return 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """The cache of another TensorRT or device is not taken."""
        if cache.content and _timings() not in cache.content:
            return False
        self.cache = cache
        return True


class INetworkDefinition:
    def __init__(self, is_typed: bool) -> None:
        self.is_typed, self.file = is_typed, ""


class ParserError:
    def __init__(self, node: onnx.NodeProto, index: int, reason: str) -> None:
        self._node, self._index, self._reason = node, index, reason

    def node(self) -> int:
        return self._index

    def node_name(self) -> str:
        return self._node.name

    def node_operator(self) -> str:
        return self._node.op_type

    def desc(self) -> str:
        return self._reason


class OnnxParser:
    """Its errors are in its log alone."""

    num_errors = 0

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._log = network, _ModuleLog(logger)

    def parse_from_file(self, model: str) -> bool:
        try:
            parsed(model, _settings, self._log)
        except Failed:
            return False
        self._network.file = model
        return True

    def get_error(self, index: int) -> ParserError:
        raise IndexError(index)


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._log = _ModuleLog(logger)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        is_typed = bool(flags >> NetworkDefinitionCreationFlag.STRONGLY_TYPED & 1) or _settings.version >= (11,)
        return INetworkDefinition(is_typed)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        least, usual, largest = config.profiles[0].ends
        options = Options(
            onnx=network.file,
            strongly_typed=network.is_typed,
            profile=(least, usual, largest),
            verbosity=config.profiling_verbosity.name.lower(),
            version_compatible=BuilderFlag.VERSION_COMPATIBLE in config.flags,
        )
        if config.cache is not None:
            config.cache.content += _timings()
        try:
            return built(options, _settings, _variant, counted(_builds), self._log)
        except Failed:
            return None


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._log = engine, engine.log
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self.profiler: IProfiler | None = None

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        open_shape, shape = tuple(self._engine.get_tensor_shape(name)), tuple(shape)
        if -1 not in open_shape:
            return shape == open_shape
        least, _, largest = (end[name] for end in self._engine.engine.profile)
        is_taken = len(shape) == len(least) and all(a <= b <= c for a, b, c in zip(least, shape, largest, strict=True))
        if not is_taken:
            given, low, high = (str(list(one)).replace(" ", "") for one in (shape, least, largest))
            self._log.error(
                "Error[3]: IExecutionContext::setInputShape: Error Code 3: API Usage Error (Parameter check failed, "
                f"condition: satisfyProfile. Set dimension {given} for tensor {name} does not satisfy any "
                f"optimization profiles. Valid range for profile 0: {low}..{high}.)"
            )
            return False
        self._shapes[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        """An open size of an output is the batch of the input."""
        batch = next((shape[0] for shape in self._shapes.values()), -1)
        open_shape = self._engine.get_tensor_shape(name)
        return Dims(self._shapes.get(name) or (batch if size == -1 else size for size in open_shape))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        feed = {name: self._array(name) for name in self._engine.names(TensorIOMode.INPUT)}
        names = self._engine.names(TensorIOMode.OUTPUT)
        outputs = dict(zip(names, self._engine.session.run(names, feed), strict=True))
        for name, array in spoiled(outputs, "wrong-outputs" if self._engine.engine.is_wrong else _variant).items():
            self._array(name)[...] = array
        if self.profiler is not None:
            self._report(self.profiler)
        return True

    def _report(self, profiler: IProfiler) -> None:
        """Times of layers, which no clock has told."""
        for number, layer in enumerate(_layers(self._engine.engine, has_context=True)["Layers"], 1):
            profiler.report_layer_time(layer["Name"], number / 1000)

    def _array(self, name: str) -> np.ndarray:
        """The tensor at its address."""
        shape, dtype = tuple(self.get_tensor_shape(name)), self._engine.dtype(name)
        memory = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(self._addresses[name])
        return np.frombuffer(memoryview(memory), dtype).reshape(shape)


class EngineInspector:
    execution_context: IExecutionContext | None = None

    def __init__(self, engine: engines.Engine) -> None:
        self._engine = engine

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        return json.dumps(_layers(self._engine, has_context=self.execution_context is not None))


class ICudaEngine:
    def __init__(self, engine: engines.Engine, log: Log) -> None:
        self.engine, self.log = engine, log
        graph = onnx.load_from_string(engine.onnx).graph
        self._entries = {entry.name: entry for entry in (*graph.input, *graph.output)}
        self._inputs = [entry.name for entry in graph.input]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.session = onnxruntime.InferenceSession(engine.onnx, options, providers=["CPUExecutionProvider"])

    @property
    def num_io_tensors(self) -> int:
        return len(self._entries)

    def get_tensor_name(self, index: int) -> str:
        return list(self._entries)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return TYPES[self._entries[name].type.tensor_type.elem_type]

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(size.dim_value or -1 for size in self._entries[name].type.tensor_type.shape.dim)

    def create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self.engine)

    def names(self, mode: TensorIOMode) -> list[str]:
        return [name for name in self._entries if self.get_tensor_mode(name) is mode]

    def dtype(self, name: str) -> np.dtype[Any]:
        return helper.tensor_dtype_to_np_dtype(self._entries[name].type.tensor_type.elem_type)


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, logger: ILogger) -> None:
        self._log = _ModuleLog(logger)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        try:
            engine = engines.engine_in(serialized_engine, _settings, self.engine_host_code_allowed, self._log)
        except Failed:
            return None
        return ICudaEngine(engine, self._log)


def _layers(engine: engines.Engine, *, has_context: bool) -> dict[str, Any]:
    major = _settings.version[0]
    return layers_json(engine.onnx, engine.profile, engine.verbosity, major, _variant, has_context)


def _timings() -> bytes:
    return f"timings of {_settings.title} on {_settings.device}\n".encode("ascii")
