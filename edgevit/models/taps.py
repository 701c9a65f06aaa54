"""A timm model's output and the features of its layers, in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgevit.configs import Tap
from edgevit.errors import RecipeError
from edgevit.models.distillation_token import DistillationTokenModel, TwoLogits
from edgevit.models.timm_models import timm_model
from edgevit.models.views import MultiViewModel


def forward_with_taps(model: nn.Module, images: Tensor, taps: Sequence[Tap]) -> tuple[Tensor | TwoLogits, list[Tensor]]:
    """A model's output for images (N, 3, H, W), and its features at each tap.

    "pooled" is the input of the classifier, (N, channels). "cls" is the class token, (N, channels). A number is an
    intermediate layer in the order of timm's `forward_intermediates`, (N, channels, height, width); −1 is the last.
    A model with test-time views gives the features of the plain image; its output takes another pass.
    """
    inner = timm_model(model)
    layers = sorted({tap for tap in taps if isinstance(tap, int)})
    maps: dict[Tap, Tensor] = {}
    if layers:
        final, intermediates = inner.forward_intermediates(images, indices=layers, output_fmt="NCHW")  # type: ignore[operator]
        maps = dict(zip(layers, intermediates, strict=True))
    else:
        final = inner.forward_features(images)  # type: ignore[operator]
    if "pooled" in taps:
        maps["pooled"] = inner.forward_head(final, pre_logits=True)  # type: ignore[operator]
    if "cls" in taps:
        maps["cls"] = final[:, 0]
    answer = inner.forward_head(final)  # type: ignore[operator]
    if isinstance(model, MultiViewModel):
        answer = model(images)
    elif isinstance(model, DistillationTokenModel):
        heads = TwoLogits(*answer)
        answer = heads if model.training else model.answer(heads)
    return answer, [maps[tap] for tap in taps]


def checked_taps(model: nn.Module, taps: Sequence[Tap], size: tuple[int, int], who: str) -> tuple[list[Tap], list[int]]:
    """The taps with layers counted from 0, and the number of channels at each.

    Args:
        size: height and width of the model's input.
        who: "student" or "teacher", for errors.

    Raises:
        RecipeError: the model has no such tap; the message names its taps.
    """
    inner = timm_model(model)
    count = layer_count(inner, size) if any(isinstance(tap, int) for tap in taps) else 0
    counted = [_from_start(tap, count, inner, who) for tap in taps]
    if "cls" in taps and getattr(inner, "cls_token", None) is None:
        raise RecipeError(
            f"the {who}'s model has no class token",
            got="cls",
            expected="pooled, or the number of an intermediate layer",
        )
    images = _blank(inner, size)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected = model(images)
            answer, features = forward_with_taps(model, images, counted)
        assert isinstance(answer, Tensor)
        if not torch.allclose(answer, expected, atol=1e-4, rtol=1e-4):
            raise AttributeError("its features give another output than the model itself")
    except (AttributeError, TypeError, NotImplementedError) as error:
        raise RecipeError(
            f"timm gives no features of the {who}'s model: {error}",
            got=type(inner).__name__,
            expected="a model with forward_features, forward_head and forward_intermediates",
            next="distill its logits instead: soft, hard or dkd",
        ) from None
    finally:
        model.train(was_training)
    return counted, [feature.shape[1] for feature in features]


def layer_count(model: nn.Module, size: tuple[int, int]) -> int:
    """The number of intermediate layers that a model gives by timm's `forward_intermediates`; 0 if it gives none."""
    inner = timm_model(model)
    if not hasattr(inner, "forward_intermediates"):
        return 0
    was_training = inner.training
    inner.eval()
    with torch.no_grad():
        layers = inner.forward_intermediates(_blank(inner, size), intermediates_only=True)  # type: ignore[operator]
    inner.train(was_training)
    return len(layers)


def _from_start(tap: Tap, count: int, inner: nn.Module, who: str) -> Tap:
    if not isinstance(tap, int):
        return tap
    if not count:
        raise RecipeError(
            f"timm gives no intermediate layers of the {who}'s model",
            got=type(inner).__name__,
            expected="pooled, or a model with forward_intermediates",
        )
    if not -count <= tap < count:
        raise RecipeError(
            f"the {who}'s model has {count} intermediate layers",
            got=tap,
            expected=f"0 to {count - 1}, or -{count} to -1",
        )
    return tap % count


def _blank(inner: nn.Module, size: tuple[int, int]) -> Tensor:
    parameter = next(inner.parameters())
    return torch.zeros(2, 3, *size, device=parameter.device, dtype=parameter.dtype)
