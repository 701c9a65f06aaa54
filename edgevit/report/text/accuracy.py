"""The accuracy of a model, and the accuracy lost by quantizing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgevit.report.text.numbers import percent
from edgevit.terminal import points, printable


def top1_sentence(top1: Mapping[str, Any]) -> str:
    """A top-1 accuracy with its interval and number of images."""
    return f"top-1 {top1['value']:.2%}, 95% interval {top1['low']:.2%} to {top1['high']:.2%}, {top1['n']} images"


def accuracy_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """The accuracies in the metrics of an evaluation, a line each: top-1, constant guess, balanced accuracy, recall."""
    balanced, lowest, guess = metrics["balanced_accuracy"], metrics["lowest_recall"], metrics["constant_guess"]
    return [
        top1_sentence(metrics["top1"]),
        f"always answering '{printable(guess['class'])}' gives {guess['value']:.2%}",
        f"balanced accuracy {_share_text(balanced)}, macro-F1 {metrics['macro_f1']:.2%}",
        f"lowest recall {_share_text(lowest)}, {lowest['n']} images: '{printable(lowest['class'])}'",
    ]


def _share_text(share: Mapping[str, float]) -> str:
    return f"{share['value']:.2%}, 95% interval {share['low']:.2%} to {share['high']:.2%}"


def answers_against_float(compared: Mapping[str, Any]) -> str | None:
    """The loss of top-1 of a quantized form with its limit; without labels, the share of changed answers.

    None if answers were not compared.
    """
    if drop := compared.get("top1_drop"):
        interval = f"{points(drop['low'])} to {points(drop['high'])}"
        is_refused = "max_top1_drop" in compared.get("refused_by", ())
        doubt = ", and more is not ruled out" if drop["high"] > drop["limit"] and not is_refused else ""
        limit = f"the limit is {100 * drop['limit']:g}{doubt}"
        return f"{points(drop['value'])} points of top-1 lost ({interval}, n {drop['n']:,}); {limit}"
    if changed := compared.get("changed_answers"):
        interval = f"{percent(changed['low'])} to {percent(changed['high'])}"
        return f"{percent(changed['value'])} changed ({interval}, n {changed['n']:,})"
    return None
