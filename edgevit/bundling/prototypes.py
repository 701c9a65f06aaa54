"""Classes as data: what the model sees in a few images of each, and the classifier that follows. Needs only numpy.

`classes.npz` holds the support set and the hash of its content, and is replaced in one step: a reader, or a machine
that loses power, finds the old one or the new one. This file also ships in bundles.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FILE = "classes.npz"
FORMAT_VERSION = 1
FIELDS = ("format_version", "classes", "embeddings", "labels", "model", "sha256")
LARGEST_FILE = 2**26  # bytes: 13,000 images in 1,280 dimensions
KEPT_SHARE = 0.95  # of the support set's own images, by the threshold for unknown ones
SCALES = np.geomspace(1, 100, 41)  # tried for the logits
UNTESTED = -1


class ClassesError(Exception):
    """The classes of a bundle cannot be read, or cannot become what was asked for."""

    def __init__(self, what: str, got: object = None, expected: object = None, next: str | None = None) -> None:
        details = (("got", got), ("expected", expected), ("next", next))
        super().__init__("\n  ".join([what, *(f"{name}: {value}" for name, value in details if value is not None)]))


class Indistinguishable(ClassesError):
    """The images of a class are nearer to other classes."""


@dataclass(frozen=True, eq=False)
class SupportSet:
    """Embeddings (n, dimensions) float32 of images, with labels (n,) int64 that are indices into `classes`.

    `model` is the sha256 of the model file that gave them: another one's embeddings lie elsewhere.

    Raises ClassesError unless there are two classes or more, each with a name of its own and an image.
    """

    classes: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    model: str

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ClassesError(f"these are no classes to tell apart: {problem}")

    def with_images(self, name: str, embeddings: npt.NDArray[np.float32]) -> SupportSet:
        """The same and these images, of a class that is there or of a new one."""
        classes = self.classes if name in self.classes else (*self.classes, name)
        labels = np.concatenate([self.labels, np.full(len(embeddings), classes.index(name), np.int64)])
        return SupportSet(classes, np.concatenate([self.embeddings, embeddings]), labels, self.model)

    def without(self, name: str) -> SupportSet:
        """The same without a class; exactly what it was before that class was added."""
        label = self.classes.index(name)
        kept = self.labels != label
        classes = tuple(one for one in self.classes if one != name)
        labels = self.labels[kept]
        return SupportSet(classes, self.embeddings[kept], labels - (labels > label), self.model)

    def images_of(self, name: str) -> npt.NDArray[np.float32]:
        """The embeddings of a class, in the order in which they came."""
        found: npt.NDArray[np.float32] = self.embeddings[self.labels == self.classes.index(name)]
        return found

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the content."""
        about = json.dumps([FORMAT_VERSION, self.classes, self.model, self.embeddings.shape])
        digest = hashlib.sha256(about.encode())
        digest.update(np.ascontiguousarray(self.embeddings, "<f4").tobytes())
        digest.update(np.ascontiguousarray(self.labels, "<i8").tobytes())
        return digest.hexdigest()

    def _problem(self) -> str | None:
        """What is wrong with it, if anything."""
        if len(self.classes) < 2:
            return f"{len(self.classes)} of them"
        if len(set(self.classes)) < len(self.classes):
            return "two have the same name"
        if any(name.endswith("\0") for name in self.classes):
            return "a name ends with a zero byte"
        if self.embeddings.ndim != 2 or self.labels.shape != self.embeddings.shape[:1]:
            return f"embeddings {self.embeddings.shape} and labels {self.labels.shape}"
        if not np.isfinite(self.embeddings).all():
            return "the model gave NaN or infinity for an image"
        if not np.array_equal(np.unique(self.labels), np.arange(len(self.classes))):
            return "a class has no image, or a label no class"
        return None


