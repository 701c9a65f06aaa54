"""Against scipy and scikit-learn, or by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import precision_score, recall_score

from edgevit.evaluation import calibration_error, confusion_matrix, confusions, per_class, wilson_interval


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
