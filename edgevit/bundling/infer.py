"""Label images with the model of this bundle.

Needs Python 3.9 or later and the packages in requirements.txt: numpy, Pillow and a runtime.

    python infer.py photo.jpg folder/
    python infer.py --json --top 3 photo.jpg
    python infer.py --verify
    python infer.py --unknown photo.jpg      # in a bundle that has a classes.npz
    python infer.py --watch folder/          # label each new image of the folder, until it is stopped
    python infer.py --onnx photo.jpg         # in a bundle with a TensorRT engine: run model.onnx in ONNX Runtime

In a program, with this folder on sys.path: `from infer import Classifier; Classifier().predict(["photo.jpg"])`.
Exit status: 0 done; 1 some images could not be read; 2 the bundle or the call is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Union

import numpy as np
import numpy.typing as npt

Image = Union[str, Path, npt.NDArray[np.uint8]]
Run = Callable[[list[str], dict[str, Any]], Sequence[Any]]  # (names of outputs, input by its name) → the outputs
RUNTIMES = ("onnxruntime", "openvino")
RECORD = "bundle.json"
MODEL = "model.onnx"
ENGINE = "model.engine"  # in bundles of a TensorRT engine, beside model.onnx
NEEDED = (MODEL, "labels.txt", "iospec.json", "infer.py", "preprocess.py", "answers.py")
LARGEST_TEXT = 2**26  # bytes of a file that is read as a whole
LARGEST_SIDE = 2**13  # pixels of the model's input
LARGEST_BATCH = 2**10
MOST_THREADS = 256
MOST_LABELS = 1_000_000
CLASSES = "classes.npz"
EMBEDDING = "embedding"
UNKNOWN = "unknown"
LOOK_SECONDS = 0.5  # between two looks into a watched folder
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
HERE = Path(__file__).resolve().parent
EXPORT_EMBEDDING = "export the model with embedding: true, and bundle it with support: DATASET.support"
NO_THRESHOLD = "--unknown needs a classes.npz with at least two images of a class"


class BundleError(Exception):
    """A file of the bundle is missing, was altered, or cannot be used."""


class Answer(NamedTuple):
    """The prediction for an image.

    Attributes:
        labels: the best (label, confidence), best first.
        cosine: the cosine with the nearest class of classes.npz, -1 to 1; None in a bundle without classes.npz.
        unknown: whether the image is too far from every class; None without a threshold.
    """

    labels: list[tuple[str, float]]
    cosine: float | None
    unknown: bool | None


class Classifier:
    """The model of a bundle, ready to label images.

    The model's own classifier labels the images until classes are added or removed (classes.npz). After that, the label
    is the class with the nearest prototype.
    """

    def __init__(
        self, folder: str | Path = HERE, threads: int = 1, onnx: bool = False, engine: str | Path | None = None
    ) -> None:
        """Load a bundle. Raises BundleError if a file was altered, or cannot be used.

        Args:
            onnx: run model.onnx, also in a bundle with a TensorRT engine.
            engine: an engine that was built on this machine, to run in place of both. Nothing checks it.
        """
        self.folder = Path(folder)
        self.record = read_record(self.folder)
        self._preprocessing = shipped("preprocess")
        require("engine" in self.record or engine is None, self.folder / RECORD, "an engine; this bundle has none")
        runs_engine = engine is not None or ("engine" in self.record and not onnx)
        self._model = Path(engine) if engine else self.folder / (ENGINE if runs_engine else MODEL)
        if engine is None:
            check_file(self.folder, self._model.name, self.record["files"][self._model.name])
        self.labels, self.spec = read_labels(self.folder, self.record), read_spec(self.folder, self.record)
        self.support = read_classes(self.folder, self.record)
        self._head: Any = None
        self._answers_by_head = False
        if self.support is not None:
            self._use_classes()
        if runs_engine:
            self._outputs = load_engine(self._model, self.folder, self.record, threads)
        else:
            self._outputs = load_model(self._model, self.record, threads)

    @property
    def threshold(self) -> float | None:
        """The cosine below which an image belongs to none of the classes; None if it was not measured."""
        threshold: float | None = self._head and self._head.threshold
        return threshold

    def predict(self, images: Iterable[Image], top: int = 1) -> list[list[tuple[str, float]]]:
        """The `top` best (label, confidence) of each image, best first.

        Args:
            images: files, or RGB arrays (height, width, 3) of uint8.

        Raises:
            ValueError: an image cannot be read, or its output is NaN or infinity.
            BundleError: the model does not run.
        """
        return [self.answer(image, top).labels for image in images]

    def answer(self, image: Image, top: int = 1) -> Answer:
        """The `top` best labels of one image, and whether it is unknown. Raises as `predict`."""
        if self._head is None:
            return Answer(self._likeliest(self.logits(image), top), None, None)
        scores, embedding = self._run(image, [self.spec["outputs"][0]["name"], EMBEDDING])
        if self._answers_by_head:
            scores = self._head.logits(embedding)
        cosine = float(self._head.cosines(embedding).max())
        unknown = None if self.threshold is None else cosine < self.threshold
        return Answer(self._likeliest(scores[0], top), cosine, unknown)

    def logits(self, image: Image) -> npt.NDArray[np.float32]:
        """The scores of one image, (classes,), in the order of `labels`."""
        if self._answers_by_head:
            logits: npt.NDArray[np.float32] = self._head.logits(self.embedding(image)[np.newaxis])[0]
            return logits
        (scores,) = self._run(image, [self.spec["outputs"][0]["name"]])
        first: npt.NDArray[np.float32] = scores[0]
        return first

    def embedding(self, image: Image) -> npt.NDArray[np.float32]:
        """The input of the model's classifier, (dimensions,). Raises BundleError if the model does not output it."""
        names = [output["name"] for output in self.spec["outputs"]]
        if EMBEDDING not in names:
            raise BundleError(f"{self.folder}: the model has no embedding output\n  next: {EXPORT_EMBEDDING}")
        (embeddings,) = self._run(image, [EMBEDDING])
        first: npt.NDArray[np.float32] = embeddings[0]
        return first

    def _run(self, image: Image, outputs: list[str]) -> list[npt.NDArray[np.float32]]:
        """The named outputs for one image, each (1, width)."""
        decoded = image if isinstance(image, np.ndarray) else self._preprocessing.open_image(image)
        pixels = self._preprocessing.preprocess(decoded, **self.spec["preprocess"])
        batch = self.spec["inputs"][0]["shape"][0]
        repeated = np.repeat(pixels[np.newaxis], batch if isinstance(batch, int) else 1, axis=0)
        try:
            tensors = self._outputs(outputs, {self.spec["inputs"][0]["name"]: repeated})
            results = [np.asarray(tensor)[:1] for tensor in tensors]
        except Exception as error:  # noqa: BLE001 - each runtime has its own exceptions
            raise BundleError(f"{self._model}: does not run: {first_line(error)}") from None
        for name, values in zip(outputs, results):
            unnamed = name != EMBEDDING and values.shape[-1:] > (len(self.labels),) and not self._answers_by_head
            if values.ndim != 2 or not values.size or unnamed:
                raise BundleError(f"{self._model}: {name} has shape {values.shape}, unlike in iospec.json")
            if not np.isfinite(values if name == EMBEDDING else values.max()).all():
                raise ValueError(f"the model's output '{name}' is NaN or infinite")
        return results

    def _likeliest(self, logits: npt.NDArray[Any], top: int) -> list[tuple[str, float]]:
        class_scores = shipped("answers")
        meaning = class_scores.LOGITS if self._answers_by_head else self.spec["outputs"][0].get("meaning", "")
        confidence = class_scores.probabilities(logits[np.newaxis], meaning)[0]
        best = np.argsort(-confidence, kind="stable")[:top]
        return [(self.labels[index], float(confidence[index])) for index in best]

    def _use_classes(self) -> None:
        got, expected = self.support.model, self.record["files"][MODEL]["sha256"]
        if got != expected:
            file = self.folder / CLASSES
            raise BundleError(f"{file}: is of another model\n  got: sha256 {got}\n  expected: sha256 {expected}")
        self._head = shipped("prototypes").head_of(self.support)
        self._answers_by_head = self.support.sha256 != self.record["changeable"][CLASSES]["sha256_as_bundled"]
        if self._answers_by_head:
            self.labels = list(self.support.classes)


