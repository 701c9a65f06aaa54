"""What a support set gives away about itself, from features that are there anyway.

Each finding is told only where the numbers bear it, and `None` or nothing stands where they do not.
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
from edgevit.fewshot.methods import centre_of

ADVICE = "advice.json"
FEWEST_IN_CLASS = 4  # images, for a class to tell a stranger: with three, guesses were no better than chance
SURE_OF_ANOTHER, LEAST_OF_OWN = 0.8, 0.05  # probabilities of an image that is likely mislabelled
DUPLICATE_COSINE = 0.95
DUPLICATE_NEARNESS = 0.2  # of the distance, 1 - cosine, that the nearest neighbours in the class have
MOST_CONFUSED, FEWEST_CONFUSED = 5, 2  # pairs of classes told; images of a pair, since one is no pattern
FEWEST_FOR_QUANTILE = 20  # images whose 5% quantile means something
FAR_QUANTILE, UNLIKE_SHARE = 0.05, 0.5
WIDTH = 80
INDENT = "    "


class Mislabelled(NamedTuple):
    """An image that the others of its class would not take in."""

    sample_id: str
    label: str
    looks_like: str
    probability: float


class Duplicates(NamedTuple):
    """Two images that are nearly one, and count twice."""

    sample_ids: tuple[str, str]
    cosine: float


class Confused(NamedTuple):
    """Two classes, and how many of their `of` images are nearer to the other one's."""

    classes: tuple[str, str]
    images: int
    of: int


class Pool(NamedTuple):
    """How many of the pool's images are farther from every class than 95% of the support's own images."""

    far: int
    of: int

    @property
    def unlike(self) -> bool:
        return self.far > UNLIKE_SHARE * self.of


