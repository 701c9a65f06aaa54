"""Pooled features of a classifier, and a new linear classifier in its place."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from edgevit.artifacts import Preprocess
from edgevit.configs import Augmentation
from edgevit.data.dataset import Dataset
from edgevit.errors import RecipeError
from edgevit.fewshot.heads import Floats, LinearHead
from edgevit.models.creation import BuiltModel, classifier_prefixes, timm_model, with_new_head
from edgevit.progress import Progress, SilentProgress
from edgevit.training.inference import outputs_of

AUGMENTED_VIEWS = 8


def features_of(
    model: nn.Module,
    dataset: Dataset,
    preprocess: Preprocess,
    device: torch.device,
    augmentation: Augmentation,
    seed: int = 0,
    progress: Progress | None = None,
) -> Floats:
    """What enters the model's classifier, (samples, dimensions): the mean of the plain picture's and its random views'.

    The plain picture counts as much as all its views together.
    """
    pooled = _Pooled(model).to(device).eval()
    views = []
    with (progress or SilentProgress()).bar(dataset.name, (1 + AUGMENTED_VIEWS) * len(dataset), "views") as bar:
        plain = outputs_of(pooled, dataset, preprocess, device)
        bar.advance(len(dataset))
        for view in range(AUGMENTED_VIEWS):
            views.append(
                outputs_of(pooled, dataset, preprocess, device, augmentation=augmentation, view=view, seed=seed)
            )
            bar.advance(len(dataset))
    averaged: Floats = ((plain + torch.stack(views).mean(0)) / 2).numpy().astype(np.float64)
    return averaged


def with_linear_head(built: BuiltModel, head: LinearHead, drop_rates: Mapping[str, float] | None = None) -> BuiltModel:
    """The same model with this classifier. Of a distillation-token student both heads get it, and are averaged."""
    fresh = with_new_head(built, len(head.bias), drop_rates)
    model = timm_model(fresh.module)
    if fresh.description.distillation_token:
        model.set_distilled_training(False)  # type: ignore[operator]
    with torch.no_grad():
        for linear in classifiers(model):
            linear.weight.copy_(torch.from_numpy(head.weight))
            linear.bias.copy_(torch.from_numpy(head.bias))
    description = fresh.description.model_copy(update={"distillation_token": False, "inference": "mean_softmax"})
    return BuiltModel(model.eval(), description, built.preprocess)


def classifiers(model: nn.Module) -> list[nn.Linear]:
    """The last linear layers of a timm model: one, or those of its class head and its distillation head."""
    modules = dict(timm_model(model).named_modules())
    found = [modules.get(prefix.removesuffix(".")) for prefix in classifier_prefixes(model)]
    linears = [module for module in found if isinstance(module, nn.Linear) and module.bias is not None]
    if not linears:
        raise RecipeError(
            "this model's classifier is no linear layer, so that no linear head fits it",
            got=type(timm_model(model)).__name__,
            expected="a model that ends in a linear layer",
            next="train it instead: a train stage with init",
        )
    return linears


class _Pooled(nn.Module):
    """A classifier that answers with the mean of what enters its last linear layers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._linears = classifiers(model)

    def forward(self, images: Tensor) -> Tensor:
        entered: list[Tensor] = []
        hooks = [
            linear.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0])) for linear in self._linears
        ]
        try:
            self.model(images)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(entered).mean(0)
