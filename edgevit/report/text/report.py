"""The whole report: report.md, and the summary at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgevit.report.text.attention import attention_section
from edgevit.report.text.checks import check_section
from edgevit.report.text.classes import class_section
from edgevit.report.text.corruptions import corruption_section
from edgevit.report.text.device import device_section
from edgevit.report.text.energy import energy_section
from edgevit.report.text.episodes import episode_section
from edgevit.report.text.features import feature_section
from edgevit.report.text.latency import beside_latency
from edgevit.report.text.layer_times import layer_times_section
from edgevit.report.text.layout import paragraph, wrapped
from edgevit.report.text.selection import selection_section
from edgevit.report.text.throughput import throughput_table
from edgevit.report.text.training_data import learned_from_section
from edgevit.report.text.variants import variants_table
from edgevit.terminal import printable


def summary(report: Mapping[str, Any]) -> str:
    """The answer of a report.json in a few lines of at most 80 columns. Doubts come first."""
    answer, verdict = report["answer"], report["verdict"]
    reasons = [reason for reason in verdict["reasons"] if reason != answer["verdict"]]
    lines = [line for doubt in verdict["doubts"] for line in (doubt["headline"], f"  {doubt['sentence']}")]
    lines += [answer["verdict"], *(f"  {reason}" for reason in reasons), f"  {answer['deployed']}"]
    lines += [f"  {_point_text(point)}" for point in answer["points"]]
    lines += [f"  Caution: {line}" for line in report["cautions"]]
    return "\n".join(wrapped(line) for line in lines)


def markdown(report: Mapping[str, Any]) -> str:
    """report.md: the answer and the tables, in at most 80 columns."""
    answer, verdict = report["answer"], report["verdict"]
    texts = [
        f"# {report['name']}",
        *(paragraph(f"**{doubt['headline']}** {doubt['sentence']}") for doubt in verdict["doubts"]),
        paragraph(f"**{answer['verdict']}** {answer['deployed']}"),
        "\n".join(paragraph(f"- {reason}") for reason in verdict["reasons"]),
        *(paragraph(f"> Caution: {line}") for line in report["cautions"]),
        *device_section(report["device"]),
        "## In numbers",
        "\n".join(paragraph(f"- {_point_text(point)}") for point in answer["points"]),
        *beside_latency(report["latency_facts"]),
        *throughput_table(report["offline"]),
        "## All models, from teacher to deployed",
        variants_table(report["variants"]),
        paragraph(report["table_note"]),
        *energy_section(report["variants"]),
        *class_section(report["classes"]),
        *(text for selection in report["selections"] for text in selection_section(selection)),
        *learned_from_section(report["learned_from"]),
        *(text for advice in report["advice"] for text in _about_a_support(advice)),
        *(text for group in report["corruptions"] for text in corruption_section(group)),
        *(text for group in report["episodes"] for text in episode_section(group)),
        *(text for group in report["features"] for text in feature_section(group)),
        *(text for group in report["attention"] for text in attention_section(group)),
        *(text for timed in report["layer_times"] for text in layer_times_section(timed)),
        *check_section(report["tensorrt"]),
    ]
    return printable("\n\n".join(texts)) + "\n"


def _about_a_support(advice: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {advice['title']}"
    yield "\n".join(paragraph(f"- {sentence}") for sentence in advice["sentences"])


def _point_text(point: Mapping[str, Any]) -> str:
    return " ".join([f"{point['title']}: {point['value']}.", *point["sentences"], point["conditions"]]).rstrip()
