"""Changeable classes: embeddings of a few images of each, and the classifier made from them. Needs only numpy.

`classes.npz` holds the support set and the hash of its content. It is replaced in one step: a reader finds the old file
or the new one, even after a power cut. This program also ships in bundles.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import zipfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FILE = "classes.npz"
FORMAT_VERSION = 2
ARRAYS = {
    "embeddings": "<f4",
    "labels": "<i8",
    "enrolled": "?",
    "unseen": "<f4",
    "unseen_labels": "<i8",
    "unknown": "<f4",
}
FIELDS = ("format_version", "classes", "model", "learned", "sha256", *ARRAYS)
LARGEST_FILE = 2**26  # bytes: 13,000 images in 1,280 dimensions
KEPT_SHARE = 0.95  # of the images of the classes are above the threshold for unknown images
Z_95 = 1.959963984540054
SCALES = np.geomspace(1, 100, 41)  # candidates for the scale of the logits
UNFITTED_SCALE = 10.0  # if each class has a single image
MOST_CENTERS = 1000  # images: with more, leaving one out moves the center by less than a thousandth
UNTESTED = -1


class ClassesError(Exception):
    """The classes of a bundle cannot be read or changed."""

    def __init__(self, what: str, got: object = None, expected: object = None, next: str | None = None) -> None:
        details = (("got", got), ("expected", expected), ("next", next))
        super().__init__("\n  ".join([what, *(f"{name}: {value}" for name, value in details if value is not None)]))


class Indistinguishable(ClassesError):
    """Most images of a class are nearer to other classes."""


@dataclass(frozen=True, eq=False)
class SupportSet:
    """Embeddings (n, dimensions) float32 of images, with labels (n,) int64 that are indices into `classes`.

    Attributes:
        model: the sha256 of the model file that made the embeddings.
        enrolled: (n,) bool, whether an image was added after the bundle was made; the model did not learn from it.
        learned: whether the model may have learned from the images that are not `enrolled`.
        unseen, unseen_labels: embeddings and labels of images that the model did not learn from. They are not part
            of the prototypes: threshold and accuracy are measured on them.
        unknown: embeddings of images of none of the classes.

    Raises ClassesError unless there are at least two classes, each with a unique name and an image.
    """

    classes: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    model: str
    enrolled: npt.NDArray[np.bool_]
    learned: bool
    unseen: npt.NDArray[np.float32]
    unseen_labels: npt.NDArray[np.int64]
    unknown: npt.NDArray[np.float32]

    @classmethod
    def as_bundled(
        cls,
        classes: tuple[str, ...],
        embeddings: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        model: str,
        *,
        learned: bool,
        unseen: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] | None = None,
        unknown: npt.NDArray[np.float32] | None = None,
    ) -> SupportSet:
        """The support set of a new bundle. Raises ClassesError as the class does."""
        empty = np.zeros((0, *embeddings.shape[1:]), np.float32)
        held_out, held_out_labels = unseen or (empty, np.zeros(0, np.int64))
        enrolled = np.zeros(len(embeddings), np.bool_)
        others = empty if unknown is None else unknown
        return cls(classes, embeddings, labels, model, enrolled, learned, held_out, held_out_labels, others)

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ClassesError(f"these classes cannot be used: {problem}")

    def with_images(self, name: str, embeddings: npt.NDArray[np.float32]) -> SupportSet:
        """A copy with more images, of an existing or a new class."""
        classes = self.classes if name in self.classes else (*self.classes, name)
        labels = np.concatenate([self.labels, np.full(len(embeddings), classes.index(name), np.int64)])
        enrolled = np.concatenate([self.enrolled, np.ones(len(embeddings), np.bool_)])
        all_embeddings = np.concatenate([self.embeddings, embeddings])
        return replace(self, classes=classes, embeddings=all_embeddings, labels=labels, enrolled=enrolled)

    def without(self, name: str) -> SupportSet:
        """A copy without a class, equal to the support set before the class was added."""
        label = self.classes.index(name)
        kept, unseen_kept = self.labels != label, self.unseen_labels != label
        labels, unseen_labels = self.labels[kept], self.unseen_labels[unseen_kept]
        return replace(
            self,
            classes=tuple(other for other in self.classes if other != name),
            embeddings=self.embeddings[kept],
            labels=labels - (labels > label),
            enrolled=self.enrolled[kept],
            unseen=self.unseen[unseen_kept],
            unseen_labels=unseen_labels - (unseen_labels > label),
        )

    def images_of(self, name: str) -> npt.NDArray[np.float32]:
        """The embeddings of a class, (n, dimensions), in the order of their addition."""
        embeddings: npt.NDArray[np.float32] = self.embeddings[self.labels == self.classes.index(name)]
        return embeddings

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the content."""
        shapes = [getattr(self, name).shape for name in ARRAYS]
        about = json.dumps([FORMAT_VERSION, self.classes, self.model, self.learned, shapes])
        digest = hashlib.sha256(about.encode())
        for name, kind in ARRAYS.items():
            digest.update(np.ascontiguousarray(getattr(self, name), kind).tobytes())
        return digest.hexdigest()

    def _problem(self) -> str | None:
        """A sentence about an invalid support set; None if it is valid."""
        if len(self.classes) < 2:
            return f"there are {len(self.classes)}, and two are needed"
        if len(set(self.classes)) < len(self.classes):
            return "two have the same name"
        if any(name.endswith("\0") for name in self.classes):
            return "a name ends with a zero byte"
        if self.embeddings.ndim != 2 or self.labels.shape != self.embeddings.shape[:1]:
            return f"embeddings {self.embeddings.shape} and labels {self.labels.shape}"
        dimensions = self.embeddings.shape[1]
        if self.enrolled.shape != self.labels.shape or self.unseen.shape != (len(self.unseen_labels), dimensions):
            return f"enrolled {self.enrolled.shape}, unseen {self.unseen.shape}, labels {self.unseen_labels.shape}"
        if self.unseen_labels.ndim != 1 or self.unknown.shape != (len(self.unknown), dimensions):
            return f"unseen labels {self.unseen_labels.shape}, unknown {self.unknown.shape}"
        if not all(np.isfinite(rows).all() for rows in (self.embeddings, self.unseen, self.unknown)):
            return "an embedding is NaN or infinite"
        if not np.array_equal(np.unique(self.labels), np.arange(len(self.classes))):
            return "a class has no image, or a label no class"
        if not np.isin(self.unseen_labels, self.labels).all():
            return "the label of an unseen image has no class"
        return None


