"""TensorRT engines outside a recipe: the folder that `compile` writes, and engine files without a record.

The folder is that of the stage: `manifest.json` (the record: inputs, outputs, preprocessing, classes, machine, hashes),
`model.engine`, `model.onnx` (the file that it was built from), `layers.json` and `build.log`.
"""

from __future__ import annotations

from pathlib import Path

from edgevit.artifacts import MANIFEST, Artifact
from edgevit.configs.targets import check_target_name
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
        ArtifactError: a file is larger than any that edgevit writes, the engine's file or machine has no name that
            edgevit gives, or the record tells no input or no output.
    """
    for name, entry in engine.manifest.files.items():
        if entry.size > (most := LARGEST_FILES.get(name, LARGEST_JSON)):
            where, got, expected = engine.path / name, f"{entry.size:,} bytes", f"at most {most:,}"
            raise ArtifactError("a file of the engine is too large", where=where, got=got, expected=expected)
    _check_names(engine)
    if not engine.io.inputs or not engine.io.outputs:
        got = f"{len(engine.io.inputs)} inputs and {len(engine.io.outputs)} outputs"
        raise ArtifactError("the record tells no input or no output", where=engine.path, got=got, expected="both")


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


def _check_names(engine: Artifact) -> None:
    """Check the name of the engine's file, beside which others lie on a target, and that of its machine."""
    file, where = engine.model_file, engine.path
    if file.name != ENGINE or ENGINE not in engine.manifest.files:
        raise ArtifactError("the record names no file of the engine", where=where, got=file.name, expected=ENGINE)
    if file.bound_to is not None:
        try:
            check_target_name(file.bound_to.name)
        except ValueError as error:
            what = "the machine of the engine has no name of a target"
            raise ArtifactError(what, where=where, got=file.bound_to.name, expected=str(error)) from None


def source_of_engine(engine: Artifact) -> Path | None:
    """The ONNX file that an engine was built from, its hash checked; None if an earlier release built the engine."""
    return engine.file(MODEL) if MODEL in engine.manifest.files else None
