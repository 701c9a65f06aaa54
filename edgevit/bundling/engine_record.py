"""The TensorRT engine of a bundle: its file, its entry in bundle.json, and the command that builds it anew."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from pydantic import ValidationError

from edgevit.artifacts import Artifact, Json
from edgevit.bundling.engine import REBUILT
from edgevit.bundling.infer import ENGINE
from edgevit.configs import Compile
from edgevit.errors import ArtifactError, first_line
from edgevit.model_file import TargetInfo, TensorrtOptions, json_of_options
from edgevit.runtimes.base import fixed_batch
from edgevit.targets.boards.versions import tensorrt_release
from edgevit.targets.trtexec.commands import ENGINE as TRTEXEC_ENGINE
from edgevit.targets.trtexec.commands import BatchProfile, build_arguments
from edgevit.targets.trtexec_session import input_of
from edgevit.terminal import printable_line

# Where NVIDIA's Debian packages put it on a Jetson. It is not in the PATH there.
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"


def copy_engine(engine: Artifact, out: Path) -> None:
    """Copy the engine into a bundle's folder, after a check of its hash."""
    shutil.copyfile(engine.file(engine.model_file.name), out / ENGINE)


def engine_record(engine: Artifact) -> Json:
    """The entry `engine` of bundle.json.

    file             its name
    session_options  for the loader
    bound_to         the machine that built it: its name, versions (TensorRT, CUDA, JetPack) and hardware
    rebuild          the command that builds it anew in the bundle's folder, as a list of arguments
    model            the artifact's id, key, digest and metrics: how close its outputs are to those of the ONNX file
    """
    return {
        "file": ENGINE,
        "session_options": json_of_options(engine.model_file.options),
        "bound_to": machine_of(engine).model_dump(mode="json"),
        "rebuild": rebuild_command(engine),
        "model": {
            "id": engine.id,
            "key": engine.manifest.key,
            "digest": engine.digest,
            "metrics": engine.metrics,
        },
    }


def machine_of(engine: Artifact) -> TargetInfo:
    """The machine that built an engine."""
    assert engine.model_file.bound_to is not None
    return engine.model_file.bound_to


def rebuild_command(engine: Artifact) -> list[str]:
    """trtexec with the options that have built an engine, as a list of arguments. It writes REBUILT.

    Raises ArtifactError if the options are those of another release of edgevit.
    """
    try:
        config = Compile.model_validate(engine.manifest.config)
    except ValidationError as error:
        what, got = "the options that built the engine cannot be read", first_line(error)
        raise ArtifactError(what, where=engine.id, got=got, next="compile it again") from None
    release = tensorrt_release(str(machine_of(engine).versions["tensorrt"]))
    if is_version_compatible(engine):
        release = release.for_version_compatible()
    is_open = fixed_batch(engine.io) is None
    profile = BatchProfile(config.batch_size, config.max_batch) if is_open else None
    arguments = build_arguments(release, input_of(engine.io), profile, config.builder_level, config.workspace_mib)
    saved = f"--saveEngine={TRTEXEC_ENGINE}"
    flags = [f"--saveEngine={REBUILT}" if argument == saved else argument for argument in arguments]
    return [TRTEXEC, *flags]


def is_version_compatible(engine: Artifact) -> bool:
    """Whether an engine runs in later TensorRT of the same major version, too."""
    options = engine.model_file.options
    return isinstance(options, TensorrtOptions) and options.version_compatible


def readme_values(engine: Artifact) -> dict[str, str]:
    """The values of README.engine.txt: the machine, its software, what the engine needs, and how it is built anew."""
    machine = machine_of(engine)
    board = machine.hardware.get("model") or ", ".join(machine.hardware.get("gpus") or []) or "an unnamed machine"
    module = machine.hardware.get("module")
    titles = {"tensorrt": "TensorRT", "cuda": "CUDA", "jetpack": "JetPack"}
    return {
        "board": printable_line(f"{board} ({module})" if module else board),
        "versions": printable_line(
            ", ".join(f"{titles.get(name, name)} {version}" for name, version in machine.versions.items() if version)
        ),
        "needed": "this TensorRT, or a later one of its major version"
        if is_version_compatible(engine)
        else "this TensorRT",
        "command": " \\\n        ".join(map(shlex.quote, rebuild_command(engine))),
        "rebuilt": REBUILT,
    }
