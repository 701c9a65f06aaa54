"""OpenVINO as a runtime: the same answers as ONNX Runtime, from the same files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevit.artifacts import Artifact
from edgevit.errors import ArtifactError, TargetError
from edgevit.graphs.files import artifact_from_onnx
from edgevit.model_file import ModelFile, OpenvinoOptions, options_from_json
from edgevit.profiling import MeasurePlan
from edgevit.runtimes.base import SessionOptions, for_runtime, random_images, runtime_of
from edgevit.runtimes.parity import sqnr_db
from edgevit.runtimes.sessions import file_session, open_session
from tests.small_models import artifact_of, checkpoint, engine, float_onnx, int8_onnx, workbench

openvino = pytest.importorskip("openvino", reason="edgevit[openvino] is not installed")
both = pytest.mark.parametrize("hybrid", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["vit", "hybrid"])


def logits(model: Artifact, images: np.ndarray) -> np.ndarray:
    return open_session(model, SessionOptions()).infer({"image": images})["logits"]


def for_openvino(hybrid: bool = False, **fields: Any) -> Artifact:
    name = "-".join(("openvino", f"{hybrid:d}", *map(str, fields.values())))
    options = {"calibration": "digits.pool", "calibration_images": 32, "runtime": "openvino", **fields}
    return workbench().run("quantize", name, model=float_onnx(hybrid).id, **options)


@both
@pytest.mark.parametrize("batch", [1, 3])
def test_a_float_file_gives_what_onnxruntime_gives(hybrid: bool, batch: int) -> None:
    images = random_images(float_onnx(hybrid).io, batch)
    expected = logits(float_onnx(hybrid), images)
    np.testing.assert_allclose(logits(for_runtime(float_onnx(hybrid), "openvino"), images), expected, atol=1e-4)


@both
def test_an_int8_file_is_as_close_to_float_as_in_onnxruntime(hybrid: bool) -> None:
    images = random_images(float_onnx(hybrid).io, 16, seed=3)
    expected = logits(float_onnx(hybrid), images)
    made = for_openvino(hybrid)
    assert runtime_of(made) == "openvino"
    here = sqnr_db(logits(made, images), expected)
    there = sqnr_db(logits(int8_onnx(hybrid), images), expected)
    assert here > there - 6
    assert here > 20


def test_one_session_takes_every_batch_size_of_an_open_file_and_is_right_each_time() -> None:
    images = random_images(float_onnx().io, 5)
    session = open_session(for_runtime(float_onnx(), "openvino"), SessionOptions())
    for size in (2, 5, 1, 2):
        found = session.infer({"image": images[:size]})["logits"]
        np.testing.assert_allclose(found, logits(float_onnx(), images)[:size], atol=1e-4)


def test_the_file_says_its_runtime_wherever_it_goes(tmp_path: Path) -> None:
    exported = workbench().run("export", "for-openvino", model=checkpoint().id, runtime="openvino")
    assert runtime_of(exported) == "openvino"
    copied = tmp_path / "copied.onnx"
    copied.write_bytes(exported.file("model.onnx").read_bytes())
    assert runtime_of(artifact_from_onnx(copied)) == "openvino"
    measured = workbench().run("profile", "timed", model=exported.id, duration_s=0.05, warmup_s=0.0, min_runs=3)
    assert measured.metrics["runtime"] == "openvino"
    here = workbench().run(
        "profile", "here", model=exported.id, duration_s=0.05, warmup_s=0.0, min_runs=3, runtime="onnxruntime"
    )
    assert here.metrics["runtime"] == "onnxruntime"


def test_bfloat16_is_computed_where_it_is_asked_for() -> None:
    from edgevit.runtimes.openvino.session import has_bfloat16

    if not has_bfloat16():
        pytest.skip("this CPU has no bfloat16")
    images = random_images(float_onnx().io, 8)
    outputs = {}
    for precision in ("float32", "bfloat16"):
        options = options_from_json({"runtime": "openvino", "inference_precision": precision})
        session = file_session(float_onnx().file("model.onnx"), float_onnx().io, options, 1)
        outputs[precision] = session.infer({"image": images})["logits"]
    assert 25 < sqnr_db(outputs["bfloat16"], outputs["float32"]) < 80


def test_what_is_timed_is_the_model() -> None:
    session = open_session(for_runtime(float_onnx(), "openvino"), SessionOptions())
    measured = session.measure(MeasurePlan(warmup_s=0, duration_s=0.05, min_runs=5))
    assert len(measured.samples_ms) >= 5
    assert measured.conditions["runtime"] == "openvino"
    assert measured.conditions["versions"]["openvino"]


def test_an_engine_of_onnxruntime_is_not_opened_by_openvino() -> None:
    with pytest.raises(TargetError, match="openvino does not open this engine"):
        for_runtime(engine(), "openvino")


def test_a_model_for_openvino_needs_no_compilation() -> None:
    with pytest.raises(ArtifactError, match="openvino compiles a model each time") as caught:
        workbench().run("compile", "engine-openvino", model=for_openvino().id)
    assert "leave compile out" in str(caught.value.next)


def test_a_graph_that_openvino_cannot_load_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(engine(True).file("model.onnx").read_bytes())  # ONNX Runtime's own layout
    model_file = ModelFile(weight_precision="int8", options=OpenvinoOptions())
    with pytest.raises(ArtifactError, match="OpenVINO cannot load it") as caught:
        open_session(artifact_of(file, engine(True)).with_model_file(model_file), SessionOptions())
    assert "model.onnx" in str(caught.value.where)
    assert "No conversion rule found for operations: com.microsoft.QGemm" in str(caught.value)


def test_a_bundle_runs_in_openvino(tmp_path: Path) -> None:
    bundle = workbench().run("bundle", "openvino-bundle", model=for_openvino().id)
    record = json.loads(bundle.file("bundle.json").read_text())
    assert record["runtime"]["name"] == "openvino"
    assert "openvino>=" in bundle.file("requirements.txt").read_text()
    blocked = "import sys; sys.modules['onnxruntime'] = None; import runpy; runpy.run_path('infer.py', run_name='x')"
    subprocess.run([sys.executable, "-B", "-c", blocked], cwd=bundle.path, check=True)
