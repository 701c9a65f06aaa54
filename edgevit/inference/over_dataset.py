"""A model's outputs for a data set: for validation during training, for features and for pseudo-labels."""

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
from edgevit.memory import freed_memory_kept
from edgevit.progress import Bar

BATCHES_AHEAD = 2  # besides the batch in use
SMALL_BATCH = 16  # for passes that keep more than their outputs: gradients, or the inputs of layers


def accuracy(
    model: nn.Module, dataset: Dataset, preprocess: Preprocess, device: torch.device, batch_size: int = 64
) -> float:
    """Top-1 accuracy, 0 to 1, in eval mode. Raises DataError without labels, TrainingError for NaN."""
    if dataset.labels is None:
        raise DataError("accuracy needs labels", where=dataset.name)
    was_training = model.training
    outputs = outputs_of(model.eval(), dataset, preprocess, device, batch_size)
    model.train(was_training)
    if outputs.isnan().any():
        raise TrainingError("the model's outputs are no numbers", where=dataset.name, got="NaN")
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
    """The outputs (samples, …), on the CPU, of a model in eval mode, in the order of the data set."""

    def answer(canvases: Tensor) -> Tensor:
        return model(images_on(device, canvases, preprocess)).cpu()

    return over_canvases(answer, ViewDataset(dataset, preprocess, None, seed=0), 0, batch_size, bar)


@torch.no_grad()
@freed_memory_kept()
def over_canvases(
    answer: Callable[[Tensor], Tensor], views: ViewDataset, view: int, batch_size: int = 64, bar: Bar | None = None
) -> Tensor:
    """The outputs (samples, …) of `answer` for view number `view` of each sample, as batches (N, H, W, 3) of canvases.

    `bar` advances by the number of samples of each batch.
    """
    outputs, done = torch.empty(0), 0
    with closing(_canvases(views, view, batch_size)) as batches:
        for canvases in batches:
            answers = answer(canvases)
            if not done:  # one block: small blocks between the model's large buffers would keep these from being reused
                outputs = answers.new_empty((len(views), *answers.shape[1:]))
            outputs[done : done + len(canvases)] = answers
            done += len(canvases)
            if bar:
                bar.advance(len(canvases))
    return outputs


def images_on(device: torch.device, canvases: Tensor, preprocess: Preprocess) -> Tensor:
    """Canvases (N, H, W, 3) → normalized images (N, 3, H, W) on the device."""
    if device.type == "cuda":
        canvases = canvases.pin_memory()
    return normalize(canvases.to(device, non_blocking=True), preprocess)


def _canvases(views: ViewDataset, view: int, batch_size: int) -> Generator[Tensor]:
    """Batches of canvases, in order. Threads make the next batches while the caller uses the current one."""
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
    """A pool with one thread per core. At the end of the block, waiting work is canceled and the threads end."""
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
