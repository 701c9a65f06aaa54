"""The deployed model in numbers, compared with its teacher, float student, a constant guess and nearest centroid."""

from __future__ import annotations

from dataclasses import dataclass

from edgevit.artifacts import Json
from edgevit.budget import compared_with_constant_guess, drop_between
from edgevit.configs.targets import LOCAL_GPU
from edgevit.evaluation import AccuracyRecord
from edgevit.profiling.latency_record import LatencyRecord
from edgevit.report.device import has_agent
from edgevit.report.text.energy import power_sentence
from edgevit.report.text.numbers import (
    interval_percent,
    milliseconds,
    percent,
    precision_name,
    ratio,
    runtime_name,
    significant,
    size,
)
from edgevit.report.variants import Lineup, Variant, data_of, same_conditions
from edgevit.terminal import points

BOUNDARIES = {"compute": "without preprocessing", "end_to_end": "with decoding and preprocessing"}
SIZES = ("smaller", "larger", "large")
SPEEDS = ("faster", "slower", "fast")


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


def points_of(models: Lineup) -> list[Json]:
    """Size, latency, energy and accuracy of the deployed model in words, for the page, report.md and the terminal."""
    points = (_smaller(models), _faster(models), _energy(models), _accuracy(models), _classes(models))
    return [point.as_json() for point in points if point]


def comparisons(models: Lineup) -> Json:
    """The numbers behind the sentences, by baseline. Latencies: null if the conditions or the runtimes differ."""
    timed = dict(models.timed_baselines())
    baselines = [*models.baselines(), *([("nearest centroid", models.centroid)] if models.centroid else [])]
    compared = {
        role.replace(" ", "_"): {
            "id": baseline.id,
            "times_smaller": baseline.size_bytes / models.deployed.size_bytes,
            "times_faster": _times_faster(timed.get(role, baseline), models.deployed),
            "top1_drop": drop.__dict__ if (drop := drop_between(baseline.accuracy, models.deployed.accuracy)) else None,
        }
        for role, baseline in baselines
    }
    accuracy = models.deployed.accuracy
    guess = {"constant_guess": {"top1_drop": compared_with_constant_guess(accuracy).__dict__}} if accuracy else {}
    return {**compared, **guess}


def about_deployed(deployed: Variant) -> str:
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
    timing = models.deployed.timing
    if timing is None:
        return Point("Latency", "not measured")
    conditions = (
        f"Median of {timing.n:,} runs, batch {timing.batch_size}, {_threads(timing)}{BOUNDARIES[timing.boundary]}."
    )
    if machine := _machine(models.deployed):
        conditions = f"{conditions} {machine}"
    sentences = [_speed_sentence(word, baseline, timing) for word, baseline in models.timed_baselines()]
    if timing.label != "measured":
        sentences.insert(0, f"This latency is {timing.label} by a stand-in for {timing.target}. It was not measured.")
    if timing.invalid:
        sentences.insert(0, f"This latency is invalid: {'; '.join(timing.invalid)}.")
    return Point("Latency", milliseconds(timing.p50_ms), tuple(sentences), conditions)


def _energy(models: Lineup) -> Point | None:
    """None if energy was not measured."""
    energy = models.deployed.energy
    if energy is None:
        return None
    sentences = []
    if energy.invalid:
        sentences.append(f"This energy is invalid: {'; '.join(energy.invalid)}.")
    if energy.label != "measured":
        sentences.append(
            f"This energy is {energy.label} by a stand-in for {models.deployed.target}. It was not measured."
        )
    interval = f"95% interval {energy.low_mj:.3g} to {energy.high_mj:.3g} mJ"
    conditions = f"For an image, above the machine at rest. {interval}. {power_sentence(energy)}."
    return Point("Energy", f"{significant(energy.mj)} mJ", tuple(sentences), conditions)


def _machine(deployed: Variant) -> str | None:
    """What the agent of the machine that timed the model tells of it, in a sentence; None without an agent."""
    latency = deployed.latency
    if latency is None or not has_agent(latency):
        return None
    target = latency.manifest.ingredients.get("target") or {}
    hardware, versions = target.get("hardware", {}), target.get("versions", {})
    mode = hardware.get("power_mode")
    facts = [
        hardware.get("model") or hardware.get("processor"),
        hardware.get("architecture"),
        mode and f"power mode {mode}",
        *(f"{name} {version}" for name, version in versions.items() if version),
    ]
    return f"{latency.metrics['target']}: {', '.join(filter(None, facts))}." if any(facts) else None


def _threads(timing: LatencyRecord) -> str:
    if timing.threads is None or timing.target == LOCAL_GPU:
        return ""
    return f"{timing.threads} thread{'s' if timing.threads > 1 else ''}, "


