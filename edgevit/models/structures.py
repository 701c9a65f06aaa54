"""What can be taken out of a timm model whole: heads of an attention, hidden units of an MLP, residual blocks."""

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
LEAST_HEADS = 2  # TensorRT fuses no attention of one head, which then moves more bytes than one of two


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
        """Give a model these sizes, in place; which of its weights stay means nothing.

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
        places: which of them, (units, places of each).
    """

    layer: nn.Module
    axis: Literal["outputs", "inputs"]
    places: Tensor


@dataclass(frozen=True, eq=False)
class Structure:
    """Units that can go one by one, without a trace but in the one layer that takes them in, the last of the parts.

    Attributes:
        path: the module that holds them; the name under which the number of them is kept.
        counted: paths of the modules whose MACs are in proportion to the number of units.
    """

    path: str
    module: nn.Module
    kind: Literal["heads", "hidden"]
    parts: tuple[Part, ...]
    counted: tuple[str, ...]

    @property
    def units(self) -> int:
        return len(self.last.places)

    @property
    def last(self) -> Part:
        return self.parts[-1]

    @property
    def multiple(self) -> int:
        """Of units: a step leaves so many, or twice as many, and so on."""
        return 1 if self.kind == "heads" else CHANNEL_MULTIPLE

    @property
    def least(self) -> int:
        """So many units stay whatever they are worth."""
        return LEAST_HEADS if self.kind == "heads" else CHANNEL_MULTIPLE

    def sizes(self) -> list[int]:
        """The number of parameters in each tensor that shrinks with the units."""
        weights = [part.layer.get_parameter("weight").numel() for part in self.parts]
        biases = [part.layer.bias for part in self.parts if part.axis == "outputs"]
        return weights + [bias.numel() for bias in biases if isinstance(bias, Tensor)]

    def keep(self, units: Sequence[int]) -> None:
        """Leave these units alone, in place: every tensor becomes a smaller one."""
        for layer, axis, places in self.parts:
            (_keep_outputs if axis == "outputs" else _keep_inputs)(layer, places[list(units)].flatten().sort().values)
        if isinstance(self.module, Attention):
            self.module.num_heads = len(units)
            self.module.attn_dim = len(units) * self.module.head_dim

    def zero(self, units: Sequence[int]) -> None:
        """Make the last layer deaf to these units, which is the same as taking them out."""
        with torch.no_grad():
            self.last.layer.get_parameter("weight")[:, self.last.places[list(units)].flatten()] = 0


def structures_of(model: nn.Module) -> dict[str, Structure]:
    """The structures of a timm model by their paths: attentions of plain ViTs, and what has two of `ENDS`.

    Between these two there may be what acts on each channel alone: activations, batch norm, depthwise convolutions.
    """
    found = (_heads(path, module) or _hidden(path, module) for path, module in model.named_modules())
    return {one.path: one for one in found if one is not None}


def blocks_of(model: nn.Module) -> list[str]:
    """The paths of the residual blocks of plain ViTs, each of which adds what its `attn` and its `mlp` make."""
    return [path for path, module in model.named_modules() if type(module) is Block]


def drop_block(model: nn.Module, path: str) -> None:
    """Let the block's input through as it is."""
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
    layers = {name: one for name, one in module.named_modules() if any(True for _ in one.parameters(recurse=False))}
    for ends in ENDS:
        first, last = (_dense_layer(layers, end) for end in ends)
        if first is None or last is None:
            continue
        (inputs, width), (taken, outputs) = _widths(layers[first]), _widths(layers[last])
        between = [name for name in layers if name not in (first, last) and _has_dimension(layers[name], width)]
        whole = all(_is_per_channel(layers[name], width) for name in between)
        ambiguous = between and width in (inputs, outputs)  # what lies between may lie before or behind instead
        if taken == width and whole and not ambiguous:
            each = torch.arange(width).unsqueeze(1)
            makers = [Part(layers[name], "outputs", each) for name in (first, *between)]
            paths = [f"{path}.{name}".lstrip(".") for name in (first, *between, last)]
            return Structure(path, module, "hidden", (*makers, Part(layers[last], "inputs", each)), tuple(paths))
    return None


def _dense_layer(layers: Mapping[str, nn.Module], end: str) -> str | None:
    """The name of the one linear layer or full convolution at or under `end`."""
    found = [name for name in layers if f"{name}.".startswith(f"{end}.") and _is_dense(layers[name])]
    return found[0] if len(found) == 1 else None


def _is_dense(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear or (_is_plain(layer) and layer.groups == 1)


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a convolution with the weights that it holds: subclasses may standardise or mix them."""
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
    wanted = layer.get_parameter(name).requires_grad
    setattr(layer, name, nn.Parameter(value.detach().clone(), requires_grad=wanted))
