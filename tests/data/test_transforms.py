"""Random views: the same for the same key, different otherwise, and geometrically what they claim to be."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional

from edgevit.artifacts import Preprocess
from edgevit.configs import Augmentation, PretrainAugmentation
from edgevit.data import augment, normalize, preprocess
from edgevit.data.transforms import _with_hue, cut_out, policy, random_box, view_key
from edgevit.errors import RecipeError

STRONG = Augmentation(
    rotate_degrees=20, color_jitter=0.4, random_erasing=1.0, auto_augment="rand-m9-mstd0.5-inc1", scale=(0.2, 1.0)
)
WHOLE = {"scale": (1, 1), "ratio": (1, 1), "horizontal_flip": 0}
STILL = Augmentation(**WHOLE)


def random_image(height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [128 + 90 * np.sin(rows / height * 5 + k) * np.cos(columns / width * 4 - k) for k in range(3)]
    return np.stack(waves, axis=2).astype(np.uint8)


# Determinism --------------------------------------------------------------------------------------------------


@given(key=st.integers(0, 2**64 - 1))
@settings(max_examples=50)
def test_equal_keys_give_equal_pixels_whatever_the_global_generators_are(key: int):
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = augment(random_image(), STRONG, 32, 32, key)
    random.seed(2)
    np.random.seed(2)
    torch.manual_seed(2)
    np.testing.assert_array_equal(augment(random_image(), STRONG, 32, 32, key), before)


def test_global_generators_are_left_as_they_were():
    random.seed(0)
    np.random.seed(0)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    augment(random_image(), STRONG, 32, 32, key=7)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_every_part_of_the_key_matters_and_keys_do_not_collide():
    keys = {view_key(*parts) for parts in np.ndindex(4, 10, 4, 200)}
    assert len(keys) == 4 * 10 * 4 * 200
    views = {augment(random_image(), Augmentation(), 32, 32, key).tobytes() for key in sorted(keys)[:200]}
    assert len(views) > 190


def test_the_source_image_is_not_written_to():
    source = random_image()
    source.setflags(write=False)
    augment(source, STRONG, 32, 32, key=3)
    np.testing.assert_array_equal(source, random_image())


# Geometry -----------------------------------------------------------------------------------------------------


@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    size=st.integers(1, 64),
    key=st.integers(0, 2**64 - 1),
    low=st.floats(0, 1),
    degrees=st.sampled_from([0.0, 30.0]),
)
@settings(max_examples=200)
def test_any_image_gives_a_canvas_of_the_size_asked_for(height, width, size, key, low, degrees):
    augmentation = Augmentation(scale=(low, 1.0), rotate_degrees=degrees, random_erasing=0.5)
    canvas = augment(random_image(height, width), augmentation, size, size + 3, key)
    assert (canvas.shape, canvas.dtype) == ((size, size + 3, 3), np.uint8)  # type: ignore[comparison-overlap]


@given(
    width=st.integers(1, 500),
    height=st.integers(1, 500),
    scale=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)).map(sorted),
    seed=st.integers(0, 2**32),
)
def test_a_random_box_lies_inside_the_image(width, height, scale, ratio, seed):
    left, top, box_width, box_height = random_box(width, height, tuple(scale), tuple(ratio), random.Random(seed))
    assert left >= 0
    assert top >= 0
    assert left + box_width <= width + 1e-9
    assert top + box_height <= height + 1e-9
    assert min(box_width, box_height) >= 1


def test_boxes_have_the_areas_and_ratios_asked_for():
    rng = random.Random(0)
    boxes = np.array([random_box(1000, 1000, (0.3, 0.5), (0.75, 4 / 3), rng) for _ in range(2000)])
    areas, ratios = boxes[:, 2] * boxes[:, 3] / 1e6, boxes[:, 2] / boxes[:, 3]
    assert 0.3 <= areas.min() < 0.31
    assert 0.49 < areas.max() <= 0.5
    assert areas.mean() == pytest.approx(0.4, abs=0.01)
    assert 0.75 <= ratios.min() < 0.77
    assert 1.3 < ratios.max() <= 4 / 3
    assert np.log(ratios).mean() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("flipped", [False, True])
def test_an_upright_cut_out_agrees_with_torchvisions_resized_crop(flipped: bool):
    """But at the rim, where torchvision repeats the edge and this looks at the pixels beyond it."""
    source = Image.fromarray(random_image(80, 60))
    got = cut_out(source, (10, 20, 40, 50), 32, 24, flipped=flipped)
    expected = functional.resized_crop(source, 20, 10, 50, 40, [32, 24], functional.InterpolationMode.BICUBIC)
    expected = functional.hflip(expected) if flipped else expected
    np.testing.assert_array_equal(np.asarray(got)[4:-4, 4:-4], np.asarray(expected)[4:-4, 4:-4])


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("side", [64, 512])
def test_a_turned_cut_out_agrees_with_rotation_then_crop(side: int, flipped: bool):
    source = Image.fromarray(smooth(side, side))
    got = cut_out(source, (0, 0, side, side), 64, 64, degrees=15, flipped=flipped)
    turned = functional.rotate(source, 15, functional.InterpolationMode.BICUBIC)
    expected = functional.resize(turned, [64, 64], functional.InterpolationMode.BICUBIC)
    expected = functional.hflip(expected) if flipped else expected
    inner = np.abs(np.asarray(got, int) - np.asarray(expected, int))[16:-16, 16:-16]
    assert inner.max() <= 4


def test_without_any_randomness_a_canvas_is_the_image():
    np.testing.assert_array_equal(augment(random_image(), STILL, 32, 32, key=0), random_image())


def test_flips_come_as_often_as_asked():
    turned = STILL.model_copy(update={"horizontal_flip": 0.3})
    flipped = [
        np.array_equal(augment(random_image(), turned, 32, 32, key), random_image()[:, ::-1]) for key in range(1000)
    ]
    assert np.mean(flipped) == pytest.approx(0.3, abs=0.06)


def test_erasing_fills_one_rectangle_of_a_permitted_area():
    erasing = STILL.model_copy(update={"random_erasing": 1.0})
    for key in range(100):
        changed = (augment(random_image(), erasing, 32, 32, key) != random_image()).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert 0.01 < area / 32**2 < 0.4
        assert changed.sum() > 0.95 * area


def test_colour_jitter_keeps_a_grey_image_grey_and_varies_brightness():
    grey = np.full((32, 32, 3), 100, np.uint8)
    jitter = STILL.model_copy(update={"color_jitter": 0.4})
    views = np.stack([augment(grey, jitter, 32, 32, key) for key in range(200)])
    assert (views == views[..., :1]).all()
    assert views.min() in range(58, 66)
    assert views.max() in range(134, 142)


def test_an_unknown_policy_is_named():
    assert callable(policy("augmix-m3-w3", 32))
    assert callable(policy("original", 32))
    for name in ("rnad-m9", "rand-x9"):
        with pytest.raises(RecipeError, match=f"no augmentation policy '{name}'"):
            policy(name, 32)


# Normalisation ------------------------------------------------------------------------------------------------


def test_normalise_agrees_with_preprocess_where_sizes_agree():
    spec = Preprocess(height=32, width=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))
    batch = torch.from_numpy(np.stack([random_image(), 255 - random_image()]))
    expected = [preprocess(image.numpy(), **spec.model_dump()) for image in batch]
    torch.testing.assert_close(normalize(batch, spec), torch.from_numpy(np.stack(expected)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 64])
def test_normalise_resizes_as_preprocess_does(size: int, interpolation: str):
    """Up to rounding: PIL resizes whole numbers, torch resizes fractions."""
    spec = Preprocess(height=size, width=size, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1))
    got = normalize(torch.from_numpy(smooth(32, 32))[None], spec)[0]
    expected = preprocess(smooth(32, 32), **spec.model_dump())
    assert np.abs(got.numpy() - expected).max() < 1.5 / 255


@pytest.mark.parametrize("policy", ["rand-m0-n2-p1", "rand-m10-n2-inc1-p1", "augmix-m10", "original", "3a"])
def test_ends_of_a_policys_range_leave_an_image(policy: str) -> None:
    """timm's Posterize asks Pillow for 0 bits there."""
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for key in range(150):
        augment(image, Augmentation(auto_augment=policy), 32, 32, key)