@dataclass(frozen=True, eq=False)
class PrototypeHead:
    """The classifier of a support set: the nearest prototype.

    Attributes:
        center: (dimensions,), the mean embedding.
        centroids: (classes, dimensions), the mean direction of each class from the center, of length 1.
        scale: factor of the logits.
        threshold: the cosine below which an image belongs to none of the classes; None if every class has one image.
    """

    center: Floats
    centroids: Floats
    scale: float
    threshold: float | None

    def logits(self, embeddings: npt.NDArray[np.float32]) -> Floats:
        """Class scores (n, classes) of embeddings (n, dimensions)."""
        logits: Floats = self.scale * (embeddings - self.center) @ self.centroids.T
        return logits

    def cosines(self, embeddings: npt.NDArray[np.float32]) -> Floats:
        """The cosine of each image's direction from the center with each class's, (n, classes), -1 to 1."""
        cosines: Floats = _unit(embeddings - self.center) @ self.centroids.T
        return cosines


@dataclass(frozen=True, eq=False)
class LeftOut:
    """A test of each image of a support set with prototypes made without it.

    Attributes:
        nearest: (n,) the label of the nearest class; UNTESTED for the only image of a class.
    """

    support: SupportSet
    nearest: npt.NDArray[np.int64]

    def nearer_to(self, name: str) -> dict[str, int]:
        """The number of images of a class that are nearer to each other class, largest number first."""
        label = self.support.classes.index(name)
        nearest = self.nearest[self.support.labels == label]
        others, counts = np.unique(nearest[(nearest != label) & (nearest != UNTESTED)], return_counts=True)
        by_class = {self.support.classes[other]: int(count) for other, count in zip(others, counts)}
        return dict(sorted(by_class.items(), key=lambda item: -item[1]))


