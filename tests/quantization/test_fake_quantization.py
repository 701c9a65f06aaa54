"""Fake quantization against onnxruntime's own integers, and the gradient of a range against the paper's equation."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgevit.graphs.tensors import constants_of
from edgevit.quantization import RoundedLayer, calibrated
from edgevit.quantization.dialects import DIALECTS
from edgevit.quantization.fake_quantization import ActivationQuantizer, FakeQuantization, WeightQuantizer

runtimes = pytest.mark.parametrize("runtime", DIALECTS)


def run(model: ModelProto, **inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answer: NDArray[np.float32] = session.run(None, inputs)[0]
    return answer


def pair(values: NDArray[np.float32], scale: float, zero_point: int, unsigned: bool) -> NDArray[np.float32]:
    """QuantizeLinear and DequantizeLinear."""
    integers = np.array(zero_point, np.uint8 if unsigned else np.int8)
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, values.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, values.shape)],
        [numpy_helper.from_array(np.asarray(np.float32(scale)), "s"), numpy_helper.from_array(integers, "z")],
    )
    return run(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), x=values)


def is_unsigned(low: float, high: float, runtime: str) -> bool:
    """By hand: OpenVINO's products read uint8 if a quarter of the integers or less is below the zero point."""
    if runtime == "openvino":
        return round(255 * -min(low, 0) / (max(high, 0) - min(low, 0))) <= 64
    return runtime == "onnxruntime"


def quantizer_of(bounds: tuple[float, float], runtime: str, learned: bool) -> ActivationQuantizer:
    """The quantizer of a tensor that a product reads."""
    return ActivationQuantizer(bounds, DIALECTS[runtime].integers(bounds, ["MatMul"]), learned)


def writers_scale(low: float, high: float, runtime: str) -> tuple[float, int]:
    """By hand: asymmetric uint8 spreads the range over 255 steps, symmetric int8 its larger end over 127."""
    if is_unsigned(low, high, runtime):
        scale = (max(high, 0) - min(low, 0)) / 255
        return scale, round(-min(low, 0) / scale)
    return max(-low, high) / 127, 0


def product(weight: NDArray[np.float32]) -> ModelProto:
    """image → MatMul → logits"""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["image", "w"], ["logits"], "product")],
        "product",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", weight.shape[0]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@runtimes
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), width=st.floats(0.01, 100), shift=st.floats(-3, 3))
def test_activations_are_rounded_as_by_a_pair_in_onnxruntime(
    runtime: str, seed: int, width: float, shift: float
) -> None:
    values = (width * (np.random.default_rng(seed).standard_normal((4, 500)) + shift)).astype(np.float32)
    low, high = np.percentile(values, [1, 99]).astype(np.float32)  # some values lie beyond
    scale, zero_point = writers_scale(float(low), float(high), runtime)
    expected = pair(values, scale, zero_point, is_unsigned(float(low), float(high), runtime))
    for learned in (False, True):
        quantizer = quantizer_of((float(low), float(high)), runtime, learned)
        np.testing.assert_array_equal(quantizer(torch.from_numpy(values)).detach().numpy(), expected)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 1e3), st.booleans())
def test_weights_are_rounded_as_the_writer_does(seed: int, size: float, reduced: bool) -> None:
    generator = np.random.default_rng(seed)
    weight = (size * generator.standard_normal((24, 40)) * generator.uniform(0.01, 1, (24, 1))).astype(np.float32)
    weight[3] = 0  # an output that is off
    images = generator.standard_normal((8, 40)).astype(np.float32)
    graph = product(np.ascontiguousarray(weight.T))
    found = calibrated(graph, lambda: [images], "minmax", "onnxruntime", 1, "test", reduce_range=reduced)
    constants = {name: numpy_helper.to_array(one) for name, one in constants_of(found.quantized().model).items()}
    written = constants["w_quantized"].astype(np.float32) * constants["w_scale"]
    assert np.abs(constants["w_quantized"]).max() == found.dialect.largest_weight == (64 if reduced else 127)
    rounded = WeightQuantizer(found.dialect.largest_weight)(torch.from_numpy(weight))
    np.testing.assert_array_equal(rounded.numpy(), written.T)


def test_weights_of_convolutions_have_a_scale_an_output_and_a_straight_gradient() -> None:
    weight = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rounded = WeightQuantizer(127)(weight)
    for ours, given_one in zip(rounded.detach(), weight.detach(), strict=True):
        step = float(given_one.abs().max()) / 127
        assert float((ours - given_one).abs().max()) <= step / 2 * 1.0001
        levels = ours / step
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    upstream = torch.randn_like(rounded)
    rounded.backward(upstream)
    assert weight.grad is not None
    assert torch.equal(weight.grad, upstream)


