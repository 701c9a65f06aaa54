"""Write a bundle, and check that it predicts as the model does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from PIL import Image

from edgevit.artifacts import EMBEDDING, Artifact, Json, sha256_of_file
from edgevit.bundling.classes import ClassImages, write_classes
from edgevit.bundling.prototypes import FILE as CLASSES
from edgevit.bundling.prototypes import head_of, rates, read_support
from edgevit.bundling.requirements import packages_of, requirements_text
from edgevit.bundling.runner import ENROLLING, HERE, RECORD, RUNNER, environment, write_runner
from edgevit.bundling.web import LICENCE, Page, write_page
from edgevit.data.preprocess import open_image, preprocess
from edgevit.errors import ArtifactError, ParityError
from edgevit.graphs.class_scores import probabilities
from edgevit.graphs.files import copy_onnx
from edgevit.model_file import json_of_options
from edgevit.progress import Progress, SilentProgress
from edgevit.provenance import version_of
from edgevit.runtimes.base import SessionOptions, fixed_batch, runtime_of
from edgevit.runtimes.sessions import open_session
from edgevit.version import __version__

MODEL_LICENCE = (
    "model.onnx: depends on the licenses of its first weights and of its training images, which are not recorded here."
)
PORTABLE = "A portable ONNX file: any machine with this runtime runs it."
MACHINE_SPECIFIC = (
    "This graph was optimized for the machine it was compiled and measured on. Other machines may refuse it or run it "
    "slowly. For a portable bundle, bundle the ONNX file that it was compiled from."
)
# For one image in two processes with the same kernels: only float32 rounding may differ.
TOLERANCE = 1e-4


def write_bundle(
    model: Artifact,
    out: Path,
    images: ClassImages | None = None,
    progress: Progress | None = None,
    page: Page | None = None,
) -> Json:
    """Write the model, its labels and IOSpec, a runner, and a record of them into `out`; returns the bundle's metrics.

    Args:
        images: labelled images of each class, so that classes can be added later.
        page: adds a page for browsers.

    Raises:
        ArtifactError: the model file was altered, a class name cannot be a line of labels.txt, or there is a support
            set and the model has no embedding output.
        DataError: images are unlabelled or too many, or their classes are not the model's.
    """
    copy_onnx(model, out / "model.onnx")
    (out / "labels.txt").write_text(_labels(model), encoding="utf-8", newline="\n")
    _write_json(out / "iospec.json", model.io.model_dump(mode="json"))
    programs = RUNNER if images is None else RUNNER | ENROLLING
    write_runner(out, programs)
    (out / "requirements.txt").write_text(_requirements(model, out / "model.onnx"), encoding="utf-8")
    (out / "README.md").write_text(_readme(model, images, page), encoding="utf-8")
    web = None if page is None else write_page(model, out, page, progress or SilentProgress())
    files: dict[str, Json] = {
        path.name: {"sha256": sha256_of_file(path), "size": path.stat().st_size} for path in sorted(out.iterdir())
    }
    record = _record(model, files, programs)
    if web is not None:
        record["web"] = web
        record["licences"].append(LICENCE)
    metrics: Json = {"precision": model.model_file.precision, "runtime": runtime_of(model)}
    if images is not None:
        classes = write_classes(model, images, out, progress or SilentProgress())
        metrics["nearest_class"] = asdict(rates(classes))
        record["changeable"] = {CLASSES: {"sha256_as_bundled": classes.sha256, "images": len(classes.labels)}}
        record["nearest_class"] = metrics["nearest_class"]
    size_bytes = sum(path.stat().st_size for path in out.iterdir())
    _write_json(out / RECORD, record)
    return {**metrics, "size_bytes": size_bytes}


def check_bundle(model: Artifact, bundle: Path, work: Path) -> None:
    """Label one seeded image with the bundle's `infer.py`, in its own process, and with the model here; compare.

    Args:
        work: a folder for the image.

    Raises:
        ParityError: the two do not agree, or the bundle does not run.
    """
    image = work / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((320, 240)).save(image)
    got, expected = _prediction_of_bundle(bundle, image), _prediction_here(model, bundle, image)
    differences = np.abs(np.subtract(got.numbers, expected.numbers))
    if got.label != expected.label or not (differences <= TOLERANCE).all():  # false for NaN
        raise ParityError(
            "the bundle's infer.py does not agree with the model it was made from",
            where=bundle,
            got=str(got),
            expected=str(expected),
        )
    if (bundle / CLASSES).is_file():
        _run(bundle, "enroll.py", "--list")


class _Prediction(NamedTuple):
    """The best label and its confidence; in a bundle with classes.npz also the cosine with the nearest class."""

    label: str
    numbers: tuple[float, ...]

    def __str__(self) -> str:
        return f"'{self.label}' at " + ", ".join(f"{number:.4f}" for number in self.numbers)


def _labels(model: Artifact) -> str:
    for name in model.io.classes:
        if name.splitlines() != [name]:
            raise ArtifactError("a class name has to fit on one line of labels.txt", where=model.path, got=repr(name))
    return "".join(f"{name}\n" for name in model.io.classes)


def _record(model: Artifact, files: Json, programs: Collection[str]) -> Json:
    return {
        "format": "edgevit-bundle",
        "format_version": 1,
        "files": files,
        "runtime": {
            "name": runtime_of(model),
            "verified_with": {name: version_of(name) for name in packages_of(runtime_of(model))},
        },
        "session_options": json_of_options(model.model_file.options),
        "model": {
            "id": model.id,
            "kind": model.kind,
            "portable": not model.is_compiled,
            "note": MACHINE_SPECIFIC if model.is_compiled else PORTABLE,
            "metrics": model.metrics,
        },
        "provenance": {
            "edgevit": __version__,
            "key": model.manifest.key,
            "digest": model.digest,
            "stage": model.manifest.stage,
            "inputs": {name: ref.model_dump() for name, ref in model.manifest.inputs.items()},
        },
        "licences": [f"{', '.join(programs)}: Apache-2.0, from edgevit.", MODEL_LICENCE],
    }


def _requirements(model: Artifact, shipped: Path) -> str:
    return requirements_text(runtime_of(model), onnx.load(shipped, load_external_data=False), model.is_compiled)


def _readme(model: Artifact, images: ClassImages | None, page: Page | None) -> str:
    spec = model.io
    parts = {"README.txt": True, "README.enroll.txt": images is not None, "README.web.txt": page is not None}
    names = [name for name, is_needed in parts.items() if is_needed]
    return "".join((HERE / name).read_text(encoding="utf-8") for name in names).format(
        note=MACHINE_SPECIFIC if model.is_compiled else PORTABLE,
        classes=len(spec.classes),
        height=spec.preprocess.height,
        width=spec.preprocess.width,
    )


def _prediction_of_bundle(bundle: Path, image: Path) -> _Prediction:
    prediction = json.loads(_run(bundle, "infer.py", "--verify", "--json", str(image)))
    best = prediction["labels"][0]
    cosines = [prediction["cosine"]] if "cosine" in prediction else []
    return _Prediction(best["label"], (best["confidence"], *cosines))


def _run(bundle: Path, program: str, *arguments: str) -> str:
    # -B: no __pycache__ beside the files that are about to be recorded.
    command = [sys.executable, "-B", str(bundle / program), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment(), check=False)
    if ended.returncode != 0:
        raise ParityError(f"the bundle's {program} does not run", where=bundle, got=ended.stderr.strip())
    return ended.stdout


def _prediction_here(model: Artifact, bundle: Path, image: Path) -> _Prediction:
    spec = model.io
    pixels = preprocess(open_image(image), **spec.preprocess.model_dump())
    images = np.repeat(pixels[np.newaxis], fixed_batch(spec) or 1, axis=0)
    outputs = open_session(model, SessionOptions()).infer({spec.inputs[0].name: images})
    confidence = probabilities(outputs[spec.outputs[0].name][:1], spec.outputs[0].meaning)[0]
    best = int(confidence.argmax())
    numbers = [float(confidence[best])]
    if (bundle / CLASSES).is_file():
        head = head_of(read_support(bundle / CLASSES))
        numbers.append(float(head.cosines(outputs[EMBEDDING][:1]).max()))
    return _Prediction(spec.classes[best], tuple(numbers))


def _write_json(path: Path, value: Json) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