@dataclass(frozen=True, eq=False)
class PrototypeHead:
    """The classifier that a support set makes.

    Attributes:
        centre: (dimensions,), the mean embedding.
        centroids: (classes, dimensions), the mean direction of each class from there, of length 1.
        scale: of the logits, for offsets from the centre as long as they are.
        threshold: the cosine below which an image is of none of the classes; None where every class has one image.
    """

    centre: Floats
    centroids: Floats
    scale: float
    threshold: float | None

    def logits(self, embeddings: npt.NDArray[np.float32]) -> Floats:
        """Class scores (n, classes) of embeddings (n, dimensions)."""
        logits: Floats = self.scale * (embeddings - self.centre) @ self.centroids.T
        return logits

    def cosines(self, embeddings: npt.NDArray[np.float32]) -> Floats:
        """How near each image's direction from the centre is to each class's, (n, classes), -1 to 1."""
        cosines: Floats = _unit(embeddings - self.centre) @ self.centroids.T
        return cosines


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Each image of a support set against prototypes that were made without it.

    Attributes:
        nearest: (n,) the label of the nearest class; UNTESTED for the only image of a class.
    """

    support: SupportSet
    nearest: npt.NDArray[np.int64]

    @property
    def accuracy(self) -> float | None:
        """The share of images whose own class is nearest; None where nothing could be tested."""
        tested = self.nearest != UNTESTED
        return float((self.nearest == self.support.labels)[tested].mean()) if tested.any() else None

    def astray(self, name: str) -> dict[str, int]:
        """Of the images of a class, how many are nearer to each of the other classes; the most first."""
        label = self.support.classes.index(name)
        nearest = self.nearest[self.support.labels == label]
        others, counts = np.unique(nearest[(nearest != label) & (nearest != UNTESTED)], return_counts=True)
        found = {self.support.classes[other]: int(count) for other, count in zip(others, counts, strict=True)}
        return dict(sorted(found.items(), key=lambda one: -one[1]))


def head_of(support: SupportSet) -> PrototypeHead:
    """The nearest centroid by cosine, on centred embeddings (SimpleShot, Wang et al. 2019).

    The scale makes each image's label likeliest under the prototypes of the others; the threshold keeps KEPT_SHARE of
    the images by their best cosine with prototypes made without them.
    """
    geometry = _geometry(support)
    length = float(np.linalg.norm(support.embeddings - geometry.centre, axis=1).mean()) or 1.0
    best = geometry.left_out_cosines.max(1)[geometry.tested]
    threshold = float(np.sort(best)[int((1 - KEPT_SHARE) * len(best))]) if len(best) else None
    scale = _scale(geometry.left_out_cosines, support.labels) / length
    return PrototypeHead(geometry.centre, geometry.centroids, scale, threshold)


def left_out(support: SupportSet) -> LeftOut:
    """The check by leaving out one image at a time."""
    geometry = _geometry(support)
    return LeftOut(support, np.where(geometry.tested, geometry.left_out_cosines.argmax(1), UNTESTED))


def read_support(path: Path) -> SupportSet:
    """A support set from a file. Raises ClassesError if it is missing, altered, too large or of another format."""
    if not path.is_file():
        raise ClassesError(f"{path}: is missing from the bundle")
    if path.stat().st_size > LARGEST_FILE:
        raise ClassesError(f"{path}: is too large", f"{path.stat().st_size} bytes", f"at most {LARGEST_FILE}")
    try:
        arrays = _arrays(path.read_bytes())
        version, written, model = int(arrays["format_version"]), str(arrays["sha256"]), str(arrays["model"])
        classes = tuple(str(name) for name in arrays["classes"].tolist())
        embeddings, labels = arrays["embeddings"].astype("<f4", copy=False), arrays["labels"].astype("<i8", copy=False)
    except Exception as error:  # noqa: BLE001 - zipfile and numpy raise a dozen kinds on damaged bytes
        raise ClassesError(f"{path}: cannot be read: {str(error) or type(error).__name__}", next=_RESTORE) from None
    if version != FORMAT_VERSION:
        raise ClassesError(f"{path}: is of another format", version, FORMAT_VERSION, "bundle the model again")
    try:
        support = SupportSet(classes, embeddings, labels, model)
    except ClassesError as error:
        raise ClassesError(f"{path}: {error}", next=_RESTORE) from None
    if support.sha256 != written:
        raise ClassesError(f"{path}: was altered", f"sha256 {support.sha256}", f"sha256 {written}", _RESTORE)
    return support


def write_support(support: SupportSet, path: Path) -> None:
    """Replace a file by this support set, in one step that outlasts a power cut; equal sets give equal bytes.

    Raises ClassesError if it is too large. One process at a time may write.
    """
    content = io.BytesIO()
    np.savez(
        content,
        format_version=np.int64(FORMAT_VERSION),
        classes=np.array(support.classes),
        embeddings=support.embeddings,
        labels=support.labels,
        model=np.array(support.model),
        sha256=np.array(support.sha256),
    )
    if content.tell() > LARGEST_FILE:
        got = f"{len(support.labels)} images in {support.embeddings.shape[1]} dimensions, {content.tell()} bytes"
        raise ClassesError("these are too many images", got, f"at most {LARGEST_FILE} bytes", "take fewer of a class")
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
    """Where the images of a support set lie: cosines (n, classes), and which images are not the only one of a class."""

    centre: Floats
    centroids: Floats
    left_out_cosines: Floats
    tested: npt.NDArray[np.bool_]


def _geometry(support: SupportSet) -> _Geometry:
    features, labels = support.embeddings.astype(np.float64), support.labels
    centre = features.mean(0)
    directions = _unit(features - centre)
    sums = np.stack([directions[labels == label].sum(0) for label in range(len(support.classes))])
    centroids = _unit(sums)
    cosines = directions @ centroids.T
    tested = np.bincount(labels)[labels] > 1
    others = _unit(sums[labels] - directions)
    own = (others * directions).sum(1)
    cosines[tested, labels[tested]] = own[tested]
    return _Geometry(centre, centroids, cosines, tested)


def _scale(cosines: Floats, labels: npt.NDArray[np.int64]) -> float:
    """The scale that makes the labels most likely under softmax(scale · cosines)."""
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
    """The arrays of an .npz that was not compressed, so that they are no larger than the file; no pickles."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("it was compressed")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in FIELDS}
