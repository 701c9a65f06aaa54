"""Batches as a function of (seed, step): a batch does not depend on earlier steps."""

from __future__ import annotations

import hashlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from edgevit.artifacts import Preprocess
from edgevit.configs import Augmentation, ViewSpec
from edgevit.data.dataset import Dataset, Indices
from edgevit.data.loading import UNLABELLED, ViewDataset
from edgevit.errors import DataError, EdgevitError, RecipeError, first_line
from edgevit.training.loop.sampling import ClassBalanced, Sampler, Shuffled

# torch's messages. The last two are errors of reading a dead worker's incomplete message.
_LOADER_DIED = ("DataLoader worker", "Pin memory thread", "received 0 items of ancdata", "unable to mmap")


class Counts(NamedTuple):
    """The number of samples, and the number with a label. A mixed sample needs its partner's label, too."""

    samples: int
    labelled: int


class Batch(NamedTuple):
    """Views of samples from one or more streams. A row is a sample.

    Attributes:
        views: the views of each row's sample, (N, H, W, 3) each, uint8; float32 in 0..255 where images were mixed. A
            classifier has one.
        labels: (N,) int64; UNLABELLED for a sample without a label.
        streams: (N,) int64, the stream of each sample.
        samples: (N,) int64, the sample's index in its stream's data set.
        partners: (N,) int64, the row of the image that the sample is mixed with; its own row if unmixed.
        partner_samples: (N,) int64, the partner's index in the data set; partners are of one stream.
        partner_labels: (N,) int64, the partner's label.
        own_share: (N,) float32, the sample's share in the mixture; 1 if unmixed.
        rows: (N,) int64, the sample's row in the whole batch.
        step: the batch's number, from 0.
        done: the share of the training before this batch, 0 to 1.
        whole: counts of the whole batch, if this is a part; None for a whole batch.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    streams: Tensor
    samples: Tensor
    partners: Tensor
    partner_samples: Tensor
    partner_labels: Tensor
    own_share: Tensor
    rows: Tensor
    step: int = 0
    done: float = 0.0
    whole: Counts | None = None

    @property
    def main_labels(self) -> Tensor:
        """(N,) int64: the label of the image with the larger share; UNLABELLED if it has none."""
        return torch.where(self.own_share >= 0.5, self.labels, self.partner_labels)

    @property
    def labelled(self) -> Tensor:
        """(N,) bool: whether a sample has a label. An image mixed with an unlabelled image has none."""
        return (self.labels >= 0) & (self.partner_labels >= 0)

    @property
    def samples_in_all(self) -> int:
        """The number of samples of the whole batch: `counts.samples`, without waiting for the device."""
        return len(self.labels) if self.whole is None else self.whole.samples

    @property
    def counts(self) -> Counts:
        """The counts of the whole batch."""
        return self.whole or Counts(len(self.labels), int(self.labelled.sum()))

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return self._with_each(lambda tensor: tensor.to(device, non_blocking=True))

    def part(self, number: int, parts: int) -> Batch:
        """Every `parts`-th sample, from sample `number` on, so that each part has its share of every stream."""
        return self._with_each(lambda tensor: tensor[number::parts])._replace(whole=self.counts)

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed = {name: change(value) for name, value in self._asdict().items() if isinstance(value, Tensor)}
        return self._replace(views=tuple(map(change, self.views)), **changed)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TrainingStream:
    """A data set and its share of each batch.

    Attributes:
        labelled: false hides its labels.
        balanced: each class comes equally often; the data set then needs labels, and a sample of every class.
    """

    dataset: Dataset
    share: float = 1.0
    labelled: bool = True
    balanced: bool = False

    def sampler(self, seed: int, number: int) -> Sampler:
        """The order of its samples, where `number` is its place among the streams."""
        if not self.balanced:
            return Shuffled(seed, number, len(self.dataset))
        assert self.dataset.labels is not None
        return ClassBalanced(seed, number, self.dataset.labels, len(self.dataset.classes))


class Batches(TorchDataset[Batch]):
    """The batch of each step: a function of (seed, step) and of all arguments except `epochs`.

    An epoch is as many images as the first stream has; each stream has a count of its own passes, and so has each class
    of a balanced stream. Streams go on without a break from one pass to the next, so every batch is full. With repeated
    augmentation, a sample stands in a batch several times, each time as a row of its own, and a pass takes that many
    epochs.

    With `views`, a row has several views, of sizes and crops of their own. Only the first view of a row is mixed.

    With `parts` processes, process `part` makes `Batch.part(part, parts)` of each batch. It computes only the views of
    these rows and of their partners.
    """

    def __init__(
        self,
        streams: Sequence[TrainingStream],
        canvas: Preprocess,
        augmentation: Augmentation | None,
        batch_size: int,
        epochs: int,
        seed: int,
        part: int = 0,
        parts: int = 1,
        views: Sequence[ViewSpec] = (),
    ) -> None:
        if parts > batch_size:
            raise RecipeError(
                "a batch is too small for its ranks",
                got=f"batch_size {batch_size}, {parts} ranks",
                expected="at least one sample for each rank",
            )
        for stream in streams:
            if not len(stream.dataset):
                raise DataError("there is no image to train on", where=stream.dataset.name)
        self.streams, self.canvas, self.augmentation, self.seed = tuple(streams), canvas, augmentation, seed
        self.part, self.parts = part, parts
        self.counts = batch_shares([stream.share for stream in streams], batch_size)
        self._views = [
            [ViewDataset(stream.dataset, its_canvas, its_augmentation, seed) for stream in streams]
            for its_canvas, its_augmentation in view_columns(canvas, augmentation, views)
        ]
        self._samplers = [stream.sampler(seed, number) for number, stream in enumerate(streams)]
        self.images_per_epoch = len(streams[0].dataset)
        self.total_steps = -(-epochs * self.images_per_epoch // self.counts[0])

    def __len__(self) -> int:
        return self.total_steps

    def __getitem__(self, step: int) -> Batch:
        drawn = [row for stream in range(len(self.streams)) for row in self._rows_of(stream, step)]
        labels, streams, samples = (
            torch.tensor(column) for column in zip(*((row.label, row.stream, row.sample) for row in drawn), strict=True)
        )
        mixture = self._mixture(step, streams)
        everyone = torch.arange(len(drawn))
        partners = everyone if mixture is None else mixture.partners
        rows = everyone[self.part :: self.parts]
        made = {row: self._canvas(drawn[row], 0) for row in {*rows.tolist(), *partners[rows].tolist()}}
        first = torch.stack([made[row] for row in rows.tolist()])
        if mixture is not None:
            first = mixture.of(first.float(), torch.stack([made[row] for row in partners[rows].tolist()]).float())
        others = (
            torch.stack([self._canvas(drawn[row], column) for row in rows.tolist()])
            for column in range(1, len(self._views))
        )
        partner_labels = labels[partners]
        labelled = int(((labels >= 0) & (partner_labels >= 0)).sum())
        return Batch(
            (first, *others),
            labels[rows],
            streams[rows],
            samples[rows],
            partners[rows],
            samples[partners][rows],
            partner_labels[rows],
            own_share=torch.full((len(rows),), 1.0 if mixture is None else mixture.own_share),
            rows=rows,
            step=step,
            done=step / self.total_steps,
            whole=None if self.parts == 1 else Counts(len(drawn), labelled),
        )

    def epoch_of(self, step: int) -> int:
        """The number of complete epochs after `step` steps."""
        return step * self.counts[0] // self.images_per_epoch

    def load(self, first_step: int, workers: int, pinned: bool = False) -> Iterator[Batch]:
        """The batches from `first_step` on. They do not depend on the number of worker processes.

        With `pinned`, they are in pinned memory, from which a GPU copies asynchronously.
        """
        steps = range(first_step, self.total_steps)
        how = {"num_workers": workers, "pin_memory": pinned, "worker_init_fn": _say_nothing_of_lost_readers}
        made = iter(DataLoader(_Made(self), batch_size=None, sampler=steps, **how))  # type: ignore[arg-type]
        for _ in steps:
            batch = next(made)
            if isinstance(batch, EdgevitError):
                raise batch
            yield batch

    @property
    def _repeats(self) -> int:
        return 1 if self.augmentation is None else self.augmentation.repeats

    def _rows_of(self, stream: int, step: int) -> Iterator[_Row]:
        """The rows of a stream in a batch."""
        source, count = self.streams[stream], self.counts[stream]
        labels = source.dataset.labels if source.labelled else None
        for position in range(step * count, (step + 1) * count):
            sample, repeat = divmod(position, self._repeats)
            its_pass, index = self._samplers[stream][sample]
            label = UNLABELLED if labels is None else int(labels[index])
            yield _Row(stream, its_pass, repeat, index, label)

    def _canvas(self, row: _Row, column: int) -> Tensor:
        number = row.stream + (row.repeat + column * self._repeats) * len(self.streams)
        canvas, *_ = self._views[column][row.stream][row.its_pass, number, row.sample]
        return canvas

    def _mixture(self, step: int, streams: Tensor) -> _Mixture | None:
        """The mixture of a batch's images; None if they are not mixed."""
        if self.augmentation is None or not self.augmentation.mixes:
            return None
        rng = np.random.default_rng(seed_of(self.seed, "mix", step))
        if self.augmentation.mix_probability < 1 and rng.random() >= self.augmentation.mix_probability:
            return None
        partners = _partners(streams.numpy(), rng)
        kinds = [kind for kind in ("mixup", "cutmix") if getattr(self.augmentation, kind)]
        kind = kinds[int(rng.integers(len(kinds)))]
        alpha = getattr(self.augmentation, kind)
        share = float(rng.beta(alpha, alpha))
        if kind == "mixup":
            return _Mixture(partners, share)
        height, width = self.canvas.height, self.canvas.width
        top, bottom, left, right = _box(height, width, 1 - share, rng)
        share = 1 - (bottom - top) * (right - left) / (height * width)
        return _Mixture(partners, share, (slice(top, bottom), slice(left, right)))


