"""The data sets that the models learned from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgevit.report.text.layout import paragraph

LEARNED_FROM_NOTE = (
    "The data sets of this recipe that a model and its teachers learned from, with labels or without, or were "
    "calibrated on. The data of pretrained weights is not included. Compare accuracies with this in mind: models on "
    "different lines learned from different data."
)


def learned_from_lines(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each group of models that learned from the same data sets."""
    return [f"{', '.join(group['data'])}: {', '.join(group['models'])}" for group in groups]


def learned_from_section(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The section of report.md."""
    if groups:
        yield "## Training data"
        yield "\n".join(paragraph(f"- {line}") for line in learned_from_lines(groups))
        yield paragraph(LEARNED_FROM_NOTE)
