"""Numbers and sentences for people: the end of a run, and report.md."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgevit.configs.runtimes import RUNTIMES
from edgevit.terminal import printable

WIDTH = 80
PRECISIONS = {
    "float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "float8": "FP8", "int8": "INT8", "int4": "INT4",
}  # fmt: skip
NOT_MEASURED = "–"
MARKS = re.compile(r"`|<(?=[A-Za-z/!?])|(?<=\])\(")  # of code, HTML and links
# Beginnings of headings, lists, quotations, tables and code blocks.
BLOCKS = re.compile(r"^( *\d*)(?=#{1,6}(?:\s|$)|[-+*](?:\s|$)|>|\||[=-]+$|~~~|(?<=\d)[.)]\s)")
LEARNED_FROM_NOTE = (
    "All images of this recipe behind a model and its teachers, with labels or without, and those it was calibrated "
    "on; not those of pretrained weights. From line to line, what was learned from counts too."
)


def summary(report: Mapping[str, Any]) -> str:
    """The answer of a report.json in a few lines of at most 80 columns."""
    answer = report["answer"]
    reasons = [one for one in report["verdict"]["reasons"] if one != answer["verdict"]]
    lines = [answer["verdict"], *(f"  {one}" for one in reasons), f"  {answer['deployed']}"]
    lines += [f"  {_told(one)}" for one in answer["points"]]
    lines += [f"  Caution: {line}" for line in report["cautions"]]
    return "\n".join(_wrapped(line) for line in lines)


def markdown(report: Mapping[str, Any]) -> str:
    """report.md: the answer and the table of variants, readable as it is in a terminal of 80 columns."""
    answer = report["answer"]
    texts = [
        f"# {report['name']}",
        _paragraph(f"**{answer['verdict']}** {answer['deployed']}"),
        "\n".join(_paragraph(f"- {reason}") for reason in report["verdict"]["reasons"]),
        *(_paragraph(f"> Caution: {line}") for line in report["cautions"]),
        "## In numbers",
        "\n".join(_paragraph(f"- {_told(one)}") for one in answer["points"]),
        "## Variants, from teacher to deployed",
        variants_table(report["variants"]),
        _paragraph(report["table_note"]),
        *_learned_from(report["learned_from"]),
        *(text for one in report["advice"] for text in _about_a_support(one)),
        *(text for group in report["corruptions"] for text in _under_corruption(group)),
        *(text for group in report["episodes"] for text in _over_episodes(group)),
        *_before_tensorrt(report["tensorrt"]),
    ]
    return printable("\n\n".join(texts)) + "\n"


def variants_table(variants: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table with aligned columns; intervals are left out where 80 columns do not hold them."""
    header = ("model", "type", "params", "size", "top-1", "p50")
    rows = [
        (
            one["id"],
            precision_name(one["precision"]),
            count(one["params"]),
            size(one["size_bytes"]),
            percent(one["top1"]["value"]) if one["top1"] else NOT_MEASURED,
            milliseconds(one["latency_ms"]["p50"]) if one["latency_ms"] else NOT_MEASURED,
        )
        for one in variants
    ]
    with_intervals = [
        (*row[:4], f"{row[4]} ({interval_percent(one['top1'])})" if one["top1"] else row[4], row[5])
        for row, one in zip(rows, variants, strict=True)
    ]
    table = _aligned([header, *with_intervals])
    return table if len(table.splitlines()[0]) <= WIDTH else _aligned([header, *rows])


def learned_from_lines(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each group of models that learned from the same data sets."""
    return [f"{', '.join(one['data'])}: {', '.join(one['models'])}" for one in groups]


def _learned_from(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The section of report.md."""
    if groups:
        yield "## Learned from"
        yield "\n".join(_paragraph(f"- {line}") for line in learned_from_lines(groups))
        yield _paragraph(LEARNED_FROM_NOTE)


def _about_a_support(one: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {one['title']}"
    yield "\n".join(_paragraph(f"- {sentence}") for sentence in one["sentences"])


def corruption_rows(group: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, float]]]]:
    """The rows of a table of accuracies under corruption, a column for each model: none, each kind, the mean."""
    models = group["models"]
    return [
        ("none", [one["top1"] for one in models]),
        *((kind, [one["by_kind"][kind] for one in models]) for kind in group["kinds"]),
        ("mean of the kinds", [one["mean"] for one in models]),
    ]


