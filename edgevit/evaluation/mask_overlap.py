"""The overlap of attention maps with masks of the objects."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.errors import DataError

KEPT_MASS = 0.6  # of the attention, as in the paper


def mask_overlap(maps: NDArray[np.floating], masks: NDArray[Any], mass: float = KEPT_MASS) -> NDArray[np.float64]:
    """Jaccard index of thresholded attention and a mask, by the best head of each image.

    Of each map, the patches of the largest attention are kept that hold `mass` of it. Caron et al. 2021 (DINO), figure
    4. The best of many heads overlaps with any mask to some degree: compare with the overlap of a model with random
    weights.

    Args:
        maps: (images, heads, rows, columns), laid out as in attention.npz of the stage `attention`, which holds six.
        masks: (images, height, width), true or not 0 on the object, of the image as the model sees it.
        mass: the share of the attention that is kept, above 0 and below 1.

    Returns:
        (images,), 0 to 1; NaN for a mask without an object.

    Raises:
        DataError: the arrays have other shapes, or the mass is out of range.

    Example:
        >>> import numpy as np
        >>> maps = np.array([[[[0.7, 0.1], [0.1, 0.1]]]])
        >>> edgevit.mask_overlap(maps, np.array([[[1, 0], [0, 0]]]))
        array([1.])
    """
    if maps.ndim != 4 or masks.ndim != 3 or len(maps) != len(masks):
        raise DataError(
            "maps and masks do not fit",
            where="edgevit.mask_overlap",
            got=f"{maps.shape} and {masks.shape}",
            expected="(images, heads, rows, columns) and (images, height, width)",
        )
    if not 0 < mass < 1:
        raise DataError("this is no share", where="edgevit.mask_overlap(mass=…)", got=mass, expected="above 0, below 1")
    attended, objects = _resized(_of_largest(maps, mass), masks.shape[1:]), (masks != 0)[:, np.newaxis]
    both = (attended & objects).sum((2, 3))
    either = (attended | objects).sum((2, 3))
    overlaps: NDArray[np.float64] = (both / either).max(1)
    overlaps[~objects.any((1, 2, 3))] = np.nan
    return overlaps


def _of_largest(maps: NDArray[np.floating], mass: float) -> NDArray[np.bool_]:
    """Whether each patch is among those of the largest attention that hold `mass` of a map."""
    flat = maps.reshape(*maps.shape[:2], -1).astype(np.float64)
    order = np.argsort(flat, axis=-1, kind="stable")
    ascending = np.take_along_axis(flat, order, -1).cumsum(-1) / flat.sum(-1, keepdims=True)
    kept = np.zeros(flat.shape, np.bool_)
    np.put_along_axis(kept, order, ascending > 1 - mass, -1)
    return kept.reshape(maps.shape)


def _resized(kept: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The nearest patch of each pixel of masks of this size."""
    rows, columns = (
        ((np.arange(side) + 0.5) * patches / side).astype(np.int64)
        for side, patches in zip(size, kept.shape[2:], strict=True)
    )
    return kept[:, :, rows[:, np.newaxis], columns]
