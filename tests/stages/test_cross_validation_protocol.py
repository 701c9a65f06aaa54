"""evaluate, protocol: cross_validation — against scikit-learn, and what it says of a body that saw the labels."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from edgevit.artifacts import LEARNED_TOO, Artifact
from edgevit.configs import Evaluate
from edgevit.data import open_dataset
from edgevit.evaluation.record import read_predictions
from edgevit.inference.over_dataset import outputs_of
from edgevit.models import model_from_checkpoint
from edgevit.models.embedding import Pooled
from edgevit.provenance import data_behind
from tests.small_models import checkpoint, workbench


@cache
def cross_validated(model: str, **changes: Any) -> Artifact:
    fields = {"data": "digits.support", "protocol": "cross_validation", **changes}
    return workbench().run("evaluate", f"folds-{model}", model=model, **fields)


def test_agrees_with_scikit_learn() -> None:
    evaluation = cross_validated(checkpoint().id)
    support = open_dataset(workbench().made["digits.support"])
    pooled, cpu = Pooled(model_from_checkpoint(checkpoint())), torch.device("cpu")
    features = outputs_of(pooled, support, checkpoint().io.preprocess, cpu).numpy().astype(float)
    assert support.labels is not None
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    expected = np.empty(len(support), np.int64)
    for train, held_out in folds.split(features, support.labels):
        center = features[train].mean(0)
        known, asked = (normalize(features[part] - center) for part in (train, held_out))
        means = normalize(np.stack([known[support.labels[train] == label].mean(0) for label in range(10)]))
        expected[held_out] = (asked @ means.T).argmax(1)
    np.testing.assert_array_equal(read_predictions(evaluation)["predicted"], expected)
    assert evaluation.metrics["cross_validation"] == {"folds": 5, "method": "nearest_centroid", "copies_left_out": 0}
    assert evaluation.metrics["top1"]["n"] == 50
