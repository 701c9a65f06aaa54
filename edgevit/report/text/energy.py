"""The energy for an image, and the power of the runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgevit.profiling.energy import EnergyRecord
from edgevit.report.text.layout import in_tables, paragraph
from edgevit.report.text.numbers import NOT_MEASURED, significant

ENERGY_HEADER = ("model", "energy", "95% interval", "power of the runs", "at rest")


def energy_sentence(energy: EnergyRecord) -> str:
    """The energy for an image, with its interval and its label. It says if it is invalid."""
    label = "" if energy.label == "measured" else f"{energy.label}, not measured: "
    invalid = "INVALID: " if energy.invalid else ""
    interval = f"95% interval {energy.low_mj:.3g} to {energy.high_mj:.3g}"
    return f"{invalid}{label}{energy.mj:.3g} mJ for an image above rest ({interval})"


def power_sentence(energy: EnergyRecord) -> str:
    """The mean power behind an energy, and what it is of."""
    return f"{energy.power_w:.3g} W during the runs, {energy.idle_w:.3g} W at rest: {energy.boundary}"


def energy_cell(energy: Mapping[str, Any] | None) -> str:
    """The energy for an image in report.json, with its label unless it was measured and is valid."""
    if energy is None:
        return NOT_MEASURED
    label = "" if energy["label"] == "measured" else f" {energy['label']}"
    return f"{significant(energy['mj'])} mJ{label}{' invalid' if energy['invalid'] else ''}"


def energy_rows(variants: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each variant whose energy was measured, under ENERGY_HEADER."""
    return [
        (
            variant["id"],
            energy_cell(energy),
            f"{energy['low_mj']:.3g} to {energy['high_mj']:.3g}",
            f"{energy['power_w']:.3g} W",
            f"{energy['idle_w']:.3g} W",
        )
        for variant in variants
        if (energy := variant["energy_mj"])
    ]


def energy_note(variants: Sequence[Mapping[str, Any]]) -> str:
    """What the energies are of."""
    boundaries = dict.fromkeys(variant["energy_mj"]["boundary"] for variant in variants if variant["energy_mj"])
    return f"Energy and power are of: {', '.join(boundaries)}. The error of the meter is not in the interval."


def energy_section(variants: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The section of report.md."""
    if rows := energy_rows(variants):
        yield "## Energy for an image, above rest"
        yield from in_tables([ENERGY_HEADER, *rows])
        yield paragraph(energy_note(variants))
