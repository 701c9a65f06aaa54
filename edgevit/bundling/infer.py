"""Label images with the model of this bundle. Needs what requirements.txt names: numpy, Pillow and one runtime.

    python infer.py photo.jpg folder/
    python infer.py --json --top 3 photo.jpg
    python infer.py --verify
    python infer.py --unknown photo.jpg      # in a bundle that has a classes.npz

In a program, with this folder on sys.path: `from infer import Classifier; Classifier().predict(["photo.jpg"])`.
Exit status: 0 done; 1 some images could not be read; 2 the bundle or the call is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# They lie beside this file in a bundle.
from answers import LOGITS, probabilities  # type: ignore[import-not-found]
from preprocess import (  # type: ignore[import-not-found]
    open_image,
    passed_over_notes,
    pictures_below,
    preprocess,
    shown,
)

Image = str | Path | npt.NDArray[np.uint8]
Run = Callable[[list[str], dict[str, Any]], Sequence[Any]]  # (names of outputs, input by its name) → these outputs
ERRORS_ONLY = 3
CLASSES = "classes.npz"
UNKNOWN = "unknown"
STEERS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
HERE = Path(__file__).resolve().parent
EXPORT_EMBEDDING = "export the model with embedding: true, and bundle it with support: DATASET.support"
NO_THRESHOLD = "no image is unknown here: that needs a classes.npz with two images of a class or more"


class BundleError(Exception):
    """A file of the bundle is missing or was altered."""


class Answer(NamedTuple):
    """What the model says about an image.

    Attributes:
        labels: the likeliest (label, confidence), best first.
        cosine: how near the image is to the nearest class of classes.npz, -1 to 1; None in a bundle without that.
        unknown: whether that is too far for any class; None where it cannot be told.
    """

    labels: list[tuple[str, float]]
    cosine: float | None
    unknown: bool | None


class Classifier:
    """The model of a bundle, ready to label images.

    As bundled, the model's own classifier answers. Once classes were added or removed (classes.npz), the prototypes of
    the classes that are there now do.
    """

    def __init__(self, folder: str | Path = HERE, threads: int = 1) -> None:
        """Load a bundle. Raises BundleError if the model, its labels or its IOSpec is not what the bundle recorded."""
        self.folder = Path(folder)
        self.record = read_record(self.folder)
        for name in ("model.onnx", "labels.txt", "iospec.json"):
            check_file(self.folder, name, self.record["files"][name])
        self.labels = (self.folder / "labels.txt").read_text(encoding="utf-8").splitlines()
        self.spec = json.loads((self.folder / "iospec.json").read_text(encoding="utf-8"))
        self.support = read_classes(self.folder, self.record)
        self._head: Any = None
        self._answers_by_head = False
        if self.support is not None:
            self._use_classes()
        load = RUNTIMES[self.record["runtime"]["name"]]
        self._outputs = load(self.folder / "model.onnx", self.record["session_options"], threads)

    @property
    def threshold(self) -> float | None:
        """The cosine below which an image is of none of the classes; None where it cannot be told."""
        threshold: float | None = self._head and self._head.threshold
        return threshold

    def predict(self, images: Iterable[Image], top: int = 1) -> list[list[tuple[str, float]]]:
        """The `top` likeliest (label, confidence) of each image, best first.

        Args:
            images: files, or RGB arrays (height, width, 3) of uint8.

        Raises:
            ValueError: an image cannot be read.
        """
        return [self.answer(image, top).labels for image in images]

    def answer(self, image: Image, top: int = 1) -> Answer:
        """The `top` likeliest labels of one image, and whether it is of any of the classes."""
        if self._head is None:
            return Answer(self._likeliest(self.logits(image), top), None, None)
        scores, embedding = self._run(image, [output["name"] for output in self.spec["outputs"][:2]])
        if self._answers_by_head:
            scores = self._head.logits(embedding)
        cosine = float(self._head.cosines(embedding).max())
        unknown = None if self.threshold is None else cosine < self.threshold
        return Answer(self._likeliest(scores[0], top), cosine, unknown)

    def logits(self, image: Image) -> npt.NDArray[np.float32]:
        """What the model gives for one image: scores (classes,) in the order of `labels`, or what iospec.json names."""
        if self._answers_by_head:
            answered: npt.NDArray[np.float32] = self._head.logits(self.embedding(image)[np.newaxis])[0]
            return answered
        (scores,) = self._run(image, [self.spec["outputs"][0]["name"]])
        first: npt.NDArray[np.float32] = scores[0]
        return first

    def embedding(self, image: Image) -> npt.NDArray[np.float32]:
        """What enters the model's classifier, (dimensions,). Raises BundleError if the model does not give it."""
        names = [output["name"] for output in self.spec["outputs"]]
        if "embedding" not in names:
            raise BundleError(f"{self.folder}: the model gives no embedding\n  next: {EXPORT_EMBEDDING}")
        (embeddings,) = self._run(image, ["embedding"])
        first: npt.NDArray[np.float32] = embeddings[0]
        return first

    def _run(self, image: Image, outputs: list[str]) -> list[npt.NDArray[np.float32]]:
        """These outputs for one image, each (1, …)."""
        picture = image if isinstance(image, np.ndarray) else open_image(image)
        pixels = preprocess(picture, **self.spec["preprocess"])
        batch = self.spec["inputs"][0]["shape"][0]
        repeated = np.repeat(pixels[np.newaxis], batch if isinstance(batch, int) else 1, axis=0)
        return [given[:1] for given in self._outputs(outputs, {self.spec["inputs"][0]["name"]: repeated})]

    def _likeliest(self, logits: npt.NDArray[Any], top: int) -> list[tuple[str, float]]:
        meaning = LOGITS if self._answers_by_head else self.spec["outputs"][0]["meaning"]
        confidence = probabilities(logits[np.newaxis], meaning)[0]
        best = np.argsort(-confidence, kind="stable")[:top]
        return [(self.labels[index], float(confidence[index])) for index in best]

    def _use_classes(self) -> None:
        from prototypes import head_of  # type: ignore[import-not-found]  # in bundles with a classes.npz only

        got, expected = self.support.model, self.record["files"]["model.onnx"]["sha256"]
        if got != expected:
            file = self.folder / CLASSES
            raise BundleError(f"{file}: is of another model\n  got: sha256 {got}\n  expected: sha256 {expected}")
        self._head = head_of(self.support)
        self._answers_by_head = self.support.sha256 != self.record["changeable"][CLASSES]["sha256_as_bundled"]
        if self._answers_by_head:
            self.labels = list(self.support.classes)


