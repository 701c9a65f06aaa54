"""The shortlist of students: models of the catalogue and image sizes, by MACs and by the project's own measurements.

benchmarks/selection.py writes `measured.csv` from benchmarks/results/zoo.json.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from pathlib import Path

from edgevit.artifacts import Frozen
from edgevit.models import catalogue
from edgevit.models.bodies import is_body

MEASURED_FILE = Path(__file__).with_name("measured.csv")
LEAST_SQNR_DB = 25.0  # of the INT8 model against float; below it, accuracy in INT8 is in doubt
SMALLEST_SHARE = 0.5  # of the side in pixels that a model is made for
SMALLEST_SIDE = 64
PLAIN_FAMILIES = ("DeiT", "ViT", "PiT", "XCiT")  # without convolutions between the blocks, they ask for more images
OVERHEAD_MS = 0.3  # of one image at any size, on the CPU of measured.csv
MS_PER_GMAC = 15.0  # of a model without a measurement: the median of measured.csv


class Measured(Frozen):
    """One model of the catalogue, as measured at its default size on one CPU thread.

    Attributes:
        latency_ms: p50 of the form that `quantize` ships.
        sqnr_db: of the shipped form against float; None if float ships.
        kept_float: the number of layers that `quantize` leaves in float.
    """

    name: str
    image_size: int
    latency_ms: float
    sqnr_db: float | None
    kept_float: int


class Candidate(Frozen):
    """A student at one image size.

    Attributes:
        macs: of one image, estimated in proportion to its area.
        expected_ms: p50 on the CPU of measured.csv, estimated from the MACs. The search uses only ratios of it.
    """

    model: str
    image_size: int
    macs: int
    expected_ms: float

    def __str__(self) -> str:
        return f"{self.model} at {self.image_size} px"


@cache
def measured() -> tuple[Measured, ...]:
    """All measured models of the catalogue, by name."""
    with MEASURED_FILE.open(newline="", encoding="utf-8") as file:
        rows = [{**row, "sqnr_db": row["sqnr_db"] or None} for row in csv.DictReader(file)]
    return tuple(Measured.model_validate(row) for row in rows)


def shortlist(models: Collection[str] | None = None) -> tuple[Candidate, ...]:
    """Students by rising MACs: at each latency, the model and image size with the most MACs.

    MACs stand for accuracy among models that keep their accuracy in INT8. Left out are models below `LEAST_SQNR_DB`,
    models with layers that stay float, and plain vision transformers. The fastest model comes at smaller sizes, too.

    Args:
        models: names to choose from; by default the whole catalogue. Bodies are left out in any case.
    """
    entries = {
        entry.name: entry
        for entry in catalogue.read()
        if not is_body(entry.name) and (models is None or entry.name in models)
    }
    rows = {row.name: row for row in measured() if row.name in entries and _is_fit(entries[row.name], row)}
    at_default_size = _without_slower(
        Candidate(model=name, image_size=row.image_size, macs=entries[name].macs, expected_ms=row.latency_ms)
        for name, row in rows.items()
    )
    candidates = [
        smaller
        for place, candidate in enumerate(at_default_size)
        for smaller in sizes_of(candidate, entries[candidate.model].tested_sizes, SMALLEST_SHARE if place else 0)
    ]
    return tuple(_without_slower(candidates))


def sizes_of(largest: Candidate, sizes: Iterable[int], smallest_share: float = 0) -> Iterator[Candidate]:
    """A candidate at each of these sizes in pixels that is at most its own, by rising size.

    Args:
        smallest_share: of the candidate's own side. `SMALLEST_SIDE` is the least in any case.
    """
    for size in sorted({*sizes, largest.image_size}):
        if max(SMALLEST_SIDE, smallest_share * largest.image_size) <= size <= largest.image_size:
            share = (size / largest.image_size) ** 2
            expected_ms = OVERHEAD_MS + (largest.expected_ms - OVERHEAD_MS) * share
            yield Candidate(
                model=largest.model, image_size=size, macs=round(largest.macs * share), expected_ms=expected_ms
            )


def _is_fit(entry: catalogue.Entry, row: Measured) -> bool:
    keeps_its_accuracy = row.kept_float == 0 and (row.sqnr_db is None or row.sqnr_db >= LEAST_SQNR_DB)
    return keeps_its_accuracy and entry.family not in PLAIN_FAMILIES


def _without_slower(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates for which no other one has as many MACs in less time, by rising MACs and time."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda candidate: (-candidate.macs, candidate.expected_ms)):
        if not kept or candidate.expected_ms < kept[-1].expected_ms:
            kept.append(candidate)
    return kept[::-1]
