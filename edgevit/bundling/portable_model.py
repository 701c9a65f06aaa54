"""The model that goes into a bundle: the ONNX file that any machine loads, or the compiled model."""

from __future__ import annotations

from edgevit.artifacts import Artifact, ancestors
from edgevit.configs.runtimes import TENSORRT
from edgevit.errors import ArtifactError
from edgevit.progress import Progress
from edgevit.runtimes.base import runtime_of


def model_to_bundle(model: Artifact, compiled: bool, progress: Progress) -> Artifact:
    """The model to bundle: the portable ONNX file, or with `compiled` the compiled model.

    Raises ArtifactError if the model is not compiled, or if the ONNX file behind a compiled model is not known.
    """
    if compiled and not model.is_compiled:
        raise ArtifactError("the model is not compiled", where=model.id, next="leave compiled out, or compile it")
    if compiled or not model.is_compiled:
        return model
    compiled_from = model.manifest.inputs.get("model")
    source = next((ancestor for ancestor in ancestors(model) if ancestor.ref() == compiled_from), None)
    if source is None:
        raise ArtifactError(
            "a compiled model runs on the machine that compiled it, and its ONNX file is not known",
            where=model.id,
            got="a compiled model",
            expected="the ONNX file that it was compiled from",
            next="bundle that ONNX file; --compiled (in a recipe compiled: true) bundles the compiled model",
        )
    other = f"--compiled (in a recipe compiled: true) takes '{model.id}'"
    if runtime_of(model) == TENSORRT.name:
        other = f"'{model.id}' is a TensorRT engine, which no bundle holds yet"
    progress.say(f"the bundle holds '{source.id}', which other machines load too; {other}")
    return source.with_io(model.io)
