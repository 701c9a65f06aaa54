"""What a TensorRT file leaves in float16 computes the function in the types that the file declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edgevit.artifacts import IOSpec, Preprocess
from edgevit.checking.rules import tensorrt_diagnostics
from edgevit.configs import Quantize
from edgevit.graphs.float16_rounding import rounded_to_float16
from edgevit.graphs.graph import Graph
from edgevit.model_file import OnnxruntimeOptions
from edgevit.progress import SilentProgress
from edgevit.quantization import calibrated
from edgevit.quantization.preparation import prepared
from edgevit.quantization.ptq import CalibratedModel
from edgevit.runtimes.sessions import file_session
from tests.graphs.norm_graphs import (
    CLASSES,
    NORMS,
    SIDE,
    answers,
    as_declared,
    noise_db,
    normed_classifier,
    random_images,
)

SPEC = IOSpec.for_classifier(Preprocess(height=SIDE, width=SIDE), tuple(map(str, range(CLASSES))))


def ready(norm: str, gain: float, folder: Path, **fields: Any) -> CalibratedModel:
    """The model as the stage prepares it, calibrated on 16 images."""
    model, images = normed_classifier(norm, gain), random_images()
    onnx.save(model, folder / "float.onnx")
    asked = {"stage": "quantize", "id": "int8", "model": "float", "calibration": "photos", "runtime": "tensorrt"}
    config = Quantize.model_validate({**asked, **fields})
    reference = file_session(folder / "float.onnx", SPEC, OnnxruntimeOptions(), 1)
    found, _ = prepared(model, reference, lambda: [images], [images], config, None, 1, SilentProgress())
    return found


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("gain", [1.0, 300.0, 30000.0])
def test_int8_between_norms_of_large_values(norm: str, gain: float, tmp_path: Path) -> None:
    """Squares of 1,000, and tokens of 100,000, in a file whose floats are float16."""
    made = ready(norm, gain, tmp_path).quantized()
    assert made.quantized_ops == {"MatMul": 2}
    images = random_images(seed=1)
    expected: NDArray[np.float32] = answers(normed_classifier(norm, gain), images)
    assert noise_db(as_declared(made.model, images), expected) > 30
    assert noise_db(answers(rounded_to_float16(made.model), images, optimized=False), expected) > 30
    assert made.float_ops.get("LayerNormalization", 0) == norm.startswith("layer norm")
    halves = [one.name for one in made.model.graph.initializer if one.data_type == TensorProto.FLOAT16]
    assert "w3" in halves, "what fits is float16"
    assert not {one.rule for one in tensorrt_diagnostics(Graph(made.model))} & {"float16_range", "float16_norm"}


@pytest.mark.parametrize(("precision", "floor_db"), [("float8", 15), ("int4", 10)])
def test_float8_and_int4_beside_such_norms(precision: str, floor_db: float, tmp_path: Path) -> None:
    found = ready("rms norm", 300.0, tmp_path, precision=precision, min_sqnr_db=5)
    made, images = found.quantized(), random_images(seed=1)
    expected = answers(normed_classifier("rms norm", 300.0), images)
    assert noise_db(answers(rounded_to_float16(made.model), images, optimized=False), expected) > floor_db


def test_what_overflows_before_a_product_is_rounded_in_float32(tmp_path: Path) -> None:
    """Hidden values beyond 65504 enter an INT8 product: Q/DQ with float32 scales around it."""
    model, images = normed_classifier("rms norm", 1.0), random_images(seed=1)
    for weight in model.graph.initializer:
        if weight.name in ("w1", "w2"):
            scale = np.float32(1e5 if weight.name == "w1" else 1e-5)
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * scale, weight.name))
    made = calibrated(model, lambda: [random_images()], "minmax", "tensorrt", 1, "test").quantized().model
    assert noise_db(as_declared(made, images), answers(normed_classifier("rms norm", 1.0), images)) > 30
    scales = {one.name: one.data_type for one in made.graph.initializer if one.name.endswith("_scale")}
    assert scales["active_scale"] == TensorProto.FLOAT
    assert scales["normed_scale"] == TensorProto.FLOAT16
