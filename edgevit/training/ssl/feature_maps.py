"""A backbone's features at each place of the image, next to its embedding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgevit.errors import RecipeError
from edgevit.models.timm_models import timm_model


class Features(NamedTuple):
    """The features of images.

    Attributes:
        embedding: the input of the classifier, (n, width).
        regions: the last feature map, row by row, (n, regions, channels); None for a model that ends in several maps.
    """

    embedding: Tensor
    regions: Tensor | None


def features_of(model: nn.Module, images: Tensor) -> Features:
    """The embedding and the regions of images (n, 3, H, W), in one pass of a timm model."""
    inner = timm_model(model)
    features = inner.forward_features(images)  # type: ignore[operator]
    regions = _regions(inner, features) if isinstance(features, Tensor) else None
    return Features(inner.forward_head(features, pre_logits=True), regions)  # type: ignore[operator]


def regions_of(model: nn.Module, features: Features) -> Tensor:
    """The regions (n, regions, channels) of a model's features. Raises RecipeError if it ends in several maps."""
    if features.regions is None:
        raise RecipeError(
            "the method reads the places of the last feature map, and this model ends in several maps",
            got=type(timm_model(model)).__name__,
            expected="a model with one feature map at its end",
            next="method: dino, simclr, byol or moco, which read the embedding alone",
        )
    return features.regions


@torch.no_grad()
def blank_features(model: nn.Module, size: tuple[int, int]) -> Features:
    """The features of one black image of this height and width, for their shapes. The model stays in its mode."""
    was_training = model.training
    features = features_of(model.eval(), torch.zeros(1, 3, *size))
    model.train(was_training)
    return features


def has_prefix_tokens(model: nn.Module) -> bool:
    """Whether a timm model has a class token, or other tokens beside those of places."""
    return bool(getattr(timm_model(model), "num_prefix_tokens", 0))


def _regions(inner: nn.Module, features: Tensor) -> Tensor:
    if features.ndim == 2:  # pooled already
        return features.unsqueeze(1)
    if features.ndim == 3:  # tokens
        return features[:, int(getattr(inner, "num_prefix_tokens", 0)) :]
    if getattr(inner, "output_fmt", "NCHW") == "NHWC":
        return features.flatten(1, 2)
    return features.flatten(2).transpose(1, 2)
