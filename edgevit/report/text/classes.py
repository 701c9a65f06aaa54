"""The recall and precision of every class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgevit.report.text.layout import MARKS, aligned, paragraph
from edgevit.report.text.numbers import NOT_MEASURED, interval_percent, percent

MOST_CLASSES = 50  # rows of a table
LONGEST_CLASS = 16  # characters of a name in the table of classes of report.md
CLASSES_NOTE = (
    "The lowest recall comes first. Recall is the share of the images of a class that the model recognizes. Precision "
    "is the share of right predictions among the predictions of the class."
)


def lowest_recall_first(classes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of classes with test images, the lowest recall first, then those of classes without."""
    return sorted(classes, key=lambda row: (row["n"] == 0, row["recall"] or 0.0, -row["n"]))


def class_section(classes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The section of report.md."""
    if not classes:
        return
    yield "## Every class"
    header = ("class", "images", "recall", "95% interval", "precision", "95% interval")
    rows = [
        (_shortened(row["class"]), str(row["n"]), *_cells(row, "recall"), *_cells(row, "precision"))
        for row in lowest_recall_first(classes)[:MOST_CLASSES]
    ]
    yield aligned([header, *rows], text_columns=1)
    left = f" The other {len(classes) - MOST_CLASSES:,} are in report.json." if len(classes) > MOST_CLASSES else ""
    yield paragraph(f"{CLASSES_NOTE}{left}")


def _cells(row: Mapping[str, Any], name: str) -> tuple[str, str]:
    if row[name] is None:
        return NOT_MEASURED, NOT_MEASURED
    return percent(row[name]), interval_percent({"low": row[f"{name}_low"], "high": row[f"{name}_high"]})


def _shortened(name: str) -> str:
    """A class name that makes no HTML, link or code of a cell, at most LONGEST_CLASS characters of it."""
    short = name if len(name) <= LONGEST_CLASS else f"{name[: LONGEST_CLASS - 1]}…"
    return MARKS.sub(r"\\\g<0>", short)
