"""TensorRT engines outside a recipe: the folder that `compile` writes, and engine files without a record.

The folder is that of the stage: `manifest.json` (the record: inputs, outputs, preprocessing, classes, machine, hashes),
`model.engine`, `model.onnx` (the file that it was built from), `layers.json` and `build.log`.
"""

from __future__ import annotations

from pathlib import Path

from edgevit.artifacts import MANIFEST, Artifact
from edgevit.disks import copy_folder, whole_or_not_at_all
from edgevit.errors import ArtifactError
from edgevit.graphs.files import PROTOBUF_LIMIT_BYTES
from edgevit.model_file import TensorrtOptions
from edgevit.targets.trtexec.answers import LARGEST_JSON
from edgevit.targets.trtexec.commands import ENGINE, LAYERS, MODEL
from edgevit.targets.trtexec_build import BUILD_LOG, LARGEST_ENGINE
from edgevit.targets.trtexec_program import LARGEST_LOG

SUFFIXES = (".engine", ".plan", ".trt")  # that people give to engine files
LARGEST_FILES = {  # bytes, of the files of an engine's folder
    ENGINE: LARGEST_ENGINE,
    MODEL: PROTOBUF_LIMIT_BYTES,
    LAYERS: LARGEST_JSON,
    BUILD_LOG: LARGEST_LOG,
}


def is_engine(model: Artifact) -> bool:
    """Whether a model is a TensorRT engine."""
    return model.manifest.model_file is not None and isinstance(model.model_file.options, TensorrtOptions)


def write_engine(engine: Artifact, out: Path) -> None:
    """Copy the folder of an engine to `out`, whole or not at all."""
    with whole_or_not_at_all(out) as part:
        copy_folder(engine.path, part)


def check_engine_folder(engine: Artifact) -> None:
    """Check an engine's folder that may come from elsewhere. Its hashes are checked when a file is opened.

    Raises:
        ArtifactError: a file is larger than any that edgevit writes, or the engine has no name of its own.
    """
    for name, entry in engine.manifest.files.items():
        if entry.size > (most := LARGEST_FILES.get(name, LARGEST_JSON)):
            where, got, expected = engine.path / name, f"{entry.size:,} bytes", f"at most {most:,}"
            raise ArtifactError("a file of the engine is too large", where=where, got=got, expected=expected)
    if engine.model_file.name not in engine.manifest.files:
        raise ArtifactError("the record names no file of the engine", where=engine.path, got=engine.model_file.name)


def check_is_no_engine_file(path: Path) -> None:
    """Raise ArtifactError if a file is a TensorRT engine, which tells too little by itself."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return
    if (path.parent / MANIFEST).is_file():
        raise ArtifactError(
            "an engine is read with its record, from its folder", where=path, next=f"give the folder {path.parent}"
        )
    raise ArtifactError(
        "a TensorRT engine alone does not say how images are prepared, which classes it knows, and where it was built",
        where=path,
        got="an engine file, as trtexec writes it",
        expected=f"the folder of an engine with its record, {MANIFEST}",
        next="build it from its ONNX file: edgevit compile MODEL.onnx --runtime tensorrt --target NAME --out engine/ "
        "(edgevit describe writes the preprocessing and the classes into the ONNX file)",
    )


def source_of_engine(engine: Artifact) -> Path | None:
    """The ONNX file that an engine was built from, its hash checked; None if an earlier release built the engine."""
    return engine.file(MODEL) if MODEL in engine.manifest.files else None
