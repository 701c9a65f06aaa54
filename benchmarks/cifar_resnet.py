"""The ResNets of the CIFAR-10 experiments (He et al. 2016, section 4.2), which timm does not have, as models of timm's.

Importing this module registers `cifar_resnet20`, `cifar_resnet32`, `cifar_resnet44` and `cifar_resnet56` with timm, so
that recipes run from Python may name them: 16, 32 and 64 channels, shortcuts without parameters (option A).
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from torch import Tensor, nn
from torch.nn import functional

CONFIG = {
    "input_size": (3, 32, 32),
    "num_classes": 10,
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "classifier": "linear",
    "first_conv": "conv1",
}
CHANNELS = (16, 32, 64)


class Block(nn.Module):
    """Two 3×3 convolutions; where the size halves, the shortcut takes every second pixel and adds empty channels."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.empty = stride, (channels - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(inner + functional.pad(shortcut, (0, 0, 0, 0, self.empty, self.empty)))


class CifarResNet(nn.Module):
    """6n + 2 layers, with the methods that timm's models have."""

    def __init__(self, blocks: int, num_classes: int = 10, drop_rate: float = 0.0, **_: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        before = (CHANNELS[0], *CHANNELS[:-1])
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                *(Block(channels if i else channels_in, channels, 1 if i or not stage else 2) for i in range(blocks))
            )
            for stage, (channels_in, channels) in enumerate(zip(before, CHANNELS, strict=True))
        )
        self.linear = nn.Linear(CHANNELS[-1], num_classes)
        self.num_classes, self.num_features, self.drop_rate = num_classes, CHANNELS[-1], drop_rate
        self.pretrained_cfg = self.default_cfg = {**CONFIG, "num_classes": num_classes}

    def get_classifier(self) -> nn.Module:
        return self.linear

    def forward_intermediates(
        self, x: Tensor, indices: list[int] | None = None, intermediates_only: bool = False, **_: Any
    ) -> Any:
        """The output of each of the three stages, and of the last."""
        x = functional.relu(self.bn1(self.conv1(x)))
        features = []
        for index, stage in enumerate((self.layer1, self.layer2, self.layer3)):
            x = stage(x)
            if indices is None or index in indices:
                features.append(x)
        return features if intermediates_only else (x, features)

    def forward_features(self, x: Tensor) -> Tensor:
        features: Tensor = self.forward_intermediates(x)[0]
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = functional.dropout(x.mean((2, 3)), self.drop_rate, self.training)
        return pooled if pre_logits else self.linear(pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@register_model
def cifar_resnet20(pretrained: bool = False, **options: Any) -> CifarResNet:
    return CifarResNet(3, **options)


@register_model
def cifar_resnet32(pretrained: bool = False, **options: Any) -> CifarResNet:
    return CifarResNet(5, **options)


@register_model
def cifar_resnet44(pretrained: bool = False, **options: Any) -> CifarResNet:
    return CifarResNet(7, **options)


@register_model
def cifar_resnet56(pretrained: bool = False, **options: Any) -> CifarResNet:
    return CifarResNet(9, **options)
