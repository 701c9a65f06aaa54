"""select: several models → the most accurate one within the limits, as it is, with the reasons."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edgevit.artifacts import Artifact, Contents, Json
from edgevit.configs import Select
from edgevit.context import Context
from edgevit.data import Dataset, open_dataset
from edgevit.errors import EdgevitError, ModelRefused, NonFiniteScores
from edgevit.evaluation import AccuracyRecord, classify
from edgevit.evaluation.accuracy import Share
from edgevit.profiling import Measurement, MeasurePlan
from edgevit.provenance import learned_from
from edgevit.report.variants import size_bytes_of
from edgevit.runtimes.base import SessionOptions, check_batch, runtime_of
from edgevit.selection.winner import MeasuredModel, Selection, SelectionLimits, no_winner, winner_of
from edgevit.targets import Target, check_is_measured, invalid_choice, target_for, valid_race

EVALUATED_TOGETHER = 32  # images


def run(config: Select, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    models = {name: inputs[f"models.{place}"] for place, name in enumerate(config.models)}
    for artifact in models.values():
        check_batch(artifact.io, config.batch_size)
    learned_by = _who_learned(config, models, inputs["data"], context)
    target = target_for(config.target, context)
    limits = SelectionLimits(config.latency_ms, config.size_mib, config.max_top1_drop or 0.0)
    accuracies, refused = _accuracies(target, models, open_dataset(inputs["data"]), context)
    measured = list(_measured(target, models, accuracies, config))
    selection = winner_of(measured, limits)
    for model in measured:
        context.progress.say(f"    {_sentence(model, selection)}")
    if selection.winner is None:
        raise no_winner(measured, limits, selection, f"stage '{config.id}'")
    won = models[selection.winner.id]
    _copy_model(won, out)
    record = selection.record(measured, limits, "measured")
    record |= {
        "data": config.data,
        "target": config.target,
        "learned_by": learned_by,
        "models": [{**row, **_of_artifact(models[row["id"]])} for row in record["models"]],
        "dropped": [{"id": name, "reason": reason} for name, reason in {**context.dropped, **refused}.items()],
    }
    # The digest of the winner stands for its metrics, some of which vary between machines.
    own = {"passes_on": won.digest}
    if won.manifest.model_file:
        own["precision"] = won.metrics["precision"]
    return Contents(
        won.kind,
        metrics=own,
        log_metrics={**won.metrics, **own, "selected": selection.winner.id, "selection": record},
        io=won.io,
        model_file=won.manifest.model_file,
        passed_on=f"models.{config.models.index(selection.winner.id)}",
    )


def _who_learned(config: Select, models: Mapping[str, Artifact], data: Artifact, context: Context) -> list[str]:
    """The stages that learned from the images of the selection."""
    stages = list(dict.fromkeys(filter(None, (learned_from(model, data) for model in models.values()))))
    for stage in stages:
        learned = f"'{stage}' learned from {config.data}"
        context.progress.say(f"note: {config.id}: {learned}, so its accuracy there is higher than on new images")
    return stages


def _accuracies(
    target: Target, models: Mapping[str, Artifact], dataset: Dataset, context: Context
) -> tuple[dict[str, AccuracyRecord], dict[str, str]]:
    """The accuracy of each model on the target, and the reason for each model that drops out, by name.

    A model drops out if its scores are not finite or the target's runtime refuses it. Raises the error if all drop out.
    """
    accuracies: dict[str, AccuracyRecord] = {}
    dropped: dict[str, str] = {}
    for name, model in models.items():
        try:
            with target.open(model, SessionOptions(threads=None)) as session:
                accuracies[name] = classify(session, dataset, EVALUATED_TOGETHER, context.progress).record
        except (NonFiniteScores, ModelRefused) as error:
            if len(dropped) == len(models) - 1:
                raise
            dropped[name] = _in_one_line(error)
            context.progress.say(f"    {name}: drops out: {dropped[name]}")
    return accuracies, dropped


def _in_one_line(error: EdgevitError) -> str:
    details = (("at", error.where), ("got", error.got))
    return ", ".join([error.what, *(f"{word} {value}" for word, value in details if value is not None)])


def _measured(
    target: Target, models: Mapping[str, Artifact], accuracies: Mapping[str, AccuracyRecord], config: Select
) -> Iterator[MeasuredModel]:
    """The models with their accuracies and latencies, timed in turns.

    Raises:
        TargetError: the timing stayed invalid, or a stand-in for a board replays it.
    """
    options = SessionOptions(threads=config.threads)
    plan = MeasurePlan(duration_s=config.duration_s, batch_size=config.batch_size)
    timings = _timings(target, [models[name] for name in accuracies], options, plan)
    check_is_measured(timings[0][0].label, f"stage '{config.id}'", "select on a target that is at hand")
    for (name, accuracy), (timing, speeds) in zip(accuracies.items(), timings, strict=True):
        p50_ms = Share(timing.percentile_ms(50), timing.p50_interval.low, timing.p50_interval.high)
        yield MeasuredModel(name, accuracy, p50_ms, size_bytes_of(models[name]), speeds)


def _timings(
    target: Target, models: Sequence[Artifact], options: SessionOptions, plan: MeasurePlan
) -> list[tuple[Measurement, tuple[float, ...]]]:
    """The latency of each model, and its speed against the first model in each start of the race."""
    if len(models) == 1:
        with target.open(models[0], options) as session:
            timing = session.measure(plan)
        if timing.invalid:
            raise invalid_choice(timing.invalid)
        return [(timing, ())]
    comparisons = valid_race(target, models, options, plan)
    first = comparisons[0].a, (1.0,) * len(comparisons[0].of_starts)
    return [first, *((compared.b, compared.of_starts) for compared in comparisons)]


def _sentence(model: MeasuredModel, selection: Selection) -> str:
    is_winner = model is selection.winner
    return (
        f"{model.id}: top-1 {model.top1:.1%}, p50 {model.p50_ms.value:.3g} ms, {model.size_mib:.3g} MiB: "
        f"{'selected: ' if is_winner else ''}{selection.reasons[model.id]}"
    )


def _copy_model(model: Artifact, out: Path) -> None:
    """Copy the files of the model's content; logs stay behind."""
    for name in model.content_sha256:
        copy = out / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.file(name), copy)


def _of_artifact(model: Artifact) -> Json:
    return {"digest": model.digest, "runtime": runtime_of(model)}