def head_of(support: SupportSet) -> PrototypeHead:
    """The nearest centroid by cosine, on centered embeddings (SimpleShot, Wang et al. 2019).

    Scale and threshold are fitted to the support set's `trials`. The scale maximizes the likelihood of their labels.
    The threshold keeps KEPT_SHARE of them, with equal weight for each class. Enrolled classes do not move the threshold
    as long as there are others, since a few images of one class would decide for all.
    """
    geometry = _geometry(support)
    length = float(np.linalg.norm(support.embeddings - geometry.center, axis=1).mean()) or 1.0
    tried = _trials(support, geometry)
    scale = (_scale(tried.cosines, tried.labels) if len(tried.labels) else UNFITTED_SCALE) / length
    return PrototypeHead(geometry.center, geometry.centroids, scale, _threshold(support, tried))


def left_out(support: SupportSet) -> LeftOut:
    """The leave-one-out test of a support set."""
    geometry = _geometry(support)
    return LeftOut(support, np.where(geometry.tested, geometry.left_out_cosines.argmax(1), UNTESTED))


@dataclass(frozen=True, eq=False)
class Trials:
    """Images of the classes, each tested with prototypes made without it.

    For each class: its unseen images; without any, the images that the model did not learn from, each left out in turn;
    without any of these, all its images, each left out in turn. These are `learned`: accuracies on them are too high.

    Attributes:
        labels: (t,) int64.
        cosines: (t, classes).
        learned: (t,) bool, whether the model may have learned from the image.
    """

    labels: npt.NDArray[np.int64]
    cosines: Floats
    learned: npt.NDArray[np.bool_]


def trials(support: SupportSet) -> Trials:
    """The images that accuracy, scale and threshold of a support set are measured on."""
    return _trials(support, _geometry(support))


@dataclass(frozen=True)
class Share:
    """A share of images with its 95% interval. Each class has the same weight.

    The interval is Wilson's, for the number of images with the variance of a mean over classes.

    Attributes:
        images: the number of images.
        optimistic: whether the model may have learned from some of the images.
    """

    value: float
    low: float
    high: float
    images: int
    optimistic: bool = False

    def __str__(self) -> str:
        warning = ", optimistic: the model may have learned from them" if self.optimistic else ""
        images = f"{self.images} image" + "s" * (self.images != 1)
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%}) of {images}{warning}"


@dataclass(frozen=True)
class Rates:
    """The expected rates of a support set on new images; None if a rate was not measured.

    Attributes:
        accuracy: images of the classes whose own class is nearest.
        known_rejected: images of the classes that are called unknown. The threshold is the cosine of one of these
            images, which counts for the upper end of the interval.
        unknown_accepted: images of none of the classes that are not called unknown.
    """

    accuracy: Share | None
    known_rejected: Share | None
    unknown_accepted: Share | None

    def lines(self) -> list[str]:
        """The rates in words, a line each."""
        return [
            f"right by the nearest class: {self.accuracy or NOT_MEASURED}",
            f"images of the classes called unknown: {self.known_rejected or NOT_MEASURED}",
            f"other images not called unknown: {self.unknown_accepted or NOT_MEASURED}",
        ]


NOT_MEASURED = "not measured"


def rates(support: SupportSet) -> Rates:
    """Accuracy and the rates of the threshold, on the support set's trials and its unknown images."""
    tried, head = trials(support), head_of(support)
    accuracy = share_of(tried.cosines.argmax(1) == tried.labels, tried)
    if head.threshold is None:
        return Rates(accuracy, None, None)
    below = share_of(tried.cosines.max(1) < head.threshold, tried)
    known_rejected = below and replace(below, high=_at_most(tried, head.threshold))
    unknown_accepted = None
    if len(support.unknown):
        accepted = head.cosines(support.unknown).max(1) >= head.threshold
        unknown_accepted = _share(accepted, np.zeros(len(accepted), np.int64), optimistic=False)
    return Rates(accuracy, known_rejected, unknown_accepted)


