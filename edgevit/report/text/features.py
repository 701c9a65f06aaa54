"""Heads on frozen features, and measures of the features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgevit.report.text.layout import in_tables, paragraph
from edgevit.report.text.numbers import NOT_MEASURED, interval_percent, percent
from edgevit.terminal import printable

FEATURE_HEADER = ("labels", "head", "mean top-1", "95% interval")
MEASURES = {
    "rankme": "RankMe",
    "alignment": "alignment",
    "uniformity": "uniformity",
}  # of features
MEASURES_NOTE = (
    "RankMe: number of dimensions that the features fill (Garrido et al. 2023). Alignment: mean squared distance of "
    "two random views of an image; lower is better. Uniformity: logarithm of the mean potential of pairs of images; "
    "lower is better (both Wang and Isola 2020). None uses labels, and none alone says that features are good."
)


def head_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each head of an evaluation by `knn` or `linear`, and the constant guess, under FEATURE_HEADER."""
    guess = metrics["constant_guess"]
    rows = [
        (
            labels_text(head),
            head["head"],
            f"{head['top1']['value']:.2%}",
            f"{head['top1']['low']:.2%} to {head['top1']['high']:.2%}",
        )
        for head in metrics["heads"]
    ]
    return [*rows, (NOT_MEASURED, f"always '{printable(guess['class'])}'", f"{guess['value']:.2%}", NOT_MEASURED)]


def labels_text(head: Mapping[str, Any], unit: str = "") -> str:
    """The number of labels that a head was fitted to: `851`, or `9 (1%, 5 draws)`. A `unit` follows the number."""
    share = "" if head["label_share"] == 1 else f" ({100 * head['label_share']:.3g}%, {head['draws']} draws)"
    return f"{head['support_images']:,}{unit}{share}"


def measure_rows(features: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of the measures of features."""
    named = {name: features.get(name) for name in MEASURES}
    return [
        (MEASURES[name], NOT_MEASURED if value is None else f"{value:.3g}".replace("-", "−"))
        for name, value in named.items()
    ]


def measures_sentence(features: Mapping[str, Any]) -> str:
    """The measures of features in one line."""
    values = ", ".join(f"{name} {value}" for name, value in measure_rows(features))
    return f"features of {features['images']:,} images in {features['dimensions']:,} dimensions: {values}"


def feature_rows(group: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any] | None]]]:
    """The rows of a table of heads on features: labels and head, and the accuracy on each model's features."""
    return [
        (f"{labels_text(row, ' labels')}, {row['head']}", [model["top1"][number] for model in group["models"]])
        for number, row in enumerate(group["rows"])
    ]


def feature_measure_rows(group: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The rows of a table of measures, with a column for each model; empty if none was measured."""
    if not any(model["features"] for model in group["models"]):
        return []
    columns = [dict(measure_rows(model["features"] or {})) for model in group["models"]]
    dimensions = [
        str(model["features"]["dimensions"]) if model["features"] else NOT_MEASURED for model in group["models"]
    ]
    rows = [(name, [column[name] for column in columns]) for name in MEASURES.values()]
    return [("dimensions", dimensions), *rows]


def feature_note(group: Mapping[str, Any]) -> str:
    guess = group["constant_guess"]
    of_logits = [model["id"] for model in group["models"] if model["are_logits"]]
    left_out = "; ".join(
        f"k {', '.join(map(str, row['neighbors']))} of {labels_text(row, ' labels')}" for row in group["left_out"]
    )
    return (
        f"Top-1 on {group['images']:,} images of {group['data']}, by heads that were fitted to the frozen features of "
        f"labelled images of {group['support']}. kNN: votes of the k nearest images, each weighted by exp(cosine/τ). "
        "Linear: logistic regression; held-out images of the support choose its penalty. The intervals are for new "
        f"images, and over several draws for new draws too. Always answering '{guess['class']}' gives "
        f"{percent(guess['value'])}."
        + (f" Left out, because there are fewer labelled images than neighbors: {left_out}." if left_out else "")
        + (f" Features of {', '.join(of_logits)}: its logits, as the file has no embedding." if of_logits else "")
        + ("" if group["same_views"] else " The alignments are not shown: they are of different random views.")
    )


def feature_section(group: Mapping[str, Any]) -> Iterator[str]:
    """The section of report.md."""
    yield f"## Heads on frozen features, fitted to {group['support']}"
    models = tuple(model["id"] for model in group["models"])
    rows = [(name, *map(_with_interval, shares)) for name, shares in feature_rows(group)]
    guess = percent(group["constant_guess"]["value"])
    yield from in_tables([("labels and head", *models), *rows, ("constant guess", *(guess for _ in models))])
    yield paragraph(feature_note(group))
    if measures := feature_measure_rows(group):
        yield from in_tables([("measure", *models), *((name, *values) for name, values in measures)])
        yield paragraph(MEASURES_NOTE)


def _with_interval(top1: Mapping[str, Any] | None) -> str:
    return NOT_MEASURED if top1 is None else f"{percent(top1['value'])} ({interval_percent(top1)})"
