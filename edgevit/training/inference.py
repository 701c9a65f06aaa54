"""What a model says about a data set: for validation while training, and for features and pseudo-labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager

import torch
from torch import Tensor, nn

from edgevit.artifacts import Preprocess
from edgevit.configs import Augmentation
from edgevit.context import MOST_WORKERS, usable_cpus
from edgevit.data.dataset import Dataset
from edgevit.data.loading import ViewDataset
from edgevit.data.transforms import normalise
from edgevit.errors import DataError
from edgevit.progress import Bar

BATCHES_AHEAD = 2  # of the one in use


def accuracy(
    model: nn.Module, dataset: Dataset, preprocess: Preprocess, device: torch.device, batch_size: int = 64
) -> float:
    """The share of a labelled data set that the model, in eval mode, gets right."""
    if dataset.labels is None:
        raise DataError("accuracy needs labels", where=dataset.name)
    predicted = outputs_of(model, dataset, preprocess, device, batch_size).argmax(-1)
    return float((predicted == torch.from_numpy(dataset.labels)).float().mean())


@torch.no_grad()
def outputs_of(
    model: nn.Module,
    dataset: Dataset,
    preprocess: Preprocess,
    device: torch.device,
    batch_size: int = 64,
    augmentation: Augmentation | None = None,
    view: int = 0,
    seed: int = 0,
    bar: Bar | None = None,
) -> Tensor:
    """The outputs (samples, …) on the CPU of the model, in eval mode, for a data set in its order.

    With an augmentation, for view number `view` of each sample. `bar` advances by each batch's samples.
    """
    was_training = model.training
    model.eval()
    views, outputs = ViewDataset(dataset, preprocess, augmentation, seed), []
    with closing(_canvases(views, view, batch_size)) as batches:
        for canvases in batches:
            if device.type == "cuda":
                canvases = canvases.pin_memory()
            images = normalise(canvases.to(device, non_blocking=True), preprocess)
            outputs.append(model(images).cpu())
            if bar:
                bar.advance(len(canvases))
    model.train(was_training)
    return torch.cat(outputs)


def _canvases(views: ViewDataset, view: int, batch_size: int) -> Generator[Tensor]:
    """The canvases of each batch in order. Threads make those of the next batches while the caller uses one."""
    with _cancelling_pool() as pool:
        ahead: deque[list[Future[Tensor]]] = deque()
        for start in range(0, len(views), batch_size):
            indices = range(start, min(start + batch_size, len(views)))
            ahead.append([pool.submit(_canvas, views, view, index) for index in indices])
            if len(ahead) > BATCHES_AHEAD:
                yield _stacked(ahead.popleft())
        while ahead:
            yield _stacked(ahead.popleft())


@contextmanager
def _cancelling_pool() -> Iterator[Executor]:
    """A thread for each core. Whatever ends the block, they are gone after it, and what waited is not done."""
    pool = ThreadPoolExecutor(min(MOST_WORKERS, usable_cpus()), thread_name_prefix="canvases")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _canvas(views: ViewDataset, view: int, index: int) -> Tensor:
    canvas, *_ = views[0, view, index]
    return canvas


def _stacked(canvases: Sequence[Future[Tensor]]) -> Tensor:
    return torch.stack([canvas.result() for canvas in canvases])
