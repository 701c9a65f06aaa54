"""Label images with the model of this bundle. Needs numpy, Pillow and ONNX Runtime; nothing else.

    python infer.py photo.jpg folder/
    python infer.py --json --top 3 photo.jpg
    python infer.py --verify

In a program, with this folder on sys.path: `from infer import Classifier; Classifier().predict(["photo.jpg"])`.
Exit status: 0 done; 1 some images could not be read; 2 the bundle or the call is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from preprocess import open_image, preprocess  # type: ignore[import-not-found]  # lies beside this file in a bundle

Image = str | Path | npt.NDArray[np.uint8]
LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
ERRORS_ONLY = 3
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
HERE = Path(__file__).resolve().parent


class BundleError(Exception):
    """A file of the bundle is missing or was altered."""


class Classifier:
    """The model of a bundle, ready to label images."""

    def __init__(self, folder: str | Path = HERE, threads: int = 1) -> None:
        """Load a bundle. Raises BundleError if the model, its labels or its IOSpec is not what the bundle recorded."""
        self.folder = Path(folder)
        self.record = read_record(self.folder)
        for name in ("model.onnx", "labels.txt", "iospec.json"):
            check_file(self.folder, name, self.record["files"][name])
        self.labels = (self.folder / "labels.txt").read_text(encoding="utf-8").splitlines()
        self.spec = json.loads((self.folder / "iospec.json").read_text(encoding="utf-8"))
        self._session = self._load(threads)

    def predict(self, images: Iterable[Image], top: int = 1) -> list[list[tuple[str, float]]]:
        """The `top` likeliest (label, confidence) of each image, best first.

        Args:
            images: files, or RGB arrays (height, width, 3) of uint8.

        Raises:
            ValueError: an image cannot be read.
        """
        return [self._likeliest(self.logits(image), top) for image in images]

    def logits(self, image: Image) -> npt.NDArray[np.float32]:
        """The scores (classes,) that the model gives one image."""
        picture = image if isinstance(image, np.ndarray) else open_image(image)
        pixels = preprocess(picture, **self.spec["preprocess"])
        batch = self.spec["inputs"][0]["shape"][0]
        repeated = np.repeat(pixels[np.newaxis], batch if isinstance(batch, int) else 1, axis=0)
        (scores,) = self._session.run([self.spec["outputs"][0]["name"]], {self.spec["inputs"][0]["name"]: repeated})
        first: npt.NDArray[np.float32] = scores[0]
        return first

    def _likeliest(self, logits: npt.NDArray[np.float32], top: int) -> list[tuple[str, float]]:
        exponents = np.exp(logits.astype(np.float64) - logits.max())
        confidence = exponents / exponents.sum()
        best = np.argsort(-confidence, kind="stable")[:top]
        return [(self.labels[index], float(confidence[index])) for index in best]

    def _load(self, threads: int) -> onnxruntime.InferenceSession:
        recorded = self.record["session_options"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        options.graph_optimization_level = LEVELS[recorded.get("graph_optimization_level", "all")]
        return onnxruntime.InferenceSession(
            str(self.folder / "model.onnx"),
            options,
            providers=self.record["runtime"]["providers"],
            disabled_optimizers=recorded.get("disabled_optimizers"),
        )


def verify(folder: Path) -> int:
    """Check every file of a bundle; gives their number. Files that the bundle does not name are no concern of it."""
    files = read_record(folder)["files"]
    for name, entry in files.items():
        check_file(folder, name, entry)
    return len(files)


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
    options = parser.parse_args(arguments)
    if not options.images and not options.verify:
        parser.error("give an image, a folder, or --verify")
    if options.top < 1 or options.threads < 1:
        parser.error("--top and --threads are at least 1")
    try:
        if options.verify:
            print(f"{verify(HERE)} files, all as they were bundled", file=sys.stderr)
        return label_files(Classifier(HERE, options.threads), options) if options.images else 0
    except BundleError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def label_files(classifier: Classifier, options: argparse.Namespace) -> int:
    """Print the labels of each image; those that cannot be read are named on stderr, and make the status 1."""
    status = 0
    for path in image_files(options.images):
        try:
            (likeliest,) = classifier.predict([path], options.top)
        except (OSError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            status = 1
            continue
        if options.json:
            labels = [{"label": label, "confidence": confidence} for label, confidence in likeliest]
            print(json.dumps({"image": str(path), "labels": labels}, ensure_ascii=False))
        else:
            print(f"{path}: " + ", ".join(f"{label} {confidence:.1%}" for label, confidence in likeliest))
    return status


def image_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Files as they are; of a folder, every picture below it, sorted."""
    for path in paths:
        if path.is_dir():
            yield from sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES)
        else:
            yield path


if __name__ == "__main__":
    sys.exit(main())
