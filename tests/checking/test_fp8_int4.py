"""FP8 and INT4 before NVIDIA's builder: what is written for TensorRT is built as it asks to be, and is small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgevit.checking import check_for_tensorrt
from edgevit.checking.older_parsers import parser_verdicts
from edgevit.checking.precision import products
from edgevit.graphs.graph import Graph
from edgevit.report.text.checks import check_rows
from tests.checking.graphs import product
from tests.checking.test_nvidia import needs_nvidia
from tests.small_models import workbench

SHORT = {"int8": "int8", "float8": "fp8", "int4": "int4"}
MODELS: dict[str, Any] = {
    "deit_tiny_patch16_224": {"image_size": 32, "model_args": {"depth": 2}},
    "efficientvit_b0": {"image_size": 64},
}
CHEAPEST = ("deit_tiny_patch16_224", "int8")
# INT4 leaves convolutions in 16 bits.
SHARE_OF_FLOAT16 = {"deit_tiny_patch16_224": 0.45, "efficientvit_b0": 0.6}


@needs_nvidia
@pytest.mark.parametrize(
    ("model", "precision"),
    [
        pytest.param(model, precision, marks=[] if (model, precision) == CHEAPEST else pytest.mark.slow)
        for model in MODELS
        for precision in SHORT
    ],
)
def test_real_models_are_built_as_they_ask_to_be_and_their_files_shrink(model: str, precision: str) -> None:
    bench = workbench()
    bench.run("load", f"{model}-checkpoint", model=model, classes_of="digits.test", **MODELS[model])
    bench.run("export", f"{model}-float", model=f"{model}-checkpoint")
    half = bench.run("export", f"{model}-half", model=f"{model}-checkpoint", precision="float16")
    made = bench.run(
        "quantize", f"{model}-{precision}", model=f"{model}-float", runtime="tensorrt", precision=precision,
        calibration="digits.pool", calibration_images=8, min_sqnr_db=0,
    )  # fmt: skip
    share = 0.6 if precision != "int4" else SHARE_OF_FLOAT16[model]
    assert made.metrics["size_bytes"] < share * half.metrics["size_bytes"]
    found = check_for_tensorrt(made.file("model.onnx"))
    assert found.ok, found.to_json()
    assert not found.diagnostics
    asked = [one for one in found.products if one.is_quantized]
    assert {(one.asked, one.got) for one in asked} == {(SHORT[precision], SHORT[precision])}
    assert len(asked) == sum(made.metrics["quantized_ops"].values())
    row = check_rows([{**found.summary(), "id": "x", "verdict": "built as asked"}])[0]
    assert f"{len(asked)} of {len(asked)}" in row


@needs_nvidia
@pytest.mark.parametrize(("outputs", "kernels"), [(32, 1), (33, 3)])
def test_int4_weights_of_an_odd_number_of_outputs_are_unpacked_before(
    outputs: int, kernels: int, tmp_path: Path
) -> None:
    """Why the dialect leaves them float16: they are read in four bits, and written in sixteen, for each image."""
    odd = product()
    for tensor in odd.graph.initializer:
        if tensor.name.startswith("weight"):
            column = numpy_helper.to_array(tensor)[:, :1]
            tensor.CopyFrom(numpy_helper.from_array(np.repeat(column, outputs, axis=1), tensor.name))
    odd.graph.output[0].type.tensor_type.shape.dim[1].dim_value = outputs
    onnx.save(odd, tmp_path / "model.onnx")
    found = check_for_tensorrt(tmp_path / "model.onnx")
    assert found.ok
    assert [one.got for one in found.products] == ["int4"]
    assert found.build_result is not None
    assert len(found.build_result.kernels) == kernels


def test_a_product_of_int4_weights_asks_for_int4_and_falls_back_where_they_are_not_stored_so() -> None:
    (asked,) = products(Graph(product()), {"MatMul_logits": "half"})
    assert (asked.asked, asked.is_quantized, asked.fell_back) == ("int4", True, True)


def test_older_parsers_lack_the_types() -> None:
    said = {one.parser.version: (one.types, one.opset_too_new, one.text) for one in parser_verdicts(Graph(product()))}
    assert said == {
        "10.1": ((), True, "opset at most 20"),
        "8.6": (("int4",), True, "opset at most 17; no int4"),
    }
