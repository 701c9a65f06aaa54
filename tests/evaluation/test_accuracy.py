"""Against scipy and scikit-learn, or by hand."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    precision_recall_fscore_support,
    precision_score,
    recall_score,
)
from sklearn.metrics import confusion_matrix as sklearn_confusion

from edgevit.evaluation import (
    AccuracyRecord,
    balanced_accuracy,
    calibration_error,
    confusion_matrix,
    confusions,
    macro_f1,
    per_class,
    wilson_interval,
)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts):
    correct, n = counts
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_confusion_and_per_class_are_scikit_learns(seed):
    generator = np.random.default_rng(seed)
    labels, predicted = generator.integers(0, 4, (2, 60))
    found = confusion_matrix(labels, predicted, 5)
    np.testing.assert_array_equal(found, sklearn_confusion(labels, predicted, labels=range(5)))
    rows = per_class(labels, predicted, "abcde")
    pairs = {
        (one["label"], one["predicted"]): (one["count"], one["of"]) for one in confusions(labels, predicted, "abcde")
    }
    assert pairs == {
        ("abcde"[row], "abcde"[column]): (found[row, column], found[row].sum())
        for row, column in np.argwhere(found)
        if row != column
    }
    counts = [count for count, _ in pairs.values()]
    assert counts == sorted(counts, reverse=True)
    recall = recall_score(labels, predicted, labels=range(5), average=None, zero_division=np.nan)
    precision = precision_score(labels, predicted, labels=range(5), average=None, zero_division=np.nan)
    for row, expected_recall, expected_precision in zip(rows, recall, precision, strict=True):
        for got, expected in ((row["recall"], expected_recall), (row["precision"], expected_precision)):
            assert (got is None) == bool(np.isnan(expected))
            assert got is None or got == pytest.approx(expected)


def test_calibration_by_hand():
    confidence = np.array([0.95, 0.95, 0.55, 0.55, 1.0], np.float32)
    correct = np.array([True, False, True, True, True])
    found = calibration_error(confidence, correct)
    assert [one["n"] for one in found["bins"]] == [2, 3]
    # bins 0.5..0.6: accuracy 1, confidence 0.55; 0.9..1: accuracy 2/3, confidence 2.9/3
    assert found["ece"] == pytest.approx(2 / 5 * 0.45 + 3 / 5 * abs(2 / 3 - 2.9 / 3), abs=1e-6)


def test_a_model_as_sure_as_it_is_right_has_no_calibration_error():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.1, 1, 200_000).astype(np.float32)
    correct = generator.uniform(size=200_000) < confidence
    assert calibration_error(confidence, correct)["ece"] < 0.005


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions with a random confusion matrix, classes without images or predictions among them."""
    size = draw(st.integers(1, 5))
    rows = st.lists(st.integers(0, 6), min_size=size, max_size=size)
    matrix = np.array(draw(st.lists(rows, min_size=size, max_size=size)))
    if not matrix.sum():
        matrix[0, -1] = 1
    labels, predicted = np.indices(matrix.shape).reshape(2, -1).repeat(matrix.ravel(), axis=1)
    return labels, predicted


@given(predictions())
def test_accuracies_of_classes_are_scikit_learns(drawn: tuple[np.ndarray, np.ndarray]):
    labels, predicted = drawn
    names = tuple("abcde")
    record = AccuracyRecord(tuple(map(str, range(len(labels)))), names, labels, predicted)
    tested = np.unique(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # predictions of classes without images
        assert record.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert record.macro_f1 == pytest.approx(
        f1_score(labels, predicted, labels=tested, average="macro", zero_division=0)
    )
    precision, recall, _, images = precision_recall_fscore_support(
        labels, predicted, labels=range(5), zero_division=np.nan
    )
    for index, row in enumerate(record.per_class()):
        for name, expected, n in (("recall", recall, images[index]), ("precision", precision, row["predicted"])):
            if not n:
                assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == (None, None, None)
                continue
            interval = binomtest(round(float(expected[index] * n)), int(n)).proportion_ci(0.95, method="wilson")
            got = (row[name], row[f"{name}_low"], row[f"{name}_high"])
            assert got == pytest.approx((expected[index], interval.low, interval.high), abs=1e-9)
    lowest = record.recalls[0]
    assert lowest.recall.value == pytest.approx(np.nanmin(recall[images > 0]))
    assert record.constant_guess.accuracy == pytest.approx(max(np.mean(labels == label) for label in tested))
    assert record.correct_by_constant_guess.mean() == pytest.approx(record.constant_guess.accuracy)


@given(st.integers(1, 6), st.integers(2, 20), st.integers(0, 2**32 - 1))
def test_on_equally_large_classes_balanced_accuracy_is_top1_with_its_interval(classes: int, images: int, seed: int):
    labels = np.repeat(np.arange(classes), images)
    predicted = np.random.default_rng(seed).integers(0, classes, len(labels))
    found = balanced_accuracy(labels, predicted, classes)
    correct = int((labels == predicted).sum())
    assert found.value == pytest.approx(correct / len(labels))
    low, high = wilson_interval(correct, len(labels))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(
    ("images", "recalls"),
    [
        ((400, 20), (0.95, 0.5)),
        ((100, 30, 10), (0.9, 0.7, 0.6)),
        ((5,) * 40, (0.8,) * 40),
        ((1000, 1000, 10), (0.99, 0.99, 0.5)),
    ],
)
def test_the_interval_of_balanced_accuracy_covers_the_truth(images: tuple[int, ...], recalls: tuple[float, ...]):
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(images)), images)
    truth, hits, trials = float(np.mean(recalls)), 0, 800
    for _ in range(trials):
        right = generator.uniform(size=len(labels)) < np.repeat(recalls, images)
        found = balanced_accuracy(labels, np.where(right, labels, len(images)), len(images) + 1)
        hits += found.low <= truth <= found.high
    assert 0.92 < hits / trials <= 1


def test_macro_f1_leaves_out_classes_without_images():
    labels, predicted = np.array([0, 0, 1]), np.array([0, 2, 1])
    assert macro_f1(labels, predicted, 3) == pytest.approx((2 / 3 + 1) / 2)
