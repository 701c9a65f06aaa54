from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.profiling.energy import EnergyRecord, NoEnergy
from edgevit.profiling.latency_record import LatencyRecord, Percentile
from edgevit.profiling.loop import Start
from edgevit.report.text.energy import energy_cell, energy_sentence
from edgevit.report.text.latency import latency_cell, latency_facts, latency_sentence, median_cell
from edgevit.report.text.numbers import count, significant, size
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


LATENCY = LatencyRecord(
    3.14, 3.1, 3.2, 700, "compute", "measured", (), "onnxruntime", "board", 1, 1,
    p90=Percentile(3.3, 3.25, 3.36), p99=Percentile(3.4),
)  # fmt: skip


def test_a_latency_has_the_intervals_of_its_percentiles():
    said = "p50 3.14 ms (95% interval 3.1 to 3.2), p90 3.3 (3.25 to 3.36), p99 3.4"
    assert latency_sentence(LATENCY) == said
    ((label, dependent),) = latency_facts(LATENCY)
    assert label == "Interval of p99"
    assert dependent == "none: the 700 runs depend on each other, and count as fewer than 662 independent ones"
    ((_, short),) = latency_facts(replace(LATENCY, n=661))
    assert short == "none: 661 runs are too few, it needs 662"


def test_a_replayed_latency_says_so():
    replayed = replace(LATENCY, label="replayed")
    assert latency_sentence(replayed) == f"replayed, not measured: {latency_sentence(LATENCY)}"
    invalid = replace(LATENCY, invalid=("the machine throttled",))
    for latency, text in ((LATENCY, "3.14 ms"), (replayed, "3.14 ms replayed"), (invalid, "3.14 ms invalid")):
        assert median_cell(latency) == latency_cell(latency.numbers()) == text
    assert latency_cell(None) == "–"


def test_what_else_was_measured_is_a_list():
    start = Start(load_ms=41.2, first_ms=9.1, own_bytes=50 * 2**20, peak_bytes=92 * 2**20)
    parts = {"decode": 2.0, "preprocess": 3.3, "compute": 3.1, "post": 0.02}
    facts = dict(latency_facts(replace(LATENCY, start=start, parts_ms=parts, cpus_used=0.98)))
    assert facts["Parts"] == "decode 2.00 ms → preprocess 3.30 ms → compute 3.10 ms → post 0.0200 ms (medians)"
    assert facts["Processors"] == "0.98 busy on average"
    assert facts["Start"] == "41.2 ms to load, 9.10 ms for the first run"
    assert facts["Memory"] == "at most 92.0 MiB in a process of its own, 50.0 MiB before the model was loaded"
    untold = replace(LATENCY, start=start._replace(own_bytes=None, peak_bytes=None))
    assert "Memory" not in dict(latency_facts(untold))


ENERGY = EnergyRecord(32.34, 31.9, 32.78, 12.479, 6.0107, 11, "module (VDD_IN)", "measured")


def test_an_energy_has_its_interval_its_boundary_and_its_label():
    assert latency_facts(replace(LATENCY, energy=ENERGY))[1:] == [
        ("Energy", "32.3 mJ for an image above rest (95% interval 31.9 to 32.8)"),
        ("Power", "12.5 W during the runs, 6.01 W at rest: module (VDD_IN)"),
    ]
    replayed = replace(ENERGY, label="replayed")
    assert energy_sentence(replayed) == f"replayed, not measured: {energy_sentence(ENERGY)}"
    assert energy_cell(replayed.numbers()) == "32.3 mJ replayed"
    assert (energy_cell(ENERGY.numbers()), energy_cell(None)) == ("32.3 mJ", "–")
    untold = latency_facts(replace(LATENCY, energy=NoEnergy("a virtual machine has no energy counters")))
    assert untold[1:] == [("Energy", "not measured: a virtual machine has no energy counters")]


def test_an_invalid_energy_says_why_unless_the_latency_does():
    busy, hot = "other programs worked at rest", "the machine throttled"
    energy = replace(ENERGY, invalid=(hot, busy), warnings=("little power",))
    facts = latency_facts(replace(LATENCY, invalid=(hot,), energy=energy))[1:]
    assert facts[0][1].startswith("INVALID: 32.3 mJ")
    assert facts[2:] == [("Energy is doubtful", "little power"), ("Energy is invalid", busy)]
    assert energy_cell(energy.numbers()) == "32.3 mJ invalid"


def test_counts():
    assert [count(value) for value in (None, 96, 812_000, 5_424_000)] == ["–", "96", "812 k", "5.42 M"]


def test_points_never_say_minus_zero():
    assert points(-0.0001) == "0.0"
    assert points(-0.012) == "−1.2"
