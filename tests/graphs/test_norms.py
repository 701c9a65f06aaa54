"""Written-out layer norms become LayerNormalization, and compute what they computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes
from torch import nn

from edgevit.artifacts import IOSpec, Preprocess
from edgevit.exporting import onnx_from_module
from edgevit.graphs.norms import with_fused_norms, written_out_norms
from edgevit.graphs.tensors import types_and_shapes
from edgevit.graphs.walk import operator_counts
from tests.graphs.norm_graphs import WIDTH, norm_constants, norm_nodes

node = helper.make_node
SCALED = [node("Mul", ["normed", "scale"], ["scaled"], "scaled")]
SHIFTED = [node("Add", ["shift", "scaled"], ["shifted"], "shifted")]
SHIFTED_ALONE = [node("Add", ["normed", "shift"], ["shifted"], "shifted")]


def graph(
    nodes: Sequence[NodeProto], output: str, rows: int | str = "rows", opset: int = 20, **constants: NDArray[np.generic]
) -> ModelProto:
    """x (2, rows, 128) → `output`, in float64."""
    generator = np.random.default_rng(0)
    stored = {
        **norm_constants(1e-6, np.float64),
        "scale": generator.standard_normal(WIDTH),
        "shift": generator.standard_normal(WIDTH),
        **constants,
    }
    read = {name for one in nodes for name in one.input}
    values = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [2, rows, WIDTH]) for name in ("x", output)]
    made = helper.make_graph(
        list(nodes),
        "norm",
        values[:1],
        values[1:],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items() if name in read],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def computed(model: ModelProto, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """By onnx's reference, in numpy's float64."""
    return np.asarray(onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})[0])


def without_sub_twice() -> list[NodeProto]:
    """As TorchScript traces it: x less its mean once for the squares and once for the division."""
    nodes = norm_nodes("layer norm by Pow")
    again = [node("ReduceMean", ["x", "axis"], ["mean2"], "mean2"), node("Sub", ["x", "mean2"], ["centred2"], "again")]
    nodes[-1].input[0] = "centred2"
    return [*nodes[:-1], *again, nodes[-1]]


def by_reciprocal() -> list[NodeProto]:
    nodes = norm_nodes("layer norm by Mul")[:-1]
    return [
        *nodes,
        node("Reciprocal", ["root"], ["factor"], "factor"),
        node("Mul", ["factor", "centred"], ["normed"], "normed"),
    ]


LAYER_NORMS: dict[str, Any] = {
    "Pow": (norm_nodes("layer norm by Pow"), "normed", {}),
    "Mul": (norm_nodes("layer norm by Mul"), "normed", {}),
    "scale": ([*norm_nodes("layer norm by Pow"), *SCALED], "scaled", {}),
    "scale and bias": ([*norm_nodes("layer norm by Mul"), *SCALED, *SHIFTED], "shifted", {}),
    "bias": ([*norm_nodes("layer norm by Mul"), *SHIFTED_ALONE], "shifted", {}),
    "scale (1, 1, C)": ([*norm_nodes("layer norm by Pow"), *SCALED], "scaled", {"scale": np.ones((1, 1, WIDTH)) * 3}),
    "axis counted from the front": (norm_nodes("layer norm by Pow"), "normed", {"axis": np.array([2], np.int64)}),
    "centred twice": (without_sub_twice(), "normed", {}),
    "reciprocal": (by_reciprocal(), "normed", {}),
}


@pytest.mark.parametrize("name", LAYER_NORMS)
def test_a_layer_norm_over_the_last_axis_is_one_operator_and_the_function_stays(name: str) -> None:
    nodes, output, constants = LAYER_NORMS[name]
    written = graph(nodes, output, **constants)
    fused = with_fused_norms(written)
    onnx.checker.check_model(fused, full_check=True)
    assert operator_counts(fused) == {"LayerNormalization": 1}
    for size in (1.0, 1e-3):  # of the smaller one, ε is a share of the variance
        x = size * np.random.default_rng(1).standard_normal((2, 5, WIDTH))
        np.testing.assert_allclose(computed(fused, x), computed(written, x), rtol=1e-7, atol=1e-9)
    types = types_and_shapes(with_fused_norms(infer_shapes(written)))[0]
    assert types.keys() == {"x", output} | {one.output[0] for one in fused.graph.node}, "no types of dropped tensors"
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + np.float64(np.float32(1e-6)))
    if output == "normed":
        np.testing.assert_allclose(computed(fused, x), normed, rtol=1e-7)


def changed(place: int, **attributes: int) -> list[NodeProto]:
    nodes = norm_nodes("layer norm by Pow")
    nodes[place].attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return nodes


def other_divided() -> list[NodeProto]:
    nodes = norm_nodes("layer norm by Pow")
    nodes[-1].input[0] = "x"
    return nodes


NO_LAYER_NORMS: dict[str, Any] = {
    "another axis": (norm_nodes("layer norm by Pow"), {"axis": np.array([1], np.int64)}),
    "two axes": (norm_nodes("layer norm by Pow"), {"axis": np.array([1, 2], np.int64)}),
    "not centred": (norm_nodes("rms norm"), {}),
    "other values divided": (other_divided(), {}),
    "cubes": (norm_nodes("layer norm by Pow"), {"two": np.array(3.0)}),
    "an ε for each channel": (norm_nodes("layer norm by Pow"), {"epsilon": np.full(WIDTH, 1e-6)}),
}


@pytest.mark.parametrize("name", NO_LAYER_NORMS)
def test_what_is_no_layer_norm_over_the_last_axis_stays_as_it_is(name: str) -> None:
    nodes, constants = NO_LAYER_NORMS[name]
    written = graph(nodes, "normed", **constants)
    assert with_fused_norms(written) == written


def test_a_scale_that_is_no_number_a_channel_stays_behind_the_norm() -> None:
    written = graph([*norm_nodes("layer norm by Pow"), *SCALED], "scaled", rows=5, scale=np.ones((5, WIDTH)) * 2)
    fused = with_fused_norms(written)
    assert operator_counts(fused) == {"LayerNormalization": 1, "Mul": 1}
    x = np.random.default_rng(1).standard_normal((2, 5, WIDTH))
    np.testing.assert_allclose(computed(fused, x), computed(written, x), rtol=1e-7)


def test_inner_values_that_are_read_elsewhere_are_still_made() -> None:
    reader = node("Add", ["normed", "root"], ["both"], "both")
    fused = with_fused_norms(graph([*norm_nodes("layer norm by Pow"), reader], "both"))
    assert operator_counts(fused)["LayerNormalization"] == operator_counts(fused)["Sqrt"] == 1
    assert operator_counts(fused)["Div"] == 0


def test_opset_16_has_no_such_operator() -> None:
    nodes = norm_nodes("layer norm by Pow")
    for one in nodes:
        if one.op_type == "ReduceMean":
            del one.input[1:]
            one.attribute.append(helper.make_attribute("axes", [-1]))
    assert with_fused_norms(graph(nodes, "normed", opset=16)) == graph(nodes, "normed", opset=16)
    assert operator_counts(with_fused_norms(graph(nodes, "normed", opset=17))) == {"LayerNormalization": 1}


def test_an_operator_that_norms_is_not_written_out() -> None:
    assert written_out_norms(graph([node("LpNormalization", ["x"], ["unit"], "unit", axis=-1)], "unit")) == []


class OwnNorms(nn.Module):
    """Norms as papers write them, in PyTorch: a layer norm, an RMS norm, unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.flatten(2)
        centred = x - x.mean(-1, keepdim=True)
        x = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * self.scale + self.shift
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.scale
        return nn.functional.normalize(x, dim=-1).mean(1)


def test_norms_written_in_pytorch_are_known_after_the_export() -> None:
    spec = IOSpec.for_classifier(Preprocess(height=2, width=4), tuple("abcdefgh"))
    model = onnx_from_module(OwnNorms().eval(), spec, 20, dynamic_batch=True).model
    assert len(written_out_norms(model)) == 3
    fused = with_fused_norms(model)
    assert (operator_counts(fused)["LayerNormalization"], len(written_out_norms(fused))) == (1, 2)
