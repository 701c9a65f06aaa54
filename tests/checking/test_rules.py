"""Each rule breaks on a graph that breaks it alone, and what NVIDIA's builder makes of that graph."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from edgevit.checking import check_for_tensorrt
from edgevit.checking.rules import RULES, tensorrt_diagnostics
from edgevit.errors import ArtifactError
from edgevit.graphs.graph import Graph
from edgevit.quantization.dialects import fills_tiles
from tests.checking.graphs import (
    CHANNELS,
    FLOAT8,
    INT4,
    SIDE,
    attention,
    constants,
    convolution,
    model,
    node,
    pair,
    product,
)
from tests.checking.test_nvidia import needs_nvidia


def asymmetric() -> ModelProto:
    return convolution(zero=np.int8(3))


def unsigned() -> ModelProto:
    return convolution(zero=np.uint8(0))


def int32_bias() -> ModelProto:
    bias = {"bias": np.ones(CHANNELS, np.int32), "bias_zero": np.zeros(CHANNELS, np.int32)}
    nodes = [
        *pair("image", "rounded"),
        node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], "weights", axis=0),
        node("DequantizeLinear", ["bias", "weight_scale", "bias_zero"], "biases", axis=0),
        node("Conv", ["rounded", "weights", "biases"], "logits"),
    ]
    return model(nodes, constants(**bias), [1, CHANNELS, SIDE, SIDE], [1, CHANNELS, SIDE - 2, SIDE - 2])


def scale_of_each_channel() -> ModelProto:
    scales = {"scale": np.full(CHANNELS, 0.1, np.float32), "zero": np.zeros(CHANNELS, np.int8)}
    return convolution(**scales)


def scales_along_inputs() -> ModelProto:
    weights = node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], "weights", axis=1)
    return convolution(weights=weights)


def float_activations() -> ModelProto:
    return convolution(node("Identity", ["image"], "rounded"))


def pair_for_softmax() -> ModelProto:
    nodes = [*pair("image", "rounded"), node("Softmax", ["rounded"], "logits")]
    return model(nodes, {"scale": np.float32(0.1), "zero": np.int8(0)}, [1, 32], [1, 32])


def few_channels() -> ModelProto:
    weight = {
        "weight": np.ones((4, CHANNELS, 3, 3), np.int8),
        "weight_scale": np.full(4, 0.1, np.float32),
        "weight_zero": np.zeros(4, np.int8),
    }
    nodes = convolution().graph.node
    return model(nodes, constants(**weight), [1, CHANNELS, SIDE, SIDE], [1, 4, SIDE - 2, SIDE - 2])


def integers_inside() -> ModelProto:
    nodes = [
        node("QuantizeLinear", ["image", "scale", "zero"], "integers"),
        node("MatMulInteger", ["integers", "matrix"], "product"),
        node("Cast", ["product"], "logits", to=onnx.TensorProto.FLOAT),
    ]
    found = {"scale": np.float32(0.1), "zero": np.int8(0), "matrix": np.ones((32, 32), np.int8)}
    return model(nodes, found, [1, 32], [1, 32])


def open_sides() -> ModelProto:
    found = convolution()
    for value in (found.graph.input[0], found.graph.output[0]):
        value.type.tensor_type.shape.dim[2].dim_param = "height"
    return found


def long_attention() -> ModelProto:
    return attention(tokens=577, head=64, quantized=True)


def int4_activation() -> ModelProto:
    return product(rounds_image=True)


def int4_convolution() -> ModelProto:
    nodes = [
        node("DequantizeLinear", ["weight", "weight_scale"], "weights", axis=1, block_size=64),
        node("Conv", ["image", "weights"], "logits"),
    ]
    found = {"weight": np.ones((16, 128, 1, 1), INT4), "weight_scale": np.full((16, 2, 1, 1), 0.1, np.float32)}
    return model(nodes, found, [1, 128, SIDE, SIDE], [1, 16, SIDE, SIDE], opset=21)


def int4_without_blocks() -> ModelProto:
    return product(block=0)


def float8_weights_alone() -> ModelProto:
    weights = {
        "weight": np.ones((CHANNELS, CHANNELS, 3, 3), FLOAT8),
        "weight_zero": np.zeros((), FLOAT8),
        "weight_scale": np.float32(0.1),
    }
    return convolution(node("Identity", ["image"], "rounded"), **weights)


def in_float16(factor: float, *nodes: NodeProto) -> ModelProto:
    """image → float16, times a factor → x → `nodes` → y → mean of each channel → logits"""
    halves = [
        node("Cast", ["image"], "half", to=TensorProto.FLOAT16),
        node("Mul", ["half", "factor"], "x"),
        *nodes,
        node("ReduceMean", ["y", "sides"], "scores", keepdims=0),
        node("Cast", ["scores"], "logits", to=TensorProto.FLOAT),
    ]
    found = {"factor": np.float16(factor), "sides": np.array([2, 3]), "last": np.array([-1]), "tiny": np.float16(1e-4)}
    return model(halves, found, [1, 3, SIDE, SIDE], [1, 3])


def overflowing() -> ModelProto:
    return in_float16(60000, node("Relu", ["x"], "y"))


def near_the_limit() -> ModelProto:
    return in_float16(20000, node("Relu", ["x"], "y"))


def norm_of(centered: str) -> list[NodeProto]:
    """x → y: the tensor `centered` over the root of its mean square."""
    return [
        node("Mul", [centered, centered], "square"),
        node("ReduceMean", ["square", "last"], "mean_square"),
        node("Add", ["mean_square", "tiny"], "total"),
        node("Sqrt", ["total"], "root"),
        node("Div", [centered, "root"], "y"),
    ]


def written_out_layer_norm() -> ModelProto:
    mean = node("ReduceMean", ["x", "last"], "mean")
    return in_float16(1, mean, node("Sub", ["x", "mean"], "centered"), *norm_of("centered"))


def written_out_rms_norm() -> ModelProto:
    return in_float16(1, *norm_of("x"))


def l2_normalized(factor: float) -> ModelProto:
    """As torch's F.normalize, in cosine attention and in ConvNeXt V2's global response norm."""
    length = [node("ReduceL2", ["x", "last"], "root"), node("Clip", ["root", "tiny"], "clipped")]
    return in_float16(factor, *length, node("Div", ["x", "clipped"], "y"))


def distances() -> ModelProto:
    """Euclidean distances of columns from the first image column."""
    return in_float16(
        1,
        node("ReduceMax", ["x", "last"], "other"),
        node("Sub", ["x", "other"], "difference"),
        node("Mul", ["difference", "difference"], "square"),
        node("ReduceSum", ["square", "last"], "total"),
        node("Sqrt", ["total"], "y"),
    )


REFUSED, FALLS_BACK, CHANGED, BUILT = "refused", "falls back", "built as something else", "built"
NOT_ASKED, OVERFLOWS = "not asked", "built, and may overflow"
# The builder takes uint8 with zero point 0 for int8, and INT4 activations though NVIDIA documents weights alone (in
# float16 it refuses these).
BREAKS: dict[str, tuple[Callable[[], ModelProto], str, str]] = {
    "asymmetric": (asymmetric, "symmetric", REFUSED),
    "unsigned": (unsigned, "integer_type", CHANGED),
    "int32 bias": (int32_bias, "integer_type", REFUSED),
    "scale of each channel": (scale_of_each_channel, "tensor_scale", FALLS_BACK),
    "scales along inputs": (scales_along_inputs, "output_channel_axis", FALLS_BACK),
    "float activations": (float_activations, "both_operands", BUILT),
    "float8 weights alone": (float8_weights_alone, "both_operands", BUILT),
    "int4 activation": (int4_activation, "int4_weights", CHANGED),
    "int4 convolution": (int4_convolution, "int4_weights", REFUSED),
    "int4 without blocks": (int4_without_blocks, "int4_weights", BUILT),
    "pair for a softmax": (pair_for_softmax, "used_pair", BUILT),
    "few channels": (few_channels, "worthwhile_product", BUILT),
    "integers inside": (integers_inside, "plain_operators", REFUSED),
    "open sides": (open_sides, "static_shapes", NOT_ASKED),
    "long attention": (long_attention, "fusible_attention", BUILT),
    "overflowing": (overflowing, "float16_range", OVERFLOWS),
    "near the limit": (near_the_limit, "float16_range", BUILT),
    "written-out layer norm": (written_out_layer_norm, "float16_norm", OVERFLOWS),
    "written-out RMS norm": (written_out_rms_norm, "float16_norm", BUILT),
}


def broken(found: ModelProto) -> set[str]:
    return {one.rule for one in tensorrt_diagnostics(Graph(found))}


@pytest.mark.parametrize("name", BREAKS)
def test_a_graph_breaks_just_the_rule_that_it_was_made_to_break(name: str) -> None:
    make, rule, _ = BREAKS[name]
    onnx.checker.check_model(make())
    assert broken(make()) == {rule}


def test_every_rule_has_a_graph_that_breaks_it() -> None:
    assert {rule.__name__ for rule in RULES} == {rule for _, rule, _ in BREAKS.values()}


def test_float16_overflows_where_it_rounds_to_infinity() -> None:
    levels, said = [], ""
    for value in (65504.0, 65519.0, 65521.0):
        found = in_float16(1, node("Relu", ["x"], "y"))
        wide = node("Add", ["image", "value"], "raised")
        clip = node("Clip", ["raised", "value", "value"], "clipped")
        found.graph.node[0].input[0] = "clipped"
        others = list(found.graph.node)
        del found.graph.node[:]
        found.graph.node.extend([wide, clip, *others])
        found.graph.initializer.append(numpy_helper.from_array(np.asarray(np.float32(value)), "value"))
        (diagnostic, *_) = (one for one in tensorrt_diagnostics(Graph(found)) if "'half'" in one.what)
        levels.append(diagnostic.level)
        said = said or diagnostic.what
    assert levels == ["warning", "warning", "error"]
    assert said.endswith("4 times as much, as other images may give, exceeds 65504")


@pytest.mark.parametrize(
    ("make", "level", "what"),
    [
        (written_out_layer_norm, "error", "a layer norm is written out in float16"),
        (written_out_rms_norm, "warning", "a norm is written out in float16"),
        (distances, "warning", "a norm is written out in float16"),
        (lambda: l2_normalized(1), "warning", "a norm is written out in float16"),
        (lambda: l2_normalized(1000), "error", r"the square of \d+ on a random image overflows"),
    ],
    ids=["layer norm", "RMS norm", "distance", "L2 norm", "L2 norm of large values"],
)
def test_a_norm_in_float16_is_an_error_if_it_centers_or_overflows(
    make: Callable[[], ModelProto], level: str, what: str
) -> None:
    onnx.checker.check_model(make())
    (diagnostic,) = tensorrt_diagnostics(Graph(make()))
    assert (diagnostic.rule, diagnostic.level) == ("float16_norm", level)
    assert re.search(what, diagnostic.what)
    assert ("opset" in diagnostic.next) == (make is written_out_layer_norm)


def test_a_range_that_cannot_be_measured_is_said() -> None:
    found = in_float16(1, node("Relu", ["x"], "y"))
    found.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1  # no image
    (diagnostic,) = (one for one in tensorrt_diagnostics(Graph(found)) if one.rule == "float16_range")
    assert diagnostic.level == "warning"
    assert "was not measured: the model does not take one image" in diagnostic.what


def test_legal_graphs_break_no_rule() -> None:
    attentions = attention(197, 64, quantized=True), attention(577, 64, quantized=False)
    for legal in (convolution(), product(64), product(128), *attentions):
        onnx.checker.check_model(legal)
        assert broken(legal) == set()


@needs_nvidia
@pytest.mark.parametrize("name", BREAKS)
def test_what_nvidia_makes_of_it(name: str, tmp_path: Path) -> None:
    make, _, outcome = BREAKS[name]
    onnx.save(make(), tmp_path / "model.onnx")
    found = check_for_tensorrt(tmp_path / "model.onnx")
    if outcome == NOT_ASKED:
        assert (found.build_result, found.ok) == (None, False)
        assert "sizes 2 of the input 'image' are open" in found.not_asked
        return
    assert found.build_result is not None
    assert found.build_result.built == (outcome != REFUSED)
    assert bool(found.build_result.refused) == (outcome == REFUSED)
    assert bool(found.fell_back) == (outcome == FALLS_BACK)
    assert found.ok == (outcome == BUILT)


def test_a_negative_axis_is_an_axis_too() -> None:
    weights = node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], "weights", axis=-4)
    assert broken(convolution(weights=weights)) == set()


def test_a_group_of_few_channels_is_seen() -> None:
    assert not fills_tiles(node("Conv", ["a", "b"], "c", group=4), (CHANNELS, 8, 3, 3))
    assert fills_tiles(node("Conv", ["a", "b"], "c", group=2), (CHANNELS, 8, 3, 3))


def test_a_graph_that_is_none_is_an_error(tmp_path: Path) -> None:
    circle = convolution()
    circle.graph.node[0].input[0] = circle.graph.node[-1].output[0]
    bare = convolution()
    del bare.graph.node[-1].input[1:]
    for name, wrong in {"circle": circle, "bare": bare}.items():
        (tmp_path / f"{name}.onnx").write_bytes(wrong.SerializeToString())
        with pytest.raises(ArtifactError, match="graph is not valid"):
            check_for_tensorrt(tmp_path / f"{name}.onnx")
