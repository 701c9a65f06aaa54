"""Training views in two steps: a random canvas (uint8), then the input of each model from this canvas (float).

Teacher and student may need different sizes and normalization of one view: they share `augment`, and each has its own
`normalize`. Every random draw comes from the key of the view.
"""

from __future__ import annotations

import hashlib
import math
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageEnhance, ImageFilter
from timm.data import auto_augment
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from torch import Tensor
from torch.nn import functional

from edgevit.artifacts import Preprocess
from edgevit.configs import Augmentation, PretrainAugmentation
from edgevit.data.images import Image
from edgevit.errors import RecipeError

Box = tuple[float, float, float, float]  # left, top, width, height, in pixels

_GRAY = (124, 116, 104)  # the fill color of policies: ImageNet's mean, as in timm
_ERASED_AREA, _ERASED_ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)  # Zhong et al. 2020, and timm's defaults
_TRIES = 10
_BLURRED_SIDE = 224  # SimCLR's blur has a sigma of 0.1 to 2 pixels on views of this side
_global_draws = threading.Lock()


def view_key(seed: int, epoch: int, view: int, sample: int) -> int:
    """The number that seeds all random draws of a view."""
    text = f"{seed}/{epoch}/{view}/{sample}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def augment(image: Image, augmentation: Augmentation, height: int, width: int, key: int) -> Image:
    """A random view of an image (H, W, 3) as a canvas (height, width, 3), uint8, as a function of the arguments.

    The steps, in this order: crop, rotation and flip (in a single bicubic resampling); policy; color jitter, hue,
    grayscale and blur; erasing.
    """
    rng = random.Random(key)
    box = random_box(image.shape[1], image.shape[0], augmentation.scale, augmentation.ratio, rng)
    degrees = rng.uniform(-1, 1) * augmentation.rotate_degrees
    flipped = rng.random() < augmentation.horizontal_flip
    view = cut_out(Pillow.fromarray(image), box, height, width, degrees, flipped)
    if augmentation.auto_augment:
        with _global_draws_from(rng.getrandbits(32)):
            view = policy(augmentation.auto_augment, min(height, width))(view)
    if isinstance(augmentation, PretrainAugmentation):
        view = _distorted(view, augmentation, rng)
    elif augmentation.color_jitter:
        view = _jittered(view, augmentation.color_jitter, rng)
    canvas = np.array(view)
    if rng.random() < augmentation.random_erasing:
        _erase(canvas, rng)
    return canvas


def normalize(canvases: Tensor, preprocess: Preprocess) -> Tensor:
    """Canvases (N, H, W, 3), uint8, as a model's input (N, 3, height, width), float32, on the same device.

    A canvas is resized (with antialiasing) if the model's size differs, then scaled to 0..1 and normalized.
    """
    # Channels first in memory too: with the layout of the canvases, a ResNet-18 on a CPU takes a quarter longer.
    images = canvases.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255
    size = (preprocess.height, preprocess.width)
    if images.shape[2:] != size:
        images = _resized(images, size, preprocess.interpolation)
    mean, std = (  # a blocking copy would wait for all pending work of the device
        torch.tensor(values).view(3, 1, 1).to(images.device, non_blocking=True)
        for values in (preprocess.mean, preprocess.std)
    )
    return (images - mean) / std


def random_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: random.Random
) -> Box:
    """A box inside the image, of random area (`scale`: share of the image) and aspect ratio.

    If none of ten draws fits: the largest central box of a permitted ratio, as in torchvision's RandomResizedCrop.
    """
    for _ in range(_TRIES):
        area = rng.uniform(*scale) * width * height
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        box_width, box_height = max(1.0, math.sqrt(area * aspect)), max(1.0, math.sqrt(area / aspect))
        if box_width <= width and box_height <= height:
            return rng.uniform(0, width - box_width), rng.uniform(0, height - box_height), box_width, box_height
    aspect = min(max(width / height, ratio[0]), ratio[1])
    box_width, box_height = max(1.0, min(width, height * aspect)), max(1.0, min(height, width / aspect))
    return (width - box_width) / 2, (height - box_height) / 2, box_width, box_height


def cut_out(
    image: Pillow.Image, box: Box, height: int, width: int, degrees: float = 0.0, flipped: bool = False
) -> Pillow.Image:
    """The content of a box, rotated counter-clockwise about its center, then mirrored if `flipped`, as (height, width).

    With a rotation, an image that is much larger than the result is first averaged over blocks of pixels, to prevent
    aliasing. The area outside of the image is black.
    """
    left, top, box_width, box_height = box
    if not degrees:
        edges = (left, top, min(left + box_width, image.width), min(top + box_height, image.height))
        upright = image.resize((width, height), Pillow.Resampling.BICUBIC, edges)
        return upright.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT) if flipped else upright
    block = int(min(box_width / width, box_height / height))
    if block > 1:
        # `reduce` pads an incomplete last block, so the scale is exactly 1 / block.
        image = image.reduce(block)
        left, top, box_width, box_height = (length / block for length in box)
    across, down = box_width / width, box_height / height
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    mirror = -1 if flipped else 1
    a, b, d, e = mirror * across * cos, -down * sin, mirror * across * sin, down * cos
    c = left + box_width / 2 - a * width / 2 - b * height / 2
    f = top + box_height / 2 - d * width / 2 - e * height / 2
    return image.transform((width, height), Pillow.Transform.AFFINE, (a, b, c, d, e, f), Pillow.Resampling.BICUBIC)


