"""Outputs for a whole data set: canvases are made ahead on threads, and nothing shows it."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from edgevit.configs import Augmentation
from edgevit.data.dataset import Dataset
from edgevit.data.hashes import ImageState, ImageStates
from edgevit.data.images import Image as ImageArray
from edgevit.data.loading import ViewDataset
from edgevit.data.sources.image_folder import FolderImages
from edgevit.data.transforms import normalize
from edgevit.errors import DataError
from edgevit.inference import over_dataset as inference
from edgevit.inference.over_dataset import BATCHES_AHEAD, images_on, outputs_of, over_canvases

from ..learning import blobs, tiny_vit

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def eight_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the images need, so that they finish in any order, wherever the tests run."""
    monkeypatch.setattr(inference, "usable_cpus", lambda: 8)


@pytest.fixture
def photos(tmp_path: Path) -> Dataset:
    """JPEGs of very different sizes: the later ones of a batch are often ready first."""
    rng, paths = np.random.default_rng(0), []
    for index in range(23):
        side = (400, 20, 150)[index % 3]
        paths.append(f"{index:02d}.jpg")
        Image.fromarray(rng.integers(0, 256, (side, side + index, 3), np.uint8)).save(tmp_path / paths[-1])
    return Dataset("photos", (), tuple(paths), None, FolderImages(tmp_path, tuple(paths)), np.arange(len(paths)))


@pytest.mark.parametrize(
    "augmentation",
    [
        None,
        Augmentation(color_jitter=0.3, random_erasing=0.5, rotate_degrees=10),
        Augmentation(auto_augment="rand-m9-mstd0.5-inc1"),
        Augmentation(auto_augment="augmix-m5-w3"),
    ],
)
@pytest.mark.parametrize("batch_size", [3, 64])
def test_equals_making_one_canvas_after_another(
    photos: Dataset, augmentation: Augmentation | None, batch_size: int
) -> None:
    built = tiny_vit()
    random.seed(1)
    np.random.seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist()
    views = ViewDataset(photos, built.preprocess, augmentation, seed=5)
    expected = []
    with torch.no_grad():
        for start in range(0, len(photos), batch_size):
            canvases = [views[0, 2, index][0] for index in range(start, min(start + batch_size, len(photos)))]
            expected.append(built.module.eval()(normalize(torch.stack(canvases), built.preprocess)))
    found = over_canvases(
        lambda canvases: built.module(images_on(CPU, canvases, built.preprocess)), views, 2, batch_size
    )
    assert torch.equal(found, torch.cat(expected))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states


def test_the_bar_goes_on_with_each_batch() -> None:
    built, advanced = tiny_vit(), list[int]()

    class Bar:
        def advance(self, count: int = 1, **values: float) -> None:
            advanced.append(count)

    outputs_of(built.module, blobs(), built.preprocess, CPU, batch_size=10, bar=Bar())
    assert advanced == [10, 10, 4]


def test_the_first_bad_image_in_order_is_what_is_said(photos: Dataset) -> None:
    assert isinstance(photos.images, FolderImages)
    for index in (11, 5):
        (photos.images.root / f"{index:02d}.jpg").write_bytes(b"no image")
    model = _Model()
    with pytest.raises(DataError, match=r"05\.jpg"):
        outputs_of(model, photos, tiny_vit().preprocess, CPU, batch_size=4)
    assert model.seen == [4]
    assert not _threads()


def test_images_are_read_while_the_model_computes_and_only_a_few_batches_ahead() -> None:
    batch_size, images = 4, _Watched(blobs(per_class=20))
    ahead = list[int]()

    def wait_for_the_next(done: int) -> None:
        wanted = min(done + batch_size * (1 + BATCHES_AHEAD), 60)
        assert images.reached(wanted, timeout_s=20), "the next batches are not read while the model computes"
        ahead.append(len(images.read) - done)

    outputs_of(_Model(wait_for_the_next), images.dataset, tiny_vit().preprocess, CPU, batch_size)
    assert max(ahead) == batch_size * (1 + BATCHES_AHEAD)
    assert sorted(images.read) == list(range(60))


def test_nothing_is_read_any_more_once_the_model_fails() -> None:
    images = _Watched(blobs(per_class=200))

    def fail(done: int) -> None:
        raise MemoryError("too large")

    with pytest.raises(MemoryError, match="too large"):
        outputs_of(_Model(fail), images.dataset, tiny_vit().preprocess, CPU, batch_size=8)
    assert not _threads()
    assert len(images.read) <= 8 * (1 + BATCHES_AHEAD)


def test_ctrl_c_while_images_are_read_ends_at_once() -> None:
    images = _Watched(blobs(per_class=200), at={20: lambda: os.kill(os.getpid(), signal.SIGINT)})
    with pytest.raises(KeyboardInterrupt):
        outputs_of(_Model(), images.dataset, tiny_vit().preprocess, CPU, batch_size=8)
    until = time.monotonic() + 10  # one that was just being started is not waited for, but ends as well
    while _threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert not _threads()
    assert len(images.read) < 600


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("canvases")]


class _Model(nn.Module):
    """Answers with each image's mean, after doing something that is told how many it has seen before."""

    def __init__(self, before: Callable[[int], None] = lambda done: None) -> None:
        super().__init__()
        self.before, self.seen = before, list[int]()

    def forward(self, images: Tensor) -> Tensor:
        self.before(sum(self.seen))
        self.seen.append(len(images))
        return images.mean((2, 3))


@dataclass(eq=False)
class _Watched:
    """A data set whose reads are counted, and that does something as given images are read."""

    whole: Dataset
    at: dict[int, Callable[[], None]] = field(default_factory=dict)
    read: list[int] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def dataset(self) -> Dataset:
        return replace(self.whole, images=self)

    def content(self, index: int) -> bytes:
        with self.changed:
            self.read.append(index)
            self.changed.notify_all()
        self.at.get(index, lambda: None)()
        return self.whole.images.content(index)

    def decoded(self, content: bytes, index: int) -> ImageArray:
        return self.whole.images.decoded(content, index)

    def place(self, index: int) -> str:
        return self.whole.images.place(index)

    def states(self, indices: Sequence[int], known: ImageStates) -> list[ImageState]:
        return self.whole.images.states(indices, known)

    def reached(self, count: int, timeout_s: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: len(self.read) >= count, timeout_s)
