"""Choice of a method by cross-validation within the support set, for `method: auto`. No other images are used."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from edgevit.artifacts import Json
from edgevit.configs import Fewshot
from edgevit.context import Context
from edgevit.fewshot.adapt import Task, TaskFeatures
from edgevit.fewshot.choice import best_candidate, default_candidates, head_scores
from edgevit.fewshot.crossvalidation import Score, fold_count, score
from edgevit.fewshot.learning_rate import choose_learning_rate
from edgevit.inference.over_dataset import outputs_of
from edgevit.models.creation import BuiltModel
from edgevit.models.embedding import classifiers
from edgevit.training.class_balance import class_balance

UNCHANGED = "unchanged"


class MethodChoice(NamedTuple):
    """The chosen method, the learning rate of fine-tuning, and the score of each candidate.

    There are no scores if cross-validation was not possible.
    """

    method: str
    learning_rate: float
    scores: dict[str, Score]

    def summary(self) -> Json:
        """The scores as JSON, for the metrics of the stage."""
        scores = {
            name: {key: value if math.isfinite(value) else None for key, value in method_score._asdict().items()}
            for name, method_score in self.scores.items()
        }
        return {"candidates": scores}


def choose_method(
    checkpoint: BuiltModel, task: Task, features: TaskFeatures, config: Fewshot, context: Context
) -> MethodChoice:
    """The candidate with the highest accuracy on held-out support images; of equals, that with the higher likelihood.

    If the model already has the classes of the support, "unchanged" is a candidate too, scored on the whole support.
    If a class has a single image, no image can be held out, and the first candidate is chosen.

    Raises:
        RecipeError: a candidate needs a pool, and there is none.
    """
    candidates = config.candidates or _candidates(checkpoint, has_pool=task.pool is not None)
    rate = config.learning_rate
    if fold_count(features.labels) < 2:
        context.progress.say(
            f"    a class has a single image, so cross-validation is not possible: the method is {candidates[0]}"
        )
        return MethodChoice(candidates[0], rate, {})
    balance, balanced = class_balance(config), config.corrects_imbalance
    heads = [name for name in candidates if name != "finetune"]
    scores: dict[str, Score] = {}
    with context.progress.bar("cross-validation", len(heads), "methods") as bar:
        for name in heads:
            scores |= head_scores([name], *features, config.seed, balance, balanced)
            bar.advance()
    if "finetune" in config.candidates:
        rates = config.learning_rates or (rate,)
        chosen = choose_learning_rate(checkpoint, task, config.model_copy(update={"learning_rates": rates}), context)
        rate = chosen.learning_rate
        scores["finetune"] = chosen.scores[rate]
    if checkpoint.classes == task.support.classes:
        scores[UNCHANGED] = _unchanged(checkpoint, task, context, balanced)
    method = best_candidate(scores, list(scores))
    for name, candidate_score in scores.items():
        context.progress.say(
            f"    {name}: {candidate_score.accuracy:.1%} of held-out images correct, mean log-likelihood "
            f"{candidate_score.log_likelihood:.3g}{', chosen' if name == method else ''}"
        )
    return MethodChoice(method, rate, scores)


def _candidates(checkpoint: BuiltModel, has_pool: bool) -> tuple[str, ...]:
    """The candidates by default: all heads that this model can have."""
    two_heads = len(classifiers(checkpoint.module)) > 1
    return tuple(name for name in default_candidates(has_pool) if not (two_heads and name == "knn"))


def _unchanged(checkpoint: BuiltModel, task: Task, context: Context, balanced: bool) -> Score:
    device = torch.device(context.device)
    logits = outputs_of(checkpoint.module.to(device), task.support, checkpoint.preprocess, device)
    checkpoint.module.cpu()
    assert task.support.labels is not None
    return score(logits.numpy().astype(np.float64), task.support.labels, balanced)
