"""Hostile and damaged ONNX files: refused in a moment with a reason, or read; never a traceback."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgevit.checking import inspect_onnx
from edgevit.checking.check import check_for_onnxruntime
from edgevit.errors import ArtifactError, EdgevitError
from edgevit.graphs.files import artifact_from_onnx, read_onnx, write_onnx
from edgevit.graphs.limits import MOST_NODES, outline_of
from edgevit.runtimes.base import SessionOptions, random_images
from edgevit.runtimes.sessions import open_session
from tests.graphs.test_outputs import classifier


def behind_pooling(*nodes: onnx.NodeProto, **weights: Any) -> ModelProto:
    """The classifier with `nodes` between its tensors "pooled" and "between"."""
    model = classifier()
    next(one for one in model.graph.node if one.op_type == "Flatten").input[0] = "between"
    first, *others = model.graph.node
    del model.graph.node[:]
    model.graph.node.extend([first, *nodes, *others])
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items())
    return model


def chain(operator: str, count: int, inputs: int = 1) -> ModelProto:
    names = ["pooled", *(f"x{place}" for place in range(count - 1)), "between"]
    nodes = [helper.make_node(operator, [names[place]] * inputs, [names[place + 1]]) for place in range(count)]
    return behind_pooling(*nodes)


def nested(depth: int) -> ModelProto:
    """An If in an If in an If, …"""

    def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        typed = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
        return helper.make_graph(list(nodes), name, [], [typed])

    inner = branch("g0", helper.make_node("Relu", ["pooled"], ["d0"]))
    for level in range(1, depth):
        other = branch(f"e{level}", helper.make_node("Abs", ["pooled"], [f"e{level}"]))
        within = helper.make_node("If", ["yes"], [f"d{level}"], then_branch=inner, else_branch=other)
        inner = branch(f"g{level}", within)
    other = branch("e", helper.make_node("Abs", ["pooled"], ["e"]))
    first = helper.make_node("If", ["yes"], ["between"], then_branch=inner, else_branch=other)
    return behind_pooling(first, yes=True)


def doubling_functions(count: int) -> ModelProto:
    """Each function calls the one before it twice: 2^count nodes once inlined."""
    model = classifier()
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    bodies = [[helper.make_node("Relu", ["x"], ["y"])]]
    for place in range(count):
        name = f"f{place}"
        twice = [
            helper.make_node(name, ["x"], ["a"], domain="local"),
            helper.make_node(name, ["a"], ["y"], domain="local"),
        ]
        bodies.append(twice)
    for place, body in enumerate(bodies):
        model.functions.append(helper.make_function("local", f"f{place}", ["x"], ["y"], body, opset))
    model.opset_import.append(helper.make_opsetid("local", 1))
    last = model.graph.node[-1]
    last.op_type, last.domain = f"f{count}", "local"
    return model


def calling_functions(count: int) -> ModelProto:
    """Each function calls the one before it."""
    model = doubling_functions(count)
    for function in model.functions[1:]:
        function.node[1].op_type, function.node[1].domain = "Abs", ""
    return model


def calling_itself() -> ModelProto:
    model = doubling_functions(1)
    model.functions[0].node[0].op_type, model.functions[0].node[0].domain = "f1", "local"
    return model


def filled(operator: str, shape: tuple[int, ...]) -> ModelProto:
    """A constant of this shape that a node makes, and whose sum is added."""
    inputs = ["shape"] if operator == "ConstantOfShape" else ["zero", "shape"]
    nodes = [
        helper.make_node(operator, inputs, ["large"]),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Add", ["pooled", "sum"], ["between"]),
    ]
    return behind_pooling(*nodes, shape=np.array(shape), zero=np.zeros((1,) * len(shape), np.float32))


def many_filled(count: int) -> ModelProto:
    """Constants of 0.8 GiB each."""
    large = [f"large{place}" for place in range(count)]
    nodes = [helper.make_node("ConstantOfShape", ["shape"], [name]) for name in large]
    nodes.append(helper.make_node("Sum", large, ["all"]))
    nodes.append(helper.make_node("ReduceSum", ["all"], ["sum"], keepdims=0))
    nodes.append(helper.make_node("Add", ["pooled", "sum"], ["between"]))
    return behind_pooling(*nodes, shape=np.array([14000, 14000]))


def declaring(dims: list[int]) -> ModelProto:
    model = classifier()
    model.graph.initializer[0].dims[:] = dims
    return model


def large_images() -> ModelProto:
    model = classifier()
    for place in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_value = 200_000
    return model


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: chain("Relu", MOST_NODES), "too many nodes"),
        (lambda: nested(25), "too deep"),
        (lambda: doubling_functions(16), "too many nodes"),
        (calling_itself, "recursively"),
        (lambda: calling_functions(70), "functions and subgraphs are nested too deep"),
        (lambda: filled("ConstantOfShape", (60_000, 60_000)), "too large"),
        (lambda: filled("Expand", (60_000, 60_000)), "too large"),
        (lambda: filled("Tile", (60_000, 60_000)), "too large"),
        (lambda: many_filled(4), "too large"),
        (lambda: declaring([1_000_000, 1_000_000]), "cannot be read"),
        (lambda: declaring([-3, -4]), "shape of a stored tensor"),
        (large_images, "too large"),
    ],
    ids=[
        "nodes",
        "nested",
        "functions",
        "itself",
        "calls",
        "filled",
        "Expand",
        "Tile",
        "many",
        "dims",
        "below 0",
        "images",
    ],
)
def test_what_would_take_all_memory_or_time_is_refused(make: Callable[[], ModelProto], what: str, tmp_path: Path):
    file = tmp_path / "hostile.onnx"
    file.write_bytes(make().SerializeToString())
    for read in (artifact_from_onnx, inspect_onnx, read_onnx):
        start = time.monotonic()
        with pytest.raises(ArtifactError, match=what):
            read(file)
        assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    "make",
    [
        lambda: chain("Transpose", 3000),
        lambda: chain("Mul", 3000, inputs=2),
        lambda: nested(10),
        lambda: calling_functions(40),
    ],
    ids=["chain", "squares", "nested", "functions"],
)
def test_long_chains_and_nested_branches_are_read(make: Callable[[], ModelProto], tmp_path: Path):
    file = tmp_path / "long.onnx"
    file.write_bytes(make().SerializeToString())
    assert inspect_onnx(file).layers[0].product.operator == "MatMul"


def weights_of_8_bits(operators: Sequence[str]) -> ModelProto:
    """336 M int8 weights, declared alone: 21 products, in float32 behind `operators`."""
    names = ["x", *(f"y{place}" for place in range(20)), "logits"]
    nodes, stored = [], [numpy_helper.from_array(np.asarray(np.float32(0.1)), "scale")]
    for place in range(21):
        made = [f"w{place}", *(f"{operator}{place}" for operator in operators)]
        for step, operator in enumerate(operators):
            inputs = [made[step], "scale"] if operator == "DequantizeLinear" else [made[step]]
            nodes.append(helper.make_node(operator, inputs, [made[step + 1]]))
        nodes.append(helper.make_node("MatMul", [names[place], made[-1]], [names[place + 1]]))
        stored.append(TensorProto(name=made[0], data_type=TensorProto.INT8, dims=[4000, 4000]))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4000]) for name in ("x", "logits")]
    made_graph = helper.make_graph(nodes, "large", values[:1], values[1:], stored)
    return helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_nodes_may_make_more_of_more_stored_weights():
    outline_of(weights_of_8_bits(["DequantizeLinear", "Neg"]), "test")
    with pytest.raises(ArtifactError, match="constants that nodes compute") as caught:
        outline_of(weights_of_8_bits(["DequantizeLinear", "Neg", "Abs", "Relu"]), "test")
    assert (caught.value.got, caught.value.expected) == ("5.01 GiB", "at most 3.5 GiB")


def test_a_fixed_batch_counts_as_one_image():
    def widened(batch: int, width: int) -> ModelProto:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["wide"]), helper.make_node("ReduceMax", ["wide"], ["y"])]
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
        x.type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, [batch, 1000, 8]))
        weights = [TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[8, width])]
        graph = helper.make_graph(nodes, "wide", [x], [y], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    outline_of(widened(64, 100_000), "test")  # 0.37 GiB for one image
    for batch, width in ((64, 300_000), (1000, 100_000)):
        with pytest.raises(ArtifactError, match="a tensor of the graph is too large"):
            outline_of(widened(batch, width), "test")


def test_a_graph_that_is_not_read_is_not_written(tmp_path: Path):
    (tmp_path / "m.onnx").write_bytes(classifier().SerializeToString())
    spec = artifact_from_onnx(tmp_path / "m.onnx").io
    with pytest.raises(ArtifactError, match="too many nodes") as caught:
        write_onnx(chain("Relu", MOST_NODES), tmp_path / "large.onnx", spec)
    assert caught.value.got == MOST_NODES + 4


def test_a_name_that_is_no_text_is_refused(tmp_path: Path):
    content = classifier().SerializeToString().replace(b"pooled", b"p\xffoled")
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match="is not UTF-8 text"):
        artifact_from_onnx(tmp_path / "m.onnx")


def test_what_onnxruntime_cannot_run_is_said(tmp_path: Path):
    """A Reshape inside that fits one image alone."""
    model = behind_pooling(helper.make_node("Reshape", ["pooled", "one"], ["between"]), one=np.array([1, 3, 1, 1]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    artifact = artifact_from_onnx(tmp_path / "m.onnx")
    assert artifact.io.inputs[0].shape[0] == 1  # as its output tells
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot run it"):
        open_session(artifact, SessionOptions()).infer({"image": random_images(artifact.io, 2)})


def mutate(content: bytes, random: np.random.Generator) -> bytes:
    """One byte changed, taken out or put in."""
    mutated, place = bytearray(content), int(random.integers(len(content)))
    how = random.integers(4)
    if how == 0:
        mutated[place] ^= 1 << int(random.integers(8))
    elif how == 1:
        mutated[place] = int(random.integers(256))
    elif how == 2:
        del mutated[place]
    else:
        mutated.insert(place, int(random.integers(256)))
    return bytes(mutated)


def read_by_all(file: Path) -> None:
    """What describe, predict, inspect and check do with a file."""
    for read in (inspect_onnx, check_for_onnxruntime):
        try:
            read(file)
        except EdgevitError:
            continue
    artifact = artifact_from_onnx(file)
    write_onnx(read_onnx(file), file.with_name("described.onnx"), artifact.io)
    open_session(artifact, SessionOptions()).infer({artifact.io.inputs[0].name: random_images(artifact.io, 1)})


def damage(file: Path, times: int, seed: int) -> int:
    """How many of the mutations of small valid files are read all the same."""
    random, read = np.random.default_rng(seed), 0
    whole = [one.SerializeToString() for one in (classifier("Softmax"), nested(2), doubling_functions(1))]
    for turn in range(times):
        file.write_bytes(mutate(whole[turn % len(whole)], random))
        try:
            read_by_all(file)
            read += 1
        except EdgevitError:
            continue
    return read


def test_a_damaged_byte_is_answered(tmp_path: Path):
    assert 0 < damage(tmp_path / "damaged.onnx", times=90, seed=0) < 90


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_damaged_bytes_are_answered(tmp_path: Path, seed: int):
    assert damage(tmp_path / "damaged.onnx", times=1500, seed=1 + seed) > 100
