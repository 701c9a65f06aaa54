"""Token merging: plain ViTs whose patch tokens become fewer from block to block (Bolya et al. 2023, arXiv 2210.09461).

It needs no training. A merged token is the mean of its tokens. Attention counts it once for each of its tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from edgevit.artifacts import Frozen
from edgevit.errors import RecipeError
from edgevit.models.timm_models import timm_model


class MergingBlocks(nn.Sequential):
    """The blocks of a ViT. Between attention and MLP of each block, `merged` pairs of similar patch tokens become one.

    If fewer than 2 · `merged` patch tokens are left, half of them are merged. The first `prefix_tokens` (class,
    distillation, registers) stay as they are. Parameters keep the names that they have in the blocks.
    """

    def __init__(self, blocks: nn.Sequential, merged: int, prefix_tokens: int) -> None:
        super().__init__(*blocks)
        self.merged, self.prefix_tokens = merged, prefix_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        sizes: Tensor | None = None
        for block in self:
            if isinstance(block, Block):  # pruning leaves an identity in place of a dropped block
                tokens, sizes = self._through(block, tokens, sizes)
        return tokens

    def _through(self, block: Block, tokens: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert isinstance(block.attn, Attention)
        attended, keys = attention_and_keys(block.attn, block.norm1(tokens), sizes)
        tokens = tokens + block.drop_path1(block.ls1(attended))
        merged = min(self.merged, (tokens.shape[1] - self.prefix_tokens) // 2)
        if merged:
            tokens, sizes = merge(tokens, keys, sizes, merged, self.prefix_tokens)
        return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens)))), sizes


class MergedTokens(Frozen):
    """A plain ViT each of whose blocks merges `per_block` pairs of tokens."""

    change: Literal["merged_tokens"] = "merged_tokens"
    per_block: int

    def apply(self, model: nn.Module) -> nn.Module:
        """Make a timm ViT merge tokens, in place. Raises RecipeError; see `merge_tokens`."""
        merge_tokens(timm_model(model), self.per_block)
        return model


def merge_tokens(model: nn.Module, merged: int) -> None:
    """Make each block of a timm ViT merge `merged` pairs of tokens, in place.

    Raises:
        RecipeError: the model is not a plain ViT with a class token, has too few patches, or merges tokens already.
    """
    if isinstance(blocks := getattr(model, "blocks", None), MergingBlocks):
        raise RecipeError("this model merges tokens already", got=f"{blocks.merged} in each block", expected="none")
    if not isinstance(model, VisionTransformer) or not all(map(_can_merge, model.blocks)):
        raise RecipeError(
            "tokens can be merged in plain ViTs alone: other models need them on a grid",
            got=type(model).__name__,
            expected="a VisionTransformer of timm's, such as deit_tiny_patch16_224",
        )
    if model.global_pool != "token" or model.attn_pool is not None:
        raise RecipeError(
            "token merging needs a model whose classifier reads the class token; this model pools all tokens",
            got=f"global_pool {model.global_pool}",
            expected="global_pool token",
        )
    patches = model.patch_embed.num_patches
    if not 1 <= merged <= patches // 2:
        raise RecipeError(
            "a block can merge half of the patches at most",
            got=f"{merged} of {patches} patches",
            expected=f"1 to {patches // 2}",
        )
    model.blocks = MergingBlocks(model.blocks, merged, model.num_prefix_tokens)


def attention_and_keys(attention: Attention, tokens: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
    """The output of a timm attention, (N, tokens, channels), with each token counted `sizes` times as a key; and
    the mean of the keys over heads, (N, tokens, channels of a head), which tells which tokens are similar.

    softmax(q·kᵀ/√d + log sizes)·v (Bolya et al. 2023, eq. 1).

    Args:
        tokens: (N, tokens, channels).
        sizes: (N, tokens, 1); None where all are 1.
    """
    batch, count, _ = tokens.shape
    qkv = attention.qkv(tokens).reshape(batch, count, 3, attention.num_heads, attention.head_dim)
    queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    mask = None if sizes is None else sizes.log().reshape(batch, 1, 1, count)
    dropout = attention.attn_drop.p if attention.training else 0.0
    heads = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
    joined = attention.norm(heads.transpose(1, 2).reshape(batch, count, attention.attn_dim))
    return attention.proj_drop(attention.proj(joined)), keys.mean(1)


def merge(tokens: Tensor, keys: Tensor, sizes: Tensor | None, merged: int, prefix_tokens: int) -> tuple[Tensor, Tensor]:
    """Bipartite soft matching (Bolya et al. 2023, section 3). Patch tokens are split into sources and targets by turns.
    Each source is paired with the target that is most similar, by the cosine of their keys. The `merged` most similar
    pairs become one token each: the mean, weighted by size. Several sources may merge into one target.

    The first `prefix_tokens` take no part. The order of the result: prefix tokens, sources that were not merged,
    targets.

    It uses top-k, gathers and a product with a one-hot matrix, which TensorRT's parsers take from 8.6 on.

    Args:
        tokens: (N, tokens, channels).
        keys: (N, tokens, any).
        sizes: (N, tokens, 1), the number of tokens that each token stands for; None where all are 1.

    Returns:
        Tokens (N, tokens - merged, channels) and their sizes (N, tokens - merged, 1).
    """
    if sizes is None:
        sizes = torch.ones_like(tokens[..., :1])
    directions = F.normalize(keys[:, prefix_tokens:], dim=-1)
    similarity, partners = (directions[:, ::2] @ directions[:, 1::2].transpose(1, 2)).max(-1)
    order = similarity.topk(similarity.shape[1], dim=-1).indices
    merging, staying = order[:, :merged], order[:, merged:]
    partners = partners.gather(1, merging)
    candidates = torch.arange(tokens.shape[1] - prefix_tokens - similarity.shape[1], device=tokens.device)
    joins = (partners.unsqueeze(-1) == candidates).to(tokens.dtype)  # (N, merged, targets): 1 for a pair

    def rearranged(values: Tensor) -> Tensor:
        sources, targets = values[:, prefix_tokens::2], values[:, prefix_tokens + 1 :: 2]
        joined = targets + joins.transpose(1, 2) @ _rows(sources, merging)
        return torch.cat([values[:, :prefix_tokens], _rows(sources, staying), joined], dim=1)

    merged_sizes = rearranged(sizes)
    return rearranged(tokens * sizes) / merged_sizes, merged_sizes


def _rows(values: Tensor, indices: Tensor) -> Tensor:
    return values.gather(1, indices.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _can_merge(block: nn.Module) -> bool:
    if isinstance(block, Block):
        return type(block) is Block and type(block.attn) is Attention and block.attn.gate is None
    return isinstance(block, nn.Identity)
