"""Where the Q/DQ pairs go, on graphs of a few nodes, and what they cost in accuracy."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from pydantic import ValidationError

from edgevit.checking import check_for_onnxruntime
from edgevit.configs import Quantize
from edgevit.errors import ArtifactError
from edgevit.graphs.tensors import with_stored_constants
from edgevit.graphs.walk import operator_counts
from edgevit.quantization import calibrated
from edgevit.quantization.dialects import Placement
from edgevit.runtimes.onnxruntime.session import inference_session, run_session
from edgevit.runtimes.parity import sqnr_db
from tests.checking.graphs import branch
from tests.checking.graphs import model as graph_of


def convolved(*nodes: NodeProto, outputs: tuple[str, ...] = ("logits",), **bounds: float | None) -> ModelProto:
    """image → Conv → c → `nodes` → outputs, with weights that no rounding to 8 bits changes."""
    weight = np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)).astype(np.float32)
    weight[:, 0, 0, 0] = 127
    weights = [numpy_helper.from_array(weight * np.float32(0.001), "w")]
    weights += [
        numpy_helper.from_array(np.asarray(np.float32(value)), name)
        for name, value in bounds.items()
        if value is not None
    ]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["c"], "conv"), *nodes],
        "convolved",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 6, 6]) for name in outputs],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def outputs_of(model: ModelProto, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """What the graph says, by float kernels: those of integers overflow on some CPUs with weights of 8 bits."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"image": images}))


def constant(name: str, value: float) -> NodeProto:
    return helper.make_node(
        "Constant", [], [name], f"constant {name}", value=numpy_helper.from_array(np.asarray(np.float32(value)))
    )


def quantized(model: ModelProto) -> tuple[ModelProto, float]:
    """The quantized graph, and the largest error of its first output on images of integers from 0 to 255."""
    images = np.random.default_rng(1).integers(0, 256, (8, 3, 8, 8)).astype(np.float32)
    images[0, 0, 0, :2] = 0, 255
    found = calibrated(model, lambda: [images], "minmax", "onnxruntime", 1, "test", reduce_range=False).quantized()
    made = found.model
    onnx.checker.check_model(made)
    left = Counter(operator_counts(made))
    assert all(left[name] == found.float_ops.get(name, 0) for name in ("Relu", "Clip"))
    return made, float(np.abs(outputs_of(made, images)[0] - outputs_of(model, images)[0]).max())


RELU = helper.make_node("Relu", ["c"], ["r"], "act")
CLIP = helper.make_node("Clip", ["c", "low", "high"], ["r"], "act")
READ_C = helper.make_node("Identity", ["c"], ["logits"], "read")
READ = helper.make_node("Identity", ["r"], ["logits"], "read")


@pytest.mark.parametrize(
    ("model", "width"),
    [
        (convolved(RELU, READ), 180.0),
        (convolved(CLIP, READ, low=0.0, high=6.0), 6.0),
        (convolved(CLIP, READ, low=-1.0, high=1.0), 2.0),
        (convolved(constant("low", 0.0), constant("high", 6.0), CLIP, READ), 6.0),
    ],
    ids=["relu", "relu6", "hardtanh", "constants"],
)
def test_what_a_nonlinearity_cuts_off_gets_no_integers_and_the_range_does_the_cutting(
    model: ModelProto, width: float
) -> None:
    made, error = quantized(model)
    assert not {"Relu", "Clip"} & operator_counts(made).keys()
    assert error <= 1.01 * width / 255 / 2, "half a step"


@pytest.mark.parametrize(
    "model",
    [
        convolved(CLIP, READ, low=1.0, high=6.0),
        convolved(RELU, helper.make_node("Add", ["r", "c"], ["logits"], "sum")),
        convolved(RELU, READ, *branch("c", "seen"), outputs=("logits", "seen")),
        convolved(RELU, READ, *branch("r", "seen"), outputs=("logits", "seen")),
        convolved(RELU, READ, outputs=("logits", "c")),
        convolved(helper.make_node("Relu", ["c"], ["logits"], "act")),
        convolved(helper.make_node("Clip", ["c", "low"], ["r"], "act"), READ, low=0.0),
        convolved(helper.make_node("Clip", ["c", "", "high"], ["r"], "act"), READ, high=6.0),
    ],
    ids=[
        "above zero",
        "read elsewhere",
        "read in a branch",
        "itself read in a branch",
        "given out",
        "the answer itself",
        "no upper bound",
        "no lower bound",
    ],
)
def test_a_nonlinearity_that_a_range_cannot_stand_for_stays(model: ModelProto) -> None:
    made, error = quantized(model)
    assert {"Relu", "Clip"} & operator_counts(made).keys()
    assert error <= 1.5


