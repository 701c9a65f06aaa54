"""evaluate, protocol: episodes — the same answers from a checkpoint, its files and by hand."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from edgevit.artifacts import Artifact
from edgevit.configs import Budget, Digits, Evaluate
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.errors import DataError
from edgevit.fewshot.heads import k_nearest_neighbors, nearest_centroid
from edgevit.inference.over_dataset import outputs_of
from edgevit.models import model_from_checkpoint
from edgevit.models.embedding import Pooled
from edgevit.report.build import write_report
from tests.small_models import checkpoint, workbench

EPISODES: dict[str, Any] = {
    "protocol": "episodes",
    "episodes": 3,
    "shots": 3,
    "queries": 10,
    "methods": ("nearest_centroid", "ridge"),
}


@cache
def played(model: str, name: str = "episodes", **changes: Any) -> Artifact:
    return workbench().run("evaluate", f"{name}-{model}", model=model, **{"data": "digits.test", **EPISODES, **changes})


@cache
def with_embedding() -> Artifact:
    return workbench().run("export", "episodes-onnx", model=checkpoint().id, embedding=True)


def accuracies(evaluation: Artifact) -> np.ndarray:
    with np.load(evaluation.file("episodes.npz"), allow_pickle=False) as arrays:
        assert arrays["methods"].tolist() == list(evaluation.metrics["episodes"])
        return np.asarray(arrays["accuracies"])


def test_a_file_with_an_embedding_answers_as_its_checkpoint() -> None:
    np.testing.assert_allclose(
        accuracies(played(checkpoint().id)), accuracies(played(with_embedding().id)), atol=1 / 100 + 1e-9
    )


def test_a_file_without_is_measured_by_its_logits() -> None:
    plain = workbench().run("export", "episodes-plain", model=checkpoint().id)
    assert not np.array_equal(accuracies(played(plain.id)), accuracies(played(with_embedding().id)))


def test_support_of_another_set_and_all_queries_by_hand() -> None:
    evaluation = played(
        checkpoint().id,
        "exercise",
        support="digits.support",
        shots=5,
        queries=None,
        episodes=1,
        methods=("nearest_centroid",),
    )
    pooled = Pooled(model_from_checkpoint(checkpoint()))
    preprocess, cpu = checkpoint().io.preprocess, torch.device("cpu")
    support, test = (open_dataset(workbench().made[f"digits.{role}"]) for role in ("support", "test"))
    known, asked = (outputs_of(pooled, one, preprocess, cpu).numpy().astype(float) for one in (support, test))
    assert support.labels is not None
    head = nearest_centroid(known, support.labels, 10, known.mean(0))  # all five images of each class: one draw
    assert accuracies(evaluation)[0, 0] == pytest.approx((head.logits(asked).argmax(1) == test.labels).mean())
    assert evaluation.metrics["ways"] == 10


@pytest.mark.slow
def test_transduction_and_auto_run_on_a_pool() -> None:
    evaluation = played(
        checkpoint().id, "pool", support="digits.support", pool="digits.pool", max_pool_images=60, base="digits.pool",
        shots=4, methods=("label_propagation", "auto"),
    )  # fmt: skip
    assert sum(evaluation.metrics["auto_chose"].values()) == 3
    assert set(evaluation.metrics["episodes"]["auto"]) >= {"value", "low", "high", "min", "max", "gain"}


def test_made_again_it_is_the_same() -> None:
    first = played(checkpoint().id).digest
    again = workbench().run(
        "evaluate", f"episodes-{checkpoint().id}", model=checkpoint().id, data="digits.test", again=True, **EPISODES
    )
    assert again.digest == first


def test_report_has_a_table_of_what_shares_its_draws(tmp_path: Path) -> None:
    on = [played(one.id) for one in (checkpoint(), with_embedding())]
    elsewhere = played(checkpoint().id, "other-draws", seed=1)
    report = write_report([*on, elsewhere], Budget(), "few-shot", tmp_path)
    together, alone = report["episodes"]
    assert [one["id"] for one in together["models"]] == [checkpoint().id, with_embedding().id]
    assert len(alone["models"]) == 1
    value = together["models"][1]["methods"]["ridge"]["value"]
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "10-way 3-shot" in text
        assert f"{100 * value:.1f}%" in text
    assert max(map(len, (tmp_path / "report.md").read_text().splitlines())) <= 80


def test_classes_that_the_support_lacks_are_named() -> None:
    bench = workbench()
    few = bench.made["digits.support"].manifest
    config = {**few.config, "dataset": {**few.config["dataset"], "include_classes": ["0", "1", "2"]}}
    source = Digits.model_validate(config["dataset"])
    bench.made |= dataset_artifacts({"three": source}, Path(), ["three.support"])
    with pytest.raises(DataError, match="the support lacks 7 of the 10 classes"):
        played(checkpoint().id, "lacking", support="three.support")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"ways": 5}, "'ways' goes with protocol: episodes"),
        ({"protocol": "corruptions", "support": "digits.support"}, "'support' goes with protocol: episodes"),
        ({"protocol": "episodes", "kinds": ("fog",)}, "'kinds' goes with protocol: corruptions"),
        ({"seed": 3}, "'seed' goes with protocol: corruptions or episodes"),
        ({"protocol": "episodes", "methods": ()}, "'methods' is empty"),
        ({"protocol": "episodes", "methods": ("ridge", "ridge")}, "'methods' has a value twice"),
    ],
)
def test_options_of_another_protocol_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Evaluate.model_validate({"stage": "evaluate", "id": "e", "model": "m", "data": "d.test", **fields})


def test_neighbours_ship_as_they_were_fitted() -> None:
    bench = workbench()
    adapted = bench.run(
        "fewshot", "by-neighbours", model=checkpoint().id, support="digits.support", method="knn", random_views=0
    )
    pooled = Pooled(model_from_checkpoint(checkpoint()))
    preprocess, cpu = adapted.io.preprocess, torch.device("cpu")
    support, test = (open_dataset(bench.made[f"digits.{role}"]) for role in ("support", "test"))
    known, asked = (outputs_of(pooled, one, preprocess, cpu).numpy().astype(float) for one in (support, test))
    assert support.labels is not None
    head = k_nearest_neighbors(known, support.labels, 10, known.mean(0))
    answered = outputs_of(model_from_checkpoint(adapted), test, preprocess, cpu).numpy()
    alike = np.isclose(answered, head.logits(asked), atol=1e-3).all(1)
    assert alike.mean() > 0.99  # of two support images as far away, a rounding decides which is the last neighbour
    exported = bench.run("export", "neighbours-onnx", model=adapted.id, embedding=True)
    again = bench.run(
        "fewshot", "after-neighbours", model=adapted.id, support="digits.support", method="ridge", random_views=0
    )
    assert exported.metrics["max_difference"] < 1e-3
    assert json.loads((again.path / "model.json").read_text())["changes"] == []
