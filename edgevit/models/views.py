"""Test-time views: a model that averages its logits over several views of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from edgevit.artifacts import Frozen
from edgevit.configs import View
from edgevit.models.timm_models import ModelWrapper

ZOOM = 7 / 8  # the share of each side that a zoomed view shows


class TestTimeViews(Frozen):
    """A model whose output is the mean over the plain image and these views of it."""

    change: Literal["test_time_views"] = "test_time_views"
    views: tuple[View, ...]

    def apply(self, model: nn.Module) -> nn.Module:
        """Wrap a model."""
        return MultiViewModel(model, self.views)


class MultiViewModel(ModelWrapper):
    """A model whose answer is the mean of its logits for the image and for other views of it.

    All views go through the model as one batch, so that an exported graph holds the model once. In training mode the
    model sees the plain image alone.
    """

    def __init__(self, model: nn.Module, views: tuple[View, ...]) -> None:
        super().__init__(model)
        self.views = views

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            plain: Tensor = self.model(images)
            return plain
        logits = self.model(torch.cat([images, *(VIEWS[view](images) for view in self.views)]))
        return self.mean_over_views(logits)

    def mean_over_views(self, values: Tensor) -> Tensor:
        """The mean over views: values (views · N, …), view by view → (N, …)."""
        mean: Tensor = values.reshape(1 + len(self.views), -1, values.shape[-1]).mean(0)
        return mean


def flipped(images: Tensor) -> Tensor:
    """Images (N, 3, H, W), mirrored from left to right."""
    return images.flip(-1)


def zoomed(images: Tensor) -> Tensor:
    """The middle of images (N, 3, H, W), ZOOM of each side, resized to the whole size bilinearly."""
    height, width = images.shape[-2:]
    rows, columns = round(ZOOM * height), round(ZOOM * width)
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = images[..., top : top + rows, left : left + columns]
    return nn.functional.interpolate(middle, size=(height, width), mode="bilinear", align_corners=False)


VIEWS: Mapping[View, Callable[[Tensor], Tensor]] = {"flip": flipped, "zoom": zoomed}