def accuracy_of(support: SupportSet, name: str) -> Share | None:
    """The accuracy on the images of one class; None if it was not measured."""
    tried = trials(support)
    own = tried.labels == support.classes.index(name)
    of_class = Trials(tried.labels[own], tried.cosines[own], tried.learned[own])
    return share_of(of_class.cosines.argmax(1) == of_class.labels, of_class)


def share_of(counted: npt.NDArray[np.bool_], tried: Trials) -> Share | None:
    """The share of trials that are `counted`, (t,); None without trials."""
    return _share(counted, tried.labels, bool(tried.learned.any())) if len(counted) else None


def read_support(path: Path) -> SupportSet:
    """The support set in a file. Raises ClassesError if it is missing, altered, too large or of another format."""
    if not path.is_file():
        raise ClassesError(f"{path}: is missing from the bundle")
    if path.stat().st_size > LARGEST_FILE:
        raise ClassesError(f"{path}: is too large", f"{path.stat().st_size} bytes", f"at most {LARGEST_FILE}")
    try:
        arrays = _arrays(path.read_bytes())
        version = int(arrays["format_version"])
        if version == FORMAT_VERSION:
            typed_arrays: Any = {name: arrays[name].astype(kind, copy=False) for name, kind in ARRAYS.items()}
            recorded, model, learned = str(arrays["sha256"]), str(arrays["model"]), bool(arrays["learned"])
            classes = tuple(str(name) for name in arrays["classes"].tolist())
    except Exception as error:  # noqa: BLE001 - zipfile and numpy raise a dozen kinds on damaged bytes
        raise ClassesError(f"{path}: cannot be read: {str(error) or type(error).__name__}", next=_RESTORE) from None
    if version != FORMAT_VERSION:
        raise ClassesError(f"{path}: is of another format", version, FORMAT_VERSION, "bundle the model again")
    try:
        support = SupportSet(classes=classes, model=model, learned=learned, **typed_arrays)
    except ClassesError as error:
        raise ClassesError(f"{path}: {error}", next=_RESTORE) from None
    if support.sha256 != recorded:
        raise ClassesError(f"{path}: was altered", f"sha256 {support.sha256}", f"sha256 {recorded}", _RESTORE)
    return support


def write_support(support: SupportSet, path: Path) -> None:
    """Replace a file by this support set, in one step that survives a power cut. Equal sets give equal bytes.

    Raises ClassesError if it is too large. One process at a time may write.
    """
    content = io.BytesIO()
    np.savez(
        content,
        format_version=np.int64(FORMAT_VERSION),
        classes=np.array(support.classes),
        model=np.array(support.model),
        learned=np.array(support.learned),
        sha256=np.array(support.sha256),
        **{name: getattr(support, name) for name in ARRAYS},
    )
    if content.tell() > LARGEST_FILE:
        got = f"{len(support.labels)} images in {support.embeddings.shape[1]} dimensions, {content.tell()} bytes"
        raise ClassesError(
            "these are too many images", got, f"at most {LARGEST_FILE} bytes", "use fewer images of a class"
        )
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:  # a full disk
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


_RESTORE = "copy the bundle's folder again from where it was made"


@dataclass(frozen=True, eq=False)
class _Geometry:
    """Center, centroids, leave-one-out cosines (n, classes), and whether an image is not the only one of its class."""

    center: Floats
    centroids: Floats
    left_out_cosines: Floats
    tested: npt.NDArray[np.bool_]


def _geometry(support: SupportSet) -> _Geometry:
    features, labels = support.embeddings.astype(np.float64), support.labels
    center = features.mean(0)
    directions = _unit(features - center)
    sums = np.stack([directions[labels == label].sum(0) for label in range(len(support.classes))])
    centroids = _unit(sums)
    tested = np.bincount(labels)[labels] > 1
    return _Geometry(center, centroids, _left_out_cosines(features - center, labels), tested)


