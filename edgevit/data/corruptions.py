"""Image corruptions of eight kinds at five severities, after Hendrycks and Dietterich 2019 (arXiv:1903.12261).

The kinds and the five severities follow that paper. The images differ, so accuracies under these corruptions are not
comparable with ImageNet-C's or CIFAR-10-C's. Lengths are shares of the image's short side, so that images of 32 and
of 224 pixels are corrupted alike. The effect of noise and JPEG depends on the number of pixels: they are as strong as
in CIFAR-10-C at 32 pixels and as in ImageNet-C at 224 pixels, and interpolated geometrically between. Darkness, which
stands for night, is not among the kinds of that paper.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as Images
from PIL import ImageDraw, ImageFilter

from edgevit.configs import Corruption
from edgevit.data.images import Image
from edgevit.data.preprocess import LONGEST_STRIP

COMMON_SHORT_SIDE = 256  # pixels

# One value per severity.
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)  # added to the value of HSV
DARKNESS_STOPS = (1, 2, 3, 4, 5)  # each halves the light
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)  # the share of the contrast that remains
BLUR_SIGMA = (0.0125, 0.0175, 0.0225, 0.0275, 0.035)  # of the short side
NOISE_SIGMA = {32: (0.04, 0.06, 0.08, 0.09, 0.10), 224: (0.08, 0.12, 0.18, 0.26, 0.38)}  # by short side
JPEG_QUALITY = {32: (80, 65, 58, 50, 40), 224: (25, 18, 15, 10, 7)}
FOG_DEPTH = (0.4, 0.7, 1.0, 1.4, 1.9)  # mean optical depth: exp(-depth) of the light passes
SNOW_FLAKES = (150, 300, 500, 750, 1000)  # in a square of the short side

DISPLAY_GAMMA = 2.2
FOG_LIGHT = 0.9
FOG_CELLS = (2, 4, 8, 16)  # cells of each octave of the cloud, along the short side
BLUR_TRUNCATE = 4.0  # radius of the kernel in sigmas, as in scipy
SNOW_CANVAS = 256  # short side of the canvas that flakes are drawn on
LONGEST_SNOW_CANVAS = 4096

UnitImage: TypeAlias = npt.NDArray[np.float32]  # (height, width, 3), 0 to 1


def corrupt(image: Image, kind: Corruption, severity: int, seed: str) -> Image:
    """A corrupted copy of an RGB image, uint8 (H, W, 3), of any size.

    Args:
        severity: 1 to 5.
        seed: text that identifies the sample. The random draw is a function of seed, kind and severity.
    """
    digest = hashlib.sha256(f"{seed}/{kind}/{severity}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:16], "big"))
    return _uint8(_CORRUPTIONS[kind](image.astype(np.float32) / np.float32(255), severity - 1, generator))


def at_common_size(image: Image) -> Image:
    """The image with its short side reduced to at most 256 pixels. Far ends of very long strips are cut off."""
    rows, columns = image.shape[:2]
    height, width = min(rows, columns * LONGEST_STRIP), min(columns, rows * LONGEST_STRIP)
    top, left = (rows - height) // 2, (columns - width) // 2
    image = image[top : top + height, left : left + width]
    short = min(height, width)
    if short <= COMMON_SHORT_SIDE:
        return image
    size = (width * COMMON_SHORT_SIDE // short, height * COMMON_SHORT_SIDE // short)
    return np.asarray(Images.fromarray(np.ascontiguousarray(image)).resize(size, Images.Resampling.BICUBIC))


def _brightness(image: UnitImage, level: int, _: np.random.Generator) -> UnitImage:
    value = image.max(-1, keepdims=True)
    brighter = np.minimum(value + BRIGHTNESS[level], 1)
    scaled = image * (brighter / np.where(value > 0, value, 1))
    return np.asarray(np.where(value > 0, scaled, brighter), np.float32)


def _darkness(image: UnitImage, level: int, _: np.random.Generator) -> UnitImage:
    return image * np.float32(2 ** (-DARKNESS_STOPS[level] / DISPLAY_GAMMA))


def _contrast(image: UnitImage, level: int, _: np.random.Generator) -> UnitImage:
    mean = image.mean((0, 1))
    return np.asarray(mean + np.float32(CONTRAST[level]) * (image - mean))


def _blur(image: UnitImage, level: int, _: np.random.Generator) -> UnitImage:
    """Gaussian blur; the image is mirrored at its edges. A sigma below 1/3 pixel changes almost nothing."""
    sigma = BLUR_SIGMA[level] * _short_side(image)
    radius = int(BLUR_TRUNCATE * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    return _convolved(_convolved(image, kernel, axis=0), kernel, axis=1)


def _convolved(image: UnitImage, kernel: npt.NDArray[np.float32], axis: int) -> UnitImage:
    radius, size = len(kernel) // 2, image.shape[axis]
    padding = [(radius, radius) if dimension == axis else (0, 0) for dimension in range(image.ndim)]
    padded = np.moveaxis(np.pad(image, padding, mode="symmetric"), axis, 0)
    total = np.zeros_like(padded[:size])
    for offset, weight in enumerate(kernel):
        total += weight * padded[offset : offset + size]
    return np.moveaxis(total, 0, axis)


def _noise(image: UnitImage, level: int, generator: np.random.Generator) -> UnitImage:
    """Gaussian noise, independent for each pixel and channel."""
    sigma = _for_size(NOISE_SIGMA, level, image)
    return image + np.float32(sigma) * generator.standard_normal(image.shape, dtype=np.float32)


def _jpeg(image: UnitImage, level: int, _: np.random.Generator) -> UnitImage:
    buffer = BytesIO()
    Images.fromarray(_uint8(image)).save(buffer, "JPEG", quality=round(_for_size(JPEG_QUALITY, level, image)))
    with Images.open(buffer) as decoded:
        return np.asarray(decoded, np.float32) / np.float32(255)


def _fog(image: UnitImage, level: int, generator: np.random.Generator) -> UnitImage:
    """Koschmieder's law, J·t + A·(1 - t) with t = exp(-depth); the depth follows a random cloud of several octaves."""
    height, width = image.shape[:2]
    short, cloud = _short_side(image), np.zeros((height, width), np.float32)
    for octave, cells in enumerate(FOG_CELLS):
        rows, columns = (min(side, math.ceil(side * cells / short)) for side in (height, width))
        grid = Images.fromarray(generator.random((rows, columns), dtype=np.float32))
        cloud += 0.5**octave * np.asarray(grid.resize((width, height), Images.Resampling.BILINEAR))
    depth = FOG_DEPTH[level] * (0.5 + 0.5 * cloud / cloud.mean())
    transmission = np.exp(-depth)[..., np.newaxis]
    return np.asarray(image * transmission + FOG_LIGHT * (1 - transmission), np.float32)


