"""Files that serve a bundle's model in other programs: systemd, Triton, DeepStream, and programs in C++."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from edgevit.artifacts import Artifact
from edgevit.bundling.serving.deepstream import deepstream_files
from edgevit.bundling.serving.triton import triton_files
from edgevit.configs.runtimes import ONNXRUNTIME
from edgevit.errors import ArtifactError
from edgevit.runtimes.base import runtime_of

HERE = Path(__file__).parent
CPP = HERE / "cpp"


def serving_files(serve: Collection[str], model: Artifact, engine: Artifact | None) -> dict[str, str]:
    """The text of each file by its name in the bundle.

    Args:
        serve: names of SERVERS.
        engine: the TensorRT engine that was built from the model, if the bundle has one.

    Raises ArtifactError if a program cannot serve this model.
    """
    files: dict[str, str] = {}
    for name in SERVERS:
        if name in serve:
            files |= SERVERS[name](model, engine)
    return files


def _systemd_files(model: Artifact, engine: Artifact | None) -> dict[str, str]:
    return {"edgevit.service": (HERE / "service.txt").read_text(encoding="utf-8")}


def _cpp_files(model: Artifact, engine: Artifact | None) -> dict[str, str]:
    if runtime_of(model) != ONNXRUNTIME.name:
        raise ArtifactError(
            "the programs in C++ run ONNX Runtime and TensorRT",
            where=model.id,
            got=f"a model for {runtime_of(model)}",
            next="leave cpp out of serve",
        )
    return {file.name: file.read_text(encoding="utf-8") for file in sorted(CPP.iterdir())}


SERVERS: dict[str, Callable[[Artifact, Artifact | None], dict[str, str]]] = {
    "systemd": _systemd_files,
    "triton": triton_files,
    "deepstream": deepstream_files,
    "cpp": _cpp_files,
}
