"""Few-shot accuracy over episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgevit.report.text.layout import in_tables, paragraph
from edgevit.report.text.numbers import NOT_MEASURED, plus_minus

FEW_SHOT_HEADER = ("method", "mean top-1", "95% interval", "lowest", "highest")


def few_shot_rows(by_method: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each method, under FEW_SHOT_HEADER."""
    return [
        (
            method,
            f"{top1['value']:.2%}",
            NOT_MEASURED if top1["low"] is None else f"{top1['low']:.2%} to {top1['high']:.2%}",
            f"{top1['min']:.1%}",
            f"{top1['max']:.1%}",
        )
        for method, top1 in by_method.items()
    ]


def episode_rows(group: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any] | None]]]:
    """The rows of a table of few-shot accuracies: a method, and its accuracy with each model's features."""
    return [(name, [model["methods"].get(name) for model in group["models"]]) for name in group["methods"]]


def episode_note(group: Mapping[str, Any]) -> str:
    queries = "all other images" if group["queries"] is None else f"{group['queries']} images of each class"
    unlabelled = group["pool"] or "the test images"
    shares = "" if group["imbalance"] is None else f", in shares drawn from Dirichlet({group['imbalance']:g})"
    return (
        f"{group['episodes']:,} episodes. Each takes {group['ways']} classes and {group['shots']} labelled images of "
        f"each class from {group['support'] or group['data']}, and tests on {queries} of {group['data']}{shares}. "
        f"Transductive methods also learn from {unlabelled}, without labels. The table shows the mean top-1 with its "
        "95% interval over the episodes, and the lowest and highest episode. "
        "All models and methods have the same episodes."
    )


def episode_section(group: Mapping[str, Any]) -> Iterator[str]:
    """The section of report.md."""
    yield f"## Few-shot accuracy, {group['ways']}-way {group['shots']}-shot"
    header = ("method", *(model["id"] for model in group["models"]))
    rows = [header, *((name, *map(plus_minus, shares)) for name, shares in episode_rows(group))]
    yield from in_tables(rows)
    yield paragraph(episode_note(group))