def test_presets_of_augreg_differ_from_each_other() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    strengths = {}
    for preset in ("none", "light1", "light2", "medium1", "heavy1"):
        augmentation = Augmentation.model_validate(preset)
        views = [augment(image, augmentation, 32, 32, key) for key in range(12)]
        strengths[preset] = (augmentation.mixup, np.stack(views).tobytes())
    assert len(set(strengths.values())) == len(strengths)
    images = [views for _, views in strengths.values()]
    assert images[2] != images[3] != images[4]


# Changes of pre-training ---------------------------------------------------------------------------------------


def pretrain_view(**changes: float) -> np.ndarray:
    return augment(smooth(32, 32), PretrainAugmentation(**WHOLE, **changes), 32, 32, key=3)


def test_without_its_own_changes_a_view_of_pretraining_is_a_view_of_training():
    np.testing.assert_array_equal(pretrain_view(), augment(smooth(32, 32), STILL, 32, 32, key=3))


def test_hue_is_turned_as_in_torchvision():
    turned = _with_hue(Image.fromarray(smooth(32, 32)), 0.3)
    expected = functional.adjust_hue(Image.fromarray(smooth(32, 32)), 0.3)
    assert np.abs(np.asarray(turned, float) - np.asarray(expected, float)).max() <= 8  # 255 steps of hue
    red = _with_hue(Image.new("RGB", (1, 1), (255, 0, 0)), 1 / 3)
    assert red.getpixel((0, 0))[1] == 255
    assert _with_hue(Image.new("RGB", (1, 1), (255, 0, 0)), 1).getpixel((0, 0)) == (255, 0, 0)


def test_grayscale_takes_the_color_and_blur_the_detail():
    gray = pretrain_view(grayscale=1)
    assert (gray == gray[..., :1]).all()
    noise = random_image(224, 224)
    still = PretrainAugmentation(**WHOLE, blur=1)
    blurred = [augment(noise, still, 224, 224, key).std() for key in range(8)]
    assert max(blurred) < noise.std()
    assert len(set(blurred)) == 8


def test_jitter_has_a_probability():
    views = [
        augment(smooth(32, 32), PretrainAugmentation(color_jitter=0.4, jitter_probability=0.5, **WHOLE), 32, 32, key)
        for key in range(60)
    ]
    unchanged = sum(np.array_equal(view, smooth(32, 32)) for view in views)
    assert 15 <= unchanged <= 45
