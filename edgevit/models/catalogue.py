"""The catalogue of compact students: timm models, with the sizes at which they were built and run.

benchmarks/catalogue.py writes `catalogue.csv` from models that it builds.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from edgevit.artifacts import Frozen

CATALOGUE_FILE = Path(__file__).with_name("catalogue.csv")


class Entry(Frozen):
    """One compact model.

    Attributes:
        params, macs: with 1,000 classes; the MACs of one image at `default_size` pixels.
        licence: of timm's pretrained weights; empty where timm has none.
        feature_layers: the number of intermediate layers that a distillation may compare.
        reparameterizable: the branches of training can be folded into single convolutions.
        tested_sizes: sides in pixels at which the model was built and gave finite logits.
    """

    name: str
    family: str
    params: int
    macs: int
    licence: str
    distillation_token: bool
    feature_layers: int
    reparameterizable: bool
    tested_sizes: tuple[int, ...]
    default_size: int


@cache
def read() -> tuple[Entry, ...]:
    """All entries, smallest first."""
    with CATALOGUE_FILE.open(newline="", encoding="utf-8") as file:
        rows = [{**row, "tested_sizes": row["tested_sizes"].split()} for row in csv.DictReader(file)]
    return tuple(Entry.model_validate(row) for row in rows)


def write(entries: list[Entry]) -> None:
    """Replace the catalogue."""
    with CATALOGUE_FILE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Entry.model_fields)
        for entry in sorted(entries, key=lambda entry: (entry.params, entry.name)):
            row = entry.model_dump()
            for flag in ("distillation_token", "reparameterizable"):
                row[flag] = str(row[flag]).lower()
            row["tested_sizes"] = " ".join(str(size) for size in entry.tested_sizes)
            writer.writerow(row.values())
