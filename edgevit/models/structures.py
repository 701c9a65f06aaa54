"""Parts of a timm model that can be removed: heads of an attention, hidden units of an MLP, residual blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeGuard

import torch
from timm.layers import Attention, Conv2dSame
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgevit.artifacts import Frozen
from edgevit.errors import ArtifactError, listed
from edgevit.models.timm_models import timm_model

# The first and the last layer of MLPs and inverted residuals, by the names that timm gives them.
ENDS = (
    ("fc1", "fc2"),  # ViT, ConvNeXt, EdgeNeXt, TinyViT, FastViT, EfficientFormer, XCiT
    ("conv_pw", "conv_pwl"),  # EfficientNet, GhostNet
    ("pw_exp", "pw_proj"),  # MobileNetV4
    ("conv1_1x1", "conv3_1x1"),  # MobileViT
    ("pw1", "pw2"),  # EfficientViT (MSRA), SHViT
    ("ln1", "ln2"),  # LeViT
    ("conv1", "conv3"),  # TinyViT
    ("conv1", "conv2"),  # RepViT
)
CHANNEL_MULTIPLE = 8  # integer kernels work on whole vectors of channels
MIN_HEADS = 2  # TensorRT does not fuse attention with one head; unfused, it moves more bytes than two fused heads


class Pruned(Frozen):
    """A pruned model: the sizes of its structures, by module path.

    Attributes:
        units: the number of heads of an attention, or of hidden units of an MLP.
        dropped: residual blocks that were removed; the other blocks keep their numbers.
    """

    change: Literal["pruned"] = "pruned"
    units: dict[str, int] = {}
    dropped: tuple[str, ...] = ()

    def apply(self, model: nn.Module) -> nn.Module:
        """Give a model these sizes, in place. The choice of the remaining weights has no meaning.

        Raises:
            ArtifactError: the model has no such structures.
        """
        inner = timm_model(model)
        structures = structures_of(inner)
        unknown = [path for path, units in self.units.items() if not _has(structures.get(path), units)]
        modules = dict(inner.named_modules())
        unknown += [path for path in self.dropped if path not in modules]
        if unknown:
            raise ArtifactError(
                "the description of a pruned model is of another model",
                got=listed(unknown),
                expected=f"structures of {type(inner).__name__}",
            )
        for path, units in self.units.items():
            structures[path].keep(range(units))
        for path in self.dropped:
            drop_block(inner, path)
        return model


class Part(NamedTuple):
    """A layer with outputs, or inputs, of its own for each unit.

    Attributes:
        indices: of each unit's outputs or inputs, (units, outputs or inputs of a unit).
    """

    layer: nn.Module
    axis: Literal["outputs", "inputs"]
    indices: Tensor


@dataclass(frozen=True, eq=False)
class Structure:
    """Units that can be removed one by one. Only one layer reads them: the last of the parts.

    Attributes:
        path: of the module that holds them; the key of their number in `Pruned`.
        counted: paths of the modules whose MACs are in proportion to the number of units.
    """

    path: str
    module: nn.Module
    kind: Literal["heads", "hidden"]
    parts: tuple[Part, ...]
    counted: tuple[str, ...]

    @property
    def units(self) -> int:
        """The number of units."""
        return len(self.last.indices)

    @property
    def last(self) -> Part:
        """The layer that reads the units."""
        return self.parts[-1]

    @property
    def multiple(self) -> int:
        """A removal leaves a multiple of this number of units."""
        return 1 if self.kind == "heads" else CHANNEL_MULTIPLE

    @property
    def min_units(self) -> int:
        """The number of units that always stay."""
        return MIN_HEADS if self.kind == "heads" else CHANNEL_MULTIPLE

    def sizes(self) -> list[int]:
        """The number of parameters in each tensor that shrinks with the units."""
        weights = [part.layer.get_parameter("weight").numel() for part in self.parts]
        biases = [part.layer.bias for part in self.parts if part.axis == "outputs"]
        return weights + [bias.numel() for bias in biases if isinstance(bias, Tensor)]

    def keep(self, units: Sequence[int]) -> None:
        """Keep these units and remove all others, in place: every tensor becomes smaller."""
        for layer, axis, indices in self.parts:
            (_keep_outputs if axis == "outputs" else _keep_inputs)(layer, indices[list(units)].flatten().sort().values)
        if isinstance(self.module, Attention):
            self.module.num_heads = len(units)
            self.module.attn_dim = len(units) * self.module.head_dim

    def zero(self, units: Sequence[int]) -> None:
        """Set the last layer's weights for these units to 0, which equals removing the units."""
        with torch.no_grad():
            self.last.layer.get_parameter("weight")[:, self.last.indices[list(units)].flatten()] = 0


