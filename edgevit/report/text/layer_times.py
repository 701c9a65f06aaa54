"""The times of a model's layers, a row for each part of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgevit.report.text.layout import aligned, paragraph

PART_HEADER = ("part", "ms", "of the time", "of known MACs")


def layer_times_section(timed: Mapping[str, Any]) -> Iterator[str]:
    """The section of report.md."""
    yield f"## Times of the layers of {timed['model']}"
    yield paragraph(f"{timed['headline']}:")
    yield "\n".join(paragraph(f"- {sentence}") for sentence in timed["sentences"])
    yield aligned([PART_HEADER, *(row["cells"] for row in timed["parts"])], text_columns=1)
