"""NVIDIA's own ONNX parser and builder, asked on a machine without a GPU.

TensorRT for RTX builds engines ahead of time on a CPU. Its libraries are in the wheel of ONNX Runtime's plugin, and
TensorRT 11's Python bindings run on them, which NVIDIA documents nowhere: so both versions are pinned, a child process
does it, and it proves itself on two tiny graphs before its answer counts. What is built is thrown away: it would run on
RTX cards alone. The answer is what this parser and builder make of the graph.
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
    """The builder was ended before it answered: what it would say of the model is not known."""


@dataclass(frozen=True)
class Refusal:
    """What the parser or the builder would not take; `node` is empty where it names none."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Answer:
    """What NVIDIA's builder makes of a graph.

    Attributes:
        builder: the library that answered, with its version.
        refused: why not, where it was not built.
        engine_bytes: size of the engine, which holds the weights.
    """

    builder: str
    built: bool
    refused: tuple[Refusal, ...]
    seconds: float
    engine_bytes: int
    kernels: tuple[Kernel, ...]


def ask(model: ModelProto) -> Answer:
    """Parse and build a model, an open batch size taken as 1. A builder that crashes twice has refused it.

    Args:
        model: each node has a name of its own.

    Raises:
        BuilderDied: it was ended, or had too little memory or time. That says nothing of the model.
        MissingDependency, TargetError: as `builder`.
    """
    answering = builder()
    numbered, names = _with_numbered_nodes(model)
    for _ in range(2):
        with TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            file.write_bytes(numbered.SerializeToString())
            answers, ending = _child(Path(folder), [file], TIME_LIMIT_S)
        if answers:
            return _read(answers[0], answering, names)
        if not ending.is_crash:
            raise _died(ending.said)
    reason = f"it does not survive this model: {ending.said}, twice"
    return Answer(answering, False, (Refusal("", "", reason),), 0.0, 0, ())


def builder() -> str:
    """The name and version of what answers, after it was shown to tell a right graph from a wrong one.

    Raises:
        MissingDependency: the extra is not installed.
        TargetError: this machine is no x86-64 Linux, or the libraries do not do here what they should.
        BuilderDied: it was ended before it answered.
    """
    _check_machine()
    works, found = _self_check()
    if not works:
        raise TargetError(
            "NVIDIA's libraries do not do here what they should",
            where="the check of the check, a right and a wrong graph of one product",
            got=found,
            expected="the first built, the second refused",
            next=REINSTALL_COMMAND,
        )
    return f"TensorRT for RTX {_library_version()}"


@cache
def _self_check() -> tuple[bool, str]:
    """Whether the libraries build a right graph and refuse a wrong one, and what they did."""
    with TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("right.onnx", "wrong.onnx")]
        for file, zero_point in zip(files, (np.int8(0), np.uint8(128)), strict=True):
            file.write_bytes(_quantized_product(zero_point).SerializeToString())
        answers, ending = _child(Path(folder), files, SELF_CHECK_LIMIT_S)
    if len(answers) < len(files) and not ending.is_crash:
        raise _died(ending.said)
    built = [answer["built"] for answer in answers]
    return built == [True, False] and bool(kernels_of(answers[0]["layers"])), f"built: {built}, {ending.said}"


