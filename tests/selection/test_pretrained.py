"""Students with pretrained weights are timed in a form that keeps their quality on the user's images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from edgevit.actions.student_choice import deployed_form
from edgevit.artifacts import Artifact, IOSpec, numbers
from edgevit.configs import ImageFolder
from edgevit.data import dataset_artifacts
from edgevit.models.creation import create_model
from edgevit.selection import kept
from edgevit.selection import timing as timing_module
from edgevit.selection.candidates import ROOM_DB
from edgevit.selection.check_images import CALIBRATION_IMAGES, HELD_OUT_IMAGES, CheckImages
from edgevit.selection.pretrained import pretrained_model, set_centered_classifier
from edgevit.selection.records import DeployedForm, Pretrained, Student
from edgevit.selection.timing import time_student
from tests.known_machine import timing

STUDENT = Student(model="test_efficientnet", image_size=64, num_classes=4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))


def dataset(folder: Path, counts: dict[str, int]) -> Artifact:
    """Images of noise of its own coarseness and color each, in class folders."""
    for place, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            generator = np.random.default_rng([place, number])
            side = int(generator.integers(2, 33))
            pixels = generator.integers(0, 256, (side, side, 3)) * generator.uniform(0.3, 1, 3)
            Image.fromarray(pixels.astype(np.uint8)).resize((64, 64)).save(folder / name / f"{number}.png")
    config = ImageFolder(source="image_folder", path=str(folder))
    return dataset_artifacts({"photos": config}, folder, ["photos"])["photos"]


@pytest.fixture
def pretrained(tmp_path: Path) -> Pretrained:
    """Weights of a seed of their own, and 100 photos."""
    file = tmp_path / "weights.safetensors"
    save_file(create_model(STUDENT.model, 7, seed=5).module.state_dict(), file)
    return Pretrained(file, CheckImages(dataset(tmp_path / "photos", {"a": 50, "b": 50})))


def form_within(least_db: float) -> DeployedForm:
    form = deployed_form("local-cpu")
    assert form.quantize is not None
    quantize = form.quantize.model_copy(update={"min_sqnr_db": least_db - ROOM_DB})
    return DeployedForm(form.profile, form.export, quantize)


def test_forms_of_int8_that_are_too_far_from_float_are_not_deployed(pretrained: Pretrained) -> None:
    timing = time_student(STUDENT, form_within(150), pretrained)
    assert (timing.form, timing.float_p50_ms) == ("float32", None)
    assert timing.sqnr_db is not None
    assert 0 < timing.sqnr_db < 100
    assert timing.about_form() == f"float32; INT8: {timing.sqnr_db:.0f} dB"


def test_forms_of_int8_that_are_close_to_float_may_be_deployed(
    pretrained: Pretrained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first INT8 form is taken, whatever its speed."""
    monkeypatch.setattr(timing_module, "_trial_ms", lambda candidate, profile: candidate.precision != "int8")
    timing = time_student(STUDENT, form_within(-100), pretrained)
    assert timing.form == "int8 all"
    assert timing.float_p50_ms is not None


def test_the_sqnr_of_the_untrained_classifier_is_that_of_the_centered_features(pretrained: Pretrained) -> None:
    """With noise on the features, in float64. A feature's large mean does not hide the noise."""
    built = pretrained_model(STUDENT, pretrained)
    linear = built.module.get_classifier()
    images = pretrained.images.batches(IOSpec.for_classifier(built.preprocess, numbers(64))).calibration
    set_centered_classifier(built, images)
    with torch.no_grad():
        features = built.module.forward_head(
            built.module.forward_features(torch.from_numpy(np.concatenate(images))), pre_logits=True
        ).double()
        noise = 0.1 * features.std() * torch.randn(features.shape, generator=torch.Generator().manual_seed(1)).double()
        logits, rounded = (each @ linear.weight.double().T + linear.bias for each in (features, features + noise))
    centered = features - features.mean(0)
    of_features, of_logits = (
        10 * float(torch.log10((signal**2).sum() / (error**2).sum()))
        for signal, error in ((centered, noise), (logits, rounded - logits))
    )
    assert of_logits == pytest.approx(of_features, abs=1.5)


def test_images_are_drawn_once_and_those_to_compare_on_are_others(tmp_path: Path) -> None:
    spec = IOSpec.for_classifier(create_model(STUDENT.model, 2, 64).preprocess, numbers(2))
    images = CheckImages(dataset(tmp_path / "photos", {"a": 40, "b": 40}))
    calibration, held_out = (np.concatenate(list(batches)) for batches in images.batches(spec))
    assert (len(calibration), len(held_out)) == (CALIBRATION_IMAGES, HELD_OUT_IMAGES)
    assert not {image.tobytes() for image in calibration} & {image.tobytes() for image in held_out}
    again = CheckImages(dataset(tmp_path / "again", {"a": 40, "b": 40}))
    assert np.array_equal(calibration, np.concatenate(list(again.batches(spec).calibration)))
    few = CheckImages(dataset(tmp_path / "few", {"a": 3, "b": 3})).batches(spec)
    assert len(np.concatenate(list(few.calibration))) == len(np.concatenate(list(few.held_out))) == 6


def test_a_timing_is_kept_for_its_weights_images_and_least_sqnr(pretrained: Pretrained, tmp_path: Path) -> None:
    form = form_within(25)
    kept.keep(STUDENT, form, timing(3), pretrained)
    assert kept.kept_timing(STUDENT, form, pretrained) == timing(3)
    assert kept.kept_timing(STUDENT, form) is None
    assert kept.kept_timing(STUDENT, form_within(20), pretrained) is None
    others = CheckImages(dataset(tmp_path / "others", {"a": 10, "b": 11}))
    assert kept.kept_timing(STUDENT, form, Pretrained(pretrained.file, others)) is None
    save_file(create_model(STUDENT.model, 7, seed=6).module.state_dict(), tmp_path / "more.safetensors")
    assert kept.kept_timing(STUDENT, form, Pretrained(tmp_path / "more.safetensors", pretrained.images)) is None


def test_large_photos_are_reduced_and_still_fill_the_input(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "large" / name).mkdir(parents=True)
        for number in range(2):
            pixels = np.random.default_rng([ord(name), number]).integers(0, 256, (30, 40, 3), np.uint8)
            Image.fromarray(pixels).resize((2000, 1500)).save(tmp_path / "large" / name / f"{number}.jpg")
    config = ImageFolder(source="image_folder", path=str(tmp_path / "large"))
    images = CheckImages(dataset_artifacts({"photos": config}, tmp_path, ["photos"])["photos"])
    spec = IOSpec.for_classifier(create_model(STUDENT.model, 2, 64).preprocess, numbers(2))
    (batch,) = images.batches(spec).calibration
    assert batch.shape == (4, 3, 64, 64)
    assert {image.shape for image in images._images} == {(750, 1000, 3)}