def _snow(image: UnitImage, level: int, generator: np.random.Generator) -> UnitImage:
    """Bright streaks in a common direction, blended over the image by their opacity."""
    height, width = image.shape[:2]
    scale = SNOW_CANVAS / _short_side(image)
    canvas_width, canvas_height = (min(LONGEST_SNOW_CANVAS, round(side * scale)) for side in (width, height))
    canvas = Images.new("L", (canvas_width, canvas_height))
    pencil, direction = ImageDraw.Draw(canvas), generator.uniform(np.pi / 4, 3 * np.pi / 4)
    count = round(SNOW_FLAKES[level] * canvas_width * canvas_height / SNOW_CANVAS**2)
    positions = generator.random((count, 2)) * (canvas_width, canvas_height)
    streaks = generator.uniform(0.01, 0.05, (count, 1)) * SNOW_CANVAS * (np.cos(direction), np.sin(direction))
    widths = generator.integers(2, 6, count)
    opacities = generator.integers(150, 256, count)
    for position, streak, thickness, opacity in zip(positions, streaks, widths, opacities, strict=True):
        pencil.line((*position, *(position + streak)), fill=int(opacity), width=int(thickness))
    layer = canvas.filter(ImageFilter.GaussianBlur(1)).resize((width, height), Images.Resampling.BILINEAR)
    opacity = np.asarray(layer, np.float32)[..., np.newaxis] / np.float32(255)
    return image + (1 - image) * opacity


_CORRUPTIONS: dict[Corruption, Callable[[UnitImage, int, np.random.Generator], UnitImage]] = {
    "brightness": _brightness,
    "darkness": _darkness,
    "contrast": _contrast,
    "blur": _blur,
    "noise": _noise,
    "jpeg": _jpeg,
    "fog": _fog,
    "snow": _snow,
}


def _for_size(strengths: Mapping[int, Sequence[float]], level: int, image: UnitImage) -> float:
    """The strength for an image of this size: interpolated geometrically between two sizes, constant outside them."""
    (small, at_small), (large, at_large) = sorted(strengths.items())
    position = math.log(_short_side(image) / small) / math.log(large / small)
    return float(at_small[level] * (at_large[level] / at_small[level]) ** min(1.0, max(0.0, position)))


def _short_side(image: UnitImage) -> int:
    return int(min(image.shape[:2]))


def _uint8(image: UnitImage) -> Image:
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