def runs_here() -> bool:
    """Whether NVIDIA's libraries are made for this machine."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def installed_builder() -> str | None:
    """The package that would answer on this machine, with its version, or None; nothing is tried."""
    missing = not runs_here() or any(find_spec(module) is None for module in PACKAGES)
    return None if missing else f"{WHEEL} {version_of(WHEEL)}"


def _check_machine() -> None:
    if not runs_here():
        raise TargetError(
            "NVIDIA's builder runs without a GPU on x86-64 Linux only",
            where="check",
            got=f"{platform.machine()} {sys.platform}",
            next="the rules and the tables of older parsers say what they can; on a board, compile it there",
        )
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise MissingDependency(f"{' and '.join(missing)} not installed", where="check", next=INSTALL_COMMAND)


@dataclass(frozen=True)
class _Ending:
    """How the child ended; a crash is its own doing, and no lack of memory is known."""

    said: str
    is_crash: bool = False


def _died(how: str) -> BuilderDied:
    return BuilderDied(
        "NVIDIA's builder ended before it answered",
        where="check",
        got=how,
        next="run it again; if memory or time ran out, stop other programs first",
    )


def _child(folder: Path, files: list[Path], limit_s: float) -> tuple[list[dict[str, Any]], _Ending]:
    """The answers, as far as the child came, and how it ended."""
    libraries, out = folder / "libraries", folder / "answer.json"
    libraries.mkdir()
    _link_libraries(libraries)
    searched = filter(None, (str(libraries), os.environ.get("LD_LIBRARY_PATH")))
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(searched)}
    command = [sys.executable, "-P", str(CHILD), str(out), *map(str, files)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=limit_s
        )
        ending = _ending(done.returncode, done.stderr)
    except subprocess.TimeoutExpired:
        ending = _Ending(f"no answer after {limit_s} s")
    return (json.loads(out.read_text(encoding="utf-8")) if out.is_file() else []), ending


def _link_libraries(folder: Path) -> None:
    """The names that TensorRT's bindings look for, made of TensorRT for RTX; it has no plugins, nor needs any."""
    for name, prefix in LIBRARIES.items():
        (folder / name).symlink_to(_library(prefix))
    (folder / PLUGINS).write_bytes(shared_library(PLUGINS_ENTRY, PLUGINS))


def _library(prefix: str) -> Path:
    found = find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    assert found is not None
    assert found.origin is not None
    library = next(Path(found.origin).parent.glob(f"{prefix}*"), None)
    if library is None:
        raise TargetError(
            f"another {WHEEL} than was tried",
            got=version_of(WHEEL),
            expected=f"a file {prefix}*",
            next=REINSTALL_COMMAND,
        )
    return library


def _library_version() -> str:
    prefix = LIBRARIES["libnvinfer.so.11"]
    return _library(prefix).name.removeprefix(prefix)


def _ending(code: int, errors: str) -> _Ending:
    if code < 0:
        crashed = -code in CRASHES and not _tells_of_memory([errors])
        return _Ending(f"killed by {signal.Signals(-code).name}", crashed)
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), "")
    return _Ending(f"exit status {code}{': ' if last else ''}{last}")


def _tells_of_memory(errors: list[str]) -> bool:
    return any(is_out_of_memory(RuntimeError(error)) or "OutOfMemory" in error for error in errors)


def _with_numbered_nodes(model: ModelProto) -> tuple[ModelProto, dict[str, str]]:
    """A copy whose nodes are n0, n1, …, and their names: kernels are named after nodes, and a name may say anything."""
    numbered, names = ModelProto(), {}
    numbered.CopyFrom(model)
    for index, node in enumerate(numbered.graph.node):
        names[f"n{index}"] = node.name
        node.name = f"n{index}"
    return numbered, names


def _read(answer: dict[str, Any], answering: str, names: dict[str, str]) -> Answer:
    refused = [
        Refusal(names.get(one["node"], one["node"]), one["operator"], one["reason"]) for one in answer["refused"]
    ]
    if not answer["built"] and _tells_of_memory([*answer["errors"], *(one.reason for one in refused)]):
        raise _died(next(filter(None, answer["errors"]), "it was out of memory"))
    if not answer["built"] and not refused:
        refused = [Refusal("", "", reason) for reason in answer["errors"] or ["no reason given"]]
    kernels = tuple(
        replace(kernel, nodes=tuple(names.get(node, node) for node in kernel.nodes))
        for kernel in kernels_of(answer["layers"])
    )
    return Answer(answering, answer["built"], tuple(refused), answer["seconds"], answer["bytes"], kernels)


def _quantized_product(zero: np.generic) -> ModelProto:
    """image (1, 32) by a matrix (32, 32), both between pairs whose integers are of the type of `zero`."""
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
