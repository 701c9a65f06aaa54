"""Odd but valid ONNX classifiers, as hypothesis draws them: all that ONNX Runtime runs and few tools write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

SIDE = 8
SUFFIXES = (
    "_scale", "_zero_point", "_quantized", "_QuantizeLinear_Output", "_DequantizeLinear_Output", "_quantized_scale",
    "_QuantizeLinear_Input", "0", "_rounded", "_restored", "_cast_to_fp16", "_float8",
)  # fmt: skip
ODD_NAMES = ("graph_input_cast_0", "a b", "größe/1:0", "edgevit_tensor_0", "-", "x.y[0]")
node = helper.make_node


class Builder:
    """A graph in the making: each step adds nodes behind `at`, a tensor (N, channels, side, side)."""

    def __init__(self, draw: Callable[..., Any]) -> None:
        self.draw, self.nodes, self.weights = draw, list[onnx.NodeProto](), dict[str, NDArray[Any]]()
        self.at, self.channels, self.functions = "image", 3, list[onnx.FunctionProto]()
        self.random = np.random.default_rng(draw(st.integers(0, 99)))

    def name(self) -> str:
        return f"t{len(self.nodes)}_{len(self.weights)}"

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        name = f"w{len(self.weights)}"
        fan = np.sqrt(max(1, np.prod(shape[1:])))  # type: ignore[call-overload]
        self.weights[name] = (self.random.normal(size=shape) * scale / fan).astype(np.float32)
        return name

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = np.asarray(value, dtype)
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = self.name()
        self.nodes.append(node(operator, list(inputs), [output], f"n{len(self.nodes)}", **attributes))
        return output

    def conv(self) -> None:
        channels = self.draw(st.sampled_from([16, 4]))
        inputs = [self.at, self.weight(channels, self.channels, 3, 3)]
        inputs += self.draw(st.sampled_from([[], [""], ["bias"], ["shared"]]))
        if inputs[-1] == "bias":
            inputs[-1] = self.weight(channels, scale=0.3)
        elif inputs[-1] == "shared":
            inputs[-1] = f"shared{channels}"
            self.weights.setdefault(inputs[-1], self.random.normal(size=channels).astype(np.float32))
        self.at, self.channels = self.add("Conv", *inputs, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), channels
        clip = ["Clip", *self.draw(st.sampled_from([["lo", "hi"], ["lo"], ["", "hi"]]))]
        behind = self.draw(st.sampled_from([[], ["Relu"], ["Sigmoid"], ["Relu", "Relu"], clip]))
        if behind and behind[0] == "Clip":
            bounds = {"lo": 0.0, "hi": 3.0}
            given = [one and self.constant(bounds[one], np.float32) for one in behind[1:]]
            self.at = self.add("Clip", self.at, *given)
        else:
            for operator in behind:
                self.at = self.add(operator, self.at)

    def depthwise(self) -> None:
        self.at = self.add("Conv", self.at, self.weight(self.channels, 1, 3, 3), group=self.channels, pads=[1, 1, 1, 1])

    def identities(self) -> None:
        for _ in range(self.draw(st.integers(1, 4))):
            self.at = self.add("Identity", self.at)

    def transposes(self) -> None:
        for _ in range(2):
            self.at = self.add("Transpose", self.at, perm=[0, 1, 3, 2])

    def residual(self) -> None:
        self.at = self.add("Add", self.at, self.add("Tanh", self.at))

    def scaled(self) -> None:
        shape = self.draw(st.sampled_from([(), (1,), (1, self.channels, 1, 1)]))
        value = self.random.normal(1, 0.3, size=shape)
        self.at = self.add("Mul", self.at, self.constant(value, np.float32))

    def branching(self) -> None:
        """An If whose branches read the main graph, or store a weight of their own."""
        own = numpy_helper.from_array(np.ones((1,), np.float32), f"own{len(self.nodes)}")
        names = [f"{self.name()}_{which}" for which in ("then", "else")]
        typed = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
        branches = {
            "then_branch": helper.make_graph([node("Relu", [self.at], [names[0]])], "then", [], typed[:1]),
            "else_branch": helper.make_graph(
                [node("Mul", [self.at, own.name], names[1:])], "else", [], typed[1:], [own]
            ),
        }
        self.at = self.add("If", self.constant(self.draw(st.booleans()), np.bool_), **branches)

    def function(self) -> None:
        opset = [helper.make_opsetid("", 17)]
        body = [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])]
        if not self.functions:
            self.functions.append(helper.make_function("local", "Swish", ["x"], ["y"], body, opset))
        self.at = self.add("Swish", self.at, domain="local")

    def dropout(self) -> None:
        output = self.name()
        self.nodes.append(node("Dropout", [self.at], [output, f"{output}_mask"], ""))
        self.at = output

    def head(self, classes: int) -> str:
        pooled = self.add("GlobalAveragePool", self.at)
        how = self.draw(st.sampled_from(["Flatten", "Reshape", "ReduceMean"]))
        features = {
            "Flatten": lambda: self.add("Flatten", pooled),
            "Reshape": lambda: self.add("Reshape", pooled, self.constant([-1, self.channels])),
            "ReduceMean": lambda: self.add("Flatten", self.add("Relu", pooled), axis=-3),
        }[how]()
        if self.draw(st.booleans()):  # tied weights
            tied = self.weight(self.channels, 16)
            features = self.add("Gemm", self.add("MatMul", features, tied), tied, transB=1)
        self.features = features
        product = self.draw(st.sampled_from(["MatMul", "Gemm", "GemmB"]))
        if product == "MatMul":
            return self.add("MatMul", features, self.weight(self.channels, classes, scale=3))
        shapes = [None, (classes,), (1, classes), (1,), (), (1, 1)]
        shape = self.draw(st.sampled_from(shapes))
        bias = [] if shape is None else [self.constant(self.random.normal(size=shape), np.float32)]
        sides = (classes, self.channels) if product == "GemmB" else (self.channels, classes)
        return self.add("Gemm", features, self.weight(*sides, scale=3), *bias, transB=int(product == "GemmB"))


STEPS = ("conv", "depthwise", "identities", "transposes", "residual", "scaled", "branching", "function", "dropout")


@st.composite
def odd_models(draw: Callable[..., Any]) -> ModelProto:
    """A classifier of images (batch, 3, SIDE, SIDE)."""
    builder, classes = Builder(draw), draw(st.sampled_from([4, 1, 2, 5]))
    builder.conv()
    for step in draw(st.lists(st.sampled_from(STEPS), max_size=4)):
        getattr(builder, step)()
    scores = builder.head(classes)
    last = draw(st.sampled_from(["", "", "Softmax", "Sigmoid", "LogSoftmax", "Identity"]))
    scores = builder.add(last, scores) if last else scores
    batch = draw(st.sampled_from(["N", 1, 3, -1, ""]))
    outputs = draw(st.sampled_from([["scores"], ["features", "scores"], ["scores", "features"]]))
    typed = {
        "scores": (scores, ["N" if isinstance(batch, str) else batch, classes]),
        "features": (builder.features, ["N" if isinstance(batch, str) else batch, builder.channels]),
    }
    graph = helper.make_graph(
        builder.nodes,
        draw(st.sampled_from(["g", ""])) or "",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch or None, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(typed[one][0], TensorProto.FLOAT, typed[one][1]) for one in outputs],
        [numpy_helper.from_array(value, name) for name, value in builder.weights.items()],
    )
    opset = draw(st.sampled_from([19, 17, 13, 21]))
    imports = [helper.make_opsetid("", opset)] + [helper.make_opsetid("local", 1)] * bool(builder.functions)
    model = helper.make_model(graph, opset_imports=imports, functions=builder.functions, ir_version=8)
    for change in draw(st.lists(st.sampled_from(CHANGES), max_size=3, unique=True)):
        change(model, draw)
    return model


def constants_as_nodes(model: ModelProto, draw: Callable[..., Any]) -> None:
    """Some initializers become Constant nodes."""
    for tensor in list(model.graph.initializer):
        if draw(st.booleans()):
            model.graph.node.insert(0, node("Constant", [], [tensor.name], value=tensor))
            model.graph.initializer.remove(tensor)
            for value in [one for one in model.graph.input if one.name == tensor.name]:
                model.graph.input.remove(value)


def weights_among_inputs(model: ModelProto, draw: Callable[..., Any]) -> None:
    """As files of format version 3 have to list them."""
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.insert(draw(st.integers(0, 1)), value)
    if not model.functions:
        model.ir_version = draw(st.sampled_from([3, 8]))


def opset_twice(model: ModelProto, draw: Callable[..., Any]) -> None:
    model.opset_import.append(
        helper.make_opsetid(draw(st.sampled_from(["ai.onnx", ""])), model.opset_import[0].version)
    )


def nodes_in_disorder(model: ModelProto, draw: Callable[..., Any]) -> None:
    shuffled = draw(st.permutations(list(model.graph.node)))
    del model.graph.node[:]
    model.graph.node.extend(shuffled)


def unused_weights(model: ModelProto, draw: Callable[..., Any]) -> None:
    for name, shape in (("unused", (3, 0)), ("unused_too", ())):
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))


def outputs_without_shape(model: ModelProto, draw: Callable[..., Any]) -> None:
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape") if draw(st.booleans()) else value.ClearField("type")


def nodes_without_name(model: ModelProto, draw: Callable[..., Any]) -> None:
    for one in model.graph.node:
        one.name = draw(st.sampled_from(["", one.name]))


def names_of_the_writer(model: ModelProto, draw: Callable[..., Any]) -> None:
    """Tensors called as a writer of Q/DQ nodes would call its own, inputs and outputs of the graph too."""
    every = (
        [tensor.name for tensor in model.graph.initializer] + [one.output[0] for one in model.graph.node] + ["image"]
    )
    for _ in range(draw(st.integers(1, 3))):
        old = draw(st.sampled_from(every))
        base = draw(st.sampled_from([one for one in every if one != old]))
        new = draw(st.sampled_from([*(base + suffix for suffix in SUFFIXES), *ODD_NAMES]))
        if new not in every:
            every[every.index(old)] = new
            _rename(model.graph, old, new)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = new if value.name == old else value.name
    for one in graph.node:
        one.input[:] = [new if name == old else name for name in one.input]
        one.output[:] = [new if name == old else name for name in one.output]
        for attribute in one.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, old, new)


CHANGES = (
    constants_as_nodes, weights_among_inputs, opset_twice, nodes_in_disorder, unused_weights, outputs_without_shape,
    nodes_without_name, names_of_the_writer,
)  # fmt: skip


def plain_session(model: ModelProto | bytes) -> onnxruntime.InferenceSession:
    """ONNX Runtime, with nothing of edgevit."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
