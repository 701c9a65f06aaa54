"""FCMAE: the pixels of masked patches, by a convolutional or hybrid backbone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
from edgevit.training.ssl.feature_maps import features_of, has_prefix_tokens, regions_of
from edgevit.training.ssl.heads import MapDecoder
from edgevit.training.ssl.self_supervised import SelfSupervised, seeded

FEWEST_PATCHES = 4


class NotOneMapError(Exception):
    """The input of a convolution is not one map for each image."""


class FcmaeLearner(SelfSupervised):
    """FCMAE: a convolutional backbone completes the pixels of masked patches (Woo et al. 2023, ConvNeXt V2).

    A patch is the area of a place in the last feature map. The paper's encoder has sparse convolutions. Here they are
    dense, and masked places of their inputs are zero, as the paper proposes for other hardware (section 3.1). So masked
    places take as much time as visible places. Batch normalization sees the visible places alone.
    Squeeze-and-excitation, global response normalization and attention see the masked places too, with what biases and
    neighbors left there. Pixels of masked patches never enter.
    """

    takes_parts = True
    reads_regions = True

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
        self._check_takes_a_mask()
        with seeded(seed):
            self.decoder = MapDecoder(
                self.channels, side, 3 * self.patch[0] * self.patch[1], config.decoder_width, config.decoder_depth
            )

    def forward(self, batch: Batch) -> Step:
        images = self.images_of(batch.views[0])
        order = torch.rand(len(images), self.regions, device=images.device).argsort(1)
        masked = order[:, self.visible :]
        shown = torch.ones_like(order, dtype=images.dtype).scatter(1, masked, 0.0)
        with autocast(images.device, self.precision):
            predicted = self.decoder(self.encoded(images, shown), shown)
        return Step(losses.masked_patch_error(predicted.float(), images, masked, self.patch))

    def encoded(self, images: Tensor, shown: Tensor) -> Tensor:
        """The regions (n, regions, channels) of images (n, 3, H, W), from patches with 1 in `shown` (n, regions)."""
        side = math.isqrt(self.regions)
        with masked_windows(self.model, shown.view(-1, 1, side, side)) as mask:
            return regions_of(self.model, features_of(self.model, mask(images)))

    @torch.no_grad()
    def _check_takes_a_mask(self) -> None:
        """Raise RecipeError if the model's convolutions see other tensors than one map of each image."""
        was_training = self.model.training
        self.model.eval()
        shown = torch.ones(2, self.regions).scatter(1, torch.tensor([[0], [1]]), 0.0)
        try:
            self.encoded(torch.zeros(2, 3, self.preprocess.height, self.preprocess.width), shown)
        except NotOneMapError as error:
            raise RecipeError(
                "fcmae masks the maps of images, and convolutions of this model see windows or heads",
                got=f"{type(timm_model(self.model)).__name__}, an input of {error} for 2 images",
                expected="a convolutional or hybrid model such as convnextv2_atto, resnet18 or mobilevit_xxs",
                next="method: dino or simclr, which fit any backbone",
            ) from None
        self.model.train(was_training)

    def _side(self) -> int:
        """The rows and columns of patches. Raises RecipeError if the backbone or the image size does not fit."""
        inner, size, side = timm_model(self.model), self.preprocess.height, math.isqrt(self.regions)
        if not has_windows(inner) or has_prefix_tokens(inner):
            raise RecipeError(
                "fcmae masks the inputs of convolutions, and this model mixes its places by attention alone"
                if not has_windows(inner)
                else "fcmae completes the map of a convolutional model, and this model has tokens beside the map",
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

    Batch normalization of maps sees the visible places alone, as one of a sparse network does, and gives 0 elsewhere.

    Args:
        shown: 1 for a visible patch and 0 for a masked patch, (n, 1, rows, columns).

    Yields a function that sets masked places of a map (n, channels, H, W) to zero.
    """

    def places(features: Tensor) -> Tensor:
        return functional.interpolate(shown, size=features.shape[-2:], mode="nearest")

    def mask(features: Tensor) -> Tensor:
        if features.ndim != 4 or len(features) != len(shown):
            raise NotOneMapError(" × ".join(map(str, features.shape)))
        return features * places(features).to(features.dtype)

    def mask_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (mask(inputs[0]), *inputs[1:])

    with ExitStack() as stack:
        for module in model.modules():
            if _has_a_window(module):
                stack.callback(module.register_forward_pre_hook(mask_input).remove)
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                stack.enter_context(_normalized_where_visible(module, shown, places))
        yield mask


@contextmanager
def _normalized_where_visible(module: nn.Module, shown: Tensor, places: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Context in which batch normalization of maps of the images sees the values of visible places alone."""
    whole: list[tuple[Tensor, Tensor] | None] = []

    def gather(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features = inputs[0]
        if features.ndim != 4 or len(features) != len(shown) or features.shape[2] < shown.shape[2]:  # pooled
            whole.append(None)
            return inputs
        visible = places(features).squeeze(1) > 0
        whole.append((features, visible))
        return (features.permute(0, 2, 3, 1)[visible][..., None, None], *inputs[1:])

    def scatter(_: nn.Module, inputs: tuple[Tensor, ...], values: Tensor) -> Tensor:
        gathered = whole.pop()
        if gathered is None:
            return values
        features, visible = gathered
        n, channels, height, width = features.shape
        full = values.new_zeros(n, height, width, channels)
        full[visible] = values[..., 0, 0]
        return full.permute(0, 3, 1, 2)

    hooks = module.register_forward_pre_hook(gather), module.register_forward_hook(scatter)
    try:
        yield
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
