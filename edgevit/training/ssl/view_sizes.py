"""Backbones that take views of several sizes during a training."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Format
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from edgevit.errors import RecipeError, first_line, is_out_of_memory
from edgevit.models.timm_models import CONSTRUCTION_ERRORS, timm_model
from edgevit.training.ssl.feature_maps import features_of


def let_size_vary(model: nn.Module, varies: bool) -> bool:
    """Let a plain ViT resample its position embeddings to each view, or take its own size alone, as timm builds it.

    Other models stay as they are. Returns whether anything changed.
    """
    inner = timm_model(model)
    if not isinstance(inner, VisionTransformer) or inner.dynamic_img_size == varies:
        return False
    vit: Any = inner
    embed = vit.patch_embed
    embed.strict_img_size, embed.flatten = not varies, not varies
    embed.output_fmt = Format.NHWC if varies else Format.NCHW
    vit.dynamic_img_size = varies
    return True


@torch.no_grad()
def check_takes(model: nn.Module, size: int) -> None:
    """Raise RecipeError if the model does not take images of this side in pixels."""
    try:
        features_of(model.eval(), torch.zeros(1, 3, size, size))
    except CONSTRUCTION_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise RecipeError(
            f"{type(timm_model(model)).__name__} cannot take views of {size} px: {first_line(error)}",
            where="views",
            got=f"size {size}",
            next="leave size out: these views then have the model's own size",
        ) from None
