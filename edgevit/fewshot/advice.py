"""Advice about a support set, from the features of its images: likely wrong labels, duplicates, confused classes, the
benefit of more images, and a pool that is unlike the support.

A finding is reported only if there are enough images to support it. Otherwise it is None or an empty list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from edgevit.artifacts import Json
from edgevit.data.dataset import Labels
from edgevit.data.duplicates import LARGEST_SUPPORT
from edgevit.errors import listed
from edgevit.fewshot.heads import Floats, class_directions, left_out_cosines, likeliest_scale, softmax, unit
from edgevit.fewshot.learning_curve import FURTHER_SHOTS, LAW, LearningCurve, learning_curve
from edgevit.fewshot.methods import center_of

ADVICE = "advice.json"
FEWEST_IN_CLASS = 4  # images of a class in which a wrong label can be found; with three, results were at chance level
SURE_OF_ANOTHER, LEAST_OF_OWN = 0.8, 0.05  # class probabilities of an image that is likely mislabelled
DUPLICATE_COSINE = 0.95
DUPLICATE_NEARNESS = 0.2  # share of the usual distance, 1 - cosine, to the nearest neighbor in the class
MOST_CONFUSED, FEWEST_CONFUSED = 5, 2  # most reported pairs of classes; fewest confused images of a pair
FEWEST_FOR_QUANTILE = 20  # images from which a 5% quantile can be estimated
FAR_QUANTILE, UNLIKE_SHARE = 0.05, 0.5
WIDTH = 80
INDENT = "    "


class Mislabelled(NamedTuple):
    """An image whose label is probably wrong.

    Attributes:
        looks_like: the most probable class.
        probability: the probability of that class.
    """

    sample_id: str
    label: str
    looks_like: str
    probability: float


class Duplicates(NamedTuple):
    """Two images that are nearly the same."""

    sample_ids: tuple[str, str]
    cosine: float


class Confused(NamedTuple):
    """Two classes, and how many of their `of` images are nearer to the centroid of the other class."""

    classes: tuple[str, str]
    images: int
    of: int


class PoolDistance(NamedTuple):
    """How many of the pool's `of` images are farther from every class than 95% of the support images are."""

    far: int
    of: int

    @property
    def unlike(self) -> bool:
        """Whether more than half of the pool is far from every class."""
        return self.far > UNLIKE_SHARE * self.of


@dataclass(frozen=True)
class Advice:
    """Advice about a support set of `images` images, with `shots` of its smallest class.

    Lists begin with the clearest case.
    """

    images: int
    classes: int
    shots: int
    mislabelled: tuple[Mislabelled, ...]
    duplicates: tuple[Duplicates, ...]
    confused: tuple[Confused, ...]
    curve: LearningCurve
    pool: PoolDistance | None

    def as_json(self) -> Json:
        """The content of advice.json: shares of 1, and null for a finding without enough images."""
        outlook = self.curve.outlook
        return {
            **{name: value for name, value in asdict(self).items() if isinstance(value, int)},
            "mislabelled": [image._asdict() for image in self.mislabelled],
            "duplicates": [pair._asdict() for pair in self.duplicates],
            "confused": [pair._asdict() for pair in self.confused],
            "learning_curve": {
                "head": "nearest_centroid",
                "points": [{"shots": point.shots, **point.accuracy._asdict()} for point in self.curve.points],
                "law": LAW,
                "outlook": outlook
                and {
                    "shots": outlook.shots,
                    "accuracy": outlook.accuracy._asdict(),
                    "now": outlook.now._asdict(),
                    "gain": outlook.gain._asdict(),
                },
            },
            "pool": self.pool and {**self.pool._asdict(), "unlike": self.pool.unlike},
        }

    def lines(self) -> list[str]:
        """The advice as at most five lines of at most 80 characters."""
        return [_clipped(f"{INDENT}{line}") for line in self._lines()]

    def _lines(self) -> Iterator[str]:
        if self.mislabelled:
            first = self.mislabelled[0]
            more = f", and {len(self.mislabelled) - 1} more" if len(self.mislabelled) > 1 else ""
            yield f"perhaps mislabelled{more}: {first.label} looks like {first.looks_like}: {first.sample_id}"
        if self.duplicates:
            first_id, second_id = self.duplicates[0].sample_ids
            more = f", and {len(self.duplicates) - 1} more" if len(self.duplicates) > 1 else ""
            yield f"nearly the same{more}: {first_id}, {second_id}"
        if self.confused:
            yield "often confused: " + listed(
                [f"{' and '.join(pair.classes)} ({pair.images} of {pair.of})" for pair in self.confused], 2
            )
        yield from self._on_more_images()
        if self.pool and self.pool.unlike:
            yield f"the pool looks unlike the support: {self.pool.far} of {self.pool.of} images are far from it"

    def _on_more_images(self) -> Iterator[str]:
        """The gain of a nearest centroid classifier. It does not estimate the accuracy of the adapted model."""
        outlook = self.curve.outlook
        if outlook is None:
            return
        gain, more = outlook.gain, f"{FURTHER_SHOTS} more images per class"
        if outlook.helps:
            points = f"{100 * gain.value:.1f} points ({100 * gain.low:.1f} to {100 * gain.high:.1f})"
            yield f"{more}: nearest centroid gains {points}"
        else:
            yield f"{more}: nearest centroid stays at {outlook.now.value:.0%}"