@lru_cache(maxsize=16)
def policy(name: str, size: int) -> Callable[[Pillow.Image], Pillow.Image]:
    """timm's RandAugment ("rand-…"), AugMix ("augmix-…") or AutoAugment policy for images of this size.

    Raises:
        RecipeError: timm does not know this policy.
    """
    makers = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
    make = makers.get(name.partition("-")[0], auto_augment_transform)
    try:
        transform: Callable[[Pillow.Image], Pillow.Image] = make(
            name, {"translate_const": int(size * 0.45), "img_mean": _GRAY}
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise RecipeError(
            f"timm has no augmentation policy '{name}'", got=error, expected="a policy such as rand-m9-mstd0.5-inc1"
        ) from None
    for operation in _operations(transform):
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = _posterize
    return transform


def _operations(policy: Any) -> Iterator[Any]:
    """The AugmentOps of a policy: `ops` of RandAugment and AugMix, lists of lists of AutoAugment."""
    for operation in chain(getattr(policy, "ops", ()), *getattr(policy, "policy", ())):
        yield from _operations(operation) if not hasattr(operation, "aug_fn") else (operation,)


def _posterize(image: Pillow.Image, bits_to_keep: int, **_: Any) -> Pillow.Image:
    """timm's posterize with at least one bit: timm asks for 0 bits at the end of its range, which Pillow refuses."""
    return auto_augment.posterize(image, max(1, bits_to_keep))  # type: ignore[no-any-return, no-untyped-call]


@contextmanager
def _global_draws_from(seed: int) -> Iterator[None]:
    """Seed the global generators of Python and numpy, which timm's policies draw from, and restore them afterwards.

    Only one thread at a time runs in this context.
    """
    with _global_draws:
        python_state, numpy_state = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _jittered(image: Pillow.Image, strength: float, rng: random.Random) -> Pillow.Image:
    """Brightness, contrast and saturation, each multiplied by a factor in 1 ± strength, in random order."""
    steps = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    rng.shuffle(steps)
    for step in steps:
        image = step(image).enhance(rng.uniform(max(0.0, 1 - strength), 1 + strength))
    return image


def _distorted(image: Pillow.Image, augmentation: PretrainAugmentation, rng: random.Random) -> Pillow.Image:
    """Color jitter with hue, grayscale and blur, each with its probability (Chen et al. 2020, SimCLR, appendix A)."""
    if rng.random() < augmentation.jitter_probability:
        image = _jittered(image, augmentation.color_jitter, rng) if augmentation.color_jitter else image
        image = _with_hue(image, rng.uniform(-1, 1) * augmentation.hue) if augmentation.hue else image
    if rng.random() < augmentation.grayscale:
        image = image.convert("L").convert("RGB")
    if rng.random() < augmentation.blur:
        sigma = rng.uniform(0.1, 2.0) * min(image.size) / _BLURRED_SIDE
        image = image.filter(ImageFilter.GaussianBlur(sigma))
    return image


def _with_hue(image: Pillow.Image, change: float) -> Pillow.Image:
    """The image with its hue turned by this share of the color circle."""
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point([round(level + change * 256) % 256 for level in range(256)])
    return Pillow.merge("HSV", (turned, saturation, value)).convert("RGB")


def _erase(canvas: Image, rng: random.Random) -> None:
    """Fill a random rectangle with noise."""
    height, width = canvas.shape[:2]
    for _ in range(_TRIES):
        area = rng.uniform(*_ERASED_AREA) * height * width
        aspect = math.exp(rng.uniform(math.log(_ERASED_ASPECT[0]), math.log(_ERASED_ASPECT[1])))
        tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if tall < height and wide < width:
            top, left = rng.randint(0, height - tall), rng.randint(0, width - wide)
            noise = np.frombuffer(rng.randbytes(tall * wide * 3), np.uint8)
            canvas[top : top + tall, left : left + wide] = noise.reshape(tall, wide, 3)
            return


def _resized(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    if interpolation == "nearest":
        return functional.interpolate(images, size, mode="nearest-exact")
    resized = functional.interpolate(images, size, mode=interpolation, align_corners=False, antialias=True)
    return resized.clamp(0, 1)
