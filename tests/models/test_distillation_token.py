"""Two heads in training, one answer otherwise, for every family that has a distillation head."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit.models import catalogue, create_model
from edgevit.models.distillation_token import DistillationTokenModel, TwoLogits, log_mean_softmax
from edgevit.models.embedding import classifiers

FAMILIES = {entry.family: entry.name for entry in catalogue.read() if entry.distillation_token}


@pytest.mark.parametrize("name", sorted(FAMILIES.values()))
def test_inference_is_the_log_of_the_mean_softmax_of_both_heads(name: str) -> None:
    model = create_model(name, 4, 64, distillation_token=True).module
    assert isinstance(model, DistillationTokenModel)
    said: list[torch.Tensor] = []
    outputs = [linear.register_forward_hook(lambda *call: said.append(call[2])) for linear in classifiers(model)]
    with torch.no_grad():
        logits = model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    for hook in outputs:
        hook.remove()
    first, second = (head.double().softmax(-1) for head in said)
    torch.testing.assert_close(logits.double(), ((first + second) / 2).log(), atol=1e-5, rtol=1e-5)


def test_only_the_switch_stays_in_training_mode() -> None:
    model = create_model(
        "deit_tiny_distilled_patch16_224", 4, 32, {"depth": 1, "drop_rate": 0.5}, distillation_token=True
    )
    dropouts = [module for module in model.module.modules() if isinstance(module, nn.Dropout) and module.p]
    assert dropouts
    assert not any(module.training for module in dropouts)
    assert isinstance(model.module.train()(torch.zeros(1, 3, 32, 32)), TwoLogits)
    assert all(module.training for module in dropouts)


def test_log_mean_softmax_survives_logits_that_softmax_does_not() -> None:
    first, second = torch.tensor([[0.0, 500.0, -500.0]]), torch.tensor([[0.0, 400.0, -600.0]])
    expected = ((first.double().softmax(-1) + second.double().softmax(-1)) / 2).log()
    got = log_mean_softmax(first, second)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got.double()[:, :2], expected[:, :2], atol=1e-4, rtol=1e-5)
