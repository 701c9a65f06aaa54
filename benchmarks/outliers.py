"""Give a ViT the activations of a pretrained one, and leave its function as it is.

Pretrained ViTs have a residual stream of |x| up to about 1,500, layer norms with a few large channels, and a token of
massive activations (Sun et al. 2024, "Massive Activations in Large Language Models"; Xiao et al. 2023, "SmoothQuant").
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import timm
import torch
from timm.layers import LayerScale, Mlp
from timm.models import register_model
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from edgevit.errors import ArtifactError

NAME = "vit_with_epsilon"  # the name of these models among those of timm
EPSILON = 1e-6  # of timm's layer norms
TAKEN = "a VisionTransformer of timm's with layer norms before each layer, such as deit_tiny_patch16_224"


@dataclass(frozen=True)
class Outliers:
    """The size of activations.

    Attributes:
        stream: largest |x| of the residual stream, before the massive token is raised.
        massive: what is added to every channel of one patch token.
        gain: of a few channels of each layer norm, over their gain before.
        channels: number of these channels in each layer norm.
        seed: of the choice of channels.
    """

    stream: float = 750.0
    massive: float = 750.0
    gain: float = 64.0
    channels: int = 3
    seed: int = 0


PRETRAINED = Outliers()


def with_outliers(model: nn.Module, images: Tensor, outliers: Outliers = PRETRAINED) -> VisionTransformer:
    """A copy of a ViT with large activations and, to rounding, equal logits.

    - The residual stream is scaled: embeddings, and the last layer of attention and MLP. Layer norms forget the scale,
      if their ε is multiplied by its square.
    - The position embedding of the first patch is raised by a constant, which layer norms subtract with the mean.
    - A few channels of each layer norm are multiplied, and the weights that read them are divided.

    The ε is no weight: `vit_with_epsilon` builds the model again.

    Args:
        images: (N, 3, H, W). The residual stream is as large as asked for on them.

    Raises:
        ArtifactError: the model is not a plain ViT of timm's; the error names what is different.
    """
    if reason := _why_refused(model):
        raise ArtifactError(
            "outliers cannot be given to this model", where=type(model).__name__, got=reason, expected=TAKEN
        )
    assert isinstance(model, VisionTransformer)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        _scale_stream(changed, outliers.stream / max(stream_sizes(model, images)))
        assert changed.pos_embed is not None
        changed.pos_embed[:, 0 if changed.no_embed_class else changed.num_prefix_tokens] += outliers.massive
        generator = torch.Generator().manual_seed(outliers.seed)
        for norm, readers in _normed_layers(changed):
            channels = torch.randperm(norm.weight.numel(), generator=generator)[: outliers.channels]
            norm.weight[channels] *= outliers.gain
            norm.bias[channels] *= outliers.gain
            for reader in readers:
                reader.weight[:, channels] /= outliers.gain
    return changed


@torch.no_grad()
def stream_sizes(model: nn.Module, images: Tensor) -> list[float]:
    """The largest |x| that enters each layer norm of the residual stream, in the order of the layers."""
    sizes: list[float] = []
    hooks = [
        norm.register_forward_pre_hook(lambda _, inputs: sizes.append(float(inputs[0].abs().max())))
        for norm, _ in _normed_layers(model)
    ]
    try:
        model.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


@register_model
def vit_with_epsilon(
    pretrained: bool = False, *, of: str = "deit_tiny_patch16_224", epsilon: float = EPSILON, **options: Any
) -> VisionTransformer:
    """timm's ViT of the name `of`, with this ε in each layer norm of the residual stream."""
    model: VisionTransformer = timm.create_model(of, **options)
    for norm, _ in _normed_layers(model):
        norm.eps = epsilon
    return model


def epsilon_of(model: VisionTransformer) -> float:
    """The ε of the layer norms of the residual stream, an argument of `vit_with_epsilon`."""
    return _normed_layers(model)[0].norm.eps


class _NormedLayers(NamedTuple):
    """A layer norm of the residual stream, and the layers that read it."""

    norm: nn.LayerNorm
    readers: Sequence[nn.Linear]


def _normed_layers(model: nn.Module) -> list[_NormedLayers]:
    """The layer norms of the residual stream, in the order of the layers."""
    layers = [
        _NormedLayers(norm, (reader,))
        for block in model.blocks
        for norm, reader in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1))
    ]
    last = model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
    heads = (model.head, *([model.head_dist] if hasattr(model, "head_dist") else []))
    return [*layers, _NormedLayers(last, tuple(head for head in heads if isinstance(head, nn.Linear)))]


def _scale_stream(model: VisionTransformer, factor: float) -> None:
    """Multiply the residual stream of a ViT by a factor, and the ε of its layer norms by the square."""
    for norm, _ in _normed_layers(model):
        norm.eps *= factor**2
    for writer in _writers(model):
        writer *= factor


def _writers(model: VisionTransformer) -> Iterator[Tensor]:
    """The weights and biases that make the residual stream: sums of what they give."""
    embeddings = (model.cls_token, model.reg_token, model.pos_embed, getattr(model, "dist_token", None))
    yield from (embedding for embedding in embeddings if embedding is not None)
    yield from model.patch_embed.proj.parameters()
    for block in model.blocks:
        for scale, layer in ((block.ls1, block.attn.proj), (block.ls2, block.mlp.fc2)):
            yield from (scale if isinstance(scale, LayerScale) else layer).parameters()


def _why_refused(model: nn.Module) -> str:
    """What makes a model other than a plain ViT; "" for a plain ViT."""
    if not isinstance(model, VisionTransformer):
        return "another kind of model"
    last = [norm for norm in (model.norm, model.fc_norm) if not isinstance(norm, nn.Identity)]
    norms = [*last, *(norm for block in model.blocks for norm in (block.norm1, block.norm2))]
    reasons = {
        "a norm before the blocks": not isinstance(model.norm_pre, nn.Identity),
        "a norm in the patch embedding": not isinstance(model.patch_embed.norm, nn.Identity),
        "no position embedding": model.pos_embed is None,
        f"global_pool {model.global_pool}": model.global_pool not in ("token", "avg"),
        "blocks other than timm's Block with Attention and Mlp": not all(map(_is_plain, model.blocks)),
        f"{len(last)} norms behind the blocks": len(last) != 1,
        "norms other than LayerNorm": not all(isinstance(norm, nn.LayerNorm) for norm in norms),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _is_plain(block: nn.Module) -> bool:
    return type(block) is Block and type(block.attn) is Attention and type(block.mlp) is Mlp
