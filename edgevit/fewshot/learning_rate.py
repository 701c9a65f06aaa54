"""The learning rate of fine-tuning, chosen by cross-validation inside the support."""

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
from edgevit.fewshot.finetuning import finetuned, with_classes_of_task
from edgevit.inference.over_dataset import outputs_of
from edgevit.models.creation import BuiltModel, with_test_time_views
from edgevit.progress import Bar, SilentProgress
from edgevit.sealed_files import opened_sealed, write_sealed
from edgevit.training.distributed import processes

SCORES = "learning_rates.json"


class ChosenRate(NamedTuple):
    """A learning rate, and the score of each candidate: none where nothing could be cross-validated."""

    learning_rate: float
    scores: Mapping[float, Score]

    def summary(self) -> Json:
        """For the record."""
        scores = {
            str(rate): {name: value if math.isfinite(value) else None for name, value in one._asdict().items()}
            for rate, one in self.scores.items()
        }
        return {"learning_rate": self.learning_rate, "learning_rate_scores": scores}


def choose_learning_rate(checkpoint: BuiltModel, task: Task, config: Fewshot, context: Context) -> ChosenRate:
    """The best of `config.learning_rates` inside the support (P>M>F, Hu et al. 2022).

    In each fold, head and fine-tuning see the other folds and the pool. The best has most held-out images right, then
    the greatest mean log-likelihood, then the smallest rate; a training that diverges has nothing right. Where a class
    has a single image, nothing can be held out: then it is `config.learning_rate`.

    Scores of finished trainings are kept in `context.work` and survive a kill. All ranks have to call it.
    """
    assert config.learning_rates is not None
    check_support(task.support)
    labels = task.support.labels
    assert labels is not None
    count = fold_count(labels)
    if count < 2:
        context.progress.say(
            "    a class has a single image, so that no learning rate can be cross-validated: "
            f"it is learning_rate {config.learning_rate:g}"
        )
        return ChosenRate(config.learning_rate, {})
    if checkpoint.classes == task.support.classes:
        context.progress.say(
            "    the model knows these classes already: where it has seen the support, the scores of held-out images "
            "are too high, that of learning rate 0 most of all"
        )
    parts = folds(labels, count, config.seed)
    trainings = _Trainings(checkpoint, task, config, context)
    with context.progress.bar(
        context.stage_id or "learning rates", count * len(config.learning_rates), "trainings"
    ) as bar:
        by_fold = [trainings.scores(number, fold, bar) for number, fold in enumerate(parts)]
    sizes = [len(fold.held_out) for fold in parts]
    chosen = _best({rate: mean_score([one[rate] for one in by_fold], sizes) for rate in config.learning_rates})
    for rate, one in chosen.scores.items():
        context.progress.say(
            f"    learning rate {rate:g}: {one.accuracy:.1%} of held-out images right, mean log-likelihood "
            f"{one.log_likelihood:.4f}{', chosen' if rate == chosen.learning_rate else ''}"
        )
    return chosen


def _best(scores: Mapping[float, Score]) -> ChosenRate:
    return ChosenRate(max(scores, key=lambda rate: (scores[rate], -rate)), scores)


class _Trainings:
    """The trainings of all folds, and the scores of those that are finished, on disk."""

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
        learned, held_out = self._task._replace(support=support.subset(fold.train)), support.subset(fold.held_out)
        start: BuiltModel | None = None
        for rate, name in names.items():
            if name not in self._done:
                start = start or self._start(learned)
                self._keep(name, self._score(start, learned, held_out, rate, self._context.work / name))
            bar.advance(1)
        return {rate: Score(*self._done[name]) for rate, name in names.items()}

    def _read(self) -> dict[str, list[float]]:
        with opened_sealed(self._file, self._owner) as opened:
            if opened is not None:
                done: dict[str, list[float]] = json.load(opened)
                return done
        if self._file.exists():
            self._say(f"    note: {self._file} is damaged: the learning rates are tried again")
        return {}

    def _start(self, learned: Task) -> BuiltModel:
        return with_classes_of_task(self._checkpoint, learned, self._config, self._context)

    def _score(self, start: BuiltModel, learned: Task, held_out: Dataset, rate: float, work: Path) -> Score:
        work.mkdir(parents=True, exist_ok=True)
        config, device = self._config.model_copy(update={"learning_rate": rate}), torch.device(self._context.device)
        own = start._replace(module=copy.deepcopy(start.module))
        try:
            training = f"{self._context.training} {work.name}"
            tuned = finetuned(own, learned, config, replace(self._context, work=work, training=training), work)
        except Diverged:
            if processes.count() > 1:  # the others may not have diverged, and wait
                raise
            return Score(0.0, -math.inf)
        answering = with_test_time_views(tuned, config.test_time_views).module.to(device)
        logits = outputs_of(answering, held_out, tuned.preprocess, device).numpy().astype(np.float64)
        assert held_out.labels is not None
        return Score(*processes.of_first(list(score(logits, held_out.labels)), device))

    def _keep(self, name: str, one: Score) -> None:
        """Write the score in one step, and remove what the training has left."""
        self._done[name] = list(one)
        if processes.rank() == 0:
            write_sealed(self._file, self._owner, json.dumps(self._done).encode())
            shutil.rmtree(self._context.work / name)
