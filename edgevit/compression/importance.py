"""Importance of heads, hidden units and blocks: the change of the loss when they are removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgevit.compression.pruning import Importance
from edgevit.data.dataset import Dataset
from edgevit.data.labels import labels_among
from edgevit.data.loading import ViewDataset
from edgevit.errors import DataError
from edgevit.inference.over_dataset import SMALL_BATCH, images_on, over_canvases
from edgevit.models.creation import BuiltModel
from edgevit.models.structures import Structure
from edgevit.models.timm_models import timm_model
from edgevit.progress import Progress


def taylor_importance(
    built: BuiltModel,
    structures: Mapping[str, Structure],
    blocks: Sequence[str],
    dataset: Dataset,
    labels: Tensor | None,
    device: torch.device,
    seed: int,
    progress: Progress,
) -> Importance:
    """The change of each image's cross-entropy, to first order, when a unit or a block is removed.

    A gate of 1 multiplies each unit at the input of its structure's last layer, and each block where its two branches
    add to their input. The derivative by the gate is the change (Molchanov et al. 2019, gates and eq. 8). They square
    it for each batch; here it is squared for each image, which gives more samples of the same quantity.

    Without `labels`, labels are drawn from the model's own answers. The mean square is then the gate's Fisher
    information, the second-order term of the KL divergence from the whole model (Theis et al. 2018). The first-order
    term of that divergence is zero.

    Args:
        labels: (images,) int64, the model's classes; or None.

    Raises:
        DataError: there are no images.
    """
    if not len(dataset):
        raise DataError("the data set has no images, and the scores need images", where=dataset.name)
    model = built.module.to(device).eval()
    generator = torch.Generator().manual_seed(seed)
    label_batches = iter(()) if labels is None else iter(torch.split(labels, SMALL_BATCH))

    def changes(canvases: Tensor) -> Tensor:
        images = images_on(device, canvases, built.preprocess)
        with torch.enable_grad(), _gates(timm_model(model), structures, blocks, images) as gates:
            logits = model(images).float()
            target = _drawn_labels(logits, generator) if labels is None else next(label_batches)
            loss = F.cross_entropy(logits, target.to(device), reduction="sum")
            return torch.cat(torch.autograd.grad(loss, gates, allow_unused=True, materialize_grads=True), dim=1).cpu()

    with progress.bar("score", len(dataset), "images") as bar:
        derivatives = over_canvases(changes, ViewDataset(dataset, built.preprocess), 0, SMALL_BATCH, bar)
    model.cpu()
    widths = [structure.last.indices.numel() for structure in structures.values()]
    *by_structure, by_block = torch.split(derivatives, [*widths, len(blocks)], dim=1)
    units = {
        path: channels[:, structure.last.indices].sum(-1)
        for (path, structure), channels in zip(structures.items(), by_structure, strict=True)
    }
    return Importance(units, dict(zip(blocks, by_block.unbind(1), strict=True)))


def known_labels(dataset: Dataset, classes: Sequence[str]) -> Tensor | None:
    """The data set's labels as indices into `classes`, (images,) int64; None without labels, or with other classes."""
    labels = labels_among(dataset, classes)
    return None if labels is None else torch.from_numpy(labels)


@contextmanager
def _gates(
    inner: nn.Module, structures: Mapping[str, Structure], blocks: Sequence[str], images: Tensor
) -> Iterator[list[Tensor]]:
    """Gates, all 1, while the context lasts: one for each input of each structure's last layer, (N, channels), and one
    for each block's branches, (N, 1).
    """
    gates, hooks = [], []
    for structure in structures.values():
        channels = structure.last.indices.numel()
        gates.append(torch.ones(len(images), channels, device=images.device, requires_grad=True))
        hooks.append(structure.last.layer.register_forward_pre_hook(_gate_inputs(gates[-1])))
    for path in blocks:
        gates.append(torch.ones(len(images), 1, device=images.device, requires_grad=True))
        for branch in ("attn.proj", "mlp"):
            hooks.append(inner.get_submodule(f"{path}.{branch}").register_forward_hook(_gate_output(gates[-1])))
    try:
        yield gates
    finally:
        for hook in hooks:
            hook.remove()


def _gate_inputs(gate: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
    return lambda layer, inputs: (_gated(inputs[0], gate, 1 if isinstance(layer, nn.Conv2d) else -1),)


def _gate_output(gate: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda module, inputs, output: _gated(output, gate, -1)


def _gated(values: Tensor, gate: Tensor, axis: int) -> Tensor:
    """Values (N or a multiple of N, …), with channels on `axis`, times gates (N, channels or 1)."""
    shape = [1] * values.ndim
    shape[0], shape[axis] = len(values), gate.shape[1]
    return values * gate.repeat_interleave(len(values) // len(gate), dim=0).view(shape)


def _drawn_labels(logits: Tensor, generator: torch.Generator) -> Tensor:
    """A random class for each row, (N,), drawn with the model's probabilities."""
    return torch.multinomial(logits.detach().cpu().softmax(-1), 1, generator=generator)[:, 0]