def structures_of(model: nn.Module) -> dict[str, Structure]:
    """The structures of a timm model by their paths: attentions of plain ViTs, and modules with two layers of `ENDS`.

    Between the two layers, only layers that act on each channel alone may stand: activations, batch norm, depthwise
    convolutions.
    """
    structures = (_heads(path, module) or _hidden(path, module) for path, module in model.named_modules())
    return {structure.path: structure for structure in structures if structure is not None}


def blocks_of(model: nn.Module) -> list[str]:
    """The paths of the residual blocks of plain ViTs; each adds its `attn` and its `mlp` to its input."""
    return [path for path, module in model.named_modules() if type(module) is Block]


def drop_block(model: nn.Module, path: str) -> None:
    """Replace a block by the identity, in place."""
    model.set_submodule(path, nn.Identity())


def _has(structure: Structure | None, units: int) -> bool:
    return structure is not None and 1 <= units <= structure.units


def _heads(path: str, module: nn.Module) -> Structure | None:
    if type(module) is not Attention or module.gate is not None or not isinstance(module.norm, nn.Identity):
        return None
    if not _is_dense(module.qkv) or not _is_dense(module.proj):
        return None
    rows = torch.arange(module.qkv.out_features).view(3, module.num_heads, -1).transpose(0, 1).flatten(1)
    columns = torch.arange(module.proj.in_features).view(module.num_heads, -1)
    parts = (Part(module.qkv, "outputs", rows), Part(module.proj, "inputs", columns))
    return Structure(path, module, "heads", parts, (path,))


def _hidden(path: str, module: nn.Module) -> Structure | None:
    layers = {
        name: layer for name, layer in module.named_modules() if any(True for _ in layer.parameters(recurse=False))
    }
    for ends in ENDS:
        first, last = (_dense_layer(layers, end) for end in ends)
        if first is None or last is None:
            continue
        (inputs, width), (taken, outputs) = _widths(layers[first]), _widths(layers[last])
        between = [name for name in layers if name not in (first, last) and _has_dimension(layers[name], width)]
        whole = all(_is_per_channel(layers[name], width) for name in between)
        ambiguous = between and width in (inputs, outputs)  # these layers may lie before the first or after the last
        if taken == width and whole and not ambiguous:
            indices = torch.arange(width).unsqueeze(1)
            writers = [Part(layers[name], "outputs", indices) for name in (first, *between)]
            paths = [f"{path}.{name}".lstrip(".") for name in (first, *between, last)]
            return Structure(path, module, "hidden", (*writers, Part(layers[last], "inputs", indices)), tuple(paths))
    return None


def _dense_layer(layers: Mapping[str, nn.Module], end: str) -> str | None:
    """The name of the one linear layer or full convolution at or under `end`."""
    dense = [name for name in layers if f"{name}.".startswith(f"{end}.") and _is_dense(layers[name])]
    return dense[0] if len(dense) == 1 else None


def _is_dense(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear or (_is_plain(layer) and layer.groups == 1)


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a layer is a convolution with plain weights: subclasses may standardize or mix them."""
    return type(layer) in (nn.Conv2d, Conv2dSame)


def _is_per_channel(layer: nn.Module, width: int) -> bool:
    if isinstance(layer, _BatchNorm):
        return bool(layer.num_features == width)
    return _is_plain(layer) and layer.groups == layer.in_channels == layer.out_channels == width


def _has_dimension(layer: nn.Module, width: int) -> bool:
    return any(width in tuple(parameter.shape) for parameter in layer.parameters(recurse=False))


def _widths(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer or a full convolution."""
    outputs, inputs = layer.get_parameter("weight").shape[:2]
    return inputs, outputs


def _keep_outputs(layer: nn.Module, kept: Tensor) -> None:
    for name, parameter in list(layer.named_parameters(recurse=False)):
        _replace(layer, name, parameter[kept.to(parameter.device)])
    for name, buffer in list(layer.named_buffers(recurse=False)):
        if buffer.ndim:  # all but batch norm's count of batches
            setattr(layer, name, buffer[kept.to(buffer.device)].clone())
    if isinstance(layer, nn.Linear):
        layer.out_features = len(kept)
    elif isinstance(layer, _BatchNorm):
        layer.num_features = len(kept)
    elif isinstance(layer, nn.Conv2d):
        layer.out_channels = len(kept)
        if layer.groups > 1:
            layer.in_channels = layer.groups = len(kept)


def _keep_inputs(layer: nn.Module, kept: Tensor) -> None:
    weight = layer.get_parameter("weight")
    _replace(layer, "weight", weight[:, kept.to(weight.device)])
    if isinstance(layer, nn.Linear):
        layer.in_features = len(kept)
    elif isinstance(layer, nn.Conv2d):
        layer.in_channels = len(kept)


def _replace(layer: nn.Module, name: str, value: Tensor) -> None:
    requires_grad = layer.get_parameter(name).requires_grad
    setattr(layer, name, nn.Parameter(value.detach().clone(), requires_grad=requires_grad))
