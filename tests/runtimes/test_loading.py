"""The file that opens models in bundles and on devices, against the sessions of edgevit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from edgevit.errors import ArtifactError
from edgevit.graphs.files import onnx_file
from edgevit.model_file import AS_WRITTEN, OnnxruntimeOptions, json_of_options
from edgevit.runtimes import loading
from edgevit.runtimes.base import SessionOptions, for_runtime, random_images
from edgevit.runtimes.onnxruntime.session import inference_session
from edgevit.runtimes.sessions import open_session
from tests.checking.graphs import model as graph_of
from tests.small_models import float_onnx

EXACT = "session.x64quantprecision"


@pytest.mark.parametrize("runtime", list(loading.LOADERS))
def test_it_answers_as_the_sessions_do(runtime: str) -> None:
    pytest.importorskip(runtime)
    model = for_runtime(float_onnx(), runtime)
    images, spec = random_images(model.io, 1), model.io
    run = loading.LOADERS[runtime](onnx_file(model), json_of_options(model.model_file.options), 1)
    (scores,) = run([spec.outputs[0].name], {spec.inputs[0].name: images})
    expected = open_session(model, SessionOptions()).infer({spec.inputs[0].name: images})[spec.outputs[0].name]
    np.testing.assert_array_equal(scores, expected)


def test_the_product_that_shows_an_overflow_is_one_of_the_largest_integers() -> None:
    product = onnx.load_model_from_string(loading.PRODUCT)
    onnx.checker.check_model(product, full_check=True)
    (node,), (weights,) = product.graph.node, product.graph.initializer
    assert (node.op_type, *node.input) == ("MatMulInteger", "a", "b")
    assert (numpy_helper.to_array(weights) == np.full((loading.TERMS, loading.TERMS), 127, np.int8)).all()
    two_terms = 2 * loading.LARGEST_ACTIVATION * loading.LARGEST_WEIGHT
    assert two_terms > np.iinfo(np.int16).max


def asks_for_exact_sums(options: onnxruntime.SessionOptions) -> bool:
    try:
        return options.get_session_config_entry(EXACT) == "1"
    except RuntimeError:  # it was not set
        return False


@pytest.mark.parametrize("overflows", [True, False])
def test_exact_sums_take_their_slower_kernels_only_where_the_fastest_ones_overflow(
    overflows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "sums_overflow", lambda: overflows)
    assert asks_for_exact_sums(loading.onnxruntime_options({}, 1)) == overflows
    assert not asks_for_exact_sums(loading.onnxruntime_options({"exact_sums": False}, 1))


def shared_constant(folder: Path, has_integer_operator: bool) -> Path:
    """An int8 constant that two nodes read, as ONNX Runtime writes it for a ViT. With exact sums, x86 refuses it."""
    tensors: dict[str, np.ndarray] = {
        "integers": np.array([100], np.int8),
        "scale": np.array(0.01, np.float32),
        "zero": np.array(0, np.int8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", list(tensors), ["constant"]),
        helper.make_node("Mul", ["image", "constant"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "constant"], ["twice" if has_integer_operator else "logits"]),
    ]
    if has_integer_operator:
        tensors["weights"] = np.full((4, 4), 100, np.int8)
        nodes += [
            helper.make_node("DynamicQuantizeLinear", ["twice"], ["q", "s", "z"]),
            helper.make_node("MatMulInteger", ["q", "weights", "z"], ["sums"]),
            helper.make_node("Cast", ["sums"], ["logits"], to=onnx.TensorProto.FLOAT),
        ]
    file = folder / "model.onnx"
    onnx.save(graph_of(nodes, tensors, [1, 4], [1, 4], opset=17), file)
    return file


def needs_refusal(file: Path) -> None:
    """Skip where ONNX Runtime opens the file with exact sums, as it does on other CPUs than x86."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = loading.FATAL_ERRORS_ONLY
    options.add_session_config_entry(EXACT, "1")
    try:
        onnxruntime.InferenceSession(file, options, providers=[loading.PROVIDER])
    except Fail:
        return
    pytest.skip("this ONNX Runtime opens the file with exact sums")


def test_a_file_with_a_shared_constant_opens_where_sums_overflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading, "sums_overflow", lambda: True)
    file, image = shared_constant(tmp_path, has_integer_operator=False), {"image": np.arange(4, dtype=np.float32)[None]}
    needs_refusal(file)
    (expected,) = inference_session(file, AS_WRITTEN, 1).run(None, image)
    with pytest.warns(UserWarning, match="compute in float"):
        runs = [inference_session(file, OnnxruntimeOptions(), 1).run, loading.in_onnxruntime(file, {}, 1)]
    for run in runs:
        np.testing.assert_allclose(run(None, image)[0], expected, rtol=1e-6)
    assert not capfd.readouterr().err


def test_a_file_whose_integer_operators_would_overflow_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "sums_overflow", lambda: True)
    file = shared_constant(tmp_path, has_integer_operator=True)
    needs_refusal(file)
    with pytest.raises(ArtifactError, match="cannot load it"):
        inference_session(file, OnnxruntimeOptions(), 1)


def test_a_file_that_no_option_opens_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "sums_overflow", lambda: True)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ArtifactError, match="cannot load it"):
        inference_session(tmp_path / "model.onnx", OnnxruntimeOptions(), 1)
