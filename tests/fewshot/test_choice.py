"""A method chosen inside the support: by what was held out, among equals by a stated order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from edgevit.configs import Fewshot
from edgevit.context import Context
from edgevit.errors import RecipeError
from edgevit.fewshot.adapt import Task, task_features, with_fitted_head
from edgevit.fewshot.automatic import UNCHANGED, choose_method
from edgevit.fewshot.choice import REPEATS, best_candidate, default_candidates, head_scores
from edgevit.fewshot.crossvalidation import Score
from edgevit.fewshot.heads import mean_length
from edgevit.fewshot.transduction import label_propagation
from tests.fewshot.clusters import clusters, moons
from tests.fewshot.test_adapt import checkpoint, config
from tests.learning import blobs
from tests.said import Said


def test_scores_are_scikit_learns_cross_validation() -> None:
    support, labels = clusters(5, spread=2.0)
    base = support.mean(0)
    samples = support - base
    expected = []
    for repeat in range(REPEATS):
        for train, held_out in StratifiedKFold(5, shuffle=True, random_state=3 + repeat).split(samples, labels):
            model = LogisticRegression(C=10, max_iter=2000)
            model.fit(samples[train] / mean_length(samples[train]), labels[train])
            expected.append(model.score(samples[held_out] / mean_length(samples[train]), labels[held_out]))
    found = head_scores(["logistic_regression"], support, labels, 4, base=base, seed=3)
    assert found["logistic_regression"].accuracy == pytest.approx(np.mean(expected))


def test_samples_that_are_held_out_join_the_pool() -> None:
    pool, _ = moons(60)
    support, labels = pool[[10, 30, 50, 70, 90, 110]] + 0.01, np.array([0, 0, 0, 1, 1, 1])
    found = head_scores(["label_propagation"], support, labels, 2, pool, np.zeros(3), seed=0)["label_propagation"]
    right = []
    for repeat in range(REPEATS):
        for train, held_out in StratifiedKFold(3, shuffle=True, random_state=repeat).split(support, labels):
            everything = np.concatenate([pool, support[held_out]])
            spread = label_propagation(support[train], labels[train], 2, np.zeros(3), everything)
            right.append((spread[len(pool) :].argmax(1) == labels[held_out]).mean())
    assert found.accuracy == pytest.approx(np.mean(right))


def test_one_image_of_a_class_gives_no_scores() -> None:
    support, labels = clusters([1, 4, 4, 4])
    assert head_scores(["ridge"], support, labels, 4) == {}


def test_of_equals_the_likeliest_is_best_and_then_the_first() -> None:
    scores = {"a": Score(0.5, -1.0), "b": Score(0.5, -0.5), "c": Score(0.5, -0.5), "d": Score(0.4, 0.0)}
    assert best_candidate(scores, list(scores)) == "b"


def test_what_assumes_a_balanced_pool_is_no_candidate_by_default() -> None:
    assert "balanced_mixture" not in default_candidates(has_pool=True)
    assert default_candidates(has_pool=True)[0] == "label_propagation"
    assert "label_propagation" not in default_candidates(has_pool=False)


def auto(folder: Path, per_class: int, said: Said, classes: tuple[str, ...] = ("x", "y"), **changes: Any) -> str:
    settings: Fewshot = config(method="auto", random_views=1, **changes)
    start, task = checkpoint(folder, classes), Task(blobs("s", per_class))
    context = Context(work=folder / "work", workers=0, progress=said)
    return choose_method(start, task, task_features(start, task, settings, context), settings, context).method


def test_every_candidate_is_reported(tmp_path: Path) -> None:
    said = Said()
    chosen = auto(tmp_path, 3, said)
    lines = [line for line in said.lines if "held-out" in line]
    assert len(lines) == len(default_candidates(has_pool=False))
    assert [line for line in lines if "chosen" in line] == [line for line in lines if f"    {chosen}:" in line]


def test_a_single_image_of_each_class_takes_the_stated_default(tmp_path: Path) -> None:
    said = Said()
    assert auto(tmp_path, 1, said) == "logistic_regression"
    assert any("cross-validation is not possible" in line for line in said.lines)


def test_a_model_with_two_heads_takes_no_neighbours(tmp_path: Path) -> None:
    said = Said()
    settings = config(method="auto", random_views=0)
    start, task = checkpoint(tmp_path, ("x", "y"), token=True), Task(blobs("s", 3))
    context = Context(work=tmp_path / "work", workers=0, progress=said)
    features = task_features(start, task, settings, context)
    chosen = choose_method(start, task, features, settings, context)
    assert "knn" not in chosen.scores
    with_fitted_head(start, features, chosen.method, settings)
    with pytest.raises(RecipeError, match="replace one linear classifier"):
        with_fitted_head(start, features, "knn", settings)


def test_a_candidate_that_needs_a_pool_is_refused_without_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs unlabelled images"):
        auto(tmp_path, 3, Said(), candidates=("ridge", "gaussian_mixture"))


def test_a_model_that_knows_the_classes_may_stay_as_it_is(tmp_path: Path) -> None:
    said = Said()
    auto(tmp_path, 3, said, classes=("a", "b", "c"), candidates=("ridge",))
    assert any(line.strip().startswith(UNCHANGED) for line in said.lines)


def test_finetuning_is_a_candidate_where_it_is_named(tmp_path: Path) -> None:
    said = Said()
    auto(tmp_path, 2, said, candidates=("ridge", "finetune"), epochs=1, batch_size=6, learning_rate=1e-4)
    assert any(line.strip().startswith("finetune:") for line in said.lines)


def test_cross_validation_finds_the_head_that_suits() -> None:
    """Each class lies in two opposite corners: no linear head tells them apart, the nearest neighbour does."""
    rng = np.random.default_rng(0)
    corners = np.repeat([[1, 1], [-1, -1], [1, -1], [-1, 1]], 5, axis=0)
    samples, labels = corners + 0.1 * rng.standard_normal((20, 2)), np.repeat([0, 1], 10)
    scores = head_scores(default_candidates(has_pool=False), samples, labels, 2)
    assert best_candidate(scores, list(scores)) == "knn"
    assert scores["knn"].accuracy == 1
