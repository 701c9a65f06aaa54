import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.report.text import count, latency_cell, latency_sentence, significant, size
from edgevit.terminal import points


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_significant_keeps_three_digits_without_an_exponent(value: float):
    text = significant(value)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.005001)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0843, "0.0843"), (1.234, "1.23"), (9.999, "10.0"), (123.4, "123"), (1234, "1,230"), (0, "0")]
)
def test_significant(value: float, text: str):
    assert significant(value) == text


def test_sizes_are_mib_for_people():
    assert size(5 * 2**20) == "5.00 MiB"
    assert size(300 * 2**10) == "300 KiB"


def test_a_replayed_latency_says_so():
    latency = {"p50": 3.14, "p50_low": 3.1, "p50_high": 3.2, "p90": 3.3, "p99": 3.4, "label": "measured"}
    replayed = {**latency, "label": "replayed"}
    assert latency_sentence(replayed) == f"replayed, not measured: {latency_sentence(latency)}"
    assert [latency_cell(one) for one in (latency, replayed, None)] == ["3.14 ms", "3.14 ms replayed", "–"]


def test_counts():
    assert [count(value) for value in (None, 96, 812_000, 5_424_000)] == ["–", "96", "812 k", "5.42 M"]


def test_points_never_say_minus_zero():
    assert points(-0.0001) == "0.0"
    assert points(-0.012) == "−1.2"
