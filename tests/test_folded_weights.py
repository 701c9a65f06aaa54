"""Weights with batch norm folded in, from which the benchmarks go on training."""

from __future__ import annotations

from typing import Any

import timm
import torch

from benchmarks.imagenet_mobilenetv2 import MODEL, MODEL_ARGS, with_batch_norm_statistics


def _folded(seed: int) -> Any:
    """A model with batch norm that only adds its offset, as folding leaves it."""
    torch.manual_seed(seed)
    model: Any = timm.create_model(MODEL, **MODEL_ARGS).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias, std=0.5)
    return model


@torch.no_grad()
def test_measured_statistics_keep_the_function_and_are_those_of_a_training() -> None:
    folded, again = _folded(0), _folded(1)
    images = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    again.load_state_dict(with_batch_norm_statistics(folded.state_dict(), images))

    expected, answered = folded(images), again(images)
    trained, before = again.train()(images), folded.train()(images)

    spread = float(expected.std())
    assert float((answered - expected).abs().max()) < 1e-3 * spread
    assert float((trained - expected).abs().max()) < 0.05 * spread
    assert float((before - expected).abs().max()) > 0.5 * spread
