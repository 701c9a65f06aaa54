"""fewshot: a checkpoint and a few labelled images → a checkpoint of their classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents, Json
from edgevit.configs import Fewshot
from edgevit.context import Context
from edgevit.fewshot.adapt import Task, TaskFeatures, task_features, task_of, with_fitted_head
from edgevit.fewshot.advice import ADVICE, advice
from edgevit.fewshot.automatic import UNCHANGED, choose_method
from edgevit.fewshot.choice import default_method
from edgevit.fewshot.finetuning import finetune
from edgevit.fewshot.learning_rate import choose_learning_rate
from edgevit.models.checkpoints import checkpoint_contents, open_to_train
from edgevit.models.creation import BuiltModel, with_test_time_views
from edgevit.training.distributed.processes import on_ranks
from edgevit.training.loop.metrics_log import METRICS


def run(config: Fewshot, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    may_train = "finetune" in (config.method, *config.candidates)
    return (_adapted_on_ranks if may_train else _adapted)(config, inputs, context, out)


@on_ranks
def _adapted_on_ranks(config: Fewshot, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    return _adapted(config, inputs, context, out)


def _adapted(config: Fewshot, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    checkpoint, task = open_to_train(inputs["model"], config.model_rates), task_of(inputs)
    adapt = _finetuned if config.method == "finetune" else _with_head
    adapted, method, summary = adapt(checkpoint, task, config, context, out)
    adapted = with_test_time_views(adapted, config.test_time_views)
    return checkpoint_contents(adapted, task.support.classes, out, {"method": method}, summary, METRICS)


def _finetuned(
    checkpoint: BuiltModel, task: Task, config: Fewshot, context: Context, out: Path
) -> tuple[BuiltModel, str, Json]:
    summary: Json = {}
    if config.learning_rates is not None:
        chosen = choose_learning_rate(checkpoint, task, config, context)
        config, summary = config.model_copy(update={"learning_rate": chosen.learning_rate}), chosen.summary()
    tuned = finetune(checkpoint, task, config, context, out)
    return tuned.built, "finetune", {**tuned.computed_in, **summary}


def _with_head(
    checkpoint: BuiltModel, task: Task, config: Fewshot, context: Context, out: Path
) -> tuple[BuiltModel, str, Json]:
    features = task_features(checkpoint, task, config, context)
    if checkpoint.classes != task.support.classes:  # otherwise it was trained on these images, which are then too easy
        _advise(features, task, config, context, out)
    if config.method != "auto":
        method = config.method or default_method(task.pool is not None)
        return with_fitted_head(checkpoint, features, method, config), method, {}
    choice = choose_method(checkpoint, task, features, config, context)
    if choice.method == "finetune":
        config = config.model_copy(update={"learning_rate": choice.learning_rate})
        tuned = finetune(checkpoint, task, config, context, out)
        return tuned.built, choice.method, {**tuned.computed_in, **choice.summary()}
    if choice.method == UNCHANGED:
        return checkpoint, choice.method, choice.summary()
    return with_fitted_head(checkpoint, features, choice.method, config), choice.method, choice.summary()


def _advise(features: TaskFeatures, task: Task, config: Fewshot, context: Context, out: Path) -> None:
    """Write advice.json and say its main points; a large support gets no advice.

    The stage of a nearest centroid says nothing, because the stage of the other head says the same points.
    """
    support, labels, _, pool, base = features
    findings = advice(support, labels, task.support.classes, task.support.sample_ids, pool, base, config.seed)
    if findings is None:
        return
    (out / ADVICE).write_text(json.dumps(findings.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for line in findings.lines() if config.method != "nearest_centroid" else ():
        context.progress.say(line)