@runtimes
@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_the_gradients_are_those_of_lsq(runtime: str, low: float) -> None:
    """Esser et al. 2020, eq. 3 and section 2.2, in float64."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 7, 11, generator=generator).mul_(2).requires_grad_()
    upstream = torch.randn(5, 7, 11, generator=generator)
    quantizer = quantizer_of((low, 2.5), runtime, learned=True)
    quantizer(values).backward(upstream)
    zero_point = round(255 * -low / (2.5 - low))
    below, above = (zero_point, 255 - zero_point) if is_unsigned(low, 2.5, runtime) else (128, 127)
    v = values.detach().double() / quantizer.scale.item()
    inside = (v > -below) & (v < above)
    of_scale = torch.where(inside, v.round() - v, v.clamp(-below, above)) / (77 * above) ** 0.5
    assert quantizer.scale.grad is not None
    assert float(quantizer.scale.grad) == pytest.approx(float((of_scale * upstream).sum()), rel=1e-4)
    assert values.grad is not None
    torch.testing.assert_close(values.grad, upstream * inside, atol=1e-6, rtol=0)


@runtimes
@pytest.mark.parametrize("low", [-4.0, -0.7, 0.0])
def test_a_trained_range_gives_the_writer_its_scale_and_zero_point_back(runtime: str, low: float) -> None:
    quantizer = quantizer_of((low, 5.0), runtime, learned=True)
    with torch.no_grad():
        quantizer.scale.mul_(-0.6)  # where an optimizer steps over 0, the size counts
    weight = np.random.default_rng(1).standard_normal((32, 32)).astype(np.float32)
    trained = {"image": quantizer.range}
    found = calibrated(product(weight), lambda: iter(()), "minmax", runtime, 1, "test", trained)
    constants = {name: numpy_helper.to_array(one) for name, one in constants_of(found.quantized().model).items()}
    tolerance = 1e-3 if runtime == "tensorrt" else 1e-6  # its floats have 16 bits
    assert float(constants["image_scale"]) == pytest.approx(abs(quantizer.scale.item()), rel=tolerance)
    assert int(constants["image_zero_point"]) == writers_scale(low, 5.0, runtime)[1]
    assert constants["image_zero_point"].dtype == (np.uint8 if is_unsigned(low, 5.0, runtime) else np.int8)


def test_observed_ranges_stay_as_they_were_and_train_nothing() -> None:
    quantizer = quantizer_of((-0.7, 5.0), "onnxruntime", learned=False)
    assert list(quantizer.parameters()) == []
    assert quantizer.range == (-0.7, 5.0)


@runtimes
def test_what_is_zero_everywhere_stays_zero(runtime: str) -> None:
    quantizer = quantizer_of((0.0, 0.0), runtime, learned=True)
    assert torch.equal(quantizer(torch.zeros(2, 3)), torch.zeros(2, 3))


class Residual(nn.Module):
    """What enters its convolution is added to what leaves it; it is made by a submodule, or by none."""

    def __init__(self, by_submodule: bool) -> None:
        super().__init__()
        self.conv, self.act, self.by_submodule = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), by_submodule

    def forward(self, images: Tensor) -> Tensor:
        values = images * 1.7
        values = self.act(values) if self.by_submodule else values.relu()
        summed: Tensor = values + self.conv(values)
        return summed


@pytest.mark.parametrize("by_submodule", [True, False])
def test_what_others_read_too_is_rounded_for_them_where_a_submodule_makes_it(by_submodule: bool) -> None:
    torch.manual_seed(0)
    module, images = Residual(by_submodule).eval(), torch.randn(2, 3, 8, 8)
    layers = {"conv": RoundedLayer("entering", "made", None, shared=True)}
    expected_conv = nn.Conv2d(3, 3, 1)
    expected_conv.load_state_dict({"weight": WeightQuantizer(127)(module.conv.weight), "bias": module.conv.bias})
    integers = {"entering": DIALECTS["onnxruntime"].integers((0.0, 3.0), ["Conv"])}
    rounded = FakeQuantization(layers, {"entering": (0.0, 3.0)}, integers, learned=True, largest_weight=127)
    assert rounded.apply(module, images) == ([] if by_submodule else ["conv"])
    values = (images * 1.7).relu()
    coarse = (values / (3 / 255)).round().clamp(0, 255) * (3 / 255)
    with torch.no_grad():
        expected = (coarse if by_submodule else values) + expected_conv(coarse)
        torch.testing.assert_close(module(images), expected)
