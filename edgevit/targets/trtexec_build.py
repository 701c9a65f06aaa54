"""ONNX file → TensorRT engine, built by trtexec on the machine that will run it."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from edgevit.artifacts import Artifact
from edgevit.configs import Compile
from edgevit.errors import TargetError
from edgevit.graphs.files import copy_onnx
from edgevit.model_file import ModelFile, TargetInfo, TensorrtOptions
from edgevit.runtimes.base import fixed_batch
from edgevit.targets.trtexec.answers import LARGEST_JSON
from edgevit.targets.trtexec.commands import ENGINE, LAYERS, MODEL, BatchProfile, build_arguments
from edgevit.targets.trtexec_program import TrtexecProgram
from edgevit.targets.trtexec_session import input_of

BUILD_LOG = "build.log"
BUILD_S = 4 * 3600
LARGEST_ENGINE = 2**33  # bytes


def engine_from_onnx(
    model: Artifact, out: Path, config: Compile, trtexec: TrtexecProgram, machine: TargetInfo
) -> ModelFile:
    """Build an engine, and write it into folder `out`, with the inspector's layers and the build log.

    Engines are strongly typed: each operator runs in the type that the ONNX file gives it. A build is not repeatable
    byte by byte, so each call builds anew.

    Raises:
        TargetError: the build fails, or takes more than BUILD_S.
        ArtifactError: TensorRT does not take the model.
    """
    is_open = fixed_batch(model.io) is None
    profile = BatchProfile(config.batch_size, config.max_batch) if is_open else None
    arguments = build_arguments(
        trtexec.release, input_of(model.io), profile, config.builder_level, config.workspace_mib
    )
    with TemporaryDirectory() as folder:
        source, fetched = Path(folder) / MODEL, Path(folder) / "fetched"
        copy_onnx(model, source)
        log, fetches = out / BUILD_LOG, {ENGINE: LARGEST_ENGINE, LAYERS: LARGEST_JSON}
        built = trtexec.run(arguments, {MODEL: source}, fetched, BUILD_S, outputs=fetches, is_repeatable=False, log=log)
        for name in (ENGINE, LAYERS):
            if name not in built.files:
                what = "trtexec ended well, and wrote no engine" if name == ENGINE else "trtexec wrote no layers"
                raise TargetError(what, where=trtexec.where, got=f"no file {name}", next=f"see its log in {log}")
            shutil.move(built.files[name], out / name)
    options = TensorrtOptions(max_batch=config.max_batch if is_open else None)
    return ModelFile(name=ENGINE, weight_precision=model.model_file.weight_precision, options=options, bound_to=machine)