def load_model(model: Path, record: dict[str, Any], threads: int) -> Run:
    """The model in the recorded runtime. Raises BundleError if it cannot be loaded."""
    name = record["runtime"]["name"]
    loaders = shipped("runtimes").LOADERS
    try:
        run: Run = loaders[name](model, record["session_options"], threads)
        return run
    except ImportError as error:
        next_step = "python -m pip install -r requirements.txt"
        raise BundleError(f"{name} cannot be imported: {first_line(error)}\n  next: {next_step}") from None
    except Exception as error:  # noqa: BLE001 - each runtime has its own exceptions
        raise BundleError(f"{model}: {name} cannot load it: {first_line(error)}") from None


def load_engine(engine: Path, folder: Path, record: dict[str, Any], threads: int) -> Run:
    """A TensorRT engine. Raises BundleError if it cannot be loaded, or the bundle's is bound to another machine."""
    about, machine = record["engine"], shipped("engine")
    next_step = machine.next_step(about, folder)
    try:
        version = machine.tensorrt_version()
    except Exception as error:  # noqa: BLE001 - without TensorRT's libraries, its module raises other errors
        why = f"this Python cannot import tensorrt: {first_line(error)}"
        raise BundleError(f"{why}\n  next: {machine.MODULE_STEP}. Or {machine.ONNX_STEP}") from None
    is_own = engine == folder / ENGINE
    found = machine.differences(about, version) if is_own else []
    if found:
        why = f"{engine}: was built for another machine, '{about['bound_to']['name']}'"
        raise BundleError(f"{why}\n  got: {'; '.join(found)}\n  next: {next_step}")
    try:
        run: Run = shipped("tensorrt_loading").in_tensorrt(engine, about["session_options"], threads)
        return run
    except BundleError:
        raise
    except Exception as error:  # noqa: BLE001 - TensorRT's and CUDA's own exceptions
        why = f"{engine}: TensorRT {version} cannot load it: {first_line(error)}"
        raise BundleError(f"{why}\n  next: {next_step}") from None


