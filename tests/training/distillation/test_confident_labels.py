"""Temperature scaling against scipy, and which of a teacher's teacher_labels are kept."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from edgevit.data.dataset import Dataset
from edgevit.errors import DataError
from edgevit.inference.over_dataset import outputs_of
from edgevit.models import BuiltModel
from edgevit.progress import SilentProgress
from edgevit.training.distillation.confident_labels import (
    TeacherLabels,
    calibrate,
    fitted_temperature,
    most_confident,
    softmax,
    teacher_labels,
    write_teacher_labels,
)
from tests.learning import blobs, tiny_vit

CPU, SILENT = torch.device("cpu"), SilentProgress()


def noisy_logits(scale: float, n: int = 300, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits `scale` times what would be calibrated: the labels are drawn from the unscaled softmax."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 1.5, (n, classes))
    labels = (honest + rng.gumbel(size=honest.shape)).argmax(-1)
    return honest * scale, labels


def labels_with(confidence: list[float], labels: list[int], classes: int = 3) -> TeacherLabels:
    ids = tuple(f"{index:03d}.png" for index in range(len(labels)))
    return TeacherLabels(tuple("abcdefgh"[:classes]), ids, np.array(labels, np.int64), np.array(confidence))


def checkpoint(classes: tuple[str, ...] = ("a", "b", "c")) -> BuiltModel:
    return tiny_vit(len(classes))._replace(classes=classes)


# temperature


@pytest.mark.parametrize("scale", [0.05, 0.4, 1.0, 6.0, 40.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_temperature_is_the_one_that_scipy_finds(scale: float, seed: int) -> None:
    logits, labels = noisy_logits(scale, seed=seed)

    def nll(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature), axis=-1)[np.arange(len(labels)), labels].mean())

    expected = minimize_scalar(nll, bounds=(np.log(1e-3), np.log(1e3)), method="bounded", options={"xatol": 1e-9})
    assert fitted_temperature(logits, labels) == pytest.approx(np.exp(expected.x), rel=1e-4)


def test_temperature_undoes_the_scale_of_the_logits() -> None:
    for scale in (0.2, 3.0):
        logits, labels = noisy_logits(scale, n=20_000)
        assert fitted_temperature(logits, labels) == pytest.approx(scale, rel=0.03)


def test_temperature_stays_1_where_the_teacher_is_right_about_everything() -> None:
    logits = np.array([[3.0, 1.0], [0.2, 0.4]])
    assert fitted_temperature(logits, np.array([0, 1])) == 1.0
    assert fitted_temperature(logits, np.array([0, 0])) != 1.0


def test_teacher_worse_than_chance_ends_with_no_confidence() -> None:
    logits = np.array([[3.0, 1.0], [0.2, 0.4]])
    temperature = fitted_temperature(logits, np.array([1, 0]))
    assert softmax(logits, temperature).max() == pytest.approx(0.5, abs=1e-3)


@given(st.floats(0.01, 100), st.integers(0, 50))
def test_temperature_never_changes_the_label(temperature: float, seed: int) -> None:
    logits, _ = noisy_logits(2.0, n=20, seed=seed)
    probabilities = softmax(logits, temperature)
    assert np.take_along_axis(probabilities, logits.argmax(-1)[:, None], 1)[:, 0] == pytest.approx(
        probabilities.max(-1)
    )
    assert probabilities.sum(-1) == pytest.approx(1)


# asking the teacher


def test_guesses_are_the_teachers_answers_whatever_labels_the_data_has() -> None:
    teacher, data = checkpoint(), blobs(per_class=40)  # more than one batch
    found = teacher_labels(teacher, data, 2.0, CPU, SILENT)
    expected = outputs_of(teacher.module, data, teacher.preprocess, CPU).double()
    assert found.labels.tolist() == expected.argmax(-1).tolist()
    assert found.confidence == pytest.approx((expected / 2).softmax(-1).amax(-1).numpy(), abs=1e-6)
    unlabelled = teacher_labels(teacher, blobs(per_class=40, labelled=False), 2.0, CPU, SILENT)
    assert np.array_equal(found.labels, unlabelled.labels)


def test_calibration_classes_are_matched_by_name() -> None:
    same = calibrate(checkpoint(("a", "b", "c")), blobs(), CPU, SILENT)
    turned = blobs()
    turned = Dataset(
        "turned", ("c", "a", "b"), turned.sample_ids, (turned.labels + 1) % 3, turned.images, turned.indices
    )
    assert calibrate(checkpoint(("a", "b", "c")), turned, CPU, SILENT).temperature == same.temperature
    subset = blobs(classes=2)
    assert len(calibrate(checkpoint(("a", "x", "b")), subset, CPU, SILENT).correct) == len(subset)


def test_calibration_on_classes_that_the_teacher_does_not_know_is_refused() -> None:
    with pytest.raises(DataError, match=r"the teacher lacks 1 of the 3 classes(.|\n)*got: missing: b"):
        calibrate(checkpoint(("a", "x", "c")), blobs(), CPU, SILENT)


def test_calibration_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match="calibration needs labelled images"):
        calibrate(checkpoint(), blobs(labelled=False), CPU, SILENT)


def test_a_teacher_that_answers_nan_is_refused() -> None:
    teacher = checkpoint()
    with torch.no_grad():
        next(teacher.module.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="not all finite"):
        teacher_labels(teacher, blobs(), 1.0, CPU, SILENT)


# choosing


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=60),
    st.floats(0, 1),
    st.booleans(),
    st.none() | st.integers(1, 10),
)
def test_the_surest_are_kept(
    samples: list[tuple[float, int]], threshold: float, balance: bool, most: int | None
) -> None:
    found = labels_with([confidence for confidence, _ in samples], [label for _, label in samples], 5)
    if not (found.confidence >= threshold).any():
        with pytest.raises(DataError, match="sure of none"):
            most_confident(found, threshold, balance, most)
        return
    kept = most_confident(found, threshold, balance, most)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert (found.confidence[kept] >= threshold).all()
    eligible = [sorted(c for c, one in samples if one == label and c >= threshold) for label in range(5)]
    sizes = sorted(len(one) for one in eligible if one)
    limit = min(most or len(samples), sizes[(len(sizes) - 1) // 2] if balance else len(samples))
    for label, confidences in enumerate(eligible):
        assert sorted(found.confidence[kept[found.labels[kept] == label]]) == confidences[-limit:]


def test_balance_holds_each_class_to_the_median_one() -> None:
    found = labels_with([0.9] * 10 + [0.95] * 4 + [0.99] * 2, [0] * 10 + [1] * 4 + [2] * 2, classes=4)
    assert np.bincount(found.labels[most_confident(found, 0.8, balance=True)], minlength=4).tolist() == [4, 4, 2, 0]
    assert np.bincount(found.labels[most_confident(found, 0.8, True, most_per_class=3)]).tolist() == [3, 3, 2]


def test_equal_confidence_keeps_the_first() -> None:
    assert most_confident(labels_with([0.9] * 6, [0, 1] * 3), 0.8, most_per_class=2).tolist() == [0, 1, 2, 3]


def test_too_high_a_threshold_says_what_lower_ones_would_keep() -> None:
    with pytest.raises(DataError) as caught:
        most_confident(labels_with([0.3, 0.55, 0.62, 0.31], [0, 1, 2, 0]), 0.8)
    assert "sure of none of the 4 images" in str(caught.value)
    assert "highest confidence 0.620; 1 at ≥ 0.6, 2 at ≥ 0.5, 2 at ≥ 0.4" in str(caught.value)


def test_every_guess_can_be_read_in_a_table(tmp_path: Path) -> None:
    found = labels_with([0.91234, 0.2], [1, 0])
    write_teacher_labels(found, np.array([0]), tmp_path / "teacher_labels.csv")
    with (tmp_path / "teacher_labels.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [
        {"sample_id": "000.png", "class": "b", "confidence": "0.9123", "kept": "yes"},
        {"sample_id": "001.png", "class": "a", "confidence": "0.2000", "kept": "no"},
    ]
