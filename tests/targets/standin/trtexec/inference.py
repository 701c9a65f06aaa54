"""A run of an engine: shapes and inputs are checked as trtexec does, and ONNX Runtime computes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from tests.targets.standin.trtexec.building import FP8
from tests.targets.standin.trtexec.engine import Engine
from tests.targets.standin.trtexec.log import Log, dimensions, number
from tests.targets.standin.trtexec.options import Options
from tests.targets.standin.trtexec.settings import Fault

SET_UP = "Inference set up failed"
Array = Any


def outputs_of(engine: Engine, options: Options, log: Log, fault: Fault | None = None) -> dict[str, Array]:
    """The outputs of one run for the inputs of --loadInputs; other inputs are random."""
    model = onnx.load_from_string(engine.onnx)
    graph = model.graph
    _check_names(options, [entry.name for entry in graph.input], log)
    log.info("Created execution context with device memory size: 1.5 MiB")
    arrays = {}
    for entry in graph.input:
        shape = _shape(entry, engine, options, log)
        dtype = helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
        arrays[entry.name] = _array(entry.name, shape, dtype, options, log)
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = 1
    session_options.log_severity_level = 3
    if any(
        entry.data_type in FP8 for entry in graph.initializer
    ):  # an optimizer moves pairs over operators without FP8
        session_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = engine.onnx if fault is None else _with_fault(model, fault).SerializeToString()
    session = onnxruntime.InferenceSession(content, session_options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in graph.output]
    outputs = dict(zip(names, session.run(names, arrays), strict=True))
    for name, array in outputs.items():
        log.info(f"Output binding for {name} with dimensions {dimensions(array.shape)} is created.")
    log.info("Starting inference")
    return outputs


def output_json(outputs: dict[str, Array]) -> str:
    """The file of --exportOutput. Numbers have six digits, and NaN is written as C++ does, which is no JSON."""
    lines, separator = ["[\n"], "  "
    for name, array in outputs.items():
        values = ", ".join(number(value) for value in np.asarray(array, np.float32).ravel().tolist())
        lines.append(
            f'{separator}{{ "name" : "{name}"\n  , "dimensions" : "{dimensions(array.shape)}"\n'
            f'  , "values" : [ {values} ]\n  }}\n'
        )
        separator = ", "
    return "".join([*lines, "]\n"])


def _with_fault(model: onnx.ModelProto, fault: Fault) -> onnx.ModelProto:
    """The model, in place, with the sign of a node's output changed."""
    (place,) = (place for place, node in enumerate(model.graph.node) if node.name == fault.node)
    node = model.graph.node[place]
    name = node.output[0]
    if fault.vanishes and name in {entry.name for entry in model.graph.output}:
        return model
    node.output[0] = f"{name}/right"
    model.graph.node.insert(place + 1, helper.make_node("Neg", [node.output[0]], [name]))
    return model


def _check_names(options: Options, names: list[str], log: Log) -> None:
    for flag, given in (("--shapes", options.shapes), ("--loadInputs", options.inputs)):
        for name in given:
            if name not in names:
                log.fail(
                    f'Cannot find input tensor with name "{name}" in the engine bindings! Please make sure the input '
                    "tensor names are correct.",
                    f"Invalid tensor names found in {flag} flag.",
                    SET_UP,
                )


def _shape(entry: onnx.ValueInfoProto, engine: Engine, options: Options, log: Log) -> tuple[int, ...]:
    """The shape of an input in this run."""
    sizes = [size.dim_value or -1 for size in entry.type.tensor_type.shape.dim]
    asked = options.shapes.get(entry.name)
    if -1 not in sizes:
        if asked and asked != tuple(sizes):
            log.fail(
                f"The engine was built with static shapes for input tensor {entry.name} but the provided shapes do not "
                "match the static shapes!",
                SET_UP,
            )
        return tuple(sizes)
    if not asked:
        asked = tuple(1 if size == -1 else size for size in sizes)
        text = dimensions(asked)
        log.warning(f"Shape missing for input with dynamic shape: {entry.name}Automatically setting shape to: {text}")
    log.info(f"Set shape of input tensor {entry.name} to: {dimensions(asked)}")
    least, _, largest = (end[entry.name] for end in engine.profile)
    if len(asked) != len(least) or not all(a <= b <= c for a, b, c in zip(least, asked, largest, strict=True)):
        given, low, high = (str(list(shape)).replace(" ", "") for shape in (asked, least, largest))
        log.fail(
            "Error[3]: IExecutionContext::setInputShape: Error Code 3: API Usage Error (Parameter check failed, "
            f"condition: satisfyProfile. Set dimension {given} for tensor {entry.name} does not satisfy any "
            f"optimization profiles. Valid range for profile 0: {low}..{high}.)",
            SET_UP,
        )
    return asked


def _array(name: str, shape: tuple[int, ...], dtype: Any, options: Options, log: Log) -> Array:
    """The input from its file. As in trtexec, a file of twice the size is taken too, and its beginning read."""
    file = options.inputs.get(name)
    log.info(f"Using values loaded from {file} for input {name}" if file else f"Using random values for input {name}")
    log.info(f"Input binding for {name} with dimensions {dimensions(shape)} is created.")
    if not file:
        return np.random.default_rng(0).uniform(-1, 1, shape).astype(dtype)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        content = Path(file).read_bytes()
    except OSError:
        log.fail(f"Uncaught exception detected: Cannot open file {file}!")
    if len(content) not in (size, 2 * size):
        log.fail(
            f"Uncaught exception detected: Unexpected file size for input file: {file}. Note: Input binding size is: "
            f"{size} bytes but the file size is {len(content)} bytes. Double check the size and datatype of the "
            "provided data."
        )
    return np.frombuffer(content[:size], dtype).reshape(shape)