def corruption_note(group: Mapping[str, Any]) -> str:
    severities = ", ".join(map(str, group["severities"]))
    return (
        f"Top-1 on {group['n']:,} images of {group['data']}, each kind as the mean over the severities {severities}. "
        "Every model saw the same pictures. These are not figures of ImageNet-C or CIFAR-10-C."
    )


def _under_corruption(group: Mapping[str, Any]) -> Iterator[str]:
    """The section of report.md."""
    yield "## Under corruption"
    header = ("corruption", *(one["id"] for one in group["models"]))
    rows = [header, *((name, *(percent(one["value"]) for one in shares)) for name, shares in corruption_rows(group))]
    yield from _in_tables(rows)
    yield _paragraph(corruption_note(group))


def episode_rows(group: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any] | None]]]:
    """The rows of a table of few-shot accuracies: a method, and what it reached on each model's features."""
    return [(name, [one["methods"].get(name) for one in group["models"]]) for name in group["methods"]]


def episode_note(group: Mapping[str, Any]) -> str:
    queries = "all other images" if group["queries"] is None else f"{group['queries']} images of each class"
    learned = f"; transduction learns from {group['pool']}" if group["pool"] else "; transduction learns from them"
    uneven = "" if group["imbalance"] is None else f", in shares drawn from Dirichlet({group['imbalance']:g})"
    return (
        f"{group['episodes']:,} draws of {group['ways']} classes with {group['shots']} labelled images of each from "
        f"{group['support'] or group['data']}, tested on {queries} of {group['data']}{uneven}{learned}. Mean top-1 "
        "with its 95% interval over the draws, and the lowest and highest of them. Every model and method had the same "
        "draws."
    )


def plus_minus(share: Mapping[str, Any] | None) -> str:
    """A mean with half of its interval: 67.1% ± 0.8."""
    if share is None:
        return NOT_MEASURED
    half = "" if share["low"] is None else f" ± {50 * (share['high'] - share['low']):.1f}"
    return f"{percent(share['value'])}{half}"


def _over_episodes(group: Mapping[str, Any]) -> Iterator[str]:
    """The section of report.md."""
    yield f"## {group['ways']}-way {group['shots']}-shot"
    header = ("method", *(one["id"] for one in group["models"]))
    rows = [header, *((name, *map(plus_minus, shares)) for name, shares in episode_rows(group))]
    yield from _in_tables(rows)
    yield _paragraph(episode_note(group))


CHECK_HEADER = ("model", "verdict", "kernels", "moved", "quantized", "attention fused")


