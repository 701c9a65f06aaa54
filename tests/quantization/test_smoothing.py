"""SmoothQuant: the same function, its equation, and what it saves where one channel is large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgevit.configs import Quantize
from edgevit.errors import ArtifactError
from edgevit.quantization import calibrated
from edgevit.quantization.smoothing import outlier_channels, outliers_text, smoothed
from edgevit.runtimes.parity import sqnr_db
from tests.checking.graphs import branch, node
from tests.small_models import float_onnx, workbench

CHANNELS, OUTLIER = 64, 7


def normed(reader: str = "MatMul", others: Sequence[NodeProto] = ()) -> ModelProto:
    """image (n, 3, 8, 8) → tokens (n, 3, 64) → LayerNormalization with a large channel → two products, added.

    Other nodes make a second output.
    """
    generator = np.random.default_rng(0)
    gamma = np.ones(CHANNELS, np.float32)
    gamma[OUTLIER] = 80
    tensors = {
        "shape": np.array([-1, 3, CHANNELS]) if reader == "MatMul" else np.array([-1, CHANNELS]),
        "gamma": gamma,
        "beta": generator.standard_normal(CHANNELS).astype(np.float32),
        "v": generator.standard_normal((CHANNELS, 32)).astype(np.float32),
        "w": generator.standard_normal((CHANNELS, 32) if reader == "MatMul" else (32, CHANNELS)).astype(np.float32),
    }
    second = {"transB": 1} if reader == "Gemm" else {}
    nodes = [
        helper.make_node("Reshape", ["image", "shape"], ["x"]),
        helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"]),
        helper.make_node("MatMul", ["n", "v"], ["a"], "first"),
        helper.make_node(reader, ["n", "w"], ["b"], "second", **second),  # type: ignore[arg-type]
        helper.make_node("Add", ["a", "b"], ["logits"]),
    ]
    nodes += others
    outputs = ["logits", *(["other"] if others else [])]
    graph = helper.make_graph(
        nodes,
        "normed",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


IMAGES = [np.random.default_rng(seed).standard_normal((8, 3, 8, 8)).astype(np.float32) for seed in range(2)]


def logits(model: ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"image": images})[0] for images in IMAGES])


@pytest.mark.parametrize("reader", ["MatMul", "Gemm"])
def test_the_function_stays_and_its_int8_form_comes_nearer(reader: str) -> None:
    plain, smooth = normed(reader), smoothed(normed(reader), lambda: iter(IMAGES), 0.5, 1, "test")
    expected = logits(plain)
    np.testing.assert_allclose(logits(smooth), expected, rtol=1e-4, atol=1e-3)
    forms = [calibrated(one, lambda: iter(IMAGES), "minmax", "openvino", 1, "t").quantized() for one in (plain, smooth)]
    before, after = (sqnr_db(logits(form.model), expected) for form in forms)
    assert after > before + 3


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_channels_are_divided_as_the_paper_says(strength: float) -> None:
    model = normed()
    made = smoothed(model, lambda: iter(IMAGES), strength, 1, "test")
    before, after = (
        {
            tensor.name.partition("_smoothed")[0]: numpy_helper.to_array(tensor).astype(np.float64)
            for tensor in one.graph.initializer
        }
        for one in (model, made)
    )
    assert len(made.graph.initializer) == len(model.graph.initializer)
    x = np.concatenate(IMAGES).reshape(-1, CHANNELS).astype(np.float64)
    n = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * before["gamma"] + before["beta"]
    weight = np.abs(np.concatenate([before["v"], before["w"]], axis=1)).max(1)
    scale = np.abs(n).max(0) ** strength / weight ** (1 - strength)
    for name, expected in {
        "gamma": before["gamma"] / scale,
        "beta": before["beta"] / scale,
        "v": before["v"] * scale[:, None],
        "w": before["w"] * scale[:, None],
    }.items():
        np.testing.assert_allclose(after[name], expected, rtol=1e-4)


@pytest.mark.parametrize(
    "others",
    [[node("Relu", ["n"], "other")], branch("n", "other"), [node("MatMul", ["n", "gamma"], "other")]],
    ids=["a node", "a branch", "a product with a vector"],
)
def test_a_norm_that_others_read_is_left_alone_and_where_none_is_left_it_is_said(others: list[NodeProto]) -> None:
    with pytest.raises(ArtifactError, match="nothing to smooth"):
        smoothed(normed(others=others), lambda: iter(IMAGES), 0.5, 1, "test")


CHOICES: dict[str, list[NodeProto]] = {
    "Gather": [node("Gather", ["n", "first"], "chosen", axis=1)],
    "ReduceMean": [node("ReduceMean", ["n", "tokens"], "chosen", keepdims=0)],
    "Slice and Squeeze": [
        node("Slice", ["n", "zero", "one", "tokens"], "kept"),
        node("Squeeze", ["kept", "tokens"], "chosen"),
    ],
    "two channels": [
        node("Gather", ["n", "pair"], "kept", axis=-1),
        node("Concat", ["kept"] * 32, "wide", axis=-1),
        node("ReduceMean", ["wide", "tokens"], "chosen", keepdims=0),
    ],
}


def classifying(choice: str, gain: float = 80) -> ModelProto:
    """image (n, 3, 8, 8) → tokens (n, 3, 64) → LayerNormalization with a large channel → choice → Gemm → logits."""
    gamma = np.ones(CHANNELS, np.float32)
    gamma[OUTLIER] = gain
    tensors = {
        "shape": np.array([-1, 3, CHANNELS]),
        "gamma": gamma,
        "w": np.random.default_rng(0).standard_normal((32, CHANNELS)).astype(np.float32),
        "first": np.array(0),
        "pair": np.array([0, OUTLIER]),
        **{name: np.array([value]) for name, value in {"zero": 0, "one": 1, "tokens": 1}.items()},
    }
    nodes = [
        helper.make_node("Reshape", ["image", "shape"], ["x"]),
        helper.make_node("LayerNormalization", ["x", "gamma"], ["n"]),
        *CHOICES[choice],
        helper.make_node("Gemm", ["chosen", "w"], ["logits"], "head", transB=1),
    ]
    read = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        nodes,
        "classifying",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 32])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items() if name in read],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("choice", [name for name in CHOICES if name != "two channels"])
def test_products_behind_a_choice_of_tokens_are_smoothed(choice: str) -> None:
    model = classifying(choice)
    expected, smooth = logits(model), smoothed(model, lambda: iter(IMAGES), 0.5, 1, "test")
    np.testing.assert_allclose(logits(smooth), expected, rtol=1e-4, atol=1e-3)
    forms = [calibrated(one, lambda: iter(IMAGES), "minmax", "openvino", 1, "t").quantized() for one in (model, smooth)]
    before, after = (sqnr_db(logits(form.model), expected) for form in forms)
    assert after > before + 3


def test_products_behind_a_choice_of_channels_are_left_alone() -> None:
    model = classifying("two channels")
    assert outlier_channels(model, lambda: iter(IMAGES), 1) == {}
    with pytest.raises(ArtifactError, match="nothing to smooth"):
        smoothed(model, lambda: iter(IMAGES), 0.5, 1, "test")


def test_a_channel_counts_as_an_outlier_from_eight_times_the_median() -> None:
    x = np.concatenate(IMAGES).reshape(-1, 3, CHANNELS)[:, 0].astype(np.float64)  # the first token
    n = np.abs((x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)).max(0)
    others = np.median(np.delete(n, OUTLIER))
    for times, names in ((7.0, []), (9.0, ["head"])):
        model = classifying("Gather", gain=float(times * others / n[OUTLIER]))
        ratios = outlier_channels(model, lambda: iter(IMAGES), 1)
        assert list(ratios) == names
        assert all(abs(ratio - times) < 0.2 for ratio in ratios.values())


@pytest.mark.parametrize("batch_size", [1, 5, 8, 64])
def test_outliers_are_looked_for_on_32_images_in_batches_of_any_size(batch_size: int) -> None:
    """Only the eighth image has large values in a channel."""
    images = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
    images[:7].reshape(7, 3, CHANNELS)[:, :, OUTLIER] = 0
    images[7].reshape(3, CHANNELS)[:, OUTLIER] = 100
    given = 0

    def batches() -> Iterator[np.ndarray]:
        nonlocal given
        for start in range(0, len(images), batch_size):
            given += batch_size
            yield images[start : start + batch_size]

    (ratio,) = outlier_channels(classifying("Gather", gain=3), batches, 1).values()
    assert 8 < ratio < 20
    assert 32 <= given < 32 + batch_size


def test_products_without_a_name_are_told_apart() -> None:
    model = normed()
    assert list(outlier_channels(model, lambda: iter(IMAGES), 1)) == ["first", "second"]
    for product in model.graph.node[2:4]:
        product.name = ""
    ratios = outlier_channels(model, lambda: iter(IMAGES), 1)
    assert list(ratios) == ["a", "b"]
    assert outliers_text(ratios).startswith("one channel is far larger than the median in 2 layers: a (")
    assert outliers_text({"a": 9.0}) == "one channel is far larger than the median in 1 layer: a (9 times)"


@pytest.mark.parametrize("precision", ["int8", "float8", "int4"])
@pytest.mark.parametrize("smoothquant", [None, 0])
def test_smoothquant_is_tried_by_itself_in_int8_unless_it_is_off(precision: str, smoothquant: float | None) -> None:
    fields = {"stage": "quantize", "id": "q", "model": "m", "calibration": "c", "runtime": "tensorrt"}
    config = Quantize.model_validate({**fields, "precision": precision, "smoothquant": smoothquant})
    assert config.smooths_outliers == (precision == "int8" and smoothquant is None)


def test_quantize_smooths_where_it_is_asked_to() -> None:
    fields = {"model": float_onnx().id, "calibration": "digits.pool", "calibration_images": 16}
    made = workbench().run("quantize", "smooth", smoothquant=0.5, **fields)
    assert made.metrics["sqnr_db"] > 20
    assert made.digest != workbench().run("quantize", "unsmoothed", **fields).digest
