"""Layers under the roofline, against the two equations of Williams et al. 2009 by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.profiling.roofline import Peaks, placed

PEAKS = Peaks({"float32": 100.0, "int8": 400.0}, bandwidth_gb_s=10.0, launch_ms=0.002)
MEGA = 1_000_000


def test_the_ridge_is_where_both_roofs_meet() -> None:
    assert PEAKS.ridge("float32") == 10
    assert PEAKS.attainable_gflops(10, "float32") == pytest.approx(100)
    assert PEAKS.attainable_gflops(1, "float32") == 10
    assert PEAKS.attainable_gflops(1000, "int8") == 400


def test_a_layer_bound_by_compute() -> None:
    """50 million MACs are 100 million operations: 1 ms at 100 GFLOP/s. Their 1 MB takes 0.1 ms."""
    place = placed(2.0, 50 * MEGA, MEGA, "float32", PEAKS)
    assert (place.bound, place.intensity) == ("compute", 100)
    assert (place.gflops, place.attainable_gflops) == (50, 100)
    assert place.share == 0.5
    assert place.gb_s == 0.5


def test_a_layer_bound_by_memory() -> None:
    """10 MB take 1 ms; 2 million operations 0.02 ms."""
    place = placed(4.0, MEGA, 10 * MEGA, "float32", PEAKS)
    assert (place.bound, place.intensity, place.share) == ("memory", 0.2, 0.25)
    assert place.attainable_gflops == 2


def test_the_precision_decides_the_roof() -> None:
    as_int8 = placed(2.0, 50 * MEGA, MEGA, "int8", PEAKS)
    assert (as_int8.attainable_gflops, as_int8.share) == (400, 0.125)
    assert placed(2.0, 50 * MEGA, MEGA, "bfloat16", PEAKS) is None  # its peak was not measured
    softmax = placed(2.0, 0, 10 * MEGA, "bfloat16", PEAKS)  # which it does not need
    assert (softmax.bound, softmax.share, softmax.attainable_gflops) == ("memory", 0.5, 0)


def test_faster_than_memory_is_not_bound_by_memory() -> None:
    place = placed(0.5, 0, 10 * MEGA, "float32", PEAKS)
    assert (place.bound, place.share) == ("caches", 2)


@pytest.mark.parametrize(
    ("ms", "macs", "moved"),
    [(0.1, 100, 100), (0.003, 50_000, 1_000), (0.01, 0, 0)],
    ids=["little work", "half of the time", "a view"],
)
def test_a_layer_bound_by_its_launch(ms: float, macs: int, moved: int) -> None:
    assert placed(ms, macs, moved, "float32", PEAKS).bound == "launch"


def test_a_view_is_bound_by_its_launch_also_where_none_was_measured() -> None:
    unmeasured = Peaks({"float32": 100.0}, bandwidth_gb_s=10.0, launch_ms=0.0)
    assert placed(0.01, 0, 0, "float32", unmeasured).bound == "launch"


def test_faster_than_the_peak_is_bound_by_compute() -> None:
    place = placed(0.5, 50 * MEGA, MEGA, "float32", PEAKS)
    assert (place.bound, place.share) == ("compute", 2)


def test_unknown_work_has_no_place() -> None:
    assert placed(1.0, None, 100, "float32", PEAKS) is None
    assert placed(1.0, 100, None, "float32", PEAKS) is None
    assert placed(0.0, 100, 100, "float32", PEAKS) is None  # too short for the profiler


@given(
    ms=st.floats(1e-3, 1e3), macs=st.integers(0, 10**10), moved=st.integers(1, 10**9),
    precision=st.sampled_from(["float32", "int8"]),
)  # fmt: skip
def test_the_share_is_that_of_the_attainable_rate(ms: float, macs: int, moved: int, precision: str) -> None:
    """With operations, least time over time is attained over attainable rate."""
    place = placed(ms, macs, moved, precision, PEAKS)
    if macs:
        assert place.share == pytest.approx(place.gflops / place.attainable_gflops)
    assert place.share == pytest.approx(max(2 * macs / PEAKS.gflops[precision], moved / 10) / 1e6 / ms)
