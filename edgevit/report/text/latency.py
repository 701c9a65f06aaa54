"""The latency of a model, and the measurements beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgevit.profiling.energy import EnergyRecord
from edgevit.profiling.latency_record import LatencyRecord, Percentile
from edgevit.profiling.statistics import FEWEST_RUNS
from edgevit.report.text.energy import energy_sentence, power_sentence
from edgevit.report.text.layout import paragraph
from edgevit.report.text.numbers import NOT_MEASURED, milliseconds, size
from edgevit.report.text.scenarios import scenario_facts


def latency_sentence(latency: LatencyRecord) -> str:
    """The percentiles of a latency in ms, each with its interval. It says if they are replayed."""
    replayed = "" if latency.label == "measured" else f"{latency.label}, not measured: "
    texts = []
    for percent, percentile in latency.percentiles.items():
        name, unit = ("95% interval ", " ms") if percent == 50 else ("", "")
        interval = "" if percentile.low_ms is None else f" ({name}{_from_to(percentile)})"
        texts.append(f"p{percent} {percentile.ms:.3g}{unit}{interval}")
    return f"{replayed}{', '.join(texts)}"


def latency_interval(latency: LatencyRecord) -> str:
    """The 95% interval of the median in ms."""
    return _from_to(latency.percentiles[50])


def _from_to(percentile: Percentile) -> str:
    return f"{percentile.low_ms:.3g} to {percentile.high_ms:.3g}"


def latency_facts(latency: LatencyRecord) -> list[tuple[str, str]]:
    """Labels and values of what was measured beside the percentiles."""
    return list(_latency_facts(latency))


def _latency_facts(latency: LatencyRecord) -> Iterator[tuple[str, str]]:
    if latency.starts is not None and latency.starts > 1:
        yield "Starts", f"{latency.starts} fresh starts of the model; the intervals hold what varies between them"
    elif latency.starts == 1 and latency.label == "measured":
        yield "Starts", "1: the intervals hold for this start alone; another one may differ by some per cent"
    for percent, percentile in latency.percentiles.items():
        if percentile.low_ms is None and percentile.is_recorded:
            yield f"Interval of p{percent}", _why_no_interval(latency.n, FEWEST_RUNS[percent])
    yield from scenario_facts(latency)
    if latency.parts_ms:
        parts = " → ".join(f"{name} {milliseconds(part_ms)}" for name, part_ms in latency.parts_ms.items())
        yield "Parts", f"{parts} (medians)"
    if latency.cpus_used is not None:
        yield "Processors", f"{latency.cpus_used:.2g} busy on average"
    if isinstance(energy := latency.energy, EnergyRecord):
        yield "Energy", energy_sentence(energy)
        yield "Power", power_sentence(energy)
        yield from (("Energy is doubtful", doubt) for doubt in energy.warnings)
        yield from (("Energy is invalid", reason) for reason in energy.invalid if reason not in latency.invalid)
    elif energy:
        yield "Energy", f"not measured: {energy.reason}"
    if start := latency.start:
        yield "Start", f"{milliseconds(start.load_ms)} to load, {milliseconds(start.first_ms)} for the first run"
        if start.peak_bytes is not None and start.own_bytes is not None:
            own = f"{size(start.own_bytes)} before the model was loaded"
            yield "Memory", f"at most {size(start.peak_bytes)} in a process of its own, {own}"


def _why_no_interval(runs: int, fewest: int) -> str:
    if runs < fewest:
        return f"none: {runs:,} runs are too few, it needs {fewest:,}"
    return f"none: the {runs:,} runs depend on each other, and count as fewer than {fewest:,} independent ones"


def latency_cell(latency: Mapping[str, Any] | None) -> str:
    """The median of a latency in report.json, with its label unless it was measured and is valid."""
    return NOT_MEASURED if latency is None else median_text(latency["p50"], latency["label"], bool(latency["invalid"]))


def median_cell(latency: LatencyRecord) -> str:
    """The median of a latency, with its label unless it was measured and is valid."""
    return median_text(latency.p50_ms, latency.label, bool(latency.invalid))


def median_text(p50_ms: float, label: str, is_invalid: bool) -> str:
    """A median in ms, with its label unless it was measured and is valid."""
    label = "" if label == "measured" else f" {label}"
    return f"{milliseconds(p50_ms)}{label}{' invalid' if is_invalid else ''}"


def beside_latency(facts: Sequence[Sequence[str]]) -> Iterator[str]:
    """The list of report.md."""
    if facts:
        yield "Beside the latency of the deployed model:"
        yield "\n".join(paragraph(f"- {label}: {value}") for label, value in facts)