@cache
def shipped(name: str) -> Any:
    """A program beside this file, as a module. In a bundle its hash is checked first.

    The module is compiled from the checked bytes, not from __pycache__.
    """
    file = HERE / f"{name}.py"
    # Without a record beside it, this is edgevit's own copy, for a bundle in another folder.
    is_bundle = (HERE / RECORD).is_file()
    source = checked_bytes(HERE, file.name, read_record(HERE)) if is_bundle else read_bytes(file)
    module = ModuleType(f"shipped_{name}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses look themselves up there
    exec(compile(source, file, "exec"), module.__dict__)
    return module


def verify(folder: Path) -> int:
    """Check every file that the bundle records; returns their number.

    classes.npz, which may change, is checked with its own hash. Other files in the folder are ignored.
    """
    record = read_record(folder)
    files = record["files"]
    for name, entry in files.items():
        check_file(folder, name, entry)
    read_classes(folder, record)
    return len(files)


def read_classes(folder: Path, record: dict[str, Any]) -> Any:
    """The support set in a bundle's classes.npz, checked with its own hash; None in a bundle without that file."""
    if CLASSES not in record["changeable"]:
        return None
    prototypes = shipped("prototypes")
    try:
        return prototypes.read_support(folder / CLASSES)
    except prototypes.ClassesError as error:
        raise BundleError(str(error)) from None


def read_labels(folder: Path, record: dict[str, Any]) -> list[str]:
    """labels.txt: the model's classes in the order of its outputs."""
    content = checked_bytes(folder, "labels.txt", record)
    try:
        return content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BundleError(f"{folder / 'labels.txt'}: is not UTF-8: {error}") from None


def read_spec(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """iospec.json, with a check of the parts that are used here. Raises BundleError if they are invalid."""
    file = folder / "iospec.json"
    spec = parsed(checked_bytes(folder, file.name, record), file)
    for name in ("inputs", "outputs"):
        are_named = is_list(spec.get(name), dict) and all(isinstance(tensor.get("name"), str) for tensor in spec[name])
        require(are_named, file, f"{name}: a list of {{name, shape}}")
    require(spec["outputs"][0]["name"] != EMBEDDING, file, "the class scores as the first output")
    shape = spec["inputs"][0].get("shape")
    has_batch = is_list(shape) and (isinstance(shape[0], str) or is_count(shape[0], LARGEST_BATCH))
    require(has_batch, file, f"the first input's shape, whose batch is a name or 1 to {LARGEST_BATCH}")
    require(is_list(spec.get("classes"), str), file, "classes: a list of names")
    if CLASSES in record["changeable"]:
        require(any(output["name"] == EMBEDDING for output in spec["outputs"]), file, f"an output '{EMBEDDING}'")
    check_preprocess(spec.get("preprocess"), file)
    return spec


def check_preprocess(rule: Any, file: Path) -> None:
    """Raise BundleError unless the rule holds valid keywords of `preprocess`."""
    keywords = {
        name: parameter.default
        for name, parameter in inspect.signature(shipped("preprocess").preprocess).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    required = {name for name, default in keywords.items() if default is inspect.Parameter.empty}
    are_keywords = isinstance(rule, dict) and required <= rule.keys() <= keywords.keys()
    require(are_keywords, file, f"preprocess: {{{', '.join(keywords)}}}")
    for name in ("height", "width"):
        require(is_count(rule[name], LARGEST_SIDE), file, f"preprocess.{name}: 1 to {LARGEST_SIDE}")
    require(is_number(rule["crop_pct"]) and 0.01 <= rule["crop_pct"] <= 100, file, "preprocess.crop_pct: 0.01 to 100")
    for name in ("mean", "std"):
        is_color = is_list(rule[name]) and len(rule[name]) == 3 and all(map(is_number, rule[name]))
        require(is_color and (name == "mean" or min(rule[name]) > 0), file, f"preprocess.{name}: three numbers")
    for name in keywords.keys() & {"resize", "interpolation"}:
        require(isinstance(rule[name], str), file, f"preprocess.{name}: a word")


def read_record(folder: Path) -> dict[str, Any]:
    """bundle.json, with a check of the parts that are used here. Raises BundleError if it is not a bundle's record."""
    file = folder / RECORD
    record = parsed(read_bytes(file), file)
    require(record.get("format") == "edgevit-bundle", file, "format: edgevit-bundle")
    require(record.get("format_version") == 1, file, "format_version: 1; another version of edgevit wrote this bundle")
    files: Any = record.get("files")
    are_entries = isinstance(files, dict) and all(is_entry(name, entry) for name, entry in files.items())
    require(are_entries, file, "files: {name: {sha256, size}}, without folders")
    require(set(NEEDED) <= record["files"].keys(), file, f"files: {', '.join(NEEDED)}")
    runtime = record.get("runtime")
    is_known = isinstance(runtime, dict) and isinstance(runtime.get("name"), str) and runtime["name"] in RUNTIMES
    require(is_known, file, f"runtime.name: {' or '.join(RUNTIMES)}")
    require(are_session_options(record.get("session_options")), file, "session_options of the runtime")
    changeable = record.setdefault("changeable", {})
    are_hashed = isinstance(changeable, dict) and all(
        isinstance(entry, dict) and is_hash(entry.get("sha256_as_bundled")) for entry in changeable.values()
    )
    require(are_hashed, file, "changeable: {name: {sha256_as_bundled}}")
    if "engine" in record:
        require(ENGINE in files and is_engine(record["engine"]), file, f"engine: the record of files: {ENGINE}")
    return record


def is_engine(value: Any) -> bool:
    """Whether this is the record of a TensorRT engine."""
    parts = value if isinstance(value, dict) else {}
    options, bound_to, rebuild = (parts.get(name) for name in ("session_options", "bound_to", "rebuild"))
    if not isinstance(options, dict) or not isinstance(bound_to, dict) or not is_list(rebuild, str):
        return False
    versions, hardware = bound_to.get("versions"), bound_to.get("hardware")
    if not isinstance(versions, dict) or not isinstance(hardware, dict):
        return False
    gpus, names = hardware.get("gpus") or [], [hardware.get(name) for name in ("module", "model")]
    return (
        isinstance(bound_to.get("name"), str)
        and isinstance(versions.get("tensorrt"), str)
        and (gpus == [] or is_list(gpus, str))
        and all(name is None or isinstance(name, str) for name in names)
        and (options.get("max_batch") is None or is_count(options["max_batch"], LARGEST_BATCH))
    )


def are_session_options(value: Any) -> bool:
    """Whether these are session options that edgevit records."""
    if not isinstance(value, dict):
        return False
    disabled = value.get("disabled_optimizers")
    return (
        value.get("graph_optimization_level") in (None, "disabled", "all")
        and (disabled is None or disabled == [] or is_list(disabled, str))
        and isinstance(value.get("exact_sums", True), bool)
        and value.get("inference_precision", "float32") in ("float32", "bfloat16")
    )


def is_entry(name: str, entry: Any) -> bool:
    """Whether this is the record of a file in the bundle's own folder, without subfolders."""
    return Path(name).name == name and "\0" not in name and isinstance(entry, dict) and is_hash(entry.get("sha256"))


def is_hash(value: Any) -> bool:
    """Whether this is a sha256 in hexadecimal digits."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def is_list(value: Any, of: type = object) -> bool:
    """Whether this is a list of at least one value of this type."""
    return isinstance(value, list) and len(value) > 0 and all(isinstance(item, of) for item in value)


def is_count(value: Any, most: int) -> bool:
    """Whether this is a whole number from 1 to `most`."""
    return type(value) is int and 1 <= value <= most


def is_number(value: Any) -> bool:
    """Whether this is a number that float32 can hold."""
    return type(value) in (int, float) and abs(value) < 1e30  # false for NaN


def require(condition: bool, file: Path, expected: str) -> None:
    """Raise BundleError unless a condition on the content of a file holds."""
    if not condition:
        raise BundleError(f"{file}: cannot be used\n  expected: {expected}")


def parsed(content: bytes, file: Path) -> dict[str, Any]:
    """The JSON object in a file's bytes."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file}: is not JSON: {first_line(error)}") from None
    if not isinstance(value, dict):
        raise BundleError(f"{file}: cannot be used\n  expected: a JSON object")
    return value


def checked_bytes(folder: Path, name: str, record: dict[str, Any]) -> bytes:
    """A file's bytes. Raises BundleError if the file was altered."""
    content = read_bytes(folder / name)
    entry = record["files"].get(name)
    require(entry is not None, folder / RECORD, f"files: {name}")
    check_hash(folder / name, hashlib.sha256(content).hexdigest(), entry)
    return content


def check_file(folder: Path, name: str, entry: dict[str, Any]) -> None:
    """Raise BundleError if a file of any size is missing or was altered."""
    path = folder / name
    if not path.is_file():
        raise BundleError(f"{path}: is missing from the bundle")
    try:
        check_hash(path, sha256(path), entry)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error}") from None


def check_hash(path: Path, got: str, entry: dict[str, Any]) -> None:
    """Raise BundleError if a file's hash is not the recorded one."""
    if got != entry["sha256"]:
        raise BundleError(f"{path}: was altered\n  got: sha256 {got}\n  expected: sha256 {entry['sha256']}")


def read_bytes(path: Path) -> bytes:
    """The bytes of a small file of the bundle."""
    try:
        if not path.is_file():
            raise BundleError(f"{path}: is missing from the bundle")
        if path.stat().st_size > LARGEST_TEXT:
            raise BundleError(f"{path}: is too large\n  expected: at most {LARGEST_TEXT} bytes")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error}") from None


def sha256(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Label images with the model of this bundle.")
    parser.add_argument("images", nargs="*", type=Path, help="image files, or folders of them")
    labels, threads = count_to(MOST_LABELS), count_to(MOST_THREADS)
    parser.add_argument("--top", type=labels, default=1, metavar="K", help="labels for each image; 1 by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--threads", type=threads, default=1, metavar="N", help="CPU threads; 1 by default")
    parser.add_argument("--verify", action="store_true", help="check the hash of every file of the bundle")
    parser.add_argument("--unknown", action="store_true", help="answer `unknown` for images of none of the classes")
    parser.add_argument("--onnx", action="store_true", help="run model.onnx, also where there is a TensorRT engine")
    parser.add_argument("--engine", type=Path, metavar="FILE", help="run a TensorRT engine that you built here")
    parser.add_argument("--watch", type=Path, metavar="FOLDER", help="label each new image of a folder, until stopped")
    options = parser.parse_args(arguments)
    if not options.images and not options.verify and options.watch is None:
        parser.error("give an image, a folder, --watch or --verify")
    if options.onnx and options.engine is not None:
        parser.error("--onnx and --engine do not go together")
    try:
        if options.verify:
            print(f"{verify(HERE)} files, all as they were bundled", file=sys.stderr)
        if not options.images and options.watch is None:
            return 0
        classifier = Classifier(HERE, options.threads, options.onnx, options.engine)
        if options.unknown and classifier.threshold is None:
            raise BundleError(f"{HERE}: {NO_THRESHOLD}")
        if options.unknown:
            measured = shipped("prototypes").rates(classifier.support)
            complain("\n".join(measured.lines()[1:]))
        status = label_files(classifier, options)
        return status if options.watch is None else watch(classifier, options)
    except BundleError as error:
        complain(error)
        return 2
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def count_to(most: int) -> Callable[[str], int]:
    """A type for argparse: a whole number from 1 to `most`."""

    def count(text: str) -> int:
        if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text[:20]} should be a whole number from 1 to {most}")
        return int(text)

    return count


def label_files(classifier: Classifier, options: argparse.Namespace) -> int:
    """Print the labels of each image; returns 1 if an image cannot be read, after a message on stderr."""
    are_labelled = [label_file(classifier, path, options) for path in image_files(options.images)]
    return 0 if all(are_labelled) else 1


def label_file(classifier: Classifier, path: Path, options: argparse.Namespace) -> bool:
    """Print the labels of an image. Returns False if it cannot be read, after a message on stderr."""
    try:
        answer = classifier.answer(path, options.top)
    except (OSError, ValueError) as error:
        complain(f"{path}: {error}")
        return False
    text = json.dumps(as_json(path, answer), ensure_ascii=False) if options.json else line(path, answer, options)
    print(printable(text), flush=options.watch is not None)
    return True


def watch(classifier: Classifier, options: argparse.Namespace) -> int:
    """Label each image that is in a folder or comes into it, until SIGINT or SIGTERM.

    A file is read once two looks find the same size and time of it. A file that changes is labelled again. Raises
    BundleError if there is no such folder.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    before: dict[Path, tuple[int, int]] = {}
    labelled: dict[Path, tuple[int, int]] = {}
    with suppress(KeyboardInterrupt):
        while True:
            now = dict(image_states(options.watch))
            whole = {path: state for path, state in now.items() if before.get(path) == state}
            for path in whole:
                if labelled.get(path) != whole[path]:
                    label_file(classifier, path, options)
            before, labelled = now, whole
            time.sleep(LOOK_SECONDS)
    return 0


def image_states(folder: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Each image below a folder, with the time of its last change in ns, and its size."""
    require(folder.is_dir(), folder, "a folder of images")
    for path in shipped("preprocess").images_below(folder).images:
        with suppress(OSError):  # removed in the meantime
            status = path.stat()
            yield path, (status.st_mtime_ns, status.st_size)


def complain(error: object) -> None:
    """Print an error, which may have several lines, on stderr."""
    print(*map(printable, str(error).split("\n")), sep="\n", file=sys.stderr)


def printable(text: str) -> str:
    """A line with control characters escaped as in JSON: `\\u001b` for ESC."""
    return CONTROLS.sub(lambda control: f"\\u{ord(control[0]):04x}", text)


def as_json(path: Path, answer: Answer) -> dict[str, Any]:
    """An answer for programs."""
    labels = [{"label": label, "confidence": confidence} for label, confidence in answer.labels]
    about = {} if answer.cosine is None else {"cosine": answer.cosine, "unknown": answer.unknown}
    return {"image": str(path), "labels": labels, **about}


def line(path: Path, answer: Answer, options: argparse.Namespace) -> str:
    """An answer for people."""
    if options.unknown and answer.unknown:
        return f"{path}: {UNKNOWN} (cosine {answer.cosine:.3f})"
    return f"{path}: " + ", ".join(f"{label} {confidence:.1%}" for label, confidence in answer.labels)


def image_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files among these paths, and every image below the folders, sorted; also subfolders that cannot be listed.

    Notes on stderr name the files in folders that are skipped.
    """
    images = shipped("preprocess")
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        below = images.images_below(path)
        for note in images.passed_over_notes(below.passed_over, path):
            complain(f"note: {path}: {note}")
        yield from below.images
        yield from (Path(error.filename) for error in below.unreadable)


if __name__ == "__main__":
    sys.exit(main())