@dataclass(frozen=True)
class Advice:
    """About a support set of `images` images, `shots` of its smallest class; lists begin with the clearest case."""

    images: int
    classes: int
    shots: int
    mislabelled: tuple[Mislabelled, ...]
    duplicates: tuple[Duplicates, ...]
    confused: tuple[Confused, ...]
    curve: LearningCurve
    pool: Pool | None

    def as_json(self) -> Json:
        """For advice.json; fractions, null where nothing can be said."""
        outlook = self.curve.outlook
        return {
            **{name: value for name, value in asdict(self).items() if isinstance(value, int)},
            "mislabelled": [one._asdict() for one in self.mislabelled],
            "duplicates": [one._asdict() for one in self.duplicates],
            "confused": [one._asdict() for one in self.confused],
            "learning_curve": {
                "head": "nearest_centroid",
                "points": [{"shots": one.shots, **one.accuracy._asdict()} for one in self.curve.points],
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
        """At most five lines of at most 80 columns."""
        return [_clipped(f"{INDENT}{line}") for line in self._lines()]

    def _lines(self) -> Iterator[str]:
        if self.mislabelled:
            first = self.mislabelled[0]
            more = f", and {len(self.mislabelled) - 1} more" if len(self.mislabelled) > 1 else ""
            yield f"perhaps mislabelled{more}: {first.label} looks like {first.looks_like}: {first.sample_id}"
        if self.duplicates:
            one, other = self.duplicates[0].sample_ids
            more = f", and {len(self.duplicates) - 1} more" if len(self.duplicates) > 1 else ""
            yield f"nearly the same{more}: {one}, {other}"
        if self.confused:
            yield "often confused: " + listed(
                [f"{' and '.join(one.classes)} ({one.images} of {one.of})" for one in self.confused], 2
            )
        if outlook := self.curve.outlook:
            then, now = outlook.accuracy, outlook.now
            yield (
                f"{FURTHER_SHOTS} more images a class: about {then.value:.0%} ({then.low:.0%} to {then.high:.0%}) "
                f"instead of {now.value:.0%}"
            )
        if self.pool and self.pool.unlike:
            yield f"the pool looks unlike the support: {self.pool.far} of {self.pool.of} images are far from it"


def advice(
    support: Floats,
    labels: Labels,
    classes: Sequence[str],
    sample_ids: Sequence[str],
    pool: Floats | None = None,
    base: Floats | None = None,
    seed: int = 0,
) -> Advice | None:
    """What the features of a support set, (samples, dimensions), say about it; None of one that is no small set.

    Args:
        pool: features of images without labels.
        base: the mean of other features, to be the centre; by default that of support and pool.
    """
    if len(labels) > LARGEST_SUPPORT:
        return None
    centre = centre_of(support, pool, base)
    directions = unit(support - centre)
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
        learning_curve(support, labels, len(classes), centre, seed),
        None if pool is None else _pool(unit(pool - centre) @ centroids.T, cosines, counts),
    )


def _mislabelled(
    cosines: Floats, labels: Labels, counts: Labels, classes: Sequence[str], sample_ids: Sequence[str]
) -> Iterator[Mislabelled]:
    """Images whose label has at most LEAST_OF_OWN, and another class at least SURE_OF_ANOTHER.

    Probabilities are those of the nearest centroid, an image's own class's made without it. Classes of fewer than
    FEWEST_IN_CLASS images play no part.
    """
    probabilities = softmax(likeliest_scale(cosines, labels) * cosines)
    own, nearest = probabilities[np.arange(len(labels)), labels], probabilities.argmax(1)
    sure = (own <= LEAST_OF_OWN) & (probabilities.max(1) >= SURE_OF_ANOTHER)
    told = sure & (counts[labels] >= FEWEST_IN_CLASS) & (counts[nearest] >= FEWEST_IN_CLASS)
    for index in sorted(np.flatnonzero(told).tolist(), key=lambda index: -probabilities[index].max()):
        yield Mislabelled(
            sample_ids[index],
            classes[labels[index]],
            classes[nearest[index]],
            float(probabilities[index, nearest[index]]),
        )


def _duplicates(directions: Floats, labels: Labels, sample_ids: Sequence[str]) -> Iterator[Duplicates]:
    """Pairs of cosine at least DUPLICATE_COSINE, and far nearer than the other images of their classes are to theirs.

    That is: at most DUPLICATE_NEARNESS of the median distance of those to the nearest of their own class. Without such
    images nothing is told.
    """
    cosines = directions @ directions.T
    same_class = (labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool)
    to_nearest = 1 - np.where(same_class, cosines, -1).max(1, initial=-1)
    has_neighbours = same_class.any(1)
    ones, others = np.nonzero(np.triu(cosines >= DUPLICATE_COSINE, 1))
    for one, other in sorted(zip(ones.tolist(), others.tolist(), strict=True), key=lambda pair: -cosines[pair]):
        beside = has_neighbours & np.isin(labels, labels[[one, other]])
        beside[[one, other]] = False
        if beside.any() and 1 - cosines[one, other] <= DUPLICATE_NEARNESS * np.median(to_nearest[beside]):
            yield Duplicates((sample_ids[one], sample_ids[other]), float(min(1, cosines[one, other])))


def _confused(cosines: Floats, labels: Labels, counts: Labels, classes: Sequence[str]) -> Iterator[Confused]:
    """The pairs of classes that most images are on the wrong side of, without classes of one image."""
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, cosines.argmax(1)), 1)
    confusion[counts < 2] = 0
    pairs = np.triu(confusion + confusion.T, 1)
    for index in np.argsort(-pairs, axis=None, kind="stable")[:MOST_CONFUSED].tolist():
        one, other = divmod(index, len(classes))
        if pairs[one, other] >= FEWEST_CONFUSED:
            yield Confused((classes[one], classes[other]), int(pairs[one, other]), int(counts[[one, other]].sum()))


def _pool(pool_cosines: Floats, cosines: Floats, counts: Labels) -> Pool | None:
    """None where the support is too small to say how far its own images lie."""
    if counts.min() < 2 or len(cosines) < FEWEST_FOR_QUANTILE:
        return None
    usual = np.quantile(cosines.max(1), FAR_QUANTILE)
    return Pool(int((pool_cosines.max(1) < usual).sum()), len(pool_cosines))


def _clipped(line: str) -> str:
    """One line of printable characters."""
    clean = "".join(character if character.isprintable() else "�" for character in line)
    return clean if len(clean) <= WIDTH else f"{clean[: WIDTH - 1]}…"
