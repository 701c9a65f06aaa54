"""What ONNX Runtime makes of a graph, held against what its products ask for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgevit.checking import check_for_onnxruntime
from edgevit.checking.precision import precision_counts
from edgevit.graphs.files import onnx_file
from edgevit.graphs.float16 import with_float16
from tests.checking.graphs import attention, constants, convolution, float_convolution_between_pairs, model, node, pair
from tests.small_models import engine, float_onnx, int8_onnx

WIDTH = 32


def written(made: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(made, folder / "model.onnx")
    return folder / "model.onnx"


def product_with_bias() -> onnx.ModelProto:
    """MatMul of uint8 and int8, then Add, over a static batch: what MatMulAddFusion makes a Gemm of."""
    found = {
        "scale": np.float32(0.1),
        "zero": np.uint8(128),
        "weight": np.ones((WIDTH, WIDTH), np.int8),
        "weight_scale": np.full(WIDTH, 0.1, np.float32),
        "weight_zero": np.zeros(WIDTH, np.int8),
        "bias": np.ones(WIDTH, np.float32),
    }
    nodes = [
        *pair("image", "rounded"),
        node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], "weights", axis=1),
        node("MatMul", ["rounded", "weights"], "product"),
        node("Add", ["product", "bias"], "logits"),
    ]
    return model(nodes, found, [1, 4, WIDTH], [1, 4, WIDTH])


@pytest.mark.parametrize("hybrid", [False, True], ids=["vit", "hybrid"])
def test_what_was_quantized_for_it_runs_in_int8(hybrid: bool) -> None:
    found = check_for_onnxruntime(onnx_file(int8_onnx(hybrid)))
    assert found.ok
    quantized = Counter(one.operator for one in found.products if (one.asked, one.got) == ("int8", "int8"))
    assert quantized == Counter(int8_onnx(hybrid).metrics["quantized_ops"])
    # The engine is the same graph as optimised, read here without looking for the nodes it came from.
    optimised = Counter(one.op_type for one in onnx.load(onnx_file(engine(hybrid))).graph.node)
    kernels = sum(optimised[name] for name in ("QLinearConv", "MatMulIntegerToFloat", "QGemm"))
    assert kernels == quantized.total()
    assert found.attentions == (0 if hybrid else 2)


@pytest.mark.parametrize("hybrid", [False, True], ids=["vit", "hybrid"])
def test_every_product_of_a_float_model_is_found_again(hybrid: bool) -> None:
    found = check_for_onnxruntime(onnx_file(float_onnx(hybrid)))
    assert found.ok
    assert {(asked, got) for _, asked, got in precision_counts(found.products)} == {("float", "float")}


def test_the_session_option_decides_over_a_product_with_a_bias(tmp_path: Path) -> None:
    made = product_with_bias()
    found = check_for_onnxruntime(written(made, tmp_path))
    assert not found.ok
    ((product, mend),) = found.fell_back.items()
    assert (product.node, product.asked, product.got) == ("MatMul_product", "int8", "float")
    assert "disabled_optimizers: [MatMulAddFusion]" in mend
    onnx.helper.set_model_props(made, {"edgevit.session_options": '{"disabled_optimizers": ["MatMulAddFusion"]}'})
    assert check_for_onnxruntime(written(made, tmp_path)).ok


def test_a_convolution_without_a_pair_behind_it_falls_back(tmp_path: Path) -> None:
    found = check_for_onnxruntime(written(convolution(), tmp_path))
    ((product, mend),) = found.fell_back.items()
    assert (product.node, product.got) == ("Conv_logits", "float")
    assert "pair behind" in mend
    nodes = [
        *pair("image", "rounded"),
        node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], "weights", axis=0),
        node("Conv", ["rounded", "weights"], "convolved"),
        *pair("convolved", "logits"),
    ]
    paired = model(nodes, constants(), [1, 16, 8, 8], [1, 16, 6, 6])
    assert check_for_onnxruntime(written(paired, tmp_path)).ok


def test_a_float_convolution_between_pairs_is_rounded_unless_the_option_is_off(tmp_path: Path) -> None:
    made = float_convolution_between_pairs()
    found = check_for_onnxruntime(written(made, tmp_path))
    assert not found.ok
    assert [(one.node, one.asked, one.got) for one in found.rounded] == [("Conv_convolved", "float", "int8")]
    assert "WeightBiasQuantization to the session option disabled_optimizers" in found.to_json()["rounded"][0]["next"]
    options = '{"disabled_optimizers": ["WeightBiasQuantization"]}'
    onnx.helper.set_model_props(made, {"edgevit.session_options": options})
    assert check_for_onnxruntime(written(made, tmp_path)).ok


def test_float16_falls_back_to_32_bits(tmp_path: Path) -> None:
    half = with_float16(attention(16, 16, quantized=False), "test")
    found = check_for_onnxruntime(written(half, tmp_path))
    if found.ok:
        pytest.skip("this CPU has kernels for float16")
    assert {(one.asked, one.got) for one in found.fell_back} == {("half", "float")}
    assert all("float32" in mend for mend in found.fell_back.values())


def test_what_it_cannot_load_is_refused_with_its_reason(tmp_path: Path) -> None:
    unknown = node("NoSuchOperator", ["image"], "logits", domain="com.microsoft")
    made = model([unknown], {}, [1, 4], [1, 4])
    made.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    found = check_for_onnxruntime(written(made, tmp_path))
    assert not found.ok
    assert "NoSuchOperator" in found.refused
    assert found.to_json()["refused"] == found.refused
