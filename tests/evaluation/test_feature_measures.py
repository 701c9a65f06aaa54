"""RankMe, alignment and uniformity, against the formulas of their papers, pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgevit.evaluation.feature_measures import alignment, rankme, uniformity


def test_rankme_of_orthogonal_directions_is_their_number() -> None:
    features = np.zeros((40, 12))
    features[:, :6] = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 6)))[0]
    assert rankme(features) == pytest.approx(6, rel=1e-4)
    assert rankme(np.ones((40, 12))) == pytest.approx(1, rel=1e-4)


def test_rankme_is_the_entropy_of_the_singular_values() -> None:
    features = np.random.default_rng(1).normal(size=(30, 8)) * np.arange(1, 9)
    values = [math.sqrt(max(value, 0)) for value in np.linalg.eigvalsh(features.T @ features)]
    shares = [value / sum(values) + 1e-7 for value in values]
    assert rankme(features) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-9)


def test_alignment_and_uniformity_are_those_of_the_paper() -> None:
    """The paper's own code, for tensors: Wang and Isola 2020, figure 5."""
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(20, 5)), rng.normal(size=(20, 5))
    x, y = (torch.nn.functional.normalize(torch.from_numpy(views), dim=1) for views in (first, second))
    assert alignment(first, second) == pytest.approx(float((x - y).norm(p=2, dim=1).pow(2).mean()))
    assert uniformity(first) == pytest.approx(float(torch.pdist(x, p=2).pow(2).mul(-2).exp().mean().log()))


def test_equal_views_are_aligned_and_equal_images_are_not_uniform() -> None:
    features = np.random.default_rng(3).normal(size=(9, 4))
    assert alignment(features, 3 * features) == pytest.approx(0, abs=1e-12)
    assert uniformity(np.ones((9, 4))) == pytest.approx(0, abs=1e-12)
    assert uniformity(np.concatenate([np.eye(4), -np.eye(4)])) < uniformity(features) < 0
