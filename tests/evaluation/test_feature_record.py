"""Accuracy over draws of the labels: its interval is one for new images and for new draws."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.evaluation.accuracy import wilson_interval
from edgevit.evaluation.feature_record import FeatureRecord, HeadPredictions, accuracy_over_draws


def test_a_single_draw_has_wilsons_interval() -> None:
    correct = np.arange(50)[np.newaxis] < 40
    assert accuracy_over_draws(correct) == (0.8, *wilson_interval(40, 50))


def test_draws_that_agree_bring_no_images() -> None:
    """Five equal draws are one draw: the interval is not that of five times as many images."""
    once = np.random.default_rng(0).random((1, 400)) < 0.8
    one, five = accuracy_over_draws(once), accuracy_over_draws(np.repeat(once, 5, 0))
    assert five.value == one.value
    assert five.high - five.low == pytest.approx(one.high - one.low, rel=0.01)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Images differ in difficulty and draws in luck, and both are new in each trial."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(400):
        ease, luck = rng.normal(size=(1, 200)), rng.normal(scale=0.3, size=(5, 1))
        correct = ease + luck + rng.normal(size=(5, 200)) > 0  # 0.5 on average, over images, draws and noise
        low, high = accuracy_over_draws(correct)[1:]
        held += low <= 0.5 <= high
    assert 0.93 <= held / 400 <= 1.0


def test_draws_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    alike = rng.random((4, 300)) < 0.7
    shares = np.array([0.4, 0.6, 0.8, 1.0])[:, np.newaxis]
    apart = rng.random((4, 300)) < shares
    widths = [share.high - share.low for share in map(accuracy_over_draws, (alike, apart))]
    assert widths[1] > 2 * widths[0]


def test_metrics_name_each_head_and_the_constant_guess() -> None:
    labels = np.array([0, 0, 0, 1])
    head = HeadPredictions("linear", 0.5, 7, np.array([[0, 0, 1, 1], [0, 0, 0, 1]]))
    metrics = FeatureRecord(("a", "b", "c", "d"), ("cat", "dog"), labels, (head,)).metrics()
    assert metrics["constant_guess"] == {"class": "cat", "value": 0.75}
    (row,) = metrics["heads"]
    assert (row["head"], row["label_share"], row["support_images"], row["draws"]) == ("linear", 0.5, 7, 2)
    assert row["top1"]["value"] == 7 / 8
    assert row["top1"]["n"] == 4


def test_one_image_has_an_interval_over_draws() -> None:
    share = accuracy_over_draws(np.array([[True], [False], [True]]))
    assert share.value == pytest.approx(2 / 3)
    assert 0 <= share.low < share.value < share.high <= 1
