"""Write a bundle, and prove that it does what the model does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import uses_external_data
from PIL import Image

from edgevit import __version__
from edgevit.artifacts import Artifact, Json, sha256_of_file
from edgevit.data.preprocess import open_image, preprocess
from edgevit.errors import ArtifactError, ParityError
from edgevit.provenance import version_of
from edgevit.runtimes.base import SessionOptions, fixed_batch
from edgevit.runtimes.files import onnx_file, read_onnx, write_onnx
from edgevit.runtimes.onnxruntime.session import PROVIDER, open_session

HERE = Path(__file__).parent
RECORD = "bundle.json"
PACKAGES = ("numpy", "pillow", "onnxruntime")
LICENCES = (
    "infer.py and preprocess.py: Apache-2.0, from edgevit.",
    "model.onnx: as the weights it was started from, and the images it was trained on, allow; not recorded here.",
)
PORTABLE = "A portable ONNX file: any machine with this runtime runs it."
MACHINE_SPECIFIC = (
    "This graph was optimised for the machine it was compiled on: it is what was measured, and other machines may "
    "refuse it or run it slowly. Bundle the ONNX file it was compiled from to have a portable one."
)
# Confidences of one picture in two processes with the same kernels; float32 rounding is all that may differ.
CONFIDENCE_TOLERANCE = 1e-4


def write_bundle(model: Artifact, out: Path) -> Json:
    """Fill `out` with the model, its labels and IOSpec, a runner, and the record of them; gives the bundle's metrics.

    Raises:
        ArtifactError: the model's file was altered, or a class name cannot be a line of labels.txt.
    """
    _copy_model(model, out / "model.onnx")
    (out / "labels.txt").write_text(_labels(model), encoding="utf-8", newline="\n")
    _write_json(out / "iospec.json", model.io.model_dump(mode="json"))
    shutil.copyfile(HERE / "infer.py", out / "infer.py")
    shutil.copyfile(HERE.parent / "data" / "preprocess.py", out / "preprocess.py")
    (out / "requirements.txt").write_text(_requirements(), encoding="utf-8")
    (out / "README.md").write_text(_readme(model), encoding="utf-8")
    files: dict[str, Json] = {
        path.name: {"sha256": sha256_of_file(path), "size": path.stat().st_size} for path in sorted(out.iterdir())
    }
    _write_json(out / RECORD, _record(model, files))
    size_bytes = sum(entry["size"] for entry in files.values())
    return {"precision": model.metrics.get("precision"), "runtime": "onnxruntime", "size_bytes": size_bytes}


def check_bundle(model: Artifact, bundle: Path, work: Path) -> None:
    """Label one seeded picture with the bundle's own `infer.py`, in a process of its own, and with the model here.

    Args:
        work: a folder for the picture.

    Raises:
        ParityError: the two do not agree, or the bundle does not run.
    """
    picture = work / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((320, 240)).save(picture)
    label, confidence = _labelled_by_bundle(bundle, picture)
    expected_label, expected_confidence = _labelled_here(model, picture)
    if label != expected_label or abs(confidence - expected_confidence) > CONFIDENCE_TOLERANCE:
        raise ParityError(
            "the bundle's infer.py does not agree with the model it was made from",
            where=bundle,
            got=f"'{label}' at {confidence:.4f}",
            expected=f"'{expected_label}' at {expected_confidence:.4f}",
        )


def _copy_model(model: Artifact, to: Path) -> None:
    """The very bytes where it is one file; weights that lie beside it are taken in."""
    source = onnx_file(model)
    graph = onnx.load(source, load_external_data=False).graph
    if any(uses_external_data(tensor) for tensor in graph.initializer):
        write_onnx(read_onnx(source), to, model.io, model.manifest.session_options)
    else:
        shutil.copyfile(source, to)


def _labels(model: Artifact) -> str:
    for name in model.io.classes:
        if name.splitlines() != [name]:
            raise ArtifactError("a class name has to be one line of labels.txt", where=model.path, got=repr(name))
    return "".join(f"{name}\n" for name in model.io.classes)


def _record(model: Artifact, files: Json) -> Json:
    compiled = model.kind == "engine"
    return {
        "format": "edgevit-bundle",
        "format_version": 1,
        "files": files,
        "runtime": {
            "name": "onnxruntime",
            "providers": [PROVIDER],
            "verified_with": {name: version_of(name) for name in PACKAGES},
        },
        "session_options": model.manifest.session_options,
        "model": {
            "id": model.id,
            "kind": model.kind,
            "portable": not compiled,
            "note": MACHINE_SPECIFIC if compiled else PORTABLE,
            "metrics": model.metrics,
        },
        "provenance": {
            "edgevit": __version__,
            "key": model.manifest.key,
            "digest": model.digest,
            "stage": model.manifest.stage,
            "inputs": {name: ref.model_dump() for name, ref in model.manifest.inputs.items()},
        },
        "licences": list(LICENCES),
    }


def _requirements() -> str:
    pinned = "".join(f"{name}=={version_of(name)}\n" for name in PACKAGES)
    return f"# The versions that this bundle was verified with.\n{pinned}"


def _readme(model: Artifact) -> str:
    spec = model.io
    return (
        (HERE / "README.txt")
        .read_text(encoding="utf-8")
        .format(
            note=MACHINE_SPECIFIC if model.kind == "engine" else PORTABLE,
            classes=len(spec.classes),
            height=spec.preprocess.height,
            width=spec.preprocess.width,
        )
    )


def _labelled_by_bundle(bundle: Path, picture: Path) -> tuple[str, float]:
    # -B: no __pycache__ beside the files that are about to be recorded.
    command = [sys.executable, "-B", str(bundle / "infer.py"), "--verify", "--json", str(picture)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, check=False)
    if answer.returncode != 0:
        raise ParityError("the bundle's infer.py does not run", where=bundle, got=answer.stderr.strip())
    best = json.loads(answer.stdout)["labels"][0]
    return best["label"], best["confidence"]


def _labelled_here(model: Artifact, picture: Path) -> tuple[str, float]:
    spec = model.io
    pixels = preprocess(open_image(picture), **spec.preprocess.model_dump())
    images = np.repeat(pixels[np.newaxis], fixed_batch(spec) or 1, axis=0)
    session = open_session(model, SessionOptions())
    logits = session.infer({spec.inputs[0].name: images})[spec.outputs[0].name][0].astype(np.float64)
    exponents = np.exp(logits - logits.max())
    best = int(exponents.argmax())
    return spec.classes[best], float(exponents[best] / exponents.sum())


def _write_json(path: Path, value: Json) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
