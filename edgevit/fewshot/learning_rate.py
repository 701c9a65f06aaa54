"""Choice of the learning rate of fine-tuning by cross-validation within the support set."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from edgevit.artifacts import Json
from edgevit.configs import Fewshot
from edgevit.context import Context
from edgevit.data.dataset import Dataset
from edgevit.errors import Diverged
from edgevit.fewshot.adapt import Task, check_support
from edgevit.fewshot.crossvalidation import Fold, Score, fold_count, folds, mean_score, score
from edgevit.fewshot.finetuning import finetune_from, with_task_classes
from edgevit.inference.over_dataset import outputs_of
from edgevit.models.creation import BuiltModel, with_test_time_views
from edgevit.progress import Bar, SilentProgress
from edgevit.sealed_files import opened_sealed, write_sealed
from edgevit.training.distributed import processes

SCORES = "learning_rates.json"


class ChosenRate(NamedTuple):
    """The chosen learning rate, and the score of each candidate.

    There are no scores if cross-validation was not possible.
    """

    learning_rate: float
    scores: Mapping[float, Score]

    def summary(self) -> Json:
        """The choice as JSON, for the metrics of the stage."""
        scores = {
            str(rate): {name: value if math.isfinite(value) else None for name, value in rate_score._asdict().items()}
            for rate, rate_score in self.scores.items()
        }
        return {"learning_rate": self.learning_rate, "learning_rate_scores": scores}


def choose_learning_rate(checkpoint: BuiltModel, task: Task, config: Fewshot, context: Context) -> ChosenRate:
    """The best of `config.learning_rates` by cross-validation within the support (P>M>F, Hu et al. 2022).

    For each fold, head and fine-tuning are trained on the other folds and the pool. The best rate has the highest
    accuracy on held-out images, then the greatest mean log-likelihood, then the smallest value. A training that
    diverges has an accuracy of 0. If a class has a single image, no image can be held out, and `config.learning_rate`
    is chosen.

    The scores of finished trainings are kept in `context.work`, so that an interrupted run continues after them. In
    distributed training, all ranks have to call this function.
    """
    assert config.learning_rates is not None
    check_support(task.support)
    labels = task.support.labels
    assert labels is not None
    count = fold_count(labels)
    if count < 2:
        context.progress.say(
            "    a class has a single image, so cross-validation is not possible: "
            f"the learning rate is {config.learning_rate:g}"
        )
        return ChosenRate(config.learning_rate, {})
    if checkpoint.classes == task.support.classes:
        context.progress.say(
            "    the model already has these classes: if it was trained on the support, the scores of held-out images "
            "are too high, and the score of learning rate 0 most of all"
        )
    all_folds = folds(labels, count, config.seed)
    trainings = _Trainings(checkpoint, task, config, context)
    with context.progress.bar(
        context.stage_id or "learning rates", count * len(config.learning_rates), "trainings"
    ) as bar:
        by_fold = [trainings.scores(number, fold, bar) for number, fold in enumerate(all_folds)]
    sizes = [len(fold.held_out) for fold in all_folds]
    means = {rate: mean_score([scores[rate] for scores in by_fold], sizes) for rate in config.learning_rates}
    chosen = _best(means)
    for rate, mean in chosen.scores.items():
        context.progress.say(
            f"    learning rate {rate:g}: {mean.accuracy:.1%} of held-out images correct, mean log-likelihood "
            f"{mean.log_likelihood:.4f}{', chosen' if rate == chosen.learning_rate else ''}"
        )
    return chosen


def _best(scores: Mapping[float, Score]) -> ChosenRate:
    return ChosenRate(max(scores, key=lambda rate: (scores[rate], -rate)), scores)


class _Trainings:
    """The trainings of all folds. The scores of finished trainings are kept on disk."""

    def __init__(self, checkpoint: BuiltModel, task: Task, config: Fewshot, context: Context) -> None:
        self._checkpoint, self._task, self._config = checkpoint, task, config
        self._context = replace(context, progress=SilentProgress(), tensorboard=None)
        self._say = context.progress.say
        self._file = context.work / SCORES
        self._owner = f"learning rates {context.training}"
        self._done = self._read()

    def scores(self, number: int, fold: Fold, bar: Bar) -> dict[float, Score]:
        """The score of each learning rate in one fold."""
        assert self._config.learning_rates is not None
        names = {rate: f"fold{number}-rate{rate}" for rate in self._config.learning_rates}
        support = self._task.support
        fold_task, held_out = self._task._replace(support=support.subset(fold.train)), support.subset(fold.held_out)
        start: BuiltModel | None = None
        for rate, name in names.items():
            if name not in self._done:
                start = start or self._start(fold_task)
                self._keep(name, self._score(start, fold_task, held_out, rate, self._context.work / name))
            bar.advance(1)
        return {rate: Score(*self._done[name]) for rate, name in names.items()}

    def _read(self) -> dict[str, list[float]]:
        with opened_sealed(self._file, self._owner) as opened:
            if opened is not None:
                done: dict[str, list[float]] = json.load(opened)
                return done
        if self._file.exists():
            self._say(f"    note: {self._file} is damaged: all learning rates are tried again")
        return {}

    def _start(self, fold_task: Task) -> BuiltModel:
        return with_task_classes(self._checkpoint, fold_task, self._config, self._context)

    def _score(self, start: BuiltModel, fold_task: Task, held_out: Dataset, rate: float, work: Path) -> Score:
        work.mkdir(parents=True, exist_ok=True)
        config, device = self._config.model_copy(update={"learning_rate": rate}), torch.device(self._context.device)
        start_copy = start._replace(module=copy.deepcopy(start.module))
        try:
            training = f"{self._context.training} {work.name}"
            tuned = finetune_from(
                start_copy, fold_task, config, replace(self._context, work=work, training=training), work
            ).built
        except Diverged:
            if processes.count() > 1:  # other ranks may not have diverged, and would wait
                raise
            return Score(0.0, -math.inf)
        predicting = with_test_time_views(tuned, config.test_time_views).module.to(device)
        logits = outputs_of(predicting, held_out, tuned.preprocess, device).numpy().astype(np.float64)
        assert held_out.labels is not None
        held_out_score = score(logits, held_out.labels, config.corrects_imbalance)
        return Score(*processes.from_rank_0(list(held_out_score), device))

    def _keep(self, name: str, score_of_training: Score) -> None:
        """Write the score in one step, and remove the files of the training."""
        self._done[name] = list(score_of_training)
        if processes.rank() == 0:
            write_sealed(self._file, self._owner, json.dumps(self._done).encode())
            shutil.rmtree(self._context.work / name)
