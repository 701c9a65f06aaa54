"""The selection of a model, and the reasons for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgevit.report.text.layout import in_tables, paragraph
from edgevit.report.text.numbers import milliseconds, size

SELECTION_HEADER = ("model", "top-1", "p50", "size", "front")
SELECTION_NOTE = (
    "Front: no other model within the limits is as accurate and as fast, by the point values. Intervals are of 95%. "
    "The top-1 of the chosen model is the best of several on the same images, so it is too high on average."
)


def selection_sentence(selection: Mapping[str, Any]) -> str:
    """What a `select` stage chose, from how many models, by which images, on which target, within which limits."""
    named = {"latency_ms": "ms", "size_mib": "MiB"}
    limits = [f"{limit:g} {named[name]}" for name, limit in selection["limits"].items() if name in named and limit]
    count, timed = len(selection["models"]) + len(selection["dropped"]), len(selection["models"])
    return (
        f"'{selection['id']}' took {selection['winner']}, one of {count} models. The budget: "
        f"{' and '.join(limits) or 'no limit'}. Top-1 was measured on {selection['data']} ({selection['n']:,} images), "
        f"and p50{' in turns' if timed > 1 else ''} on {selection['target']}."
    )


def selection_rows(selection: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each model of a selection, under SELECTION_HEADER; a mark for the Pareto front."""
    return [
        (
            model["id"],
            f"{model['top1']['value']:.1%} ({model['top1']['low']:.1%} to {model['top1']['high']:.1%})",
            f"{milliseconds(model['p50_ms']['value'])} ({model['p50_ms']['low']:.3g} to {model['p50_ms']['high']:.3g})",
            size(model["size_bytes"]),
            "yes" if model["on_front"] else "no",
        )
        for model in selection["models"]
    ]


def selection_notes(selection: Mapping[str, Any]) -> list[str]:
    """Why the winner won and each other model did not, the winner first; and who learned from the images."""
    models = sorted(selection["models"], key=lambda model: model["id"] != selection["winner"])
    reasons = [f"{model['id']}: {model['reason']}." for model in models]
    dropped = [f"{model['id']} dropped out: {model['reason']}." for model in selection["dropped"]]
    learned = [
        f"'{stage}' learned from {selection['data']}, so its top-1 there is higher than on new images."
        for stage in selection["learned_by"]
    ]
    return [*reasons, *dropped, *learned]


def selection_section(selection: Mapping[str, Any]) -> Iterator[str]:
    """The section of report.md."""
    yield "## Selection"
    yield paragraph(selection_sentence(selection))
    yield from in_tables([SELECTION_HEADER, *selection_rows(selection)])
    yield "\n".join(paragraph(f"- {note}") for note in selection_notes(selection))
    yield paragraph(SELECTION_NOTE)
