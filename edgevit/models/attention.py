"""Attention weights of timm models: read as a model runs, reduced to maps and mean distances."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgevit.models.timm_models import timm_model

FUSED = "fused_attn"  # timm's name for the choice of torch's fused kernel, on each attention layer
DROPOUT = "attn_drop"  # what the weights enter on their way to the values, unless the kernel is fused


@contextmanager
def unfused_attention(model: nn.Module) -> Iterator[None]:
    """timm's attention layers by plain matrix products, in place of torch's fused kernel, inside the block."""
    switched = [module for module in model.modules() if getattr(module, FUSED, False) is True]
    for module in switched:
        setattr(module, FUSED, False)
    try:
        yield
    finally:
        for module in switched:
            setattr(module, FUSED, True)


@dataclass
class LayerAttention:
    """The attention of one layer over the images of all batches so far.

    Attributes:
        name: the module's path.
        grid: rows and columns of the patches.
        uniform_px: the mean distance of attention that is equal everywhere.
        maps: for each image whose map is kept, the attention of the query to each patch, (heads, rows, columns).
        distances_px: for each image, the mean distance between a patch and the patches that it attends to, (heads,).
    """

    name: str
    grid: tuple[int, int]
    uniform_px: float
    maps: list[Tensor] = field(default_factory=list)
    distances_px: list[Tensor] = field(default_factory=list)


@contextmanager
def recorded_attention(
    model: nn.Module, size: tuple[int, int], most_maps: int | None = None
) -> Iterator[dict[str, LayerAttention]]:
    """The attention of each layer that attends from all patches to all patches, by name, as batches run in the block.

    The query of a map is the class token; without one, it is the mean over all patches. Distances weigh the pixels
    between the centers of two patches by the attention between them; other tokens do not count (Dosovitskiy et al.
    2021, appendix D.7). Layers whose tokens are windows, channels or a reduced grid are left out.

    Args:
        size: height and width of the images in pixels.
        most_maps: number of images whose maps are kept; all by default. Distances are of all images.
    """
    inner, layers = timm_model(model), dict[str, LayerAttention]()
    class_token = getattr(inner, "cls_token", None)  # (1, tokens, channels); with a distillation token in some models
    has_class_token = class_token is not None
    prefix = int(getattr(inner, "num_prefix_tokens", 0 if class_token is None else class_token.shape[1]))
    readable = {
        name: dropout
        for name, module in inner.named_modules()
        if isinstance(getattr(module, FUSED, None), bool)
        and isinstance(dropout := getattr(module, DROPOUT, None), nn.Module)
    }
    batch = [0]

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        batch[0] = len(inputs[0])

    with ExitStack() as stack:
        stack.enter_context(unfused_attention(inner))
        stack.callback(inner.register_forward_pre_hook(count).remove)
        for name, dropout in readable.items():

            def record(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                _record(layers, name, inputs[0].detach(), batch[0], prefix, has_class_token, size, most_maps)

            stack.callback(dropout.register_forward_pre_hook(record).remove)
        yield layers


def _record(
    layers: dict[str, LayerAttention],
    name: str,
    weights: Tensor,
    images: int,
    prefix: int,
    has_class_token: bool,
    size: tuple[int, int],
    most_maps: int | None,
) -> None:
    grid = _grid(weights, images, prefix, size)
    if grid is None:
        return
    between = _distances_px(grid, size).to(weights)
    layer = layers.setdefault(name, LayerAttention(name, grid, float(between.mean())))
    of_patches = weights[:, :, prefix:, prefix:]
    of_query = weights[:, :, 0, prefix:] if has_class_token else of_patches.mean(2)
    shares = of_patches / of_patches.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    kept = of_query if most_maps is None else of_query[: max(0, most_maps - len(layer.maps))]
    layer.maps += [*kept.reshape(*kept.shape[:2], *grid).float().cpu()]
    layer.distances_px += [*(shares * between).sum(-1).mean(-1).float().cpu()]


def _grid(weights: Tensor, images: int, prefix: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of the patches of attention weights; None unless all tokens attend to all patches."""
    if weights.ndim != 4 or len(weights) != images or weights.shape[2] != weights.shape[3]:
        return None
    patches = weights.shape[3] - prefix
    rows = round(math.sqrt(max(patches, 0) * size[0] / size[1]))
    columns = patches // rows if rows else 0
    return (rows, columns) if rows > 1 and rows * columns == patches else None


def _distances_px(grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Pixels between the centers of each two patches, (patches, patches)."""
    rows, columns = (
        (torch.arange(count, dtype=torch.float64) + 0.5) * side / count for count, side in zip(grid, size, strict=True)
    )
    centers = torch.cartesian_prod(rows, columns)
    return torch.cdist(centers, centers)


def position_similarity(model: nn.Module) -> Tensor | None:
    """Cosines of the learned position embeddings of each two patches, (rows, columns, rows, columns).

    Dosovitskiy et al. 2021, figure 7, center. None for a model without an embedding for each patch.
    """
    embedding = getattr(timm_model(model), "pos_embed", None)
    if not isinstance(embedding, Tensor) or embedding.ndim != 3 or len(embedding) != 1:
        return None
    grid = getattr(getattr(timm_model(model), "patch_embed", None), "grid_size", None)
    if not isinstance(grid, tuple) or embedding.shape[1] < grid[0] * grid[1]:
        return None
    patches = embedding.detach().double()[0, -grid[0] * grid[1] :]
    directions = nn.functional.normalize(patches, dim=-1)
    return (directions @ directions.T).reshape(*grid, *grid)


def first_filters(model: nn.Module) -> Tensor | None:
    """The filters of the first convolution over an RGB image, (filters, height, width, 3): a ViT's patch embedding.

    None where the first layer is none, or has filters of one pixel.
    """
    first = next((module for module in timm_model(model).modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.weight.shape[1] != 3 or first.weight.shape[2] * first.weight.shape[3] == 1:
        return None
    return first.weight.detach().double().permute(0, 2, 3, 1)