def test_tensorrts_dialect_keeps_relu_and_quantizes_no_output() -> None:
    """Its integers are symmetric: a range that is cut at 0 below cannot stand for a Relu there."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((16, 8, 3, 3)).astype(np.float32),
        "v": rng.standard_normal((8, 16, 3, 3)).astype(np.float32),
        "few": rng.standard_normal((5, 8, 3, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], "first"),
        helper.make_node("Relu", ["c"], ["r"], "act"),
        helper.make_node("Conv", ["r", "v"], ["d"], "second"),
        helper.make_node("Conv", ["d", "few"], ["logits"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 8, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5, 6, 6])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    images = rng.standard_normal((16, 8, 12, 12)).astype(np.float32)
    found = calibrated(model, lambda: [images], "minmax", "tensorrt", 1, "test").quantized()
    assert found.quantized_ops == {"Conv": 2}  # five channels fill no tile: the last stays float
    assert found.float_ops == {"Relu": 1, "Conv": 1}
    made = found.model
    onnx.checker.check_model(made)
    constants = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
    pairs = [node for node in made.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert all(not constants[node.input[2]].any() and constants[node.input[2]].dtype == np.int8 for node in pairs)
    quantizers = [node for node in pairs if node.op_type == "QuantizeLinear"]
    assert len(quantizers) == 2  # of the operands alone
    expected, got = outputs_of(model, images)[0], outputs_of(made, images)[0]
    noise_db = 10 * np.log10(np.square(expected).sum() / np.square(expected - got).sum())
    assert noise_db > 30


def test_openvinos_dialect_spends_its_levels_where_the_values_are() -> None:
    """The output of a Relu is uint8 with zero point 0, that of a GELU before a product uint8, and all else int8."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((8, 8, 3, 3)).astype(np.float32) / 8 for name in ("w", "v")}
    weights |= {name: rng.standard_normal((8, 8)).astype(np.float32) for name in ("p", "q")}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], "first"),
        helper.make_node("Relu", ["c"], ["r"], "act"),
        helper.make_node("Conv", ["r", "v"], ["d"], "second"),
        helper.make_node("Transpose", ["d"], ["tokens"], "turn", perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["tokens", "p"], ["hidden"], "third"),
        helper.make_node("Gelu", ["hidden"], ["g"], "gelu"),
        helper.make_node("MatMul", ["g", "q"], ["logits"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 8, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 8, 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    images = rng.standard_normal((16, 8, 12, 12)).astype(np.float32)
    made = calibrated(model, lambda: [images], "minmax", "openvino", 1, "test").quantized().model
    onnx.checker.check_model(made)
    constants = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
    zeros = {name: constants[f"{name}_zero_point"] for name in ("image", "r", "tokens", "g")}
    assert {name: zero.dtype.name for name, zero in zeros.items()} == {
        "image": "int8", "r": "uint8", "tokens": "int8", "g": "uint8",
    }  # fmt: skip
    assert [int(zeros[name]) for name in ("image", "r", "tokens")] == [0, 0, 0]
    assert 0 < int(zeros["g"]) <= 64
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("r", "g"))
    _, relu, gelu = outputs_of(probed, images)
    assert constants["r_scale"] == pytest.approx(float(relu.max()) / 255, rel=1e-5)
    assert constants["g_scale"] == pytest.approx(float(gelu.max() - gelu.min()) / 255, rel=1e-5)


def test_a_gemm_that_scales_its_bias_stays_float_and_an_old_opset_is_refused() -> None:
    weights = [numpy_helper.from_array(np.ones((32, 32), np.float32), name) for name in ("v", "w")]
    weights.append(numpy_helper.from_array(np.ones(32, np.float32), "b"))
    nodes = [
        helper.make_node("MatMul", ["image", "v"], ["h"], "product"),
        helper.make_node("Gemm", ["h", "w", "b"], ["logits"], "scaled", beta=2.0),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 32]) for name in ("image", "logits")]
    graph = helper.make_graph(nodes, "two", values[:1], values[1:], weights)
    images = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)

    def made(opset: int) -> Counter[str]:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        return Counter(calibrated(model, lambda: [images], "minmax", "tensorrt", 1, "test").quantized().quantized_ops)

    assert made(20) == {"MatMul": 1}
    with pytest.raises(ArtifactError, match="too old"):
        made(17)


