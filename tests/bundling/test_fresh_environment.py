"""A bundle on a machine that has numpy, Pillow and ONNX Runtime, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from edgevit.actions.predict_images import predict_images
from edgevit.artifacts import Artifact, IOSpec, Preprocess
from edgevit.bundling import enroll, write_bundle
from edgevit.configs import Evaluate, ImageFolder, Splits
from edgevit.context import Context
from edgevit.data import dataset_artifacts
from edgevit.graphs.files import artifact_from_onnx, write_onnx
from edgevit.stages import evaluate
from tests.bundling.enrolling import copied_bundle, digit_files
from tests.bundling.small_model import small_model

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "imagenet_samples"
DIGITS = tuple("0123456789")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with what a bundle's requirements.txt names."""
    folder = tmp_path_factory.mktemp("environment")
    write_bundle(small_model(folder / "model"), out := new(folder / "bundle"))
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", out / "requirements.txt"], check=True)
    installed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
    )
    names = {one["name"].lower() for one in json.loads(installed.stdout)}
    assert {"numpy", "pillow", "onnxruntime"} <= names
    assert not names & {"torch", "timm", "onnx", "edgevit"}
    return python


def test_same_top1_as_evaluate(python: Path, tmp_path: Path):
    model, photos = linear_digits(tmp_path / "model"), scanned_digits(tmp_path / "digits")
    config = ImageFolder(source="image_folder", path=str(photos), splits=Splits(val=0.0, test=0.3))
    data = dataset_artifacts({"digits": config}, tmp_path, ["digits.test"])["digits.test"]
    stage = Evaluate(stage="evaluate", id="accuracy", model="model", data="digits.test")
    contents = evaluate.run(stage, {"model": model, "data": data}, Context(), out := new(tmp_path / "evaluation"))
    table = np.load(out / "predictions.npz")
    expected = dict(zip(table["sample_ids"], table["predicted"], strict=True))

    write_bundle(model, bundle := new(tmp_path / "bundle"))
    found = {one["image"]: one["labels"][0]["label"] for one in labelled(python, bundle, photos)}
    top1 = {name: DIGITS[index] for name, index in expected.items()}
    assert {name: found[str(photos / name)] for name in top1} == top1
    assert contents.metrics["top1"]["value"] > 0.8


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs ../shared/data/imagenet_samples")
def test_same_confidences_on_photos(python: Path, tmp_path: Path):
    model = small_model(tmp_path / "model")
    write_bundle(model, bundle := new(tmp_path / "bundle"))
    found = labelled(python, bundle, PHOTOS, "--top", "4")
    expected = predict_images(model, [PHOTOS], 4).answers
    assert len(found) > 100
    assert [one["image"] for one in found] == [one["image"] for one in expected]
    for got, wanted in zip(found, expected, strict=True):
        assert [one["label"] for one in got["labels"]] == [one["label"] for one in wanted["labels"]]
        for one, other in zip(got["labels"], wanted["labels"], strict=True):
            assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-4)


def test_enrollment(python: Path, tmp_path: Path):
    bundle, other = copied_bundle(tmp_path / "bundle"), copied_bundle(tmp_path / "other")
    fours, tests = digit_files(tmp_path / "fours", "4", 5), digit_files(tmp_path / "tests", "4", 20, 5)
    command: list[Any] = [python, "-B", bundle / "enroll.py", "--json", "--class", "four", *fours]
    done = json.loads(subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout)
    assert (done["taken"], done["classes"], done["nearer_to"]) == (5, 9, {})
    found = [one["labels"][0]["label"] for one in labelled(python, bundle, "--unknown", *tests)]
    assert found.count("four") >= 16
    enroll(other, ["--class", "four", *map(str, fours)])
    assert (bundle / "classes.npz").read_bytes() == (other / "classes.npz").read_bytes()


def labelled(python: Path, bundle: Path, *arguments: object) -> list[dict[str, Any]]:
    command: list[Any] = [python, "-B", bundle / "infer.py", "--verify", "--json", *map(str, arguments)]
    answer = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    return [json.loads(line) for line in answer.stdout.splitlines()]


def new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def scanned_digits(folder: Path) -> Path:
    """scikit-learn's scanned digits as PNG files in a folder for each class."""
    digits = load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(path)
    return folder


def linear_digits(folder: Path) -> Artifact:
    """Logistic regression on the grey pixels, as an ONNX file."""
    digits = load_digits()
    fitted = LogisticRegression(max_iter=300).fit(digits.data[:900] / 16, digits.target[:900])
    grey = np.tile(fitted.coef_ / 3, (1, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["pixels"]),
        helper.make_node("Gemm", ["pixels", "matrix", "bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [
            numpy_helper.from_array(grey, "matrix"),
            numpy_helper.from_array(fitted.intercept_.astype(np.float32), "bias"),
        ],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    rule = Preprocess(height=8, width=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    folder.mkdir()
    write_onnx(model, folder / "model.onnx", IOSpec.for_classifier(rule, DIGITS))
    return artifact_from_onnx(folder / "model.onnx")
