"""The same views under any number of workers and in any order."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from edgevit.artifacts import Preprocess
from edgevit.configs import Augmentation, Digits, FewShotDraw, Glyphs
from edgevit.data import Dataset, ViewDataset, dataset_artifacts, epoch_order, normalize, open_dataset, preprocess

CANVAS = Preprocess(height=24, width=24)
STRONG = Augmentation(rotate_degrees=15, color_jitter=0.3, random_erasing=0.5, auto_augment="rand-m5-mstd0.5-inc1")


def opened(role: str) -> Dataset:
    datasets = {
        "digits": Digits(source="digits", few_shot=FewShotDraw()),
        "glyphs": Glyphs(source="glyphs", samples_per_class=2),
    }
    return open_dataset(dataset_artifacts(datasets, Path(), [role])[role])  # type: ignore[arg-type]


VIEWS = [(epoch, view, index) for epoch in (0, 3) for view in (0, 1) for index in range(12)]


@pytest.mark.parametrize("role", ["digits.support", "glyphs.train"])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_order_change_no_pixel(role: str, workers: int):
    views = ViewDataset(opened(role), CANVAS, STRONG, seed=5)
    alone = {view: views[view][0] for view in VIEWS}
    shuffled = [VIEWS[index] for index in np.random.default_rng(0).permutation(len(VIEWS))]
    loader = DataLoader(views, batch_size=5, sampler=shuffled, num_workers=workers)
    canvases = torch.cat([canvas for canvas, _, _ in loader])
    for view, canvas in zip(shuffled, canvases, strict=True):
        assert torch.equal(canvas, alone[view]), view


def test_epochs_views_and_seeds_differ():
    data = opened("digits.support")
    seen = [ViewDataset(data, CANVAS, Augmentation(), seed)[view][0] for seed in (0, 1) for view in VIEWS[::12]]
    assert len({canvas.numpy().tobytes() for canvas in seen}) == 8


def test_labels_and_indices_come_along_and_a_pool_has_none():
    support, pool = opened("digits.support"), opened("digits.pool")
    assert [ViewDataset(support, CANVAS)[0, 0, i][1:] for i in (0, 49)] == [
        (support.labels[0], 0),
        (support.labels[49], 49),
    ]
    assert ViewDataset(pool, CANVAS)[0, 0, 7][1:] == (-1, 7)


def test_without_augmentation_a_view_is_what_preprocess_gives():
    data = opened("digits.test")
    spec = Preprocess(height=24, width=24, crop_pct=0.9, interpolation="bilinear")
    canvas = ViewDataset(data, spec)[9, 1, 3][0]
    expected = torch.from_numpy(preprocess(data.image(3), **spec.model_dump()))
    torch.testing.assert_close(normalize(canvas[None], spec)[0], expected, rtol=0, atol=1e-6)


@given(seed=st.integers(0, 2**32), epoch=st.integers(0, 1000), stream=st.integers(0, 4), n=st.integers(0, 300))
def test_an_epochs_order_is_a_permutation_that_its_numbers_decide(seed: int, epoch: int, stream: int, n: int):
    order = epoch_order(seed, epoch, stream, n)
    assert sorted(order.tolist()) == list(range(n))
    np.testing.assert_array_equal(order, epoch_order(seed, epoch, stream, n))


def test_orders_differ_between_epochs_streams_and_seeds():
    orders = [epoch_order(*numbers, n=50).tolist() for numbers in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert len({tuple(order) for order in orders}) == 4


def test_subset_has_the_samples_of_its_positions() -> None:
    whole = opened("digits.support")
    positions = np.array([7, 2, 30])
    some = whole.subset(positions)
    assert (len(some), some.classes, some.name) == (3, whole.classes, whole.name)
    assert whole.labels is not None
    assert some.labels is not None
    for place, position in enumerate(positions):
        assert some.sample_ids[place] == whole.sample_ids[position]
        assert some.labels[place] == whole.labels[position]
        assert np.array_equal(some.image(place), whole.image(position))
    assert opened("digits.pool").subset(positions).labels is None
