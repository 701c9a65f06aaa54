"""Folding for deployment: parallel branches fused, batch norm folded into the layer before it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection
from typing import Literal

import torch
from timm.layers import Conv2dSame
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from edgevit.artifacts import Frozen
from edgevit.models.timm_models import classifier_prefixes, preprocess_of, timm_model

BatchNorm = nn.modules.batchnorm._BatchNorm
# Layers with plain weights: their subclasses standardize or mix the weights first.
PLAIN_LAYERS = (nn.Conv2d, Conv2dSame, nn.Linear)


class Folded(Frozen):
    """A model as it is deployed: its branches fused, and batch norm folded into the layers before it.

    The classifier stays apart from a norm before it, so that its input is still the embedding. A batch norm stays, too,
    if it follows no layer, or if another operation reads the layer's output.

    Attributes:
        image_size: side in pixels of the images that the model takes; None for timm's own size of the model.
    """

    change: Literal["folded"] = "folded"
    image_size: int | None = None

    def apply(self, model: nn.Module) -> nn.Module:
        """A folded copy of a model in eval mode."""
        model.eval()
        inner, heads = timm_model(model), classifier_prefixes(model)
        classifiers = [layer for name, layer in inner.named_modules() if f"{name}.".startswith(heads)]
        folded = fused_branches(model, apart=classifiers, whole=(model, inner))
        size = preprocess_of(model, self.image_size)
        fold_batch_norms(folded, torch.zeros(2, 3, size.height, size.width))
        return folded


def fused_branches(module: nn.Module, apart: Collection[nn.Module], whole: Collection[nn.Module]) -> nn.Module:
    """A copy in which timm has fused parallel branches.

    Two kinds of modules stay as they are. The first has two heads: timm's fusion would average their logits. The second
    holds a layer of `apart`; the modules of `whole`, the model itself and its wrapper, do not count as such.
    """
    fused: nn.Module = reparameterize_model(module)
    for name, child in module.named_modules():
        two_heads = getattr(child, "distilled_training", False)
        holds_apart = child not in whole and not set(apart).isdisjoint(child.modules())
        if hasattr(child, "fuse") and (two_heads or holds_apart):
            fused.set_submodule(name, copy.deepcopy(child))
    return fused


@torch.no_grad()
def fold_batch_norms(module: nn.Module, images: Tensor) -> None:
    """Fold each batch norm into the layer before it, in place: W' = γ/√(σ² + ε)·W, b' = γ/√(σ² + ε)·(b − μ) + β.

    A norm is folded only if a Conv2d or Linear is called once in a pass, and nothing but the norm reads its output. The
    activation that timm puts into a norm stays in its place.

    Args:
        module: in eval mode.
        images: (N, 3, H, W), for a forward pass that finds the layer before each norm.
    """
    for layer_name, norm_name in _layers_before_norms(module, images):
        layer, norm = module.get_submodule(layer_name), module.get_submodule(norm_name)
        assert isinstance(norm, BatchNorm)
        fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
        module.set_submodule(layer_name, fuse(layer, norm))  # type: ignore[type-var]
        inside = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
        module.set_submodule(norm_name, nn.Sequential(*inside))


def _layers_before_norms(module: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    names = {child: name for name, child in module.named_modules()}
    made_by: dict[int, tuple[str, Node | None]] = {}
    outputs: list[Tensor] = []  # kept, so that no two have the same id
    calls: Counter[str] = Counter()
    found: list[tuple[str, str, Node]] = []

    def after_layer(layer: nn.Module, _: object, output: Tensor) -> None:
        calls[names[layer]] += 1
        made_by[id(output)] = names[layer], output.grad_fn
        outputs.append(output)

    def before_norm(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        calls[names[norm]] += 1
        layer, node = made_by.get(id(inputs[0]), ("", None))
        if node is not None and node is inputs[0].grad_fn:  # else, the output was changed in place
            found.append((layer, names[norm], node))

    hooks = [child.register_forward_hook(after_layer) for child in names if type(child) in PLAIN_LAYERS]
    hooks += [child.register_forward_pre_hook(before_norm) for child in names if isinstance(child, BatchNorm)]
    try:
        with torch.enable_grad():  # the graph of the gradients shows what reads an output
            answer = module(images.clone().requires_grad_() + 0)  # + 0: a module may change its input in place
    finally:
        for hook in hooks:
            hook.remove()
    readers = _readers(answer)
    return [(layer, norm) for layer, norm, node in found if calls[layer] == calls[norm] == 1 and readers[node] == 1]


def _readers(answer: Tensor) -> Counter[Node]:
    """How many operations read the result of each operation that `answer` was computed by."""
    readers: Counter[Node] = Counter()
    left = [] if answer.grad_fn is None else [answer.grad_fn]
    while left:
        for node, _ in left.pop().next_functions:
            if node is not None:
                readers[node] += 1
                if readers[node] == 1:
                    left.append(node)
    return readers
