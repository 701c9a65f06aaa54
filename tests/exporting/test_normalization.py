"""Scaling and normalising inside the graph: everything that reads an IOSpec takes such a model as any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from edgevit.artifacts import Artifact
from edgevit.context import Context
from edgevit.data.preprocess import open_image, preprocess
from edgevit.graphs.files import onnx_file
from edgevit.runtimes.base import SessionOptions, random_images
from edgevit.targets import target_for
from tests.small_models import checkpoint, float_onnx, workbench
from tests.test_files import run


def exported(**options: Any) -> Artifact:
    name = "taking_" + "_".join(options)
    if name not in workbench().made:
        workbench().run("export", name, model=checkpoint().id, normalize=True, **options)
    return workbench().made[name]


def quantized(model: Artifact) -> Artifact:
    return workbench().run(
        "quantize", f"int8_of_{model.id}", model=model.id, calibration="digits.pool", calibration_images=32
    )


def scores(model: Artifact, images: np.ndarray) -> np.ndarray:
    with target_for("local-cpu", Context()).open(model, SessionOptions()) as session:
        return session.infer({"image": images})["logits"]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(pixels).resize((200, 140)).save(path)
    return path


def test_the_iospec_says_what_goes_in() -> None:
    image = exported().io.inputs[0]
    assert (image.shape, image.dtype, image.layout) == (("batch", 32, 32, 3), "uint8", "NHWC")
    (given,) = onnxruntime.InferenceSession(onnx_file(exported()), providers=["CPUExecutionProvider"]).get_inputs()
    assert (given.name, given.shape, given.type) == ("image", ["batch", 32, 32, 3], "tensor(uint8)")


def test_its_scores_are_those_of_the_plain_file() -> None:
    """Bit by bit where the graph computes as numpy does: the same five operations in the same order."""
    inside, outside = exported(), float_onnx()
    images = random_images(inside.io, 4)
    assert images.dtype == np.uint8
    scaled = images.transpose(0, 3, 1, 2).astype(np.float64) / 255
    rule = outside.io.preprocess
    by_hand = (scaled - np.reshape(rule.mean, (3, 1, 1))) / np.reshape(rule.std, (3, 1, 1))
    np.testing.assert_allclose(random_images(outside.io, 4), by_hand, atol=1e-6)
    got, expected = scores(inside, images), scores(outside, by_hand.astype(np.float32))
    np.testing.assert_allclose(got, expected, atol=1e-5 + 1e-4 * np.abs(expected).max())


def test_preprocess_leaves_the_image_as_it_is_resized(photo: Path) -> None:
    images = {name: preprocess(open_image(photo), **one.io.preprocess.model_dump()) for name, one in
                (("inside", exported()), ("outside", float_onnx()))}  # fmt: skip
    rule = float_onnx().io.preprocess
    back = images["outside"].transpose(1, 2, 0) * np.float32(rule.std) + np.float32(rule.mean)  # type: ignore[arg-type]
    np.testing.assert_array_equal(images["inside"], np.round(back * 255).astype(np.uint8))


def test_evaluating_quantizing_and_profiling_take_it() -> None:
    inside, outside = exported(), float_onnx()
    evaluations = [
        workbench().run("evaluate", f"accuracy_{one.id}", model=one.id, data="digits.test") for one in (inside, outside)
    ]
    assert evaluations[0].metrics["top1"] == evaluations[1].metrics["top1"]
    int8 = quantized(inside)
    assert int8.io == inside.io
    assert int8.manifest.metrics["quantized_ops"] == quantized(outside).metrics["quantized_ops"]
    for boundary in ("compute", "end_to_end"):
        options = {"boundary": boundary, "duration_s": 0.05, "warmup_s": 0, "min_runs": 3}
        made = workbench().run("profile", f"latency_{boundary}", model=int8.id, **options)
        assert made.metrics["latency_ms"]["n"] >= 3


def test_a_bundle_of_it_labels_as_the_model_does(photo: Path, tmp_path: Path) -> None:
    """The bundle's own runner is run, and compared, when the bundle is made; with images of each class too."""
    inside = exported(embedding=True)
    made = workbench().run("bundle", "bundle_inside", model=inside.id, support="digits.support")
    answers = json.loads(run("predict", made.path, photo, "--json"))
    plain = json.loads(run("predict", onnx_file(float_onnx()), photo, "--json"))
    assert answers[0]["labels"][0]["label"] == plain[0]["labels"][0]["label"]


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    model = ("--model", "test_efficientnet", "--image-size", 64, "--classes", 3)
    run("export", *model, "--normalize", "--precision", "float16", "--out", tmp_path / "half.onnx")
    shown = run("inspect", tmp_path / "half.onnx")
    assert "image uint8 (batch, 64, 64, 3)" in shown
