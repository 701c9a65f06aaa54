"""Jaccard index of thresholded attention, against sets of pixels that are counted one by one."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.errors import DataError
from edgevit.evaluation.mask_overlap import mask_overlap


def by_hand(attention: np.ndarray, mask: np.ndarray, mass: float) -> float:
    """The patches in descending order until they hold more than `mass`: those that DINO's code keeps."""
    total, kept = 0.0, set()
    cells = sorted(np.ndindex(attention.shape), key=lambda cell: -attention[cell])
    for cell in cells:
        if total >= mass:
            break
        total += attention[cell] / attention.sum()
        kept.add(cell)
    side = mask.shape[0] // attention.shape[0]
    pixels = {(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if (y // side, x // side) in kept}
    objects = set(zip(*np.nonzero(mask), strict=True))
    return len(pixels & objects) / len(pixels | objects)


def test_it_is_the_best_head_of_each_image() -> None:
    rng = np.random.default_rng(0)
    maps, masks = rng.random((5, 3, 4, 4)) ** 4, rng.random((5, 8, 8)) < 0.3
    expected = [max(by_hand(head, mask, 0.6) for head in heads) for heads, mask in zip(maps, masks, strict=True)]
    assert mask_overlap(maps, masks) == pytest.approx(expected)


def test_a_map_that_is_the_mask_overlaps_fully_and_an_empty_mask_has_no_overlap() -> None:
    mask = np.zeros((2, 6, 6))
    mask[0, 2:4, 2:4] = 255
    maps = np.full((2, 1, 3, 3), 1e-6)
    maps[:, 0, 1, 1] = 1
    overlaps = mask_overlap(maps, mask)
    assert overlaps[0] == 1
    assert np.isnan(overlaps[1])


@pytest.mark.parametrize(
    ("maps", "masks", "mass"),
    [((2, 3, 4, 4), (3, 8, 8), 0.6), ((3, 4, 4), (3, 8, 8), 0.6), ((2, 3, 4, 4), (2, 8, 8), 1.0)],
)
def test_shapes_and_shares_that_do_not_fit(maps, masks, mass) -> None:
    with pytest.raises(DataError):
        mask_overlap(np.ones(maps), np.ones(masks), mass)
