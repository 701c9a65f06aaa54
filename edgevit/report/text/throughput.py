"""The throughput of the deployed model, by batch size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgevit.profiling.scenarios import Throughput
from edgevit.report.text.latency import median_text
from edgevit.report.text.layout import aligned
from edgevit.report.text.numbers import NOT_MEASURED, significant

THROUGHPUT_HEADER = ("batch", "images/s", "95% interval", "p50 of a batch")


def throughput_rows(batches: Sequence[Throughput]) -> list[tuple[str, ...]]:
    """A row for each batch size, under THROUGHPUT_HEADER."""
    return [
        (
            str(batch.batch_size),
            f"{significant(batch.images_per_s, 4)}{' invalid' if batch.invalid else ''}",
            NOT_MEASURED
            if batch.low is None or batch.high is None
            else f"{significant(batch.low, 4)} to {significant(batch.high, 4)}",
            median_text(batch.p50_ms, batch.label, bool(batch.invalid)),
        )
        for batch in batches
    ]


def throughput_table(batches: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The table of report.md."""
    if batches:
        yield "Throughput of the deployed model, by batch size:"
        yield aligned([THROUGHPUT_HEADER, *throughput_rows([Throughput.of_json(batch) for batch in batches])])
