"""NVIDIA's own ONNX parser and builder on a machine without a GPU.

TensorRT for RTX builds engines ahead of time on a CPU. Its libraries are in the wheel of ONNX Runtime's plugin, and
TensorRT 11's Python bindings run on them. NVIDIA does not document this. So both versions are pinned, a child process
runs the builder, and two tiny graphs test it before its results count. The engine is discarded: it would run on RTX
cards alone. The result tells how this parser and builder treat the graph.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgevit.checking.plan import Kernel, kernels_of
from edgevit.checking.stub_library import shared_library
from edgevit.errors import MissingDependency, TargetError, is_out_of_memory
from edgevit.provenance import version_of

CHILD = Path(__file__).with_name("nvidia_child.py")
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
TIME_LIMIT_S, SELF_CHECK_LIMIT_S = 600, 60
WHEEL, BINDINGS = "onnxruntime-ep-nv-tensorrt-rtx-cu13", "tensorrt-cu13-bindings"
INSTALL_COMMAND = "pip install 'edgevit[tensorrt-check]'"
REINSTALL_COMMAND = INSTALL_COMMAND.replace("install", "install --force-reinstall")
PACKAGES = {"onnxruntime_ep_nv_tensorrt_rtx": WHEEL, "tensorrt_bindings": BINDINGS}
LIBRARIES = {"libnvinfer.so.11": "libtensorrt_rtx.so.", "libnvonnxparser.so.11": "libtensorrt_onnxparser_rtx.so."}
PLUGINS, PLUGINS_ENTRY = "libnvinfer_plugin.so.11", "initLibNvInferPlugins"


class BuilderDied(TargetError):
    """The builder ended before it gave a result, which says nothing about the model."""


@dataclass(frozen=True)
class Refusal:
    """A refusal of the parser or the builder; `node` and `operator` are empty if it names none."""

    node: str
    operator: str
    reason: str

    @property
    def text(self) -> str:
        """`MatMul MatMul_3 no such operator`"""
        return " ".join(filter(None, (self.operator, self.node, self.reason)))


@dataclass(frozen=True)
class BuildResult:
    """The result of NVIDIA's builder for a graph.

    Attributes:
        builder: the library, with its version.
        refused: the reasons, if nothing was built.
        seconds: duration of the build.
        engine_bytes: size of the engine, which holds the weights.
    """

    builder: str
    built: bool
    refused: tuple[Refusal, ...]
    seconds: float
    engine_bytes: int
    kernels: tuple[Kernel, ...]


def build(model: ModelProto) -> BuildResult:
    """Parse and build a model, with an open batch size as 1. A builder that crashes twice counts as a refusal.

    Args:
        model: every node has a unique name.

    Raises:
        BuilderDied: the builder was killed, or ran out of memory or time. That says nothing about the model.
        MissingDependency, TargetError: as `working_builder`.
    """
    builder = working_builder()
    numbered, names = _with_numbered_nodes(model)
    for _ in range(2):
        with TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            file.write_bytes(numbered.SerializeToString())
            records, ending = _run_child(Path(folder), [file], TIME_LIMIT_S)
        if records:
            return _result_of(records[0], builder, names)
        if not ending.is_crash:
            raise _died(ending.text)
    reason = f"it crashes on this model: {ending.text}, twice"
    return BuildResult(builder, False, (Refusal("", "", reason),), 0.0, 0, ())


def working_builder() -> str:
    """The name and version of the builder, after a self-check on a valid and an invalid graph.

    Raises:
        MissingDependency: the extra is not installed.
        TargetError: this machine is not x86-64 Linux, or the self-check fails.
        BuilderDied: the builder ended before it gave a result.
    """
    _check_machine()
    works, outcome = _self_check()
    if not works:
        raise TargetError(
            "NVIDIA's libraries do not work on this machine",
            where="the self-check, a valid and an invalid graph of one product",
            got=outcome,
            expected="the first built, the second refused",
            next=REINSTALL_COMMAND,
        )
    return f"TensorRT for RTX {_library_version()}"


@cache
def _self_check() -> tuple[bool, str]:
    """Whether the libraries build a valid graph and refuse an invalid one, and the outcome in words."""
    with TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("valid.onnx", "invalid.onnx")]
        for file, zero_point in zip(files, (np.int8(0), np.uint8(128)), strict=True):
            file.write_bytes(_quantized_product(zero_point).SerializeToString())
        records, ending = _run_child(Path(folder), files, SELF_CHECK_LIMIT_S)
    if len(records) < len(files) and not ending.is_crash:
        raise _died(ending.text)
    built = [record["built"] for record in records]
    return built == [True, False] and bool(kernels_of(records[0]["layers"])), f"built: {built}, {ending.text}"


def runs_here() -> bool:
    """Whether NVIDIA's libraries exist for this machine."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def installed_builder() -> str | None:
    """The package of the builder on this machine, with its version; None without it. Nothing is run."""
    missing = not runs_here() or any(find_spec(module) is None for module in PACKAGES)
    return None if missing else f"{WHEEL} {version_of(WHEEL)}"


