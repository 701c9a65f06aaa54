"""The TensorRT check of each model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgevit.report.text.layout import aligned, paragraph
from edgevit.report.text.numbers import NOT_MEASURED, size

CHECK_HEADER = ("model", "verdict", "kernels", "moved", "quantized", "attention fused")


def check_rows(checks: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each checked model, under CHECK_HEADER."""
    return [
        (
            check["id"],
            check["verdict"],
            NOT_MEASURED if check["kernels"] is None else str(check["kernels"]),
            NOT_MEASURED if check["bytes_moved"] is None else size(check["bytes_moved"]),
            _share(check["quantized_got"], check["quantized_asked"]) if check["built"] else NOT_MEASURED,
            _share(check["attentions_fused"], check["attentions"]) if check["built"] else NOT_MEASURED,
        )
        for check in checks
    ]


def check_notes(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Notes on the builder, on problems, and on older boards."""
    builders = dict.fromkeys(check["builder"] for check in checks if check["builder"])
    notes = [
        f"Built by {builder} on the machine of this report, without a GPU, for one image. Moved is the data that all "
        "kernels read and write, weights included. The check shows whether the model is accepted and in which "
        "precision it runs, not its speed on a board."
        for builder in builders
    ]
    for check in checks:
        if check["not_asked"]:
            notes.append(f"{check['id']}: checked by rules and tables only. {check['not_asked'].splitlines()[0]}.")
        notes += [f"{check['id']}, refused: {reason}" for reason in check["refused"]]
        if check["fell_back"]:
            notes.append(f"{check['id']}, in more bits than asked for: {', '.join(check['fell_back'])}.")
        if check["diagnostics"]:
            notes.append(f"{check['id']}, broken rules: {', '.join(check['diagnostics'])}.")
    by_verdict: dict[tuple[str, str], list[str]] = {}
    for check in checks:
        for parser, verdict in check["older_parsers"].items():
            by_verdict.setdefault((parser, verdict), []).append(check["id"])
    notes += [
        f"TensorRT {parser}, by its table: {verdict}: {', '.join(ids)}."
        for (parser, verdict), ids in by_verdict.items()
    ]
    return notes


def _share(count: int, total: int) -> str:
    return f"{count} of {total}" if total else NOT_MEASURED


def check_section(checks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The section of report.md."""
    if checks:
        yield "## TensorRT check"
        yield aligned([CHECK_HEADER, *check_rows(checks)])
        yield "\n".join(paragraph(f"- {note}") for note in check_notes(checks))