def _left_out_cosines(offsets: Floats, labels: npt.NDArray[np.int64]) -> Floats:
    """The cosine of each image with each class of a head made without the image, (n, classes).

    The center is computed without the image too. A center that includes the image lies nearer to it, so the image seems
    less like the others than a new image would. With 30 images in 1,280 dimensions, this effect is large.
    """
    n, directions = len(offsets), _unit(offsets)
    shifts = offsets / (n - 1) if n <= MOST_CENTERS else np.zeros_like(offsets)  # of the center without the image
    cosines = np.empty((n, labels.max() + 1))
    for label in range(cosines.shape[1]):
        members = np.flatnonzero(labels == label)
        class_offsets = offsets[members]
        squared = (class_offsets**2).sum(1) + 2 * shifts @ class_offsets.T + (shifts**2).sum(1, keepdims=True)
        weights = 1 / np.sqrt(np.maximum(squared, 1e-24))
        weights[members, np.arange(len(members))] = 0
        sums = weights @ class_offsets + weights.sum(1, keepdims=True) * shifts
        cosines[:, label] = (_unit(sums) * directions).sum(1)
    return cosines


def _trials(support: SupportSet, geometry: _Geometry) -> Trials:
    labels, new = support.labels, support.enrolled | (not support.learned)
    has_unseen = np.isin(labels, support.unseen_labels)
    has_new = np.isin(labels, labels[geometry.tested & new])
    taken = geometry.tested & ~has_unseen & (new | ~has_new)
    unseen = _unit(support.unseen.astype(np.float64) - geometry.center) @ geometry.centroids.T
    return Trials(
        labels=np.concatenate([support.unseen_labels, labels[taken]]),
        cosines=np.concatenate([unseen, geometry.left_out_cosines[taken]]),
        learned=np.concatenate([np.zeros(len(unseen), np.bool_), ~new[taken]]),
    )


def _threshold(support: SupportSet, tried: Trials) -> float | None:
    bundled = np.isin(tried.labels, support.labels[~support.enrolled])
    decides = bundled if bundled.any() else np.ones_like(bundled)
    if not len(tried.labels):
        return None
    best, labels = tried.cosines.max(1)[decides], tried.labels[decides]
    order = np.argsort(best, kind="stable")
    weights = _weights(labels)[order]
    below = np.cumsum(weights) - weights
    return float(best[order][np.flatnonzero(below <= 1 - KEPT_SHARE + 1e-12)[-1]])


def _at_most(tried: Trials, threshold: float) -> float:
    return _share(tried.cosines.max(1) <= threshold, tried.labels, optimistic=False).high


def _share(counted: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64], optimistic: bool) -> Share:
    weights = _weights(labels)
    value = float(weights[counted].sum())
    effective, z2 = 1 / float((weights**2).sum()), Z_95**2
    center = (value + z2 / (2 * effective)) / (1 + z2 / effective)
    half = Z_95 / (1 + z2 / effective) * math.sqrt(value * max(1 - value, 0) / effective + z2 / (4 * effective**2))
    return Share(value, max(0.0, center - half), min(1.0, center + half), len(labels), optimistic)


def _weights(labels: npt.NDArray[np.int64]) -> Floats:
    """A weight for each image, so that each class has the same weight; their sum is 1."""
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights: Floats = 1 / (counts[places] * len(counts))
    return weights


def _scale(cosines: Floats, labels: npt.NDArray[np.int64]) -> float:
    """The scale that maximizes the likelihood of the labels under softmax(scale · cosines)."""
    rows = np.arange(len(labels))
    likelihoods = []
    for scale in SCALES:
        logits = scale * cosines
        likelihoods.append((logits[rows, labels] - np.logaddexp.reduce(logits, axis=1)).mean())
    return float(SCALES[int(np.argmax(likelihoods))])


def _unit(vectors: Floats) -> Floats:
    """Each row divided by its length."""
    divided: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return divided


def _arrays(content: bytes) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of an .npz without pickles and without compression, so that they are no larger than the file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("it was compressed")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        of_this_format = int(arrays["format_version"]) == FORMAT_VERSION
        return {name: arrays[name] for name in (FIELDS if of_this_format else FIELDS[:1])}
