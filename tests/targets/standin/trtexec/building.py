"""The build of an engine: what TensorRT refuses, and how a build ends that goes wrong."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

from onnx import ModelProto, TensorProto

from tests.targets.standin.trtexec.engine import Luck, engine_bytes
from tests.targets.standin.trtexec.log import Log, dimensions, number
from tests.targets.standin.trtexec.options import Options, Shapes
from tests.targets.standin.trtexec.parser import NOT_BUILT, parsed
from tests.targets.standin.trtexec.settings import TrtexecSettings, Variant

HANGS_S = 3600
LINES = 4_000
TACTIC_MIB, FREE_MIB = 720, 650
FP8 = (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2)
NO_ENGINE = ("Engine could not be created from network", "Building engine failed", *NOT_BUILT)
BUILD = "IBuilder::buildSerializedNetwork: Error Code"


def built(options: Options, settings: TrtexecSettings, variant: Variant, builds: int, log: Log) -> bytes:
    """The engine of an ONNX file. A refusal ends the run.

    Args:
        builds: their number before this one.
    """
    model = parsed(options.onnx, settings, log)
    profile = _profile(model, options, log)
    _check_types(model, options, settings, log)
    _go_wrong(model, variant, log)
    if variant == "first-fails" and builds == 0:
        log.fail("Error[1]: [builder.cpp::build::1] Error Code 1: Cuda Runtime (launch failure)", *NO_ENGINE)
    engine = engine_bytes(Path(options.onnx).read_bytes(), profile, options, settings, _luck(variant, builds))
    log.info("[TRT] [MemUsageStats] Peak memory usage of TRT CPU/GPU memory allocators: CPU 2 MiB, GPU 171 MiB")
    log.info(f"Engine built in {number(21.5372)} sec.")
    log.info(f"Created engine with size: {number(len(engine) / 2**20)} MiB")
    if options.timing_cache:
        _keep_timings(Path(options.timing_cache), Path(options.onnx), settings, log)
    return engine


def _luck(variant: Variant, builds: int) -> Luck:
    if variant not in ("builds-differ", "first-is-wrong", "first-fails"):
        return Luck()
    return Luck((1.2, 1.0, 1.1)[builds % 3], is_wrong=variant == "first-is-wrong" and builds % 3 == 0)


def _profile(model: ModelProto, options: Options, log: Log) -> tuple[Shapes, Shapes, Shapes]:
    """The shapes of the inputs with an open size."""
    sizes = {
        entry.name: [size.dim_value or -1 for size in entry.type.tensor_type.shape.dim] for entry in model.graph.input
    }
    for name in options.profile[0]:
        if name not in sizes:
            log.fail(
                f'Cannot find input tensor with name "{name}" in the network inputs! Please make sure the input tensor '
                "names are correct.",
                *SET_UP,
            )
    ends = [dict(end) for end in options.profile]
    if ends[0] and not any(-1 in entry for entry in sizes.values()):
        log.fail(
            "Static model does not take explicit shapes since the shape of inference tensors will be determined by the "
            "model itself",
            *SET_UP,
        )
    for name, entry in sizes.items():
        if -1 in entry and name not in ends[0]:
            shape = tuple(1 if size == -1 else size for size in entry)
            log.warning(
                f"Dynamic dimensions required for input: {name}, but no shapes were provided. Automatically overriding "
                f"shape to: {dimensions(shape)}"
            )
            for end in ends:
                end[name] = shape
    least, usual, largest = ends
    return least, usual, largest


SET_UP = ("Network And Config setup failed", "Building engine failed", *NOT_BUILT)


def _check_types(model: ModelProto, options: Options, settings: TrtexecSettings, log: Log) -> None:
    """Up to 10.x, a weakly typed network needs a flag for each type in it. FP8 needs a GPU that multiplies it."""
    stored = {entry.data_type for entry in model.graph.initializer}
    has_pairs = any(node.op_type == "DequantizeLinear" for node in model.graph.node)
    needed = {"fp16": TensorProto.FLOAT16 in stored, "int8": has_pairs and TensorProto.INT8 in stored}
    for name, is_needed in needed.items():
        if is_needed and not options.strongly_typed and name not in options.precisions:
            log.fail(
                f"Error[4]: {BUILD} 4: API Usage Error ({name} precision has been set for at least one layer or layer "
                f"output, but {name} is not configured in the builder.)",
                *NO_ENGINE,
            )
    if stored & set(FP8) and tuple(map(int, settings.compute_capability.split("."))) < (8, 9):
        log.fail(
            f"Error[9]: {BUILD} 9: API Usage Error (Networks with FP8 Q/DQ layers require hardware with FP8 support.)",
            *NO_ENGINE,
        )


def _go_wrong(model: ModelProto, variant: Variant, log: Log) -> None:
    product = next(node for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv"))
    node = product.name or f"node_of_{product.output[0]}"
    if variant == "talkative":
        log.info("[TRT] [MemUsageStats] Peak memory usage of TRT CPU/GPU memory allocators: CPU 3 MiB, GPU 300 MiB")
        for number_of_tactic in range(LINES):
            log.info(f"[TRT] Tactic {number_of_tactic} of {LINES} was timed, and its time was not the shortest one.")
    if variant == "hangs":
        time.sleep(HANGS_S)
    if variant == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    fails_here = variant == "int8-fails-at-node" and any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    if variant == "fails-at-node" or fails_here:
        log.fail(_no_implementation(node), *NO_ENGINE)
    if variant == "out-of-memory":
        requested = TACTIC_MIB << 20
        log.warning(
            f"[TRT] Tactic Device request: {TACTIC_MIB}MB Available: {FREE_MIB}MB. Device memory is insufficient to "
            "use tactic."
        )
        log.warning(
            "[TRT] UNSUPPORTED_STATE: Skipping tactic 28 due to insufficient memory on requested size of "
            f"{requested} detected for tactic 0x0000000204040736."
        )
        log.fail(
            "Error[2]: [virtualMemoryBuffer.cpp::nvinfer1::StdVirtualMemoryBufferImpl::resizePhysical::154] Error Code "
            f"2: OutOfMemory (Requested size was {requested} bytes.)",
            _no_implementation(f"{{ForeignNode[{node}...{model.graph.node[-1].name}]}}"),
            *NO_ENGINE,
        )


def _no_implementation(node: str) -> str:
    return f"Error[10]: {BUILD} 10: Internal Error (Could not find any implementation for node {node}.)"


def _keep_timings(file: Path, onnx: Path, settings: TrtexecSettings, log: Log) -> None:
    """The file of timings: what was in it, and the timings of this model. It is of one version on one device."""
    content = file.read_bytes() if file.exists() else b""
    if content:
        log.info(f"[TRT] Loaded {len(content)} bytes of timing cache from {file}")
    else:
        log.warning(
            f"[TRT] Could not read timing cache from: {file}. A new timing cache will be generated and written."
        )
    digest = hashlib.sha256(onnx.read_bytes()).hexdigest()
    timed = f"{digest} by {settings.title} on {settings.device}\n".encode("ascii")
    content += b"" if timed in content else timed
    file.write_bytes(content)
    log.info(f"[TRT] Saved {len(content)} bytes of timing cache to {file}")
