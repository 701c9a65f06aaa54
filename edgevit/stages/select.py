"""select: several models → the most accurate one within the limits, as it is, with the reasons."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgevit.artifacts import Artifact, Contents, Json
from edgevit.configs import Select
from edgevit.context import Context
from edgevit.data import Dataset, open_dataset
from edgevit.errors import ArtifactError, ModelRefused
from edgevit.evaluation import AccuracyRecord, classify
from edgevit.evaluation.accuracy import Share
from edgevit.profiling import Measurement, MeasurePlan
from edgevit.provenance import learned_from
from edgevit.report.variants import size_bytes_of
from edgevit.runtimes.base import SessionOptions, check_batch, runtime_of
from edgevit.selection.winner import Limits, MeasuredModel, Selection, no_winner, select
from edgevit.targets import Target, check_is_measured, invalid_choice, target_for, valid_race

EVALUATED_TOGETHER = 32  # images


def run(config: Select, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    models = {name: artifact for name, artifact in inputs.items() if name != "data"}
    for artifact in models.values():
        check_batch(artifact.io, config.batch_size)
    _say_what_was_learned(config, list(models.values()), inputs["data"], context)
    target, limits = target_for(config.target, context), Limits(config.latency_ms, config.size_mib)
    accuracies, dropped = _accuracies(target, models, open_dataset(inputs["data"]), context)
    timings = _timings(target, [models[name] for name in accuracies], config)
    measured = {
        name: MeasuredModel(models[name].id, accuracy, _p50_ms(timing), size_bytes_of(models[name]))
        for (name, accuracy), timing in zip(accuracies.items(), timings, strict=True)
    }
    selection = select(list(measured.values()), limits)
    for model in measured.values():
        context.progress.say(f"    {_sentence(model, selection)}")
    if selection.winner is None:
        raise no_winner(list(measured.values()), limits, selection, f"stage '{config.id}'")
    won = next(name for name, model in measured.items() if model is selection.winner)
    _copy_model(models[won], out)
    record = {
        "winner": selection.winner.id,
        "data": inputs["data"].id,
        "n": selection.winner.accuracy.n,
        "target": config.target,
        "limits": limits._asdict(),
        "models": [_as_json(model, models[name], selection) for name, model in measured.items()],
        "dropped": [{"id": models[name].id, "reason": reason} for name, reason in dropped.items()],
    }
    return Contents(
        models[won].kind,
        metrics={**models[won].metrics, "selected": selection.winner.id},
        log_metrics={"selection": record},
        io=models[won].io,
        model_file=models[won].manifest.model_file,
        passed_on=won,
    )


def _say_what_was_learned(config: Select, models: Sequence[Artifact], data: Artifact, context: Context) -> None:
    stages = dict.fromkeys(filter(None, (learned_from(model, data) for model in models)))
    for stage in stages:
        learned = f"'{stage}' learned from {config.data}"
        context.progress.say(f"note: {config.id}: {learned}, so its accuracy there is higher than on new images")


def _accuracies(
    target: Target, models: Mapping[str, Artifact], dataset: Dataset, context: Context
) -> tuple[dict[str, AccuracyRecord], dict[str, str]]:
    """The accuracy of each model on the target, and a sentence for each model that drops out, by input.

    Raises the error of a model if all drop out.
    """
    accuracies: dict[str, AccuracyRecord] = {}
    dropped: dict[str, str] = {}
    for name, model in models.items():
        try:
            with target.open(model, SessionOptions(threads=None)) as session:
                accuracies[name] = classify(session, dataset, EVALUATED_TOGETHER, context.progress).record
        except (ArtifactError, ModelRefused) as error:
            if len(dropped) == len(models) - 1:
                raise
            dropped[name] = error.what
            context.progress.say(f"    {model.id}: drops out: {error.what}")
    return accuracies, dropped


def _timings(target: Target, models: Sequence[Artifact], config: Select) -> list[Measurement]:
    """The latencies of the models, timed in turns.

    Raises:
        TargetError: they stayed invalid, or a stand-in for a board replays them.
    """
    options = SessionOptions(threads=config.threads)
    plan = MeasurePlan(duration_s=config.duration_s, batch_size=config.batch_size)
    if len(models) == 1:
        with target.open(models[0], options) as session:
            timings = [session.measure(plan)]
        if timings[0].invalid:
            raise invalid_choice(timings[0].invalid)
    else:
        comparisons = valid_race(target, models, options, plan)
        timings = [comparisons[0].a, *(compared.b for compared in comparisons)]
    check_is_measured(timings[0].label, f"stage '{config.id}'", "select on a target that is at hand")
    return timings


def _p50_ms(timing: Measurement) -> Share:
    return Share(timing.percentile_ms(50), timing.p50_interval.low, timing.p50_interval.high)


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


def _as_json(model: MeasuredModel, artifact: Artifact, selection: Selection) -> Json:
    return {
        "id": model.id,
        "digest": artifact.digest,
        "runtime": runtime_of(artifact),
        "top1": model.accuracy.top1._asdict(),
        "p50_ms": model.p50_ms._asdict(),
        "size_bytes": model.size_bytes,
        "on_front": model.id in selection.front,
        "reason": selection.reasons[model.id],
    }
