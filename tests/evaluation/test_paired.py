import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.evaluation.paired import paired_drop


def test_paired_drop_counts_only_images_on_which_the_two_differ():
    before = np.array([True] * 90 + [False] * 10)
    after = np.array([True] * 85 + [False] * 5 + [True] * 2 + [False] * 8)
    drop = paired_drop(before, after)
    assert drop.value == pytest.approx(before.mean() - after.mean())
    assert drop.n == 100
    assert drop.low < drop.value < drop.high
    assert drop.may_be_chance


def test_paired_drop_is_an_agresti_style_wald_interval():
    """Bonett and Price 2012: 4 images lost, 1 gained of 50, worked out step by step."""
    before = np.array([True] * 4 + [False] + [True] * 45)
    after = np.array([False] * 4 + [True] + [True] * 45)
    p12, p21 = 5 / 52, 2 / 52
    half = 1.959964 * np.sqrt((p12 + p21 - (p12 - p21) ** 2) / 52)
    drop = paired_drop(before, after)
    assert (drop.low, drop.high) == pytest.approx((p12 - p21 - half, p12 - p21 + half), abs=1e-6)


def test_paired_interval_covers_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(0)
    lost, gained, n, hits = 0.04, 0.02, 400, 0
    for _ in range(2000):
        draw = generator.uniform(size=n)
        before, after = draw >= gained, (draw < gained) | (draw >= gained + lost)
        drop = paired_drop(before, after)
        hits += drop.low <= lost - gained <= drop.high
    assert 0.935 < hits / 2000 < 0.975


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_no_drop_between_equal_models(correct: list[bool]):
    drop = paired_drop(np.array(correct), np.array(correct))
    assert drop.value == 0
    assert drop.low == pytest.approx(-drop.high)
