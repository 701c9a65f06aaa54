"""The table of all models, from teacher to deployed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgevit.report.text.latency import latency_cell
from edgevit.report.text.layout import WIDTH, aligned
from edgevit.report.text.numbers import NOT_MEASURED, count, interval_percent, percent, precision_name, size


def variants_table(variants: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table with aligned columns. Intervals are left out if the table is wider than 80 columns."""
    header = ("model", "type", "params", "size", "top-1", "p50")
    rows = [
        (
            variant["id"],
            precision_name(variant["precision"]),
            count(variant["params"]),
            size(variant["size_bytes"]),
            percent(variant["top1"]["value"]) if variant["top1"] else NOT_MEASURED,
            latency_cell(variant["latency_ms"]),
        )
        for variant in variants
    ]
    with_intervals = [
        (*row[:4], f"{row[4]} ({interval_percent(variant['top1'])})" if variant["top1"] else row[4], row[5])
        for row, variant in zip(rows, variants, strict=True)
    ]
    table = aligned([header, *with_intervals])
    return table if len(table.splitlines()[0]) <= WIDTH else aligned([header, *rows])
