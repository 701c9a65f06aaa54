"""The file that opens models in bundles and on devices, against the sessions of edgevit."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from edgevit.graphs.files import onnx_file
from edgevit.model_file import json_of_options
from edgevit.runtimes import loading
from edgevit.runtimes.base import SessionOptions, for_runtime, random_images
from edgevit.runtimes.sessions import open_session
from tests.small_models import float_onnx


def test_it_is_python_38_and_imports_nothing_of_edgevit() -> None:
    tree = ast.parse(Path(loading.__file__).read_text(), feature_version=(3, 8))
    imports = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imports == {"__future__", "pathlib", "typing", "onnxruntime", "openvino"}


@pytest.mark.parametrize("runtime", list(loading.LOADERS))
def test_it_answers_as_the_sessions_do(runtime: str) -> None:
    pytest.importorskip(runtime)
    model = for_runtime(float_onnx(), runtime)
    images, spec = random_images(model.io, 1), model.io
    run = loading.LOADERS[runtime](onnx_file(model), json_of_options(model.model_file.options), 1)
    (scores,) = run([spec.outputs[0].name], {spec.inputs[0].name: images})
    expected = open_session(model, SessionOptions()).infer({spec.inputs[0].name: images})[spec.outputs[0].name]
    np.testing.assert_array_equal(scores, expected)