def in_onnxruntime(model: Path, recorded: dict[str, Any], threads: int) -> Run:
    """The model in ONNX Runtime, with the session options that the bundle recorded."""
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    off = recorded.get("graph_optimization_level") == "disabled"
    options.graph_optimization_level = levels.ORT_DISABLE_ALL if off else levels.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(
        str(model),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=recorded.get("disabled_optimizers"),
    )
    run: Run = session.run
    return run


def in_openvino(model: Path, recorded: dict[str, Any], threads: int) -> Run:
    """The same in OpenVINO."""
    import openvino

    precision = {"float32": "f32", "bfloat16": "bf16"}[recorded.get("inference_precision", "float32")]
    properties = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    core = openvino.Core()
    read = core.read_model(model)
    read.reshape([1 if axis.is_dynamic else axis.get_length() for axis in read.input().partial_shape])
    request = core.compile_model(read, "CPU", properties).create_infer_request()

    def run(outputs: list[str], feed: dict[str, Any]) -> list[Any]:
        found = request.infer(feed)
        return [found[name] for name in outputs]

    return run


RUNTIMES = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}


def verify(folder: Path) -> int:
    """Check every file of a bundle; gives how many have to be as they were bundled.

    classes.npz, which may change, is held against its own hash. Files that the bundle does not name are no concern.
    """
    record = read_record(folder)
    files = record["files"]
    for name, entry in files.items():
        check_file(folder, name, entry)
    read_classes(folder, record)
    return len(files)


