"""FCMAE: the pixels of masked patches, by a convolutional or hybrid backbone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgevit.configs import Fcmae
from edgevit.errors import RecipeError
from edgevit.inference.precision import autocast
from edgevit.models.creation import BuiltModel
from edgevit.models.timm_models import timm_model
from edgevit.training.loop.batches import Batch
from edgevit.training.loop.learner import Step
from edgevit.training.ssl import losses
from edgevit.training.ssl.feature_maps import features_of, has_prefix_tokens
from edgevit.training.ssl.heads import MapDecoder
from edgevit.training.ssl.self_supervised import SelfSupervised, seeded

FEWEST_PATCHES = 4


class FcmaeLearner(SelfSupervised):
    """FCMAE: a convolutional backbone completes the pixels of masked patches (Woo et al. 2023, ConvNeXt V2).

    A patch is the area of a place in the last feature map. The paper's encoder has sparse convolutions. Here they are
    dense, and masked places of their inputs are zero, as the paper proposes for other hardware (section 3.1). So masked
    places take as much time as visible places. Their zeros enter the statistics of normalization and of
    squeeze-and-excitation, and attention. Pixels of masked patches never enter.
    """

    takes_parts = True

    def __init__(self, built: BuiltModel, config: Fcmae, seed: int) -> None:
        super().__init__(built, seed)
        side = self._side()
        self.patch = (self.preprocess.height // side, self.preprocess.width // side)
        self.visible = max(1, round(self.regions * (1 - config.masked)))
        if self.visible == self.regions:
            raise RecipeError(
                "no patch would be masked",
                got=f"masked: {config.masked:g} of {self.regions} patches",
                next="a larger share",
            )
        with seeded(seed):
            self.decoder = MapDecoder(
                self.channels, side, 3 * self.patch[0] * self.patch[1], config.decoder_width, config.decoder_depth
            )

    def forward(self, batch: Batch) -> Step:
        images = self.images_of(batch.views[0])
        order = torch.rand(len(images), self.regions, device=images.device).argsort(1)
        masked = order[:, self.visible :]
        shown = torch.ones_like(order, dtype=images.dtype).scatter(1, masked, 0.0)
        with autocast(images.device, self._precision):
            predicted = self.decoder(self.encoded(images, shown), shown)
        return Step(losses.masked_patch_error(predicted.float(), images, masked, self.patch))

    def encoded(self, images: Tensor, shown: Tensor) -> Tensor:
        """The regions (n, regions, channels) of images (n, 3, H, W), from patches with 1 in `shown` (n, regions)."""
        side = math.isqrt(self.regions)
        with masked_windows(self.model, shown.view(-1, 1, side, side)) as mask:
            return features_of(self.model, mask(images)).regions

    def _side(self) -> int:
        """The rows and columns of patches. Raises RecipeError if the backbone or the image size does not fit."""
        inner, size, side = timm_model(self.model), self.preprocess.height, math.isqrt(self.regions)
        if not has_windows(inner) or has_prefix_tokens(inner):
            raise RecipeError(
                "fcmae masks the inputs of convolutions, and this model mixes its places by attention alone",
                got=type(inner).__name__,
                expected="a convolutional or hybrid model such as convnextv2_atto, resnet18 or mobilevit_xxs",
                next="take method: mae for a plain ViT, esvit for Swin, or dino or simclr, which fit any backbone",
            )
        if self.regions < FEWEST_PATCHES or side * side != self.regions or size % side:
            raise RecipeError(
                "fcmae masks the places of the last feature map, and these do not divide the image into enough patches",
                got=f"{self.regions} places at {size} px",
                expected=f"a square number from {FEWEST_PATCHES} on, whose root divides the image's side",
                next=f"image_size: {_size_with_patches(size, side)}, or method: simclr or dino",
            )
        return side


@contextmanager
def masked_windows(model: nn.Module, shown: Tensor) -> Iterator[Any]:
    """Context in which masked places of the inputs of all convolutions and poolings with a window are zero.

    Args:
        shown: 1 for a visible patch and 0 for a masked patch, (n, 1, rows, columns).

    Yields a function that sets masked places of a map (n, channels, H, W) to zero.
    """

    def mask(features: Tensor) -> Tensor:
        size = features.shape[-2:]
        return features * functional.interpolate(shown, size=size, mode="nearest").to(features.dtype)

    def mask_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (mask(inputs[0]), *inputs[1:])

    hooks = [module.register_forward_pre_hook(mask_input) for module in model.modules() if _has_a_window(module)]
    try:
        yield mask
    finally:
        for hook in hooks:
            hook.remove()


def has_windows(model: nn.Module) -> bool:
    """Whether windows of a model's convolutions overlap, so that neighboring patches mix there."""
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    return any(max(layer.kernel_size) > min(layer.stride) for layer in convolutions)


def _has_a_window(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return max(module.kernel_size) > 1
    return isinstance(module, (nn.MaxPool2d, nn.AvgPool2d))


def _size_with_patches(size: int, side: int) -> int:
    """An image size at which a model with `side` × `side` places at `size` px has at least 3 × 3 patches."""
    stride = -(-size // max(1, side))
    return max(3, -(-size // stride)) * stride
