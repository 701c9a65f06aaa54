"""Sentences and rows on the times of a model's layers."""

from __future__ import annotations

from collections.abc import Sequence

from edgevit.artifacts import Json
from edgevit.checking.timed_layers import TIMES_FILE, TimedLayer, TimedModel, Untimed, timed_of_json
from edgevit.configs.runtimes import TORCH
from edgevit.report import plots
from edgevit.report.text.numbers import milliseconds, percent, significant
from edgevit.report.variants import Lineup

HEADERS = ("layer", "operator", "ms", "time", "GFLOP/s", "of roof", "bound")
WHOLE = " in whole microseconds, rounded down"
ABOVE_THE_ROOF = {
    "caches": "a layer above 100% of the roof by memory has its data from caches, which are faster",
    "compute": "a layer above 100% of the roof by compute shows that the measured peak is too low",
}
LONGEST_OPERATOR = 13
PRECISIONS = {"int8": "INT8"}
WIDTHS = {"wide": 960, "narrow": 380}


def section(timed: TimedModel, name: str = "", *, is_folded: bool = False) -> Json:
    """What a page shows of the times.

    Args:
        name: tells several sections of a page apart.
        is_folded: whether the table of all layers is folded.
    """
    return {
        "model": timed,
        "name": name,
        "is_folded": is_folded,
        "title": f"Times: {f'{name}, ' if name else ''}{headline(timed)}",
        "parts": part_rows(timed),
        "longest_part": max(timed.by_part.values(), default=0) or 1,
        "invalid": timed.times.invalid,
        "notes": [f"{note[0].upper()}{note[1:]}." for note in _notes(timed)],
        "plots": {size: plots.roofline(timed, width_px, name) for size, width_px in WIDTHS.items()}
        if timed.peaks
        else None,
        "longest": max((layer.ms for layer in timed.layers), default=0) or 1,
        "rows": [{"layer": layer, "cells": cells(layer, timed)} for layer in timed.layers],
    }


def layer_times_json(models: Lineup) -> list[Json]:
    """The times of the layers of each model that was timed so, for programs; the first model is the deployed one."""
    return [
        {
            "model": variant,
            "headline": headline(timed),
            "sentences": sentences(timed),
            "label": timed.times.label,
            "sum_ms": timed.times.sum_ms,
            "engine_ms": timed.times.engine_ms,
            "opaque_share": timed.opaque_share,
            "parts": [{"part": part, "ms": ms, "cells": cells} for part, ms, cells in part_rows(timed)],
            "by_bound": timed.by_bound,
        }
        for variant, timed in timed_models(models)
    ]


def timed_models(models: Lineup) -> list[tuple[str, TimedModel]]:
    """The ids of the models whose layers were timed, with the times; the deployed model comes first."""
    variants = (models.deployed, *(variant for variant in models.variants if variant is not models.deployed))
    return [
        (variant.id, timed_of_json(variant.latency.file(TIMES_FILE).read_bytes()))
        for variant in variants
        if variant.latency is not None and TIMES_FILE in variant.latency.manifest.files
    ]


def part_rows(timed: TimedModel) -> list[tuple[str, float, tuple[str, ...]]]:
    """The name of each part of the model, its time in ms, and its cells in the order of PART_HEADER.

    A part with a layer whose multiply-accumulates are not known has no share of them.
    """
    known = sum(layer.macs or 0 for layer in timed.layers)
    macs, untold = dict.fromkeys(timed.by_part, 0), {layer.part for layer in timed.layers if layer.macs is None}
    for layer in timed.layers:
        macs[layer.part] += layer.macs or 0

    def cells(part: str, ms: float) -> tuple[str, ...]:
        share = f"{100 * macs[part] / known:.1f}%" if known and part not in untold else "-"
        return part or "(no known module)", significant(ms, 2), f"{100 * timed.share(ms):.1f}%", share

    return [(part, ms, cells(part, ms)) for part, ms in timed.by_part.items()]


def headline(timed: TimedModel) -> str:
    """The run in the fewest words."""
    times = timed.times
    threads = "" if times.threads is None else ", 1 thread" if times.threads == 1 else f", {times.threads} threads"
    images = "1 image" if times.batch_size == 1 else f"{times.batch_size} images"
    label = "" if times.label == "measured" else f"{times.label}, not measured: "
    return f"{label}layers in {times.runtime} on {times.target}{threads}, {images}"


def sentences(timed: TimedModel) -> list[str]:
    """The conditions of the times, what the profiler costs, the opaque share, the roofs, and what bounds the layers."""
    return [*(f"INVALID: {reason}" for reason in timed.times.invalid), *_notes(timed)]


