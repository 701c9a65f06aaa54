"""How far the loss would change without each of a model's heads, hidden units and blocks."""

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


def taylor(
    built: BuiltModel,
    structures: Mapping[str, Structure],
    blocks: Sequence[str],
    dataset: Dataset,
    labels: Tensor | None,
    device: torch.device,
    seed: int,
    progress: Progress,
) -> Importance:
    """The change of each image's cross-entropy, to first order, when a unit or a block goes.

    A gate of 1 multiplies each unit where the last layer of its structure takes it in, and each block where its two
    branches add to their input; the derivative by the gate is the change (Molchanov et al. 2019, gates and eq. 8).
    They square it batch by batch; here each image has its own, which gives more samples of the same.

    Without `labels` these are drawn from the model's own answers. The mean square is then the gate's Fisher
    information, which is the second-order term of the KL divergence from the whole model (Theis et al. 2018); its
    first-order term is zero, so that there would be nothing to square.

    Args:
        labels: (images,) int64, the model's classes; or None.

    Raises:
        DataError: there are no images.
    """
    if not len(dataset):
        raise DataError("there is no image to score by", where=dataset.name)
    model = built.module.to(device).eval()
    generator = torch.Generator().manual_seed(seed)
    given = iter(()) if labels is None else iter(torch.split(labels, SMALL_BATCH))

    def changes(canvases: Tensor) -> Tensor:
        images = images_on(device, canvases, built.preprocess)
        with torch.enable_grad(), _gates(timm_model(model), structures, blocks, images) as gates:
            logits = model(images).float()
            target = _drawn(logits, generator) if labels is None else next(given)
            loss = F.cross_entropy(logits, target.to(device), reduction="sum")
            return torch.cat(torch.autograd.grad(loss, gates, allow_unused=True, materialize_grads=True), dim=1).cpu()

    with progress.bar("score", len(dataset), "images") as bar:
        found = over_canvases(changes, ViewDataset(dataset, built.preprocess), 0, SMALL_BATCH, bar)
    model.cpu()
    widths = [one.last.places.numel() for one in structures.values()]
    *channels, of_blocks = torch.split(found, [*widths, len(blocks)], dim=1)
    units = {
        path: its[:, one.last.places].sum(-1) for (path, one), its in zip(structures.items(), channels, strict=True)
    }
    return Importance(units, dict(zip(blocks, of_blocks.unbind(1), strict=True)))


def known_labels(dataset: Dataset, classes: Sequence[str]) -> Tensor | None:
    """The data set's labels as indices into `classes`, (images,) int64; None without any, or of other classes."""
    labels = labels_among(dataset, classes)
    return None if labels is None else torch.from_numpy(labels)


@contextmanager
def _gates(
    inner: nn.Module, structures: Mapping[str, Structure], blocks: Sequence[str], images: Tensor
) -> Iterator[list[Tensor]]:
    """Ones that multiply what enters the last layer of each structure, (N, channels), and what each block's branches
    add, (N, 1), while the context lasts.
    """
    gates, hooks = [], []
    for one in structures.values():
        gates.append(torch.ones(len(images), one.last.places.numel(), device=images.device, requires_grad=True))
        hooks.append(one.last.layer.register_forward_pre_hook(_gate_inputs(gates[-1])))
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
    return lambda layer, inputs: (_multiplied(inputs[0], gate, 1 if isinstance(layer, nn.Conv2d) else -1),)


def _gate_output(gate: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda module, inputs, output: _multiplied(output, gate, -1)


def _multiplied(values: Tensor, gate: Tensor, axis: int) -> Tensor:
    """Values (N or a multiple of it, …), whose channels lie on `axis`, times gates (N, channels or 1)."""
    shape = [1] * values.ndim
    shape[0], shape[axis] = len(values), gate.shape[1]
    return values * gate.repeat_interleave(len(values) // len(gate), dim=0).view(shape)


def _drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """A class for each row, (N,), with the probabilities that the model gives it."""
    return torch.multinomial(logits.detach().cpu().softmax(-1), 1, generator=generator)[:, 0]