def _speed_sentence(word: str, baseline: Variant, after: LatencyRecord) -> str:
    before = baseline.timing
    if before is None:
        return f"The latency of the {word} was not measured."
    if before.invalid or after.invalid:
        whose = f"latency of the {word}" if before.invalid else "latency of the deployed model"
        return f"Not compared with the {word}: the {whose} is invalid."
    if differences := before.differences(after):
        return f"Not compared with the {word}, whose conditions differ ({'; '.join(differences)})."
    if before.runtime != after.runtime:
        where = f"{milliseconds(before.p50_ms)} in {runtime_name(before.runtime)}"
        return f"Not compared with the {word}, which was timed in another runtime ({where})."
    overlap = before.p50_low_ms <= after.p50_high_ms and after.p50_low_ms <= before.p50_high_ms
    doubt = "; the intervals overlap, so this may be chance" if overlap else ""
    return f"{_times(before.p50_ms / after.p50_ms, SPEEDS)} the {word} ({milliseconds(before.p50_ms)}{doubt})."


def _times_faster(baseline: Variant, deployed: Variant) -> float | None:
    if not same_conditions(baseline, deployed) or baseline.runtime != deployed.runtime:
        return None
    assert baseline.timing is not None
    assert deployed.timing is not None
    if baseline.timing.invalid or deployed.timing.invalid:
        return None
    return baseline.timing.p50_ms / deployed.timing.p50_ms


def _times(factor: float, words: tuple[str, str, str]) -> str:
    better, worse, equal = words
    if 0.995 < factor < 1.005:
        return f"As {equal} as"
    return f"{ratio(factor)} {better} than" if factor > 1 else f"{ratio(1 / factor)} {worse} than"


def _accuracy(models: Lineup) -> Point:
    evaluation, accuracy = models.deployed.evaluation, models.deployed.accuracy
    if evaluation is None or accuracy is None:
        return Point("Accuracy", "not measured")
    how = f" by {models.deployed.how_predicted}" if models.deployed.how_predicted else ""
    conditions = (
        f"Top-1{how} on {accuracy.n:,} images of {data_of(evaluation).id}, 95% interval "
        f"{interval_percent(accuracy.top1._asdict())}%. Models are compared on the same images."
    )
    if elsewhere := _measured_elsewhere(models.deployed):
        conditions = f"{conditions} {elsewhere}"
    # The float student first: the loss against it is the price of quantization and compilation.
    baselines = [*reversed(models.baselines()), *_centroid_baseline(models)]
    sentences = [_drop_sentence(word, baseline, models.deployed) for word, baseline in baselines]
    return Point("Accuracy", percent(accuracy.top1.value), (_beside_constant_guess(accuracy), *sentences), conditions)


def _measured_elsewhere(deployed: Variant) -> str | None:
    """A sentence, if the accuracy is that of another target than the latency."""
    timing, evaluation = deployed.timing, deployed.evaluation
    if timing is None or evaluation is None or evaluation.metrics["target"] == timing.target:
        return None
    return f"The accuracy was measured on {evaluation.metrics['target']}, the latency on {timing.target}."


def _centroid_baseline(models: Lineup) -> list[tuple[str, Variant]]:
    centroid = models.centroid
    if centroid is None or centroid is models.teacher:
        return []
    return [(f"nearest centroid on the features of {centroid.parent_id}", centroid)]


def _beside_constant_guess(accuracy: AccuracyRecord) -> str:
    guess, drop = accuracy.constant_guess, compared_with_constant_guess(accuracy)
    difference = f"{points(abs(drop.value))} points {'above' if drop.value <= 0 else 'below'}"
    return (
        f"{difference} always answering '{guess.name}' ({percent(guess.accuracy)}): 95% interval "
        f"{points(-drop.high)} to {points(-drop.low)} points."
    )


def _classes(models: Lineup) -> Point | None:
    """The accuracies that count every class alike."""
    accuracy = models.deployed.accuracy
    if accuracy is None:
        return None
    balanced, lowest = accuracy.balanced_accuracy, accuracy.recalls[0]
    images = f"{lowest.correct:,} of {lowest.n:,} images, 95% interval {interval_percent(lowest.recall._asdict())}%"
    sentences = (
        f"Lowest recall: '{lowest.name}', {percent(lowest.recall.value)} ({images}).",
        f"Macro-F1: {percent(accuracy.macro_f1)}.",
    )
    number = len(accuracy.recalls)
    over = f"{number:,} class{'es' if number > 1 else ''}, 95% interval {interval_percent(balanced._asdict())}%"
    conditions = f"Mean recall of {over}."
    return Point("Balanced accuracy", percent(balanced.value), sentences, conditions)


def _drop_sentence(word: str, baseline: Variant, deployed: Variant) -> str:
    drop = drop_between(baseline.accuracy, deployed.accuracy)
    if drop is None or baseline.accuracy is None:
        return f"Not compared with the {word}, which was not measured on the same images by the same protocol."
    loses, gains = f"Loses {points(drop.value)} points against", f"Gains {points(-drop.value)} points against"
    change = loses if drop.value > 0 else gains if drop.value < 0 else "As accurate as"
    sign = 1 if drop.value >= 0 else -1
    low, high = sorted((sign * drop.low, sign * drop.high))
    doubt = ", which may be chance" if drop.value and drop.may_be_chance else ""
    return (
        f"{change} the {word} ({percent(baseline.accuracy.top1.value)}){doubt}: "
        f"95% interval {points(low)} to {points(high)} points."
    )
