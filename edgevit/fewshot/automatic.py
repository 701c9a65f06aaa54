"""method: auto — what suits is found by cross-validation inside the support set, and nowhere else."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from edgevit.artifacts import Json
from edgevit.configs import Fewshot
from edgevit.context import Context
from edgevit.fewshot.adapt import Task, TaskFeatures
from edgevit.fewshot.choice import best, default_candidates, head_scores
from edgevit.fewshot.crossvalidation import Score, fold_count, score
from edgevit.fewshot.learning_rate import choose_learning_rate
from edgevit.inference.over_dataset import outputs_of
from edgevit.models.creation import BuiltModel
from edgevit.models.embedding import classifiers

UNCHANGED = "unchanged"


class Choice(NamedTuple):
    """A method, the rate of fine-tuning, and the score of every candidate: none where nothing could be validated."""

    method: str
    learning_rate: float
    scores: dict[str, Score]

    def summary(self) -> Json:
        """For the record."""
        scores = {
            name: {key: value if math.isfinite(value) else None for key, value in one._asdict().items()}
            for name, one in self.scores.items()
        }
        return {"candidates": scores}


def choose_method(
    checkpoint: BuiltModel, task: Task, features: TaskFeatures, config: Fewshot, context: Context
) -> Choice:
    """The candidate that answers most held-out images of the support rightly; of equals the likeliest.

    A model that knows the classes already may stay as it is: "unchanged" is a candidate too, scored on the support.
    Where a class has a single image nothing can be held out, and it is the first candidate.

    Raises:
        RecipeError: a candidate is named that needs a pool, and there is none.
    """
    candidates = config.candidates or _candidates(checkpoint, has_pool=task.pool is not None)
    rate = config.learning_rate
    if fold_count(features.labels) < 2:
        context.progress.say(
            f"    a class has a single image, so that nothing can be cross-validated: the method is {candidates[0]}"
        )
        return Choice(candidates[0], rate, {})
    heads = [name for name in candidates if name != "finetune"]
    scores: dict[str, Score] = {}
    with context.progress.bar("cross-validation", len(heads), "methods") as bar:
        for name in heads:
            scores |= head_scores([name], *features, config.seed)
            bar.advance()
    if "finetune" in config.candidates:
        rates = config.learning_rates or (rate,)
        chosen = choose_learning_rate(checkpoint, task, config.model_copy(update={"learning_rates": rates}), context)
        rate = chosen.learning_rate
        scores["finetune"] = chosen.scores[rate]
    if checkpoint.classes == task.support.classes:
        scores[UNCHANGED] = _unchanged(checkpoint, task, context)
    method = best(scores, list(scores))
    for name, one in scores.items():
        context.progress.say(
            f"    {name}: {one.accuracy:.1%} of held-out images right, mean log-likelihood "
            f"{one.log_likelihood:.3g}{', chosen' if name == method else ''}"
        )
    return Choice(method, rate, scores)


def _candidates(checkpoint: BuiltModel, has_pool: bool) -> tuple[str, ...]:
    """What a recipe need not name: all heads that this model can have."""
    two_heads = len(classifiers(checkpoint.module)) > 1
    return tuple(name for name in default_candidates(has_pool) if not (two_heads and name == "knn"))


def _unchanged(checkpoint: BuiltModel, task: Task, context: Context) -> Score:
    device = torch.device(context.device)
    logits = outputs_of(checkpoint.module.to(device), task.support, checkpoint.preprocess, device)
    checkpoint.module.cpu()
    assert task.support.labels is not None
    return score(logits.numpy().astype(np.float64), task.support.labels)
