"""Rounding in float32 to float16 answers as onnx's reference does, which computes in the declared types."""

from __future__ import annotations

import numpy as np
import onnx.reference
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgevit.artifacts import IOSpec, Preprocess
from edgevit.graphs.float16_rounding import has_float16, rounded_to_float16
from edgevit.model_file import OnnxruntimeOptions
from edgevit.runtimes.parity import quantized_sqnr_db
from edgevit.runtimes.sessions import file_session, session_as_declared
from tests.checking.graphs import branch
from tests.graphs.norm_graphs import CLASSES, NORMS, SIDE, answers, as_declared, normed_classifier, random_images


def in_half(norm: str, gain: float) -> ModelProto:
    """As a user's converter makes it: all inner floats in 16 bits."""
    half = ONNXModel(convert_float_to_float16(normed_classifier(norm, gain), keep_io_types=True))
    half.topological_sort()
    del half.model.graph.value_info[:]
    made: ModelProto = half.model
    return made


def rounded(model: ModelProto) -> ModelProto:
    made = rounded_to_float16(model)
    onnx.checker.check_model(made, full_check=True)
    return made


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("gain", [1.0, 300.0], ids=["in range", "beyond"])
def test_it_answers_as_the_reference_where_float16_holds_the_values_and_where_not(norm: str, gain: float) -> None:
    model, images = in_half(norm, gain), random_images(8)
    expected, got = as_declared(model, images), answers(rounded(model), images)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(got, expected, atol=4e-3 * np.abs(expected).max())
    wide = answers(normed_classifier(norm, gain), images)
    error = np.abs(got - wide).max() / np.abs(wide).max()
    assert error < 0.01 if gain == 1 else error > 0.2


@pytest.mark.parametrize("values", [[1e-3, 3e-5, 1e-6, 2e-8], [65519.0, 65521.0, 1e6, -1e9]], ids=["small", "large"])
def test_single_values_are_rounded_as_numpy_rounds_them(values: list[float]) -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["half", "one"], ["same"]),
        helper.make_node("Cast", ["same"], ["logits"], to=TensorProto.FLOAT),
    ]
    values_of = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("image", "logits")]
    constants = [numpy_helper.from_array(np.asarray(np.float16(1)), "one")]
    graph = helper.make_graph(nodes, "casts", values_of[:1], values_of[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    given = np.array(values, np.float32)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(answers(rounded(model), given), given.astype(np.float16).astype(np.float32))


def test_branches_and_functions_go_along() -> None:
    model = normed_classifier("rms norm", 1.0)
    model.graph.node.extend(branch("hidden", "seen"))
    model.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, None))
    half = convert_float_to_float16(model, keep_io_types=["image"])
    made = rounded_to_float16(half)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    seen = session.run(["seen"], {"image": random_images(2)})[0]
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(seen, seen.astype(np.float16).astype(np.float32))


def test_float16_is_known_by_a_cast_alone() -> None:
    model = normed_classifier("rms norm", 1.0)
    model.graph.node.add().CopyFrom(helper.make_node("Cast", ["hidden"], ["half"], to=TensorProto.FLOAT16))
    assert has_float16(model)


def test_a_gate_sees_what_this_cpu_does_not(tmp_path) -> None:
    spec = IOSpec.for_classifier(Preprocess(height=SIDE, width=SIDE), tuple(map(str, range(CLASSES))))
    reference, half = tmp_path / "float.onnx", tmp_path / "half.onnx"
    onnx.save(normed_classifier("rms norm", 300.0), reference)
    onnx.save(in_half("rms norm", 300.0), half)
    assert has_float16(onnx.load(half))
    assert not has_float16(onnx.load(reference))
    sessions = (
        session_as_declared(half, spec, OnnxruntimeOptions(), 1),
        file_session(reference, spec, OnnxruntimeOptions(), 1),
    )
    assert quantized_sqnr_db(*sessions, [random_images(8)], "test") < 3