def advice(
    support: Floats,
    labels: Labels,
    classes: Sequence[str],
    sample_ids: Sequence[str],
    pool: Floats | None = None,
    base: Floats | None = None,
    seed: int = 0,
) -> Advice | None:
    """Advice about a support set, from its features (samples, dimensions); None for more than LARGEST_SUPPORT images.

    Args:
        pool: features of images without labels.
        base: (dimensions,), the center of the features; by default the mean of support and pool.
    """
    if len(labels) > LARGEST_SUPPORT:
        return None
    center = center_of(support, pool, base)
    directions = unit(support - center)
    counts = np.bincount(labels, minlength=len(classes))
    centroids = class_directions(directions, labels, len(classes))
    cosines = left_out_cosines(directions, labels, centroids)
    return Advice(
        len(labels),
        len(classes),
        int(counts.min()),
        tuple(_mislabelled(cosines, labels, counts, classes, sample_ids)),
        tuple(_duplicates(directions, labels, sample_ids)),
        tuple(_confused(cosines, labels, counts, classes)),
        learning_curve(support, labels, len(classes), center, seed),
        None if pool is None else _pool_distance(unit(pool - center) @ centroids.T, cosines, counts),
    )


def _mislabelled(
    cosines: Floats, labels: Labels, counts: Labels, classes: Sequence[str], sample_ids: Sequence[str]
) -> Iterator[Mislabelled]:
    """Images whose class has a probability of at most LEAST_OF_OWN, and another class at least SURE_OF_ANOTHER.

    The probabilities are those of the nearest centroid classifier; the centroid of the image's own class is computed
    without the image. Classes with fewer than FEWEST_IN_CLASS images are left out.
    """
    probabilities = softmax(likeliest_scale(cosines, labels) * cosines)
    own, nearest = probabilities[np.arange(len(labels)), labels], probabilities.argmax(1)
    sure = (own <= LEAST_OF_OWN) & (probabilities.max(1) >= SURE_OF_ANOTHER)
    reported = sure & (counts[labels] >= FEWEST_IN_CLASS) & (counts[nearest] >= FEWEST_IN_CLASS)
    for index in sorted(np.flatnonzero(reported).tolist(), key=lambda index: -probabilities[index].max()):
        yield Mislabelled(
            sample_ids[index],
            classes[labels[index]],
            classes[nearest[index]],
            float(probabilities[index, nearest[index]]),
        )


def _duplicates(directions: Floats, labels: Labels, sample_ids: Sequence[str]) -> Iterator[Duplicates]:
    """Pairs of images with a cosine of at least DUPLICATE_COSINE that are much nearer than is usual in their classes.

    Usual is the median distance to the nearest neighbor in the class, over the other images of both classes. The
    distance of a pair is at most DUPLICATE_NEARNESS of it. Without other images, no pair is reported.
    """
    cosines = directions @ directions.T
    same_class = (labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool)
    to_nearest = 1 - np.where(same_class, cosines, -1).max(1, initial=-1)
    has_neighbors = same_class.any(1)
    rows, columns = np.nonzero(np.triu(cosines >= DUPLICATE_COSINE, 1))
    pairs = sorted(zip(rows.tolist(), columns.tolist(), strict=True), key=lambda pair: -cosines[pair])
    for pair in pairs:
        others = has_neighbors & np.isin(labels, labels[[*pair]])
        others[[*pair]] = False
        if others.any() and 1 - cosines[pair] <= DUPLICATE_NEARNESS * np.median(to_nearest[others]):
            yield Duplicates((sample_ids[pair[0]], sample_ids[pair[1]]), float(min(1, cosines[pair])))


def _confused(cosines: Floats, labels: Labels, counts: Labels, classes: Sequence[str]) -> Iterator[Confused]:
    """The pairs of classes with the most confused images. Classes of a single image are left out."""
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, cosines.argmax(1)), 1)
    confusion[counts < 2] = 0
    pairs = np.triu(confusion + confusion.T, 1)
    for index in np.argsort(-pairs, axis=None, kind="stable")[:MOST_CONFUSED].tolist():
        first, second = divmod(index, len(classes))
        if pairs[first, second] >= FEWEST_CONFUSED:
            images = int(counts[[first, second]].sum())
            yield Confused((classes[first], classes[second]), int(pairs[first, second]), images)


def _pool_distance(pool_cosines: Floats, cosines: Floats, counts: Labels) -> PoolDistance | None:
    """The distance of the pool; None if the support is too small to know how far its own images are from a class."""
    if counts.min() < 2 or len(cosines) < FEWEST_FOR_QUANTILE:
        return None
    lowest_usual = np.quantile(cosines.max(1), FAR_QUANTILE)
    return PoolDistance(int((pool_cosines.max(1) < lowest_usual).sum()), len(pool_cosines))


def _clipped(line: str) -> str:
    """The line with printable characters only, and at most WIDTH of them."""
    clean = "".join(character if character.isprintable() else "�" for character in line)
    return clean if len(clean) <= WIDTH else f"{clean[: WIDTH - 1]}…"
