"""Characters rendered from matplotlib's fonts: a labelled data set of any size, generated from a seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from string import ascii_letters

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFilter, ImageFont, features

from edgevit.artifacts import sha256_of, sha256_of_file
from edgevit.configs import Glyphs
from edgevit.data.dataset import Source, Split
from edgevit.data.hashes import ImageState, ImageStates
from edgevit.data.images import Image

# To be increased whenever a sample looks different for the same (seed, id).
GENERATOR_VERSION = 1

# No digits. Of letters that look alike after scaling (O o, Λ Л, К K, …) only one is kept.
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghijmnqrtΓΔΘΛΞΠΣΦΨΩβγδελμξσωБДЖИЦЧШЫЭЮЯ!?&@#%$+=*({<~√∞∫∂∀∈≠±÷→∇§€£"

_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmss10", "cmtt10", "cmb10", "cmti10"),
)
_LETTERS_ONLY = "cm"  # TeX's fonts hold other characters in the places of <, { and £

_BASE = 64  # side of the cached rendering, in pixels
_INK = 48  # the longer side of the character in this rendering, in pixels


def read(config: Glyphs, base: Path) -> Source:
    """A source whose images, gray characters of side `config.size`, are drawn when they are read.

    An image is a function of (seed, id): a larger number of samples per class does not change the existing samples.
    """
    counts: dict[Split, int] = {"train": config.samples_per_class, "val": math.ceil(config.samples_per_class / 10)}
    rows = [
        (f"{split}/U+{ord(character):04X}/{number:05d}", label, split)
        for split, count in counts.items()
        for label, character in enumerate(CHARACTERS)
        for number in range(count)
    ]
    ids = tuple(sample_id for sample_id, _, _ in rows)
    labels = np.array([label for _, label, _ in rows], np.int64)
    splits = tuple(split for _, _, split in rows)
    return Source(
        tuple(CHARACTERS), ids, labels, splits, GlyphImages(config.seed, config.size, ids, tuple(labels.tolist()))
    )


@dataclass(frozen=True)
class GlyphImages:
    """Images of characters, each drawn from its id."""

    seed: int
    size: int
    ids: tuple[str, ...]
    labels: tuple[int, ...]

    def content(self, index: int) -> bytes:
        return f"{_recipe(self.seed, self.size)}/{self.ids[index]}".encode()

    def decoded(self, content: bytes, index: int) -> Image:
        digest = hashlib.blake2b(f"{self.seed}/{self.ids[index]}".encode(), digest_size=16).digest()
        rng = np.random.default_rng(int.from_bytes(digest, "big"))
        return draw_glyph(CHARACTERS[self.labels[index]], self.size, rng)

    def place(self, index: int) -> str:
        return f"glyph {self.content(index).decode()}"

    def states(self, indices: Sequence[int], known: ImageStates) -> list[ImageState]:
        return [ImageState(hashlib.sha256(self.content(index)).hexdigest()) for index in indices]


def draw_glyph(character: str, size: int, rng: np.random.Generator) -> Image:
    """A random drawing of a character, gray, (size, size, 3).

    Random are: font; rotation, shear, scale, aspect and position; the resolution of a coarse scan; blur; stroke width
    and edge (a threshold and a gain on the blurred ink); contrast and polarity; noise.
    """
    fonts = fonts_with(character)
    ink = _rendered(character, fonts[int(rng.integers(len(fonts)))])
    ink = ink.transform((size, size), Pillow.Transform.AFFINE, _affine(size, rng), Pillow.Resampling.BILINEAR)
    if rng.random() < 0.5:
        coarse = int(size * rng.uniform(0.25, 0.6))
        ink = ink.resize((coarse, coarse), Pillow.Resampling.BOX).resize((size, size), Pillow.Resampling.BICUBIC)
    ink = ink.filter(ImageFilter.GaussianBlur(size / 32 * rng.uniform(0.3, 1.3)))
    coverage = np.asarray(ink, np.float32) / 255
    threshold, gain = rng.uniform(0.25, 0.5), rng.uniform(1.2, 3.0)
    coverage = np.clip((coverage - threshold) * gain + 0.5, 0, 1) * (coverage > 0.02)
    background, foreground = rng.uniform(0, 40), rng.uniform(150, 255)
    if rng.random() < 0.1:
        background, foreground = foreground, background
    noise = rng.standard_normal((size, size), np.float32) * rng.uniform(0, 16)
    gray = np.clip(background + coverage * (foreground - background) + noise, 0, 255).astype(np.uint8)
    return np.repeat(gray[..., np.newaxis], 3, axis=2)


@cache
def fonts_with(character: str) -> tuple[str, ...]:
    """Names of the fonts that have this character."""
    return tuple(name for name in _FONTS if ord(character) in _characters_of(name))


@cache
def _recipe(seed: int, size: int) -> str:
    """The sha256 of everything besides its id that determines an image."""
    return sha256_of([GENERATOR_VERSION, seed, size, fonts_digest()])


@cache
def fonts_digest() -> str:
    """The sha256 of the font files and Pillow's FreeType version, on which the drawings depend."""
    return sha256_of([features.version("freetype2"), *(sha256_of_file(_font_file(name)) for name in _FONTS)])


@cache
def _characters_of(font: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    codes = frozenset(FT2Font(str(_font_file(font))).get_charmap())
    return codes & frozenset(map(ord, ascii_letters)) if font.startswith(_LETTERS_ONLY) else codes


@cache
def _font_file(name: str) -> Path:
    from matplotlib import get_data_path

    return Path(get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"


@lru_cache(maxsize=4096)
def _rendered(character: str, font: str) -> Pillow.Image:
    """The character's ink, 0..255, scaled to a longer side of _INK and centered in _BASE×_BASE."""
    probe = _font(font, _INK).getbbox(character, anchor="ls")
    scale = _INK / max(probe[2] - probe[0], probe[3] - probe[1])
    face = _font(font, round(_INK * scale))
    left, top, right, bottom = face.getbbox(character, anchor="ls")
    canvas = Pillow.new("L", (_BASE, _BASE))
    origin = (_BASE - left - right) / 2, (_BASE - top - bottom) / 2
    ImageDraw.Draw(canvas).text(origin, character, fill=255, font=face, anchor="ls")
    return canvas


@lru_cache(maxsize=1024)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_font_file(name), size, layout_engine=ImageFont.Layout.BASIC)


def _affine(size: int, rng: np.random.Generator) -> tuple[float, float, float, float, float, float]:
    """The affine coefficients that map a pixel of the (size, size) result to the _BASE rendering."""
    angle, shear = math.radians(rng.uniform(-15, 15)), rng.uniform(-0.2, 0.2)
    extent, aspect = rng.uniform(0.6, 0.95), rng.uniform(0.6, 1.0)
    enlargement = extent * size / _INK
    across, down = 1 / (enlargement * aspect), 1 / enlargement
    room = (1 - extent) / 2 * size
    shift_x, shift_y = rng.uniform(-room, room), rng.uniform(-room, room)
    a, b = across * (math.cos(angle) + shear * math.sin(angle)), across * (shear * math.cos(angle) - math.sin(angle))
    d, e = down * math.sin(angle), down * math.cos(angle)
    x, y = size / 2 + shift_x, size / 2 + shift_y
    return a, b, _BASE / 2 - a * x - b * y, d, e, _BASE / 2 - d * x - e * y
