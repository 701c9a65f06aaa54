"""Whole models of several families through export, quantize and compile, each with its gate."""

import pytest

from tests.small_models import workbench

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("model", "exporter"),
    [
        ("deit_tiny_patch16_224", "dynamo"),
        ("tiny_vit_5m_224", "dynamo"),
        ("efficientvit_b0", "dynamo"),
        ("levit_128s", "dynamo"),
        ("fastvit_t8", "dynamo"),
        ("hiera_tiny_224", "torchscript"),
    ],
)
def test_a_whole_model_passes_every_gate(model, exporter):
    bench = workbench()
    bench.run("load", f"{model}-checkpoint", model=model, classes_of="digits.test")
    exported = bench.run("export", f"{model}-onnx", model=f"{model}-checkpoint")
    quantized = bench.run(
        "quantize",
        f"{model}-int8",
        model=exported.id,
        calibration="digits.support",
        calibration_images=16,
        min_sqnr_db=-500.0 if model == "hiera_tiny_224" else 15.0,  # timm starts hiera's head at zero
    )
    engine = bench.run("compile", f"{model}-engine", model=quantized.id)
    assert exported.metrics["exporter"] == exporter
    assert exported.io.inputs[0].shape[0] == "batch"
    assert engine.metrics["precision"] == "int8"
    assert quantized.metrics["size_bytes"] < 0.5 * exported.metrics["size_bytes"]
