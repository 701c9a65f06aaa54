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
from edgevit.targets.trtexec.commands import ENGINE, LAYERS, MODEL, BatchProfile, build_arguments, layers_arguments
from edgevit.targets.trtexec_program import TrtexecProgram
from edgevit.targets.trtexec_session import RUN_S, input_of

BUILD_LOG = "build.log"
BUILD_S = 4 * 3600
LARGEST_ENGINE = 2**33  # bytes


def engine_from_onnx(
    model: Artifact, out: Path, config: Compile, trtexec: TrtexecProgram, machine: TargetInfo
) -> ModelFile:
    """Build an engine, and write it into folder `out`, with its ONNX file, the inspector's layers and the build log.

    Engines are strongly typed: each operator runs in the type that the ONNX file gives it. A build is not repeatable
    byte by byte, so each call builds anew.

    Raises:
        TargetError: the build fails, or takes more than BUILD_S.
        ArtifactError: TensorRT does not take the model.
    """
    source, is_open = input_of(model.io), fixed_batch(model.io) is None
    profile = BatchProfile(config.batch_size, config.max_batch) if is_open else None
    arguments = build_arguments(trtexec.release, source, profile, config.builder_level, config.workspace_mib)
    with TemporaryDirectory() as folder:
        file, fetched, log = out / MODEL, Path(folder) / "fetched", out / BUILD_LOG
        copy_onnx(model, file)
        fetches = {ENGINE: LARGEST_ENGINE}
        built = trtexec.run(arguments, {MODEL: file}, fetched, BUILD_S, outputs=fetches, is_repeatable=False, log=log)
        if ENGINE not in built.files:
            what, next_step = "trtexec ended well, and wrote no engine", f"see its log in {log}"
            raise TargetError(what, where=trtexec.where, got=f"no file {ENGINE}", next=next_step)
        shutil.move(built.files[ENGINE], out / ENGINE)
        arguments = layers_arguments(trtexec.release, source, config.batch_size, is_open)
        fetches, engine = {LAYERS: LARGEST_JSON}, {ENGINE: out / ENGINE}
        run = trtexec.run(arguments, engine, fetched, RUN_S, outputs=fetches, is_repeatable=True)
        (out / LAYERS).write_bytes(trtexec.content(run, LAYERS))
    options = TensorrtOptions(max_batch=config.max_batch if is_open else None)
    return ModelFile(name=ENGINE, weight_precision=model.model_file.weight_precision, options=options, bound_to=machine)
