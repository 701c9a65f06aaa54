"""MAE: the pixels of masked patches, from the visible patches."""

from __future__ import annotations

import torch
from timm.layers import PatchEmbed
from timm.models import checkpoint_seq
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from edgevit.configs import Mae
from edgevit.errors import RecipeError
from edgevit.inference.precision import autocast
from edgevit.models.creation import BuiltModel
from edgevit.models.timm_models import timm_model
from edgevit.training.loop.batches import Batch
from edgevit.training.loop.learner import Step
from edgevit.training.ssl import losses
from edgevit.training.ssl.heads import PatchDecoder
from edgevit.training.ssl.self_supervised import SelfSupervised, seeded


class MaeLearner(SelfSupervised):
    """MAE: the pixels of masked patches from the visible patches; the encoder sees these alone (He et al. 2022)."""

    takes_parts = True

    @property
    def encoder(self) -> VisionTransformer:
        """The plain ViT inside `model`."""
        return plain_vit(self.model)

    def __init__(self, built: BuiltModel, config: Mae, seed: int) -> None:
        super().__init__(built, seed)
        plain_vit(self.model)
        self.patch: tuple[int, int] = self.encoder.patch_embed.patch_size
        patches = self.encoder.patch_embed.num_patches
        self.visible = max(1, round(patches * (1 - config.masked)))
        if self.visible == patches:
            raise RecipeError(
                "no patch would be masked", got=f"masked: {config.masked:g} of {patches} patches", next="a larger share"
            )
        with seeded(seed):
            self.decoder = PatchDecoder(
                self.encoder.embed_dim,
                self.encoder.patch_embed.grid_size,
                3 * self.patch[0] * self.patch[1],
                config.decoder_width,
                config.decoder_depth,
            )

    def forward(self, batch: Batch) -> Step:
        images = self.images_of(batch.views[0])
        patches = self.encoder.patch_embed.num_patches
        order = torch.rand(len(images), patches, device=images.device).argsort(1)
        visible, masked = order[:, : self.visible], order[:, self.visible :]
        with autocast(images.device, self.precision):
            prefix, tokens = self._encoded(images, visible)
            predicted = self.decoder(prefix, tokens, visible)
        return Step(losses.masked_patch_error(predicted.float(), images, masked, self.patch))

    def _encoded(self, images: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """The prefix tokens, and the tokens of the visible patches."""
        vit, count = self.encoder, self.encoder.num_prefix_tokens
        tokens = vit._pos_embed(vit.patch_embed(images))
        index = visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        tokens = torch.cat([tokens[:, :count], tokens[:, count:].gather(1, index)], 1)
        tokens = vit.norm_pre(tokens)
        tokens = checkpoint_seq(vit.blocks, tokens) if vit.grad_checkpointing else vit.blocks(tokens)
        tokens = vit.fc_norm(vit.norm(tokens))  # a ViT with average pooling has its normalization in fc_norm
        return tokens[:, :count], tokens[:, count:]


def plain_vit(model: nn.Module, method: str = "mae") -> VisionTransformer:
    """The plain ViT inside a model, whose patches can be masked. Raises RecipeError for another model."""
    inner = timm_model(model)
    if not isinstance(inner, VisionTransformer) or not _masks_its_patches(inner):
        stem = f" with {type(inner.patch_embed).__name__}" if isinstance(inner, VisionTransformer) else ""
        raise RecipeError(
            f"{method} changes the patches of a plain ViT, and this is another model",
            got=f"{type(inner).__name__}{stem}",
            expected="a ViT such as vit_small_patch16_224 or deit_tiny_patch16_224",
            next="take method: fcmae for a convolutional or hybrid model, or dino or simclr, which fit any backbone",
        )
    return inner


def _masks_its_patches(vit: VisionTransformer) -> bool:
    is_plain = vit.pos_embed is not None and type(vit.blocks) is nn.Sequential
    return is_plain and type(vit.patch_embed) is PatchEmbed