def view_columns(
    canvas: Preprocess, augmentation: Augmentation | None, views: Sequence[ViewSpec]
) -> list[tuple[Preprocess, Augmentation | None]]:
    """The canvas and the augmentation of each view of a row; without `views`, one view as they are."""
    if not views:
        return [(canvas, augmentation)]
    assert augmentation is not None
    return [
        (
            canvas.model_copy(update={"height": view.size, "width": view.size}) if view.size else canvas,
            augmentation.model_copy(update={"scale": view.scale}),
        )
        for view in views
        for _ in range(view.count)
    ]


class _Row(NamedTuple):
    """A row of a batch: a stream's sample in one pass over the stream, for the `repeat`-th time in the pass."""

    stream: int
    its_pass: int
    repeat: int
    sample: int
    label: int


class _Mixture(NamedTuple):
    """Each row's partner, each row's own share, and for CutMix the box that comes from the partner."""

    partners: Tensor
    own_share: float
    box: tuple[slice, slice] | None = None

    def of(self, canvases: Tensor, partners: Tensor) -> Tensor:
        """Canvases (N, H, W, 3), float32, mixed with their partners'."""
        if self.box is None:
            return self.own_share * canvases + (1 - self.own_share) * partners
        rows, columns = self.box
        canvases[:, rows, columns] = partners[:, rows, columns]
        return canvases


