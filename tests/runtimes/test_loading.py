"""The file that opens models in bundles and on devices, against the sessions of edgevit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edgevit.graphs.files import onnx_file
from edgevit.model_file import AS_WRITTEN, OnnxruntimeOptions, json_of_options
from edgevit.runtimes import loading
from edgevit.runtimes.base import SessionOptions, for_runtime, random_images
from edgevit.runtimes.onnxruntime.session import inference_session
from edgevit.runtimes.sessions import open_session
from tests.checking.graphs import model as graph_of
from tests.small_models import float_onnx


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
        return options.get_session_config_entry(loading.EXACT_SUMS) == "1"
    except RuntimeError:  # it was not set
        return False


@pytest.mark.parametrize("overflows", [True, False])
def test_exact_sums_take_their_slower_kernels_only_where_the_fastest_ones_overflow(
    overflows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "sums_overflow", lambda: overflows)
    assert asks_for_exact_sums(loading.onnxruntime_options({}, 1)) == overflows
    assert not asks_for_exact_sums(loading.onnxruntime_options({"exact_sums": False}, 1))


def test_a_file_that_onnxruntime_cannot_open_with_exact_sums_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A dequantized int8 constant that two nodes read, as ONNX Runtime's quantizer writes it for a ViT."""
    monkeypatch.setattr(loading, "sums_overflow", lambda: True)
    nodes = [
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["constant"]),
        helper.make_node("Mul", ["image", "constant"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "constant"], ["logits"]),
    ]
    tensors = {"integers": np.array([100], np.int8), "scale": np.float32(0.01), "zero": np.int8(0)}
    file = tmp_path / "model.onnx"
    onnx.save(graph_of(nodes, tensors, [1, 4], [1, 4], opset=17), file)
    image = {"image": np.arange(4, dtype=np.float32)[None]}
    (expected,) = inference_session(file, AS_WRITTEN, 1).run(None, image)
    for run in (inference_session(file, OnnxruntimeOptions(), 1).run, loading.in_onnxruntime(file, {}, 1)):
        np.testing.assert_allclose(run(None, image)[0], expected, rtol=1e-6)
    assert not capfd.readouterr().err
