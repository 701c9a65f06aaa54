"""Heads that stand on the backbone during pre-training, and are dropped afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from timm.layers import build_sincos2d_pos_embed, trunc_normal_
from timm.models.convnext import ConvNeXtBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional


def projector(widths: Sequence[int], normalized: bool = False) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them, after batch normalization if `normalized`."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths)):
        if number:
            layers += [nn.BatchNorm1d(before), nn.ReLU()] if normalized else [nn.ReLU()]
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers)


class PrototypeHead(nn.Module):
    """DINO's head: an MLP, a normalized bottleneck, and cosines with prototypes as logits (Caron et al. 2021, app. C).

    Args:
        width: channels of the backbone's embedding.
        prototypes: number of logits.
        hidden, bottleneck: channels inside the head.
    """

    def __init__(self, width: int, prototypes: int, hidden: int, bottleneck: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, embeddings: Tensor, learns_prototypes: bool = True) -> Tensor:
        """Cosines with the prototypes, (…, prototypes), of embeddings (…, width)."""
        prototypes = functional.normalize(self.prototypes, dim=1)
        if not learns_prototypes:
            prototypes = prototypes.detach()
        return functional.normalize(self.mlp(embeddings), dim=-1) @ prototypes.T


class PatchDecoder(nn.Module):
    """MAE's decoder: visible tokens and mask tokens through a few ViT blocks, to the pixels of each patch.

    He et al. 2022, section 3. Positions are fixed sines and cosines.

    Args:
        encoder_width: channels of the encoder's tokens.
        grid: rows and columns of patches.
        pixels: numbers of a patch, 3 · its pixels.
        width, depth: channels and blocks of the decoder.
    """

    def __init__(self, encoder_width: int, grid: tuple[int, int], pixels: int, width: int, depth: int) -> None:
        super().__init__()
        self.enter = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.register_buffer("positions", build_sincos2d_pos_embed(list(grid), width), persistent=False)
        self.blocks = nn.Sequential(*(Block(width, max(1, width // 32), qkv_bias=True) for _ in range(depth)))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, pixels))

    def forward(self, prefix: Tensor, visible: Tensor, visible_patches: Tensor) -> Tensor:
        """The pixels of all patches, (n, patches, pixels · 3).

        Args:
            prefix: class and register tokens, (n, tokens, encoder width).
            visible: tokens of visible patches, (n, visible, encoder width).
            visible_patches: their indices, (n, visible).
        """
        positions: Tensor = self.positions  # type: ignore[assignment]
        entered = self.enter(visible)
        tokens = self.mask_token.to(entered.dtype).expand(len(visible), len(positions), -1)
        index = visible_patches.unsqueeze(-1).expand_as(entered)
        tokens = tokens.scatter(1, index, entered) + positions.to(entered.dtype)
        tokens = self.blocks(torch.cat([self.enter(prefix), tokens], 1))
        pixels: Tensor = self.leave(tokens[:, prefix.shape[1] :])
        return pixels


class MapDecoder(nn.Module):
    """FCMAE's decoder: ConvNeXt blocks on the map of visible places and mask tokens, to the pixels of each patch.

    Woo et al. 2023, section 3.1.

    Args:
        channels: of the encoder's feature map.
        side: rows and columns of the map.
        pixels: numbers of a patch, 3 · its pixels.
        width, depth: channels and blocks of the decoder.
    """

    def __init__(self, channels: int, side: int, pixels: int, width: int, depth: int) -> None:
        super().__init__()
        self.side = side
        self.enter = nn.Linear(channels, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width, ls_init_value=None, use_grn=True) for _ in range(depth)))
        self.leave = nn.Linear(width, pixels)

    def forward(self, regions: Tensor, shown: Tensor) -> Tensor:
        """The pixels of all patches, (n, patches, pixels).

        Args:
            regions: the encoder's map, (n, patches, channels).
            shown: 1 for a visible patch and 0 for a masked patch, (n, patches).
        """
        entered = self.enter(regions)
        tokens = torch.where(shown.unsqueeze(-1) > 0, entered, self.mask_token.to(entered.dtype))
        places = self.blocks(tokens.transpose(1, 2).reshape(len(tokens), -1, self.side, self.side))
        pixels: Tensor = self.leave(places.flatten(2).transpose(1, 2))
        return pixels


class TokenDecoder(nn.Sequential):
    """SiT's decoder: each patch token alone, through an MLP, to the pixels of its patch.

    Args:
        width: channels of a token.
        pixels: numbers of a patch, 3 · its pixels.
    """

    def __init__(self, width: int, pixels: int) -> None:
        super().__init__(nn.Linear(width, width), nn.GELU(), nn.Linear(width, pixels))


class TileHead(nn.Module):
    """One vector from the embeddings of tiles: a layer for each tile, and a layer over all of them in their order.

    Noroozi and Favaro 2016, section 3.2. PIRL's two layers (Misra and van der Maaten 2020, section 3.1) have no ReLU
    between them.

    Args:
        width: channels of a tile's embedding.
        tiles: number of tiles.
        hidden: channels of a tile after the first layer.
        outputs: channels of the result.
    """

    def __init__(self, width: int, tiles: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.of_tile = nn.Sequential(nn.Linear(width, hidden), nn.ReLU())
        self.of_all = nn.Linear(tiles * hidden, outputs)

    def forward(self, tiles: Tensor) -> Tensor:
        """The result (n, outputs) for the embeddings of tiles (n, tiles, width)."""
        result: Tensor = self.of_all(self.of_tile(tiles).flatten(1))
        return result
