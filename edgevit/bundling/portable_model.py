"""The model that goes into a bundle: the ONNX file that any machine loads, or the compiled model."""

from __future__ import annotations

from typing import NamedTuple

from edgevit.artifacts import Artifact, ancestors, before_selection
from edgevit.configs.runtimes import TENSORRT
from edgevit.configs.targets import LOCAL_TARGETS
from edgevit.errors import ArtifactError
from edgevit.graphs.files import artifact_from_onnx
from edgevit.model_file import ONNX_FILE, UNKNOWN_TARGET
from edgevit.progress import Progress
from edgevit.runtimes.base import runtime_of


class ModelToBundle(NamedTuple):
    """The model of a bundle.

    Attributes:
        model: the model in `model.onnx`: an ONNX file, or a graph that ONNX Runtime has compiled.
        engine: the TensorRT engine that was built from it, which the bundle also holds.
    """

    model: Artifact
    engine: Artifact | None = None


def model_to_bundle(model: Artifact, compiled: bool, progress: Progress) -> ModelToBundle:
    """The model to bundle: the portable ONNX file, or with `compiled` the compiled model.

    A TensorRT engine is accompanied by its ONNX file, from which any machine can build it anew.

    Raises ArtifactError if the model is not compiled, if ONNX Runtime compiled it on another machine, or if the ONNX
    file behind a compiled model is not known.
    """
    if compiled and not model.is_compiled:
        raise ArtifactError("the model is not compiled", where=model.id, next="leave compiled out, or compile it")
    is_engine = runtime_of(model) == TENSORRT.name
    if compiled and not is_engine:
        _check_compiled_here(model)
    if not model.is_compiled or (compiled and not is_engine):
        return ModelToBundle(model)
    source = _compiled_from(model, is_engine)
    if compiled:
        return ModelToBundle(source, model)
    other = f"--compiled (in a recipe compiled: true) {'adds' if is_engine else 'takes'} '{model.id}'"
    progress.say(f"the bundle holds '{source.id}', which other machines load too; {other}")
    return ModelToBundle(source)


def _check_compiled_here(model: Artifact) -> None:
    """Raise ArtifactError if ONNX Runtime compiled a model on another machine: the bundle cannot be checked here."""
    machine = model.model_file.bound_to
    if machine is not None and machine.name not in (*LOCAL_TARGETS, UNKNOWN_TARGET.name):
        raise ArtifactError(
            "ONNX Runtime compiled the model on another machine, and this one cannot check its bundle",
            where=model.id,
            got=f"a model that '{machine.name}' compiled",
            next="leave compiled out: the bundle then holds its ONNX file",
        )


def _compiled_from(model: Artifact, is_engine: bool) -> Artifact:
    """The ONNX file that a model was compiled from, with the model's IOSpec."""
    compiled = before_selection(model)
    compiled_from = compiled.manifest.inputs.get("model")
    source = next((ancestor for ancestor in ancestors(compiled) if ancestor.ref() == compiled_from), None)
    if source is None and is_engine and ONNX_FILE in model.manifest.files:  # of an engine's folder outside a store
        source = artifact_from_onnx(model.file(ONNX_FILE))
    if source is not None:
        return source.with_io(model.io)
    next_step = "bundle that ONNX file"
    if not is_engine:
        next_step += "; --compiled (in a recipe compiled: true) bundles the compiled model"
    raise ArtifactError(
        "a compiled model runs on the machine that compiled it, and its ONNX file is not known",
        where=model.id,
        got="a compiled model",
        expected="the ONNX file that it was compiled from",
        next=next_step,
    )
