"""evaluate, protocol: cross_validation — against scikit-learn, and what it says of a body that saw the labels."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import normalize

from edgevit.artifacts import LEARNED_TOO, Artifact
from edgevit.configs import Budget, Evaluate, Npz, Splits
from edgevit.data import Dataset, dataset_artifacts, open_dataset
from edgevit.errors import DataError
from edgevit.evaluation.record import read_predictions
from edgevit.fewshot.cross_validated import cross_validate
from edgevit.fewshot.heads import Floats
from edgevit.inference.over_dataset import outputs_of
from edgevit.models import model_from_checkpoint
from edgevit.models.embedding import Pooled
from edgevit.progress import SilentProgress
from edgevit.provenance import data_behind
from edgevit.report.build import write_report
from tests.small_models import VIT, checkpoint, workbench


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


def test_only_a_body_that_saw_the_labels_is_optimistic() -> None:
    bench, start = workbench(), checkpoint().id
    with_head = bench.run("fewshot", "folds-head", model=start, support="digits.support", random_views=0)
    student = bench.run(
        "distill",
        "folds-student",
        teacher=with_head.id,
        streams=[{"data": "digits.pool"}],
        epochs=1,
        objectives=[{"loss": "soft"}],
        **VIT,
    )
    again = bench.run("fewshot", "folds-again", model=student.id, support="digits.support", random_views=0)
    support = bench.made["digits.support"].digest
    assert support not in data_behind(with_head, of_body=True)
    assert support in data_behind(with_head)
    for model in (student, again):
        assert support in data_behind(model, of_body=True)


def test_a_report_says_how_the_accuracy_was_measured(tmp_path: Path) -> None:
    honest = cross_validated(checkpoint().id)
    saw = replace(honest, manifest=honest.manifest.model_copy(update={"metrics": {**honest.metrics, LEARNED_TOO: [
        {"data": "digits.support", "labelled": True, "images": 50, "of": 50}]}}))  # fmt: skip
    for evaluation, said in ((honest, "trained without these labels"), (saw, "so it is optimistic")):
        cautions = " ".join(write_report([evaluation], Budget(), "few", tmp_path)["cautions"])
        assert "5-fold cross-validation of a head (nearest_centroid)" in cautions
        assert said in cautions


def test_copies_are_left_out_and_a_class_of_one_image_is_refused(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), np.uint8)
    images = np.concatenate([pixels, pixels[:1]])
    for labels, left_out in (([0, 0, 0, 1, 1, 1, 0], 1), ([0, 1, 1, 1, 1, 1, 0], None)):
        np.savez(tmp_path / "set.npz", images=images, labels=np.array(labels))
        dataset = opened(tmp_path / "set.npz")
        if left_out is None:
            with pytest.raises(DataError, match=r"two different images of each class(.|\n)*got: 0 has 1"):
                cross_validate(dataset, "ridge", 0, embedded, SilentProgress())
        else:
            result = cross_validate(dataset, "ridge", 0, embedded, SilentProgress())
            assert (result.copies, result.folds, len(result.predictions.labels)) == (1, 3, 6)
    assert opened(tmp_path / "set.npz").labels is not None


def opened(file: Path) -> Dataset:
    config = Npz(source="npz", path=str(file), splits=Splits(val=0, test=0))
    return open_dataset(dataset_artifacts({"set": config}, Path(), ["set.train"])["set.train"])


def embedded(dataset: Dataset) -> Floats:
    return np.stack([dataset.image(index)[::8, ::8].reshape(-1) for index in range(len(dataset))]).astype(np.float64)


@pytest.mark.parametrize("methods", [("label_propagation",), ("ridge", "knn"), ("auto",)])
def test_methods_that_need_a_pool_and_several_are_refused(methods: tuple[str, ...]) -> None:
    fields = {"stage": "evaluate", "id": "e", "model": "m", "data": "d.support", "protocol": "cross_validation"}
    with pytest.raises(ValidationError, match="takes one of the methods nearest_centroid, ridge"):
        Evaluate.model_validate({**fields, "methods": methods})