def _check_machine() -> None:
    if not runs_here():
        raise TargetError(
            "NVIDIA's builder runs without a GPU on x86-64 Linux only",
            where="check",
            got=f"{platform.machine()} {sys.platform}",
            next="the rules and the tables of older parsers still apply; compile the file on the board itself",
        )
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise MissingDependency(f"{' and '.join(missing)} not installed", where="check", next=INSTALL_COMMAND)


@dataclass(frozen=True)
class _Ending:
    """The end of the child process. A crash is an end by a signal of its own, without a sign of too little memory."""

    text: str
    is_crash: bool = False


def _died(ending: str) -> BuilderDied:
    return BuilderDied(
        "NVIDIA's builder ended before it gave a result",
        where="check",
        got=ending,
        next="run it again; if memory or time ran out, stop other programs first",
    )


def _run_child(folder: Path, files: list[Path], limit_s: float) -> tuple[list[dict[str, Any]], _Ending]:
    """The records of the files that the child finished, and its ending."""
    libraries, out = folder / "libraries", folder / "answer.json"
    libraries.mkdir()
    _link_libraries(libraries)
    library_path = filter(None, (str(libraries), os.environ.get("LD_LIBRARY_PATH")))
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(library_path)}
    command = [sys.executable, "-P", str(CHILD), str(out), *map(str, files)]
    try:
        process = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=limit_s
        )
        ending = _ending(process.returncode, process.stderr)
    except subprocess.TimeoutExpired:
        ending = _Ending(f"no result after {limit_s} s")
    return (json.loads(out.read_text(encoding="utf-8")) if out.is_file() else []), ending


def _link_libraries(folder: Path) -> None:
    """Link TensorRT for RTX under the file names that TensorRT's bindings load. The library of plugins is a stub."""
    for name, prefix in LIBRARIES.items():
        (folder / name).symlink_to(_library(prefix))
    (folder / PLUGINS).write_bytes(shared_library(PLUGINS_ENTRY, PLUGINS))


def _library(prefix: str) -> Path:
    spec = find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    assert spec is not None
    assert spec.origin is not None
    library = next(Path(spec.origin).parent.glob(f"{prefix}*"), None)
    if library is None:
        raise TargetError(
            f"{WHEEL} has another version than the tested one",
            got=version_of(WHEEL),
            expected=f"a file {prefix}*",
            next=REINSTALL_COMMAND,
        )
    return library.resolve()  # the plugin links shorter names beside it when it is loaded


def _library_version() -> str:
    prefix = LIBRARIES["libnvinfer.so.11"]
    return _library(prefix).name.removeprefix(prefix)


def _ending(code: int, errors: str) -> _Ending:
    if code < 0:
        is_crash = -code in CRASHES and not _mentions_memory([errors])
        return _Ending(f"killed by {signal.Signals(-code).name}", is_crash)
    last_line = next((line for line in reversed(errors.splitlines()) if line.strip()), "")
    return _Ending(f"exit status {code}{': ' if last_line else ''}{last_line}")


def _mentions_memory(errors: list[str]) -> bool:
    return any(is_out_of_memory(RuntimeError(error)) for error in errors)


def _with_numbered_nodes(model: ModelProto) -> tuple[ModelProto, dict[str, str]]:
    """A copy with nodes n0, n1, …, and their own names by these: kernels are named after nodes, in a parsable text."""
    numbered, names = ModelProto(), {}
    numbered.CopyFrom(model)
    for index, node in enumerate(numbered.graph.node):
        names[f"n{index}"] = node.name
        node.name = f"n{index}"
    return numbered, names


def _result_of(record: dict[str, Any], builder: str, names: dict[str, str]) -> BuildResult:
    """The build result from a record of the child. Raises BuilderDied if the builder ran out of memory."""
    refused = [
        Refusal(names.get(refusal["node"], refusal["node"]), refusal["operator"], refusal["reason"])
        for refusal in record["refused"]
    ]
    if not record["built"] and _mentions_memory([*record["errors"], *(refusal.reason for refusal in refused)]):
        raise _died(next(filter(None, record["errors"]), "it was out of memory"))
    if not record["built"] and not refused:
        refused = [Refusal("", "", reason) for reason in record["errors"] or ["no reason given"]]
    kernels = tuple(
        replace(kernel, nodes=tuple(names.get(node, node) for node in kernel.nodes))
        for kernel in kernels_of(record["layers"])
    )
    return BuildResult(builder, record["built"], tuple(refused), record["seconds"], record["bytes"], kernels)


def _quantized_product(zero: np.generic) -> ModelProto:
    """A product of an image (1, 32) and a matrix (32, 32) behind Q/DQ pairs; `zero` is the image's zero point."""
    constants = {
        "scale": np.float32(0.1),
        "zero": zero,
        "weight": np.ones((32, 32), np.int8),
        "weight_scale": np.full(32, 0.1, np.float32),
        "weight_zero": np.zeros(32, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["integers"], name="quantize"),
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["rounded"], name="dequantize"),
        helper.make_node(
            "DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["matrix"], name="weights", axis=1
        ),
        helper.make_node("MatMul", ["rounded", "matrix"], ["logits"], name="product"),
    ]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 32]) for name in ("image", "logits")]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "product", shapes[:1], shapes[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