@pytest.mark.parametrize("name", ["image", "w"])
def test_an_output_that_no_node_makes_is_refused(name: str) -> None:
    with pytest.raises(ArtifactError, match="an input or a weight") as caught:
        quantized(convolved(READ_C, outputs=("logits", name)))
    assert caught.value.got == name


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("shape", [(32,), (1, 32, 32)])
def test_a_product_with_weights_that_are_no_matrix_stays_float(shape: tuple[int, ...], runtime: str) -> None:
    nodes = [
        helper.make_node("MatMul", ["image", "v"], ["h"], "product"),
        helper.make_node("MatMul", ["h", "w"], ["other"], "other"),
        helper.make_node("Identity", ["h"], ["logits"], "read"),
    ]
    graph = graph_of(nodes, {"v": np.ones((32, 32), np.float32), "w": np.ones(shape, np.float32)}, [4, 32], [4, 32])
    images = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    made = calibrated(graph, lambda: [images], "minmax", runtime, 1, "test").quantized()
    assert (made.quantized_ops, made.float_ops["MatMul"]) == ({"MatMul": 1}, 1)


def test_weights_in_constant_nodes_are_quantized_like_others() -> None:
    stored, held = convolved(READ_C), convolved(READ_C)
    (weight,) = held.graph.initializer
    held.graph.node.insert(0, helper.make_node("Constant", [], ["w"], "weights", value=weight))
    del held.graph.initializer[:]
    assert quantized(with_stored_constants(held))[0] == quantized(stored)[0]


def test_weights_shared_through_identity_nodes_are_quantized_where_they_are_read(tmp_path: Path) -> None:
    """As TorchScript exports equal biases; with one that is not quantized, ONNX Runtime leaves a convolution float."""
    shared = helper.make_node("Identity", ["bias"], ["same"], "shared")
    second = helper.make_node("Conv", ["c", "v", "same"], ["r"], "second", pads=[1, 1, 1, 1])
    made = convolved(shared, second, READ)
    made.graph.node[0].input.append("bias")
    rng = np.random.default_rng(2)
    made.graph.initializer.extend(
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("bias", 4), ("v", (4, 4, 3, 3)))
    )
    quantized_model, _ = quantized(made)
    onnx.save(quantized_model, tmp_path / "model.onnx")
    found = check_for_onnxruntime(tmp_path / "model.onnx")
    assert [(one.node, one.got) for one in found.products] == [("conv", "int8"), ("second", "int8")]
    assert operator_counts(made)["Identity"] == 2, "the model that was given is left as it was"


def test_a_convolution_that_stays_float_between_two_pairs_keeps_its_weights_in_the_runtime(tmp_path: Path) -> None:
    """By default, ONNX Runtime's optimizer gives it integers of one scale: here, all but one channel would be zeros."""
    generator = np.random.default_rng(0)
    middle = generator.standard_normal((16, 8, 3, 3))
    middle[0] *= 1000
    tensors = {
        "first": generator.standard_normal((16, 16, 3, 3)) / 12,
        "middle": middle / 8,
        "last": generator.standard_normal((16, 16, 1, 1)) / 4,
        "beside": generator.standard_normal((16, 16, 3, 3)) / 12,
        "low": np.float32(-3),
        "high": np.float32(3),
    }
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "middle"], ["b"], "middle", group=2),
        helper.make_node("Clip", ["b", "low", "high"], ["c"], "clip"),
        helper.make_node("Conv", ["c", "last"], ["d"], "last"),
        helper.make_node("Conv", ["a", "beside"], ["e"], "beside"),  # reads integers, and so does "middle"
        helper.make_node("Concat", ["d", "e"], ["f"], "both", axis=1),
        helper.make_node("GlobalAveragePool", ["f"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["logits"], "flatten"),
    ]
    weights = {name: np.asarray(values, np.float32) for name, values in tensors.items()}
    model = graph_of(nodes, weights, ["batch", 16, 8, 8], ["batch", 32])
    images = generator.standard_normal((16, 16, 8, 8)).astype(np.float32)
    ready = calibrated(model, lambda: [images], "minmax", "onnxruntime", 1, "test", reduce_range=False)
    made = replace(ready, kept_float=frozenset({"middle"})).quantized()
    (tmp_path / "made.onnx").write_bytes(made.model.SerializeToString())
    session = inference_session(tmp_path / "made.onnx", made.options, 1)
    (found,) = run_session(session, ["logits"], {"image": images}, "test")
    assert sqnr_db(found, outputs_of(made.model, images)[0]) > 20
    assert sqnr_db(found, outputs_of(model, images)[0]) > 20


