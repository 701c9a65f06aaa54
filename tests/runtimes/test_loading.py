"""The file that opens models in bundles and on devices, against the sessions of edgevit."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.graphs.files import onnx_file
from edgevit.model_file import json_of_options
from edgevit.runtimes import loading
from edgevit.runtimes.base import SessionOptions, for_runtime, random_images
from edgevit.runtimes.sessions import open_session
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
