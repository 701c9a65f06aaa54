"""The range test: it takes the steps that it says, and ends where a quadratic is known to diverge."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgevit.configs import Training
from edgevit.context import Context
from edgevit.errors import TrainingError
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.loop.batches import Batch, TrainingStream
from edgevit.training.loop.lr_finder import RangeTest, range_test
from edgevit.training.loop.setup import TrainingSetup
from edgevit.training.objectives import ObjectiveFunction, Outputs, label_objective
from tests.learning import blobs, tiny_vit, train_config

MOMENTUM = 0.9  # of timm's sgd, which is Nesterov's
START = (1.0, -2.0, 0.5)


class Point(nn.Module):
    """A point in space; whatever it is shown, it answers with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor(START))

    def forward(self, images: Tensor) -> Tensor:
        return self.place.expand(len(images), -1)


def quadratic(curvature: float) -> Callable[[Outputs, Batch], Tensor]:
    def objective(outputs: Outputs, batch: Batch) -> Tensor:
        assert isinstance(outputs, Tensor)
        return curvature / 2 * outputs[0].square().sum()

    return objective


def on_quadratic(curvature: float, **how: float) -> RangeTest:
    return range_test(
        with_objective(quadratic(curvature), Point()),
        train_config(optimizer="sgd", weight_decay=0),
        Context(workers=0),
        **how,  # type: ignore[arg-type]
    )


def vit_setup() -> TrainingSetup:
    return with_objective(label_objective(3), tiny_vit().module)


def with_objective(objective: ObjectiveFunction, model: nn.Module) -> TrainingSetup:
    built = tiny_vit()
    learner = ClassifierLearner(model, objective, built.preprocess)
    return TrainingSetup(built, learner, ("a", "b", "c"), [TrainingStream(blobs())])


def on_vit(config: Training, steps: int = 20, **how: float) -> RangeTest:
    return range_test(vit_setup(), config, Context(workers=0), steps=steps, **how)


@pytest.mark.parametrize("curvature", [1.0, 30.0, 1000.0])
def test_suggestion_lies_below_where_a_quadratic_diverges(curvature: float) -> None:
    """Nesterov's steps on a curvature L converge up to 2(1 + β) / ((1 + 2β) L)."""
    limit = 2 * (1 + MOMENTUM) / (1 + 2 * MOMENTUM) / curvature
    found = on_quadratic(curvature)
    assert found.diverged
    assert limit / 5 < found.learning_rates[found.minimum] < 5 * limit
    assert found.suggestion is not None
    assert limit / 50 < found.suggestion < limit / 2


def test_losses_are_those_of_torchs_own_optimizer_at_these_rates() -> None:
    found = on_quadratic(3.0, lowest=1e-3, highest=1e-1, steps=30)
    ratios = [right / left for left, right in pairwise(found.learning_rates)]
    assert ratios == pytest.approx([100 ** (1 / 29)] * 29)
    assert (found.learning_rates[0], found.learning_rates[-1]) == (pytest.approx(1e-3), pytest.approx(1e-1))  # type: ignore[comparison-overlap]
    place = torch.tensor(START, requires_grad=True)
    optimizer = torch.optim.SGD([place], lr=1.0, momentum=MOMENTUM, nesterov=True)
    losses = []
    for rate in found.learning_rates:
        optimizer.param_groups[0]["lr"] = rate
        loss = 1.5 * place.square().sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert found.losses == pytest.approx(losses, rel=1e-4)
    assert not found.diverged


def test_smoothed_loss_is_adams_unbiased_average() -> None:
    found = on_quadratic(3.0, steps=20)
    weights = [0.9 ** (10 - step) for step in range(11)]
    expected = sum(weight * loss for weight, loss in zip(weights, found.losses, strict=False)) / sum(weights)
    assert found.smoothed[10] == pytest.approx(expected)


def test_rates_are_those_of_the_field_whatever_batch_they_are_meant_for() -> None:
    once = on_vit(train_config(), lowest=2e-4)
    scaled = on_vit(train_config(learning_rate_batch=3), lowest=1e-4, highest=5.0)  # for batches of 6: doubled
    assert scaled.losses == pytest.approx(once.losses, rel=1e-5)
    assert 2 * scaled.learning_rates[-1] == pytest.approx(once.learning_rates[-1])


def test_parts_of_a_batch_count_as_one_step() -> None:
    whole, in_parts = on_vit(train_config()), on_vit(train_config(accumulation=4))
    assert in_parts.losses[:5] == pytest.approx(whole.losses[:5], rel=1e-4)
    assert len(in_parts.losses) == len(whole.losses)


def test_a_vit_that_learns_gets_a_rate_it_learns_with() -> None:
    found = on_vit(train_config(), steps=100)
    assert found.suggestion is not None
    assert 1e-5 < found.suggestion < 1e-1


def test_no_rate_is_suggested_where_the_loss_is_noise() -> None:
    def noise(outputs: Outputs, batch: Batch) -> Tensor:
        assert isinstance(outputs, Tensor)
        return outputs.sum() * 0 + 1 + torch.rand((), generator=torch.Generator().manual_seed(batch.step))

    found = range_test(with_objective(noise, tiny_vit().module), train_config(), Context(workers=0))
    assert found.suggestion is None
    assert len(found.losses) == 100


def test_a_loss_that_is_never_finite_is_said() -> None:
    def broken(outputs: Outputs, batch: Batch) -> Tensor:
        assert isinstance(outputs, Tensor)
        return outputs.sum() * float("nan")

    with pytest.raises(TrainingError, match="not finite from the start"):
        range_test(with_objective(broken, tiny_vit().module), train_config(), Context(workers=0))


def test_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    on_quadratic(1.0)
    assert list(tmp_path.iterdir()) == []
