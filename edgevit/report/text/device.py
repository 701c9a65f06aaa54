"""The latency and accuracy of each model on the device and on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgevit.report.text.latency import latency_cell
from edgevit.report.text.layout import in_tables, paragraph
from edgevit.report.text.numbers import NOT_MEASURED, percent


def device_title(device: Mapping[str, Any]) -> str:
    """`On orin: NVIDIA Jetson AGX Orin`; it says if a stand-in plays the device."""
    played = " (played by a stand-in)" if device["is_stand_in"] else ""
    name = f": {device['name']}" if device["name"] != device["target"] else ""
    return f"On {device['target']}{name}{played}"


def device_rows(device: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each model: its latency and top-1 on the device, then on this machine."""
    return [(row["model"], *_device_cells(row["there"]), *_device_cells(row["here"])) for row in device["rows"]]


def device_header(device: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of `device_rows`."""
    there = device["target"]
    return ("model", f"p50 on {there}", f"top-1 on {there}", "p50 here", "top-1 here")


def _device_cells(cell: Mapping[str, Any] | None) -> tuple[str, str]:
    if cell is None:
        return NOT_MEASURED, NOT_MEASURED
    return latency_cell(cell["latency_ms"]), percent(cell["top1"]["value"]) if cell["top1"] else NOT_MEASURED


def device_section(device: Mapping[str, Any] | None) -> Iterator[str]:
    """The section of report.md."""
    if device is None:
        return
    yield f"## {paragraph(device_title(device))}"
    yield "\n".join(paragraph(f"- {label}: {value}") for label, value in device["facts"])
    if rows := device_rows(device):
        yield from in_tables([device_header(device), *rows])
