"""Models that the tests of the Python interface share."""

from __future__ import annotations

import pytest

import edgevit


@pytest.fixture(scope="session")
def checkpoint() -> edgevit.Model:
    return edgevit.load("test_vit", classes=[str(digit) for digit in range(10)], image_size=32)


@pytest.fixture(scope="session")
def onnx(checkpoint: edgevit.Model) -> edgevit.Model:
    return edgevit.export(checkpoint)
