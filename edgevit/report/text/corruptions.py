"""Accuracy under corruption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgevit.report.text.layout import in_tables, paragraph
from edgevit.report.text.numbers import percent


def corruption_sentence(mean: Mapping[str, Any]) -> str:
    """The mean top-1 under corruption, with its interval."""
    return f"under corruption {mean['value']:.2%}, 95% interval {mean['low']:.2%} to {mean['high']:.2%}"


def corruption_rows(group: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, float]]]]:
    """The rows of a table of accuracies under corruption, with a column for each model: none, each kind, the mean."""
    models = group["models"]
    return [
        ("none", [model["top1"] for model in models]),
        *((kind, [model["by_kind"][kind] for model in models]) for kind in group["kinds"]),
        ("mean of all kinds", [model["mean"] for model in models]),
    ]


def corruption_note(group: Mapping[str, Any]) -> str:
    severities = ", ".join(map(str, group["severities"]))
    return (
        f"Top-1 on {group['n']:,} images of {group['data']}. Each kind is the mean over the severities {severities}. "
        "Every model saw the same images. The figures cannot be compared with ImageNet-C or CIFAR-10-C."
    )


def corruption_section(group: Mapping[str, Any]) -> Iterator[str]:
    """The section of report.md."""
    yield "## Under corruption"
    header = ("corruption", *(model["id"] for model in group["models"]))
    rows = [
        header,
        *((name, *(percent(share["value"]) for share in shares)) for name, shares in corruption_rows(group)),
    ]
    yield from in_tables(rows)
    yield paragraph(corruption_note(group))