def read_classes(folder: Path, record: dict[str, Any]) -> Any:
    """The support set in a bundle's classes.npz, which holds a hash of its own; None in a bundle without that file."""
    if CLASSES not in record.get("changeable", {}):
        return None
    from prototypes import ClassesError, read_support

    try:
        return read_support(folder / CLASSES)
    except ClassesError as error:
        raise BundleError(str(error)) from None


def read_record(folder: Path) -> dict[str, Any]:
    """bundle.json."""
    try:
        record: dict[str, Any] = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder / 'bundle.json'}: cannot be read: {error}") from None
    return record


def check_file(folder: Path, name: str, entry: dict[str, Any]) -> None:
    """Raise BundleError if a file is missing or is not the one that was bundled."""
    path = folder / name
    if not path.is_file():
        raise BundleError(f"{path}: is missing from the bundle")
    got = sha256(path)
    if got != entry["sha256"]:
        raise BundleError(f"{path}: was altered\n  got: sha256 {got}\n  expected: sha256 {entry['sha256']}")


def sha256(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit status."""
    parser = argparse.ArgumentParser(description="Label images with the model of this bundle.")
    parser.add_argument("images", nargs="*", type=Path, help="image files, or folders of them")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="labels to show for each image")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads")
    parser.add_argument("--verify", action="store_true", help="check the hash of every file of the bundle")
    parser.add_argument("--unknown", action="store_true", help="say so where an image is of none of the classes")
    options = parser.parse_args(arguments)
    if not options.images and not options.verify:
        parser.error("give an image, a folder, or --verify")
    if options.top < 1 or options.threads < 1:
        parser.error("--top and --threads are at least 1")
    try:
        if options.verify:
            print(f"{verify(HERE)} files, all as they were bundled", file=sys.stderr)
        if not options.images:
            return 0
        classifier = Classifier(HERE, options.threads)
        if options.unknown and classifier.threshold is None:
            raise BundleError(f"{HERE}: {NO_THRESHOLD}")
        return label_files(classifier, options)
    except BundleError as error:
        complain(error)
        return 2
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def label_files(classifier: Classifier, options: argparse.Namespace) -> int:
    """Print the labels of each image; those that cannot be read are named on stderr, and make the status 1."""
    status = 0
    for path in image_files(options.images):
        try:
            answer = classifier.answer(path, options.top)
        except (OSError, ValueError) as error:
            complain(f"{printable(str(path))}: {error}")
            status = 1
            continue
        said = json.dumps(as_json(path, answer), ensure_ascii=False) if options.json else line(path, answer, options)
        print(printable(said))
    return status


def complain(error: object) -> None:
    """Print an error, which may have several lines, on stderr."""
    print(*map(printable, str(error).split("\n")), sep="\n", file=sys.stderr)


def printable(text: str) -> str:
    """One line without what would steer a terminal: `\\u001b` stands for ESC, as in JSON."""
    return STEERS.sub(lambda steering: f"\\u{ord(steering[0]):04x}", text)


def as_json(path: Path, answer: Answer) -> dict[str, Any]:
    """One answer for a program."""
    labels = [{"label": label, "confidence": confidence} for label, confidence in answer.labels]
    about = {} if answer.cosine is None else {"cosine": answer.cosine, "unknown": answer.unknown}
    return {"image": shown(path), "labels": labels, **about}


def line(path: Path, answer: Answer, options: argparse.Namespace) -> str:
    """One answer for a person."""
    if options.unknown and answer.unknown:
        return f"{shown(path)}: {UNKNOWN} (cosine {answer.cosine:.3f})"
    return f"{shown(path)}: " + ", ".join(f"{label} {confidence:.1%}" for label, confidence in answer.labels)


def image_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Files as they are; of a folder, every picture below it, sorted, and folders in it that cannot be listed.

    What is passed over is said on stderr.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = pictures_below(path)
        for note in passed_over_notes(found.passed_over, path):
            complain(f"note: {shown(path)}: {note}")
        yield from found.pictures
        yield from (Path(error.filename) for error in found.unreadable)


if __name__ == "__main__":
    sys.exit(main())