def silu(*nodes: NodeProto) -> ModelProto:
    """image → Conv → c → SiLU → r → `nodes` → logits"""
    sigmoid = helper.make_node("Sigmoid", ["c"], ["gate"], "sigmoid")
    return convolved(sigmoid, helper.make_node("Mul", ["c", "gate"], ["r"], "product"), *nodes)


NEXT_CONVOLUTION = (
    helper.make_node("Conv", ["r", "v"], ["d"], "second", pads=[1, 1, 1, 1]),
    helper.make_node("Identity", ["d"], ["logits"], "read"),
)


def test_placement_sigmoid_lets_the_runtime_compute_silu_with_integers(tmp_path: Path) -> None:
    model = silu(*NEXT_CONVOLUTION)
    rng = np.random.default_rng(2)
    model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=(4, 4, 3, 3)).astype(np.float32), "v"))
    images = rng.normal(0, 10, (16, 3, 8, 8)).astype(np.float32)
    ready = calibrated(model, lambda: [images], "minmax", "onnxruntime", 1, "test", reduce_range=True)
    assert ready.placements() == ["all", "sigmoid"]
    expected = outputs_of(model, images)[0]
    db = {}
    cases: tuple[tuple[Placement, dict[str, int], set[str]], ...] = (
        ("all", {"Conv": 2}, {"Sigmoid", "Mul"}),
        ("sigmoid", {"Conv": 2, "Sigmoid": 1}, {"QLinearSigmoid", "QLinearMul"}),
    )
    for placement, quantized_ops, elementwise in cases:
        made = ready.quantized(placement)
        assert made.quantized_ops == quantized_ops
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{placement}.onnx")
        onnxruntime.InferenceSession(made.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        runs = operator_counts(onnx.load(options.optimized_model_filepath)).keys()
        assert runs & {"Sigmoid", "Mul", "QLinearSigmoid", "QLinearMul"} == elementwise
        db[placement] = sqnr_db(outputs_of(made.model, images)[0], expected)
    assert db["sigmoid"] > db["all"] - 4 > 25, db


@pytest.mark.parametrize("runtime", ["openvino", "tensorrt"])
def test_other_runtimes_have_no_placement_of_sigmoid(runtime: str) -> None:
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], "conv"),
        helper.make_node("Sigmoid", ["c"], ["gate"], "sigmoid"),
        helper.make_node("Mul", ["c", "gate"], ["logits"], "product"),
    ]
    weights = {"w": rng.normal(size=(16, 16, 1, 1)).astype(np.float32)}
    model = graph_of(nodes, weights, ["batch", 16, 8, 8], ["batch", 16, 8, 8], opset=20)
    images = rng.normal(size=(4, 16, 8, 8)).astype(np.float32)
    ready = calibrated(model, lambda: [images], "minmax", runtime, 1, "test", reduce_range=False)
    assert ready.placements() == ["all"]
    assert ready.quantized("sigmoid").model == ready.quantized("all").model
    with pytest.raises(ValidationError, match="sigmoid is for runtime: onnxruntime"):
        Quantize(stage="quantize", id="q", model="m", calibration="c", runtime=runtime, placement="sigmoid")


def test_a_sigmoid_that_is_an_output_is_given_out_as_it_is() -> None:
    model = convolved(helper.make_node("Sigmoid", ["c"], ["logits"], "sigmoid"))
    images = np.random.default_rng(4).normal(size=(4, 3, 8, 8)).astype(np.float32)
    made = calibrated(model, lambda: [images], "minmax", "onnxruntime", 1, "test", reduce_range=False)
    rounded = outputs_of(made.quantized("sigmoid").model, images)[0]
    assert len(np.unique(rounded)) <= 256
    np.testing.assert_allclose(rounded, outputs_of(made.quantized("all").model, images)[0], atol=1e-6)
