"""The answer: the verdict on the budget, and the deployed model compared with its teacher and float student."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgevit.artifacts import Json
from edgevit.configs import Budget
from edgevit.report.statistics import Drop, paired_drop
from edgevit.report.text import (
    interval_percent,
    milliseconds,
    percent,
    points,
    precision_name,
    ratio,
    runtime_name,
    size,
)
from edgevit.report.variants import Lineup, Variant, different_conditions

BOUNDARIES = {"compute": "without preprocessing", "end_to_end": "with decoding and preprocessing"}
SIZES = ("smaller", "larger", "large")
SPEEDS = ("faster", "slower", "fast")
VERDICTS = {True: "Yes, it meets the budget.", False: "No, it does not meet the budget."}


@dataclass(frozen=True)
class Point:
    """A part of the answer: a number of the deployed model, with comparisons."""

    title: str
    value: str
    sentences: tuple[str, ...] = ()
    conditions: str = ""

    def as_json(self) -> Json:
        return {
            "title": self.title,
            "value": self.value,
            "sentences": list(self.sentences),
            "conditions": self.conditions,
        }


def verdict(models: Lineup, budget: Budget) -> Json:
    """`meets_budget` is false if a limit is exceeded, null if a limit cannot be judged or no limit was given."""
    judged = list(_judged(models, budget))
    if not judged:
        return {"meets_budget": None, "reasons": ["No budget was given."]}
    outcomes = [met for met, _ in judged]
    meets = False if False in outcomes else None if None in outcomes else True
    return {"meets_budget": meets, "reasons": [reason for _, reason in judged]}


def answer(models: Lineup, budget: Budget) -> Json:
    """The answer in words, for the page, report.md and the terminal."""
    meets = verdict(models, budget)["meets_budget"]
    limits = budget.model_dump(exclude_none=True)
    unknown = "The budget cannot be judged: a measurement is missing." if limits else "No budget was given."
    return {
        "verdict": VERDICTS.get(meets, unknown),
        "deployed": _about_deployed(models.deployed),
        "points": [point.as_json() for point in (_smaller(models), _faster(models), _accuracy(models))],
    }


def drop_between(baseline: Variant, model: Variant) -> Drop | None:
    """The drop over the images that both models were measured on; None without such images."""
    shared = [name for name in baseline.correct if name in model.correct]
    if not shared:
        return None
    before, after = (np.array([variant.correct[name] for name in shared]) for variant in (baseline, model))
    return paired_drop(before, after)


def comparisons(models: Lineup) -> Json:
    """The numbers behind the sentences, by baseline; null if the conditions differ."""
    return {
        word.replace(" ", "_"): {
            "id": baseline.id,
            "times_smaller": baseline.size_bytes / models.deployed.size_bytes,
            "times_faster": _times_faster(timed, models.deployed),
            "top1_drop": drop.__dict__ if (drop := drop_between(baseline, models.deployed)) else None,
        }
        for (word, baseline), (_, timed) in zip(models.baselines(), models.timed_baselines(), strict=True)
    }


# Budget -------------------------------------------------------------------------------------------------------


def _judged(models: Lineup, budget: Budget) -> Iterator[tuple[bool | None, str]]:
    if budget.latency_ms is not None:
        yield _judge_latency(models.deployed, budget.latency_ms)
    if budget.top1_drop is not None:
        yield _judge_drop(models, budget.top1_drop)
    if budget.size_mib is not None:
        yield _judge_size(models.deployed, budget.size_mib)


def _judge_latency(deployed: Variant, limit_ms: float) -> tuple[bool | None, str]:
    latency = deployed.latency_ms
    if latency is None:
        return None, f"Latency: {deployed.id} was not measured, so the limit of {limit_ms:g} ms cannot be judged."
    met = latency["p50"] <= limit_ms
    includes = latency["p50_low"] <= limit_ms < latency["p50_high"]
    doubt = " The limit lies inside the 95% interval." if includes else ""
    return met, f"Latency: p50 {milliseconds(latency['p50'])}, {_against(met)} {limit_ms:g} ms.{doubt}"


def _judge_drop(models: Lineup, limit: float) -> tuple[bool | None, str]:
    student = models.float_student
    drop = drop_between(student, models.deployed) if student else None
    if student is None or drop is None:
        name = student.id if student else "a float student"
        return None, f"Accuracy: {name} and {models.deployed.id} were not measured on the same images."
    met = drop.value <= limit
    doubt = " The limit lies inside the 95% interval." if drop.low <= limit < drop.high else ""
    lost = f"loses {points(drop.value)} points of top-1" if drop.value > 0 else "loses no top-1"
    return met, f"Accuracy: {lost} against the float student, {_against(met)} {points(limit)} points.{doubt}"


def _judge_size(deployed: Variant, limit_mib: float) -> tuple[bool, str]:
    met = deployed.size_bytes / 2**20 <= limit_mib
    return met, f"Size: {size(deployed.size_bytes)}, {_against(met)} {limit_mib:g} MiB."


def _against(met: bool) -> str:
    return "within the limit of" if met else "over the limit of"


# Words --------------------------------------------------------------------------------------------------------


def _about_deployed(deployed: Variant) -> str:
    where = f", run by {runtime_name(deployed.runtime)} on {deployed.target}" if deployed.runtime else ""
    described = f"{deployed.id} ({precision_name(deployed.precision)}{where})"
    if deployed.model.kind == "checkpoint":
        return f"No model was exported. The report is about the last model, {described}."
    return f"Deployed model: {described}."


def _smaller(models: Lineup) -> Point:
    deployed = models.deployed
    sentences = [
        f"{_times(baseline.size_bytes / deployed.size_bytes, SIZES)} the {word} ({size(baseline.size_bytes)})."
        for word, baseline in models.baselines()
    ]
    return Point("Size", size(deployed.size_bytes), tuple(sentences), "Size of the file with the weights.")


def _faster(models: Lineup) -> Point:
    deployed = models.deployed
    if deployed.latency_ms is None:
        return Point("Latency", "not measured")
    conditions = (
        f"Median of {deployed.latency_ms['n']:,} runs, batch {deployed.batch_size}, "
        f"{_threads(deployed)}{BOUNDARIES[deployed.latency_ms['boundary']]}."
    )
    sentences = [_speed_sentence(word, baseline, deployed) for word, baseline in models.timed_baselines()]
    return Point("Latency", milliseconds(deployed.latency_ms["p50"]), tuple(sentences), conditions)


def _threads(variant: Variant) -> str:
    if variant.threads is None or variant.target == "local-gpu":
        return ""
    return f"{variant.threads} thread{'s' if variant.threads > 1 else ''}, "


def _speed_sentence(word: str, baseline: Variant, deployed: Variant) -> str:
    if baseline.latency is None or deployed.latency is None or baseline.latency_ms is None:
        return f"The latency of the {word} was not measured."
    differences = different_conditions(baseline.latency, deployed.latency)
    if differences:
        return f"Not compared with the {word}, whose conditions differ ({'; '.join(differences)})."
    before, after = baseline.latency_ms, deployed.latency.metrics["latency_ms"]
    runtime = f" on {runtime_name(baseline.runtime)}" if baseline.runtime != deployed.runtime else ""
    overlap = before["p50_low"] <= after["p50_high"] and after["p50_low"] <= before["p50_high"]
    doubt = "; the intervals overlap, so this may be chance" if overlap else ""
    return f"{_times(before['p50'] / after['p50'], SPEEDS)} the {word} ({milliseconds(before['p50'])}{runtime}{doubt})."


def _times_faster(baseline: Variant, deployed: Variant) -> float | None:
    if baseline.latency is None or deployed.latency is None or different_conditions(baseline.latency, deployed.latency):
        return None
    return float(baseline.latency.metrics["latency_ms"]["p50"] / deployed.latency.metrics["latency_ms"]["p50"])


def _times(factor: float, words: tuple[str, str, str]) -> str:
    better, worse, equal = words
    if 0.995 < factor < 1.005:
        return f"As {equal} as"
    return f"{ratio(factor)} {better} than" if factor > 1 else f"{ratio(1 / factor)} {worse} than"


def _accuracy(models: Lineup) -> Point:
    top1 = models.deployed.top1
    if top1 is None:
        return Point("Accuracy", "not measured")
    conditions = f"Top-1 on {top1['n']:,} images of {top1['data']}, 95% interval {interval_percent(top1)}%."
    # The float student first: the loss against it is the price of quantization and compilation.
    sentences = [_drop_sentence(word, baseline, models.deployed) for word, baseline in reversed(models.baselines())]
    return Point("Accuracy", percent(top1["value"]), tuple(sentences), conditions)


def _drop_sentence(word: str, baseline: Variant, deployed: Variant) -> str:
    drop = drop_between(baseline, deployed)
    if drop is None or baseline.top1 is None:
        return f"Not compared with the {word}, which was not measured on the same images."
    loses, gains = f"Loses {points(drop.value)} points against", f"Gains {points(-drop.value)} points against"
    change = loses if drop.value > 0 else gains if drop.value < 0 else "As accurate as"
    sign = 1 if drop.value >= 0 else -1
    low, high = sorted((sign * drop.low, sign * drop.high))
    doubt = ", which may be chance" if drop.value and drop.may_be_chance else ""
    return (
        f"{change} the {word} ({percent(baseline.top1['value'])}){doubt}: "
        f"95% interval {points(low)} to {points(high)} points, on the same images."
    )