def check_rows(checks: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each model that was put before NVIDIA's builder, under CHECK_HEADER."""
    return [
        (
            one["id"],
            one["verdict"],
            NOT_MEASURED if one["kernels"] is None else str(one["kernels"]),
            NOT_MEASURED if one["bytes_moved"] is None else size(one["bytes_moved"]),
            _share(one["quantized_got"], one["quantized_asked"]) if one["built"] else NOT_MEASURED,
            _share(one["attentions_fused"], one["attentions"]) if one["built"] else NOT_MEASURED,
        )
        for one in checks
    ]


def check_notes(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Who answered, what went wrong, and what older boards would say."""
    answered = dict.fromkeys(one["builder"] for one in checks if one["builder"])
    notes = [
        f"Built by {builder} on the machine of this report, without a GPU: for one image, with what all kernels read "
        "and write, weights included. It tells what is taken and in which precision, not how fast a board is."
        for builder in answered
    ]
    for one in checks:
        if one["not_asked"]:
            notes.append(f"{one['id']}: rules and tables alone. {one['not_asked'].splitlines()[0]}.")
        notes += [f"{one['id']}, refused: {reason}" for reason in one["refused"]]
        if one["fell_back"]:
            notes.append(f"{one['id']}, in more bits than asked for: {', '.join(one['fell_back'])}.")
        if one["diagnostics"]:
            notes.append(f"{one['id']}, by the rules: {', '.join(one['diagnostics'])}.")
    alike: dict[tuple[str, str], list[str]] = {}
    for one in checks:
        for parser, said in one["older_parsers"].items():
            alike.setdefault((parser, said), []).append(one["id"])
    notes += [f"TensorRT {parser}, by its table: {said}: {', '.join(ids)}." for (parser, said), ids in alike.items()]
    return notes


def _share(some: int, of: int) -> str:
    return f"{some} of {of}" if of else NOT_MEASURED


def _before_tensorrt(checks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The section of report.md."""
    if checks:
        yield "## Before TensorRT"
        yield _aligned([CHECK_HEADER, *check_rows(checks)])
        yield "\n".join(_paragraph(f"- {note}") for note in check_notes(checks))


def _in_tables(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table; columns that 80 characters do not hold go on in a further one."""
    first = 1
    while first < len(rows[0]):
        last = first + 1
        while last < len(rows[0]) and _fits([(row[0], *row[first : last + 1]) for row in rows]):
            last += 1
        yield _aligned([(row[0], *row[first:last]) for row in rows], text_columns=1)
        first = last


def _fits(rows: Sequence[Sequence[str]]) -> bool:
    return len(_aligned(rows, text_columns=1).splitlines()[0]) <= WIDTH


# Numbers ------------------------------------------------------------------------------------------------------


def milliseconds(value: float) -> str:
    """Three significant digits, never an exponent: 0.0843 ms, 12.3 ms, 1,230 ms."""
    return f"{significant(value)} ms"


def significant(value: float, digits: int = 3) -> str:
    """`digits` significant digits in plain notation."""
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}"


def size(size_bytes: float) -> str:
    """MiB, or KiB below one."""
    mib = size_bytes / 2**20
    return f"{significant(mib)} MiB" if mib >= 1 else f"{significant(size_bytes / 2**10)} KiB"


def count(value: float | None) -> str:
    """5.42 M, 812 k, 96; a dash where it is not known."""
    if value is None:
        return NOT_MEASURED
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{significant(value / factor)} {unit}"
    return f"{value:.0f}"


def percent(fraction: float) -> str:
    return f"{fraction:.1%}"


def interval_percent(top1: Mapping[str, float]) -> str:
    return f"{100 * top1['low']:.1f}–{100 * top1['high']:.1f}"


def points(fraction: float) -> str:
    """A difference of accuracies: 0.4 points, -1.2."""
    return f"{100 * fraction:.1f}".replace("-0.0", "0.0").replace("-", "−")


def ratio(value: float) -> str:
    """How many times: 12.3×, 1.08×."""
    return f"{significant(value)}×"


def runtime_name(runtime: str | None) -> str:
    return RUNTIMES[runtime].title if runtime in RUNTIMES else runtime or NOT_MEASURED


def precision_name(precision: str) -> str:
    return PRECISIONS.get(precision, precision)


def _told(point: Mapping[str, Any]) -> str:
    return " ".join([f"{point['title']}: {point['value']}.", *point["sentences"], point["conditions"]]).rstrip()


def _aligned(rows: Sequence[Sequence[str]], text_columns: int = 2) -> str:
    rows = [[" ".join(cell.split()).replace("|", r"\|") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numeric = [column >= text_columns for column in range(len(widths))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        return f"| {' | '.join(cells)} |"

    rules = ["-" * (width + 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True)]
    return "\n".join([line(rows[0]), f"|{'|'.join(rules)}|", *map(line, rows[1:])])


def _wrapped(text: str) -> str:
    indent = text[: len(text) - len(text.lstrip())]
    hanging = "> " if text.startswith("> ") else indent + "  " if text.lstrip().startswith("- ") or indent else ""
    return textwrap.fill(text.strip(), WIDTH, initial_indent=indent, subsequent_indent=hanging, break_on_hyphens=False)


def _paragraph(text: str) -> str:
    """Wrapped Markdown: names in `text` make no HTML, link or code, and begin no block; its own marker stays."""
    marker = next((one for one in ("- ", "> ") if text.startswith(one)), "")
    plain = BLOCKS.sub(r"\1\\", MARKS.sub(r"\\\g<0>", text.removeprefix(marker)))
    first, *others = _wrapped(marker + plain).split("\n")
    quote = "> " if marker == "> " else ""
    return "\n".join([first, *(quote + BLOCKS.sub(r"\1\\", line.removeprefix(quote)) for line in others)])
