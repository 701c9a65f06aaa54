"""Small folders of images, and the data that only some checkouts have beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parents[3] / "shared" / "data"

MakeImages = Callable[[Mapping[str, int]], Path]


@pytest.fixture
def make_images(tmp_path: Path) -> MakeImages:
    """Writes the given number of different images into each folder, and gives the folder that holds them all."""

    def make(counts: Mapping[str, int]) -> Path:
        root = tmp_path / "photos"
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                write_image(root / folder / f"{number:03d}.png", f"{folder}/{number}")
        return root

    return make


def write_image(file: Path, seed: str) -> None:
    """A 12×10 image that depends on `seed`."""
    pixels = np.random.default_rng(list(seed.encode())).integers(0, 256, (12, 10, 3), np.uint8)
    Image.fromarray(pixels).save(file)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"needs the data in {SHARED.name} beside the repository")
    return SHARED
