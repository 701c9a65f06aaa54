"""What a model says about a data set: for validation while training, and for features and pseudo-labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager

import torch
from torch import Tensor, nn

from edgevit.artifacts import Preprocess
from edgevit.context import MOST_WORKERS, usable_cpus
from edgevit.data.dataset import Dataset
from edgevit.data.loading import ViewDataset
from edgevit.data.transforms import normalize
from edgevit.errors import DataError, TrainingError
from edgevit.progress import Bar

BATCHES_AHEAD = 2  # of the one in use
SMALL_BATCH = 16  # where a pass keeps more than its answers: gradients, or what enters each layer


def accuracy(
    model: nn.Module, dataset: Dataset, preprocess: Preprocess, device: torch.device, batch_size: int = 64
) -> float:
    """The share of a labelled data set that the model, in eval mode, gets right. Raises TrainingError for NaN."""
    if dataset.labels is None:
        raise DataError("accuracy needs labels", where=dataset.name)
    was_training = model.training
    outputs = outputs_of(model.eval(), dataset, preprocess, device, batch_size)
    model.train(was_training)
    if outputs.isnan().any():
        raise TrainingError("the model's answers are no numbers", where=dataset.name, got="NaN")
    predicted = outputs.argmax(-1)
    return float((predicted == torch.from_numpy(dataset.labels)).float().mean())


def outputs_of(
    model: Callable[[Tensor], Tensor],
    dataset: Dataset,
    preprocess: Preprocess,
    device: torch.device,
    batch_size: int = 64,
    bar: Bar | None = None,
) -> Tensor:
    """The outputs (samples, …) on the CPU of a model in eval mode for a data set in its order."""

    def answer(canvases: Tensor) -> Tensor:
        return model(images_on(device, canvases, preprocess)).cpu()

    return over_canvases(answer, ViewDataset(dataset, preprocess, None, seed=0), 0, batch_size, bar)


@torch.no_grad()
def over_canvases(
    answer: Callable[[Tensor], Tensor], views: ViewDataset, view: int, batch_size: int = 64, bar: Bar | None = None
) -> Tensor:
    """What `answer` gives, (samples, …), for batches of canvases (N, H, W, 3) of view number `view` of each sample.

    `bar` advances by each batch's samples.
    """
    outputs, done = torch.empty(0), 0
    with closing(_canvases(views, view, batch_size)) as batches:
        for canvases in batches:
            answers = answer(canvases)
            if not done:  # one block: small ones between the model's large ones would keep these from being used again
                outputs = answers.new_empty((len(views), *answers.shape[1:]))
            outputs[done : done + len(canvases)] = answers
            done += len(canvases)
            if bar:
                bar.advance(len(canvases))
    return outputs


def images_on(device: torch.device, canvases: Tensor, preprocess: Preprocess) -> Tensor:
    """Canvases as they enter a model on this device."""
    if device.type == "cuda":
        canvases = canvases.pin_memory()
    return normalize(canvases.to(device, non_blocking=True), preprocess)


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