class _Made(TorchDataset[Batch | EdgevitError]):
    """Batches, or the error of a batch as a value: a DataLoader would re-raise a worker's error as another class."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> Batch | EdgevitError:
        try:
            return self._batches[step]
        except EdgevitError as error:
            return error


@contextmanager
def worker_death_as_data_error(workers: int) -> Iterator[None]:
    """Context that raises a DataError if a data worker dies.

    torch raises wherever the main process is at the time, even within a step; or the main process fails to read the
    dead worker's incomplete message.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if not any(words in str(error) for words in _LOADER_DIED) and not (workers and _is_of_a_lost_sender(error)):
            raise
        _end_workers(error)
        raise DataError(
            "a process that loads images died",
            got=first_line(error),
            next="it may have run out of memory, also of shared memory: fewer --workers, or --workers 0",
        ) from None


def _end_workers(error: BaseException) -> None:
    """End the other workers of a loader after the death of one. The error's frames would keep the loader alive.

    While torch remembers the dead worker, it raises again at the exit of any child of this process.
    """
    if threading.current_thread() is not threading.main_thread():
        traceback.clear_frames(error.__traceback__)
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        signal.signal(signal.SIGCHLD, handler)


def _say_nothing_of_lost_readers(worker: int) -> None:
    """Initialize a worker: no traceback if the training ends while the worker sends a message."""

    def hook(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        if not isinstance(error, (ConnectionError, EOFError)):
            sys.__excepthook__(kind, error, where)

    sys.excepthook = hook


def _is_of_a_lost_sender(error: Exception) -> bool:
    """Whether reading from another process failed because the process ended."""
    lost = isinstance(error, (ConnectionResetError, ConnectionRefusedError, EOFError))
    return lost or (isinstance(error, FileNotFoundError) and error.filename is None)  # its socket


def batch_shares(shares: Sequence[float], batch_size: int) -> list[int]:
    """Number of samples of each stream in a batch: at least 1 each, `batch_size` in total (largest remainders)."""
    if len(shares) > batch_size:
        raise RecipeError(
            "a batch is too small for its streams",
            got=f"batch_size {batch_size}",
            expected=f"at least {len(shares)}, one for each stream",
        )
    exact = [share / sum(shares) * batch_size for share in shares]
    counts = [max(1, int(value)) for value in exact]
    while sum(counts) < batch_size:
        counts[max(range(len(counts)), key=lambda i: exact[i] - counts[i])] += 1
    while sum(counts) > batch_size:
        counts[max(range(len(counts)), key=lambda i: (counts[i] > 1, counts[i] - exact[i]))] -= 1
    return counts


def seed_of(*parts: object) -> int:
    """A 63-bit seed that depends on all parts."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _partners(streams: Indices, rng: np.random.Generator) -> Tensor:
    """A random partner for each row, from the same stream, so that labelled images keep a label."""
    partners = np.arange(len(streams))
    for stream in np.unique(streams):
        places = np.flatnonzero(streams == stream)
        partners[places] = rng.permutation(places)
    return torch.from_numpy(partners)


def _box(height: int, width: int, area: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A box (top, bottom, left, right) of about this share of the area, at a random center (Yun et al. 2019)."""
    tall, wide = height * area**0.5, width * area**0.5
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    top, bottom = np.clip([round(y - tall / 2), round(y + tall / 2)], 0, height)
    left, right = np.clip([round(x - wide / 2), round(x + wide / 2)], 0, width)
    return int(top), int(bottom), int(left), int(right)
