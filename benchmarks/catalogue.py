"""Build every model of the catalogue, run it at eight sizes, and write edgevit/models/catalogue.csv.

    python benchmarks/catalogue.py

Takes a few minutes on two cores. Parameters and multiply-accumulates are counted on what was built.
"""

from __future__ import annotations

from timm.utils.model import reparameterize_model
from torch import nn

from edgevit.errors import RecipeError
from edgevit.models import catalogue, create_model, macs_of, params_of
from edgevit.models.distillation_token import has_distillation_token
from edgevit.models.taps import layer_count
from edgevit.models.timm_models import model_config

CANDIDATE_SIZES = (32, 64, 96, 128, 160, 192, 224, 256)
FAMILIES = {
    "DeiT": ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"],
    "ViT": ["vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224"],
    "TinyViT": ["tiny_vit_5m_224", "tiny_vit_11m_224"],
    "EfficientViT (MIT)": ["efficientvit_b0", "efficientvit_b1"],
    "EfficientViT (MSRA)": [f"efficientvit_m{index}" for index in range(6)],
    "MobileViT": ["mobilevit_xxs", "mobilevit_xs", "mobilevit_s", "mobilevitv2_050", "mobilevitv2_075"],
    "EdgeNeXt": ["edgenext_xx_small", "edgenext_x_small", "edgenext_small"],
    "RepViT": ["repvit_m0_9", "repvit_m1"],
    "FastViT": ["fastvit_t8", "fastvit_t12"],
    "LeViT": ["levit_128s", "levit_128"],
    "EfficientFormerV2": ["efficientformerv2_s0", "efficientformerv2_s1"],
    "SHViT": ["shvit_s1", "shvit_s2"],
    "MobileNetV4": ["mobilenetv4_conv_small", "mobilenetv4_hybrid_medium"],
    "SwiftFormer": ["swiftformer_xs"],
    "PiT": ["pit_ti_224", "pit_ti_distilled_224"],
    "XCiT": ["xcit_nano_12_p16_224"],
    "GhostNet": ["ghostnetv2_100"],
    "StarNet": ["starnet_s1"],
    "CoAtNet": ["coatnet_1m"],
}


def entry_of(name: str, family: str) -> catalogue.Entry:
    """What a fresh build of `name` says about itself."""
    own = create_model(name, 1000)
    size = own.preprocess.height
    return catalogue.Entry(
        name=name,
        family=family,
        params=params_of(own.module),
        macs=macs_of(own.module, size, size),
        licence=model_config(own.module).get("license") or "",
        distillation_token=has_distillation_token(own.module),
        feature_layers=layer_count(own.module, (size, size)),
        reparameterizable=folds(own.module),
        tested_sizes=tuple(candidate for candidate in CANDIDATE_SIZES if runs_at(name, candidate)),
        default_size=size,
    )


def folds(model: nn.Module) -> bool:
    """Whether timm folds branches of this model into single convolutions."""
    return len(list(reparameterize_model(model).modules())) < len(list(model.modules()))


def runs_at(name: str, size: int) -> bool:
    """Whether the model can be built for `size` and gives finite logits there."""
    try:
        create_model(name, 10, size)
    except RecipeError:
        return False
    return True


if __name__ == "__main__":
    entries = []
    for family, names in FAMILIES.items():
        for name in names:
            entries.append(entry_of(name, family))
            print(entries[-1])
    catalogue.write(entries)
