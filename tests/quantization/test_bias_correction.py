"""Bias correction: every channel keeps its mean, and nothing but biases changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper
from pydantic import ValidationError

from edgevit.actions.single_stage import single_stages
from edgevit.artifacts import Artifact
from edgevit.configs import Quantize, QuantizedPrecision
from edgevit.context import Context
from edgevit.progress import SilentProgress
from edgevit.quantization import calibrated
from edgevit.quantization.bias_correction import BiasCorrection, with_corrected_biases
from edgevit.quantization.ptq import CalibratedModel
from edgevit.runtimes.parity import sqnr_db
from tests.checking.graphs import branch
from tests.checking.graphs import model as small_graph
from tests.small_models import workbench

WIDTH = 16
IMAGES = [np.abs(np.random.default_rng(seed).standard_normal((16, 3, 8, 8))).astype(np.float32) for seed in range(3)]


def drawn(generator: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * generator.standard_normal(shape)).astype(np.float32)


def narrow_net() -> ModelProto:
    """Convolutions (dense, of each channel alone, one without a bias), Clip between them, then Gemm, MatMul and Add.

    A few large weights make the steps of each output channel coarse, and inputs above 0 let rounding move the means.
    """
    random = np.random.default_rng(0)
    tensors = {
        "w1": drawn(random, WIDTH, 3, 3, 3),
        "b1": drawn(random, WIDTH),
        "w2": drawn(random, WIDTH, 1, 3, 3),
        "b2": drawn(random, WIDTH),
        "w3": drawn(random, WIDTH, WIDTH, 1, 1, scale=0.2),
        "v": drawn(random, WIDTH, WIDTH, scale=0.3),
        "c": drawn(random, WIDTH),
        "u": drawn(random, WIDTH, 5, scale=0.3),
        "d": drawn(random, 5),
        "zero": np.float32(0),
        "six": np.float32(6),
    }
    for name in ("w1", "w2", "v", "u"):
        tensors[name].reshape(-1)[:: WIDTH - 1] *= 12  # type: ignore[attr-defined]
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["x1"], "dense", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["x1", "zero", "six"], ["y1"], "clip1"),
        helper.make_node("Conv", ["y1", "w2", "b2"], ["x2"], "depthwise", group=WIDTH, pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["x2", "zero", "six"], ["y2"], "clip2"),
        helper.make_node("Conv", ["y2", "w3"], ["x3"], "without"),
        helper.make_node("GlobalAveragePool", ["x3"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "v", "c"], ["x4"], "gemm"),
        helper.make_node("Relu", ["x4"], ["y4"], "relu"),
        helper.make_node("MatMul", ["y4", "u"], ["x5"], "product"),
        helper.make_node("Add", ["x5", "d"], ["logits"], "add"),
    ]
    return net_of(nodes, tensors, ["batch", 5])


def net_of(nodes: list[NodeProto], tensors: dict[str, Any], logits: list[str | int]) -> ModelProto:
    return small_graph(nodes, tensors, ["batch", 3, 8, 8], logits)


BIASES = {"b1", "b2", "c", "d"}


def outputs(model: ModelProto, nodes: list[str]) -> list[np.ndarray]:
    """What nodes give, on all images, as the graph says it: nothing fused."""
    probed = ModelProto()
    probed.CopyFrom(model)
    names = {node.name: node.output[0] for node in model.graph.node}
    del probed.graph.output[:]
    probed.graph.output.extend(helper.make_empty_tensor_value_info(names[node]) for node in nodes)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = [session.run(None, {"image": images}) for images in IMAGES]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def moved(model: CalibratedModel, of: ModelProto, nodes: list[str]) -> list[float]:
    """How far rounding moves the mean of a channel at most, of each node, beside the spread of its values."""
    rounded, exact = outputs(model.quantized().model, nodes), outputs(of, nodes)
    shifts = []
    for got, wanted in zip(rounded, exact, strict=True):
        axes = tuple(axis for axis in range(wanted.ndim) if axis != 1)
        shifts.append(float(np.abs((got - wanted).mean(axes)).max() / wanted.std()))
    return shifts


@pytest.fixture(params=["onnxruntime", "openvino"])
def model(request: pytest.FixtureRequest) -> CalibratedModel:
    return calibrated(narrow_net(), lambda: IMAGES, "minmax", request.param, 1, "a test")


def corrected(model: CalibratedModel) -> CalibratedModel:
    return with_corrected_biases(model, "all", lambda: IMAGES, 1, SilentProgress())


@pytest.mark.parametrize(("keeps_sums", "share"), [(True, 1 / 2), (False, 1 / 5)], ids=["kept sums", "nearest"])
def test_every_channel_with_a_bias_keeps_its_mean(model: CalibratedModel, keeps_sums: bool, share: float) -> None:
    model = replace(model, keeps_sums=keeps_sums)  # the nearest integers move means further
    layers = ["dense", "depthwise", "gemm", "add"]
    before, after = moved(model, model.model, layers), moved(corrected(model), model.model, layers)
    assert max(before) > 5e-3
    # Biases of the onnxruntime dialect are rounded too, by a step of input times weight.
    assert all(one < max(1e-4, other * share) for one, other in zip(after, before, strict=True))


def test_the_outputs_come_closer_to_float(model: CalibratedModel) -> None:
    [exact] = outputs(model.model, ["add"])
    [before], [after] = (outputs(one.quantized().model, ["add"]) for one in (model, corrected(model)))
    assert sqnr_db(after, exact) > sqnr_db(before, exact) + 1


def test_nothing_but_biases_changes(model: CalibratedModel) -> None:
    before, after = model.model.graph, corrected(model).model.graph
    assert before.node == after.node
    changed = {a.name for a, b in zip(before.initializer, after.initializer, strict=True) if a != b}
    assert changed == BIASES


def test_the_model_handed_in_stays_as_it_is(model: CalibratedModel) -> None:
    before = model.model.SerializeToString()
    corrected(model)
    assert model.model.SerializeToString() == before


def test_only_layers_that_become_integers_are_corrected(model: CalibratedModel) -> None:
    made = with_corrected_biases(model, "products", lambda: IMAGES, 1, SilentProgress())
    pairs = zip(model.model.graph.initializer, made.model.graph.initializer, strict=True)
    assert {before.name for before, after in pairs if before != after} == {"c", "d"}


@pytest.mark.parametrize("reader", ["a layer", "a branch"])
def test_a_bias_that_others_read_is_corrected_in_a_copy(reader: str) -> None:
    net = narrow_net()
    if reader == "a layer":
        next(node for node in net.graph.node if node.name == "depthwise").input[2] = "b1"
    else:
        net.graph.node.extend(branch("b1", "other"))
    model = calibrated(net, lambda: IMAGES, "minmax", "onnxruntime", 1, "a test")
    made = corrected(model)
    pairs = zip(model.model.graph.initializer, made.model.graph.initializer, strict=True)
    changed = {before.name for before, after in pairs if before != after}
    inputs = {node.name: node.input for node in model.model.graph.node}
    biases = {inputs["dense"][2], inputs["depthwise"][2]}
    assert len(biases) == 2
    assert changed == {"c", "d"} | biases
    if reader == "a branch":
        assert "b1" not in biases


def quantized_stage(folder: Path, **fields: Any) -> Artifact:
    """What the stage makes of the net, calibrated on digits."""
    file = folder / "net.onnx"
    file.write_bytes(narrow_net().SerializeToString())
    config = Quantize(
        stage="quantize", id="int8", model="m", calibration="c", calibration_images=64, placement="all", **fields
    )
    with single_stages(Context()) as stages:
        return stages.make(config, model=stages.model(file), calibration=workbench().made["digits.pool"])


def test_the_stage_corrects_what_it_ships(tmp_path: Path) -> None:
    plain, made = (quantized_stage(tmp_path, bias_correction=correct) for correct in (False, True))
    assert made.metrics["sqnr_db"] > plain.metrics["sqnr_db"] + 1
    assert made.metrics["quantized_ops"] == plain.metrics["quantized_ops"]


def test_where_correction_brings_it_close_enough_no_layer_is_kept_float(tmp_path: Path) -> None:
    both = [quantized_stage(tmp_path, bias_correction=correct).metrics["sqnr_db"] for correct in (False, True)]
    kept = [
        quantized_stage(tmp_path, bias_correction=correct, min_sqnr_db=sum(both) / 2).metrics["kept_float"]
        for correct in (False, True)
    ]
    assert kept[0] > 0
    assert kept[1] == 0


def test_trained_biases_stay() -> None:
    with pytest.raises(ValidationError, match="leave bias_correction out"):
        Quantize(
            stage="quantize",
            id="int8",
            model="onnx",
            calibration="pool",
            calibrator="trained",
            bias_correction=True,
        )


@pytest.mark.parametrize("precision", ["int8", "float8", "int4"])
def test_it_works_in_every_precision_of_tensorrt(precision: QuantizedPrecision) -> None:
    random, inputs = np.random.default_rng(0), 3 * 8 * 8
    tensors = {
        "shape": np.array([-1, inputs]),
        "w": drawn(random, inputs, 64) + np.float32(0.3),
        "b": drawn(random, 64),
    }
    nodes = [
        helper.make_node("Reshape", ["image", "shape"], ["x"], "reshape"),
        helper.make_node("MatMul", ["x", "w"], ["y"], "product"),
        helper.make_node("Add", ["y", "b"], ["logits"], "add"),
    ]
    net = net_of(nodes, tensors, ["batch", 64])
    model = calibrated(net, lambda: IMAGES, "minmax", "tensorrt", 1, "a test", precision=precision)
    [before] = moved(model, model.model, ["add"])
    [after] = moved(corrected(model), model.model, ["add"])
    assert after < before / 3


@pytest.mark.parametrize("shape", [(), (1, 4, WIDTH), (4, WIDTH), (WIDTH,)])
def test_only_a_vector_of_a_number_for_each_output_is_a_bias(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    tensors = {"shape": np.array([-1, 4, 48]), "w": drawn(random, 48, WIDTH) + 1, "b": drawn(random, *shape)}
    nodes = [
        helper.make_node("Reshape", ["image", "shape"], ["x"], "reshape"),
        helper.make_node("MatMul", ["x", "w"], ["y"], "product"),
        helper.make_node("Add", ["y", "b"], ["logits"], "add"),
    ]
    model = calibrated(
        net_of(nodes, tensors, ["batch", 4, WIDTH]), lambda: IMAGES, "minmax", "onnxruntime", 1, "a test"
    )
    made = corrected(model)
    pairs = zip(model.model.graph.initializer, made.model.graph.initializer, strict=True)
    assert {before.name for before, after in pairs if before != after} == ({"b"} if shape == (WIDTH,) else set())


def test_single_images_count_until_there_are_enough(model: CalibratedModel) -> None:
    one_by_one = [image[None] for images in IMAGES for image in images]
    some = with_corrected_biases(model, "all", lambda: one_by_one, 1, SilentProgress())
    together = with_corrected_biases(model, "all", lambda: IMAGES, 1, SilentProgress())  # two batches of 16
    pairs = zip(some.model.graph.initializer, together.model.graph.initializer, strict=True)
    for left, right in pairs:
        assert numpy_helper.to_array(left) == pytest.approx(numpy_helper.to_array(right), rel=1e-3, abs=1e-3)


def test_two_graphs_with_equal_layers_get_their_own_biases() -> None:
    """As the plain and the smoothed model of `quantize`."""
    other = narrow_net()
    for tensor in other.graph.initializer:
        if tensor.name in ("b1", "d"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 5, tensor.name))
    models = [calibrated(net, lambda: iter(IMAGES), "minmax", "openvino", 1, "t") for net in (narrow_net(), other)]
    correct = BiasCorrection(lambda: iter(IMAGES), 1, SilentProgress())
    first, second = (correct(model, "all") for model in models)
    alone = with_corrected_biases(models[1], "all", lambda: iter(IMAGES), 1, SilentProgress())
    assert second.model == alone.model != first.model
    assert correct(models[0], "all") is first
