"""`preprocess` against torchvision on PIL images, and what ships in a bundle."""

import ast
import inspect
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from edgevit.artifacts import Preprocess
from edgevit.data import preprocess
from edgevit.data.preprocess import LONGEST_STRIP, fit_to_size

MODES = {
    "nearest": InterpolationMode.NEAREST,
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
}


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def torchvision_reference(image: np.ndarray, spec: Preprocess) -> torch.Tensor:
    """Square sizes, as torchvision's Resize(int) has one."""
    mode = MODES[spec.interpolation]
    size = (spec.height, spec.width)
    steps = (
        [transforms.Resize(size, mode)]
        if spec.resize == "squash"
        else [transforms.Resize(int(spec.height / spec.crop_pct), mode), transforms.CenterCrop(size)]
    )
    chain = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(spec.mean, spec.std)])
    return chain(Image.fromarray(image))


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(1, 70),
    crop_pct=st.sampled_from([0.875, 0.9, 0.95, 1.0]),
    resize=st.sampled_from(["crop", "squash"]),
    interpolation=st.sampled_from(sorted(MODES)),
)
@settings(max_examples=150)
def test_equals_torchvision(height, width, size, crop_pct, resize, interpolation):
    spec = Preprocess(height=size, width=size, crop_pct=crop_pct, resize=resize, interpolation=interpolation)
    if resize == "crop" and max(height, width) > LONGEST_STRIP * min(height, width):
        return
    image = random_image(height, width)
    got = preprocess(image, **spec.model_dump())
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, torchvision_reference(image, spec).numpy())


def test_an_image_of_the_right_size_is_only_normalised():
    image = random_image(32, 32)
    spec = Preprocess(height=32, width=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))
    expected = (image.astype(np.float64) / 255 - spec.mean) / spec.std
    np.testing.assert_allclose(preprocess(image, **spec.model_dump()), expected.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize("shape", [(50, 100), (100, 50), (64, 33)])
def test_a_size_that_is_not_square_is_covered_and_centred(shape):
    image = np.zeros((*shape, 3), np.uint8)
    image[shape[0] // 2 - 3 : shape[0] // 2 + 3, shape[1] // 2 - 3 : shape[1] // 2 + 3] = 255
    fitted = fit_to_size(image, height=24, width=48, resize="crop", crop_pct=1.0, interpolation="bilinear")
    assert fitted.shape == (24, 48, 3)
    bright = np.argwhere(fitted[..., 0] > 128)
    assert np.abs(bright.mean(axis=0) - (11.5, 23.5)).max() <= 1


def test_a_very_long_strip_takes_no_more_memory_than_a_photo():
    fitted = fit_to_size(
        random_image(1, 200_000), height=224, width=224, resize="crop", crop_pct=1.0, interpolation="bicubic"
    )
    assert fitted.shape == (224, 224, 3)


@pytest.mark.parametrize("wrong", [{"resize": "stretch"}, {"interpolation": "lanczos"}])
def test_unknown_rules_are_refused(wrong):
    spec = Preprocess(height=8, width=8).model_dump() | wrong
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        preprocess(random_image(16, 16), **spec)


def test_the_module_needs_only_numpy_pillow_and_the_standard_library():
    tree = ast.parse(inspect.getsource(sys.modules["edgevit.data.preprocess"]))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in imported}
    assert roots - set(sys.stdlib_module_names) == {"numpy", "PIL"}