def _notes(timed: TimedModel) -> list[str]:
    """The sentences but those on why the times do not count."""
    times = timed.times
    of_runs = f"{times.statistic}s of {times.runs:,} runs" + (WHOLE if times.is_in_microseconds else "")
    said = [
        f"the layers, {of_runs}, sum to {milliseconds(times.sum_ms)}; the median run without the profiler takes "
        f"{milliseconds(times.engine_ms)}{_overhead(timed)}",
        _opaque_sentence(timed),
    ]
    if timed.untimed is not None and timed.untimed.products:
        said.append(_untimed_sentence(timed.untimed))
    if timed.peaks is not None:
        said += [_roofs_sentence(timed), _bounds_sentence(timed)]
        if timed.peaks.warnings:
            first, *others = timed.peaks.warnings
            more = f", and {len(others)} more such reasons" if others else ""
            said.append(f"note: the roofs are in doubt, and measured again after an hour: {first}{more}")
    return [*said, *(f"note: {one}" for one in times.warnings)]


def cells(layer: TimedLayer, timed: TimedModel) -> tuple[str, ...]:
    """A row of the table, in the order of HEADERS."""
    place = layer.placement
    return (
        layer.module or (f"({layer.name})" if layer.name else "-"),
        _shortened(layer.operator),
        significant(layer.ms, 2),
        f"{100 * timed.share(layer.ms):.1f}%",
        significant(place.gflops) if place and layer.macs else "-",
        f"{place.share:.0%}" if place else "-",
        place.bound if place else "-",
    )


def longest(timed: TimedModel, count: int) -> tuple[Sequence[TimedLayer], float]:
    """The layers that take longest, in the order of execution, and the time (ms) of the others."""
    places = sorted(range(len(timed.layers)), key=lambda place: -timed.layers[place].ms)
    kept, left = sorted(places[:count]), places[count:]
    return [timed.layers[place] for place in kept], sum(timed.layers[place].ms for place in left)


def _shortened(operator: str) -> str:
    return operator if len(operator) <= LONGEST_OPERATOR else f"{operator[: LONGEST_OPERATOR - 1]}…"


def _overhead(timed: TimedModel) -> str:
    times = timed.times
    if times.profiled_ms is None or times.overhead is None:
        return ""
    cost = f"{times.overhead:+.0%}" if times.overhead > 0 else "its cost is not told apart from other noise"
    return f", a run with it {milliseconds(times.profiled_ms)} ({cost})"


def _opaque_sentence(timed: TimedModel) -> str:
    if timed.times.runtime.startswith(TORCH.title):
        what, without_module = "outside the modules", ""
    else:
        what, untold = "in layers that name no node", timed.share(timed.by_module.get("", 0.0))
        without_module = f"; {percent(untold)} is in layers of no known module" if untold else ""
    if not timed.opaque:
        return f"opaque share: none of the layers' time; each layer names its nodes{without_module}"
    operators = ", ".join(list(timed.opaque)[:3])
    return f"opaque share: {percent(timed.opaque_share)} of the time is {what} ({operators}){without_module}"


def _untimed_sentence(untimed: Untimed) -> str:
    return (
        f"{untimed.products} of {untimed.of_products} products ({percent(untimed.macs_share)} of the MACs) are in "
        "no timed layer"
    )


def _roofs_sentence(timed: TimedModel) -> str:
    peaks = timed.peaks
    assert peaks is not None
    rates = ", ".join(
        f"{significant(rate)} GFLOP/s in {PRECISIONS.get(name, name)}" for name, rate in peaks.gflops.items()
    )
    if peaks.nominal_of:
        return (
            f"roofs of {peaks.nominal_of} by its data sheet, not measured: {rates}, "
            f"{significant(peaks.bandwidth_gb_s)} GB/s to memory; a launch is taken for "
            f"{significant(1e3 * peaks.launch_ms)} µs, as estimates take it"
        )
    launch = f"takes {significant(1e3 * peaks.launch_ms)} µs" if peaks.launch_ms else "was not measured"
    return (
        f"roofs of this runtime here, measured by small kernels: {rates}, "
        f"{significant(peaks.bandwidth_gb_s)} GB/s to memory; a launch {launch}"
    )


def _bounds_sentence(timed: TimedModel) -> str:
    shares = ", ".join(f"{bound} {share:.0%}" for bound, share in timed.by_bound.items())
    above = {layer.placement.bound for layer in timed.layers if layer.placement and layer.placement.share > 1}
    reasons = "".join(f"; {reason}" for bound, reason in ABOVE_THE_ROOF.items() if bound in above)
    return f"bound by, in shares of the time: {shares}{reasons}"
