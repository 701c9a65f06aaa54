"""Forms of a model for TensorRT, as quantize tries them on a board: their files, and the engines built from these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from edgevit.artifacts import Artifact
from edgevit.configs import Compile, Quantize
from edgevit.configs.runtimes import TENSORRT
from edgevit.context import Context
from edgevit.errors import ArtifactError, ModelRefused
from edgevit.quantization.candidates import Candidate, CandidateWriter
from edgevit.quantization.ptq import CalibratedModel
from edgevit.quantization.sensitivity import Sensitivity, sensitivity_table
from edgevit.stages import compile as compile_stage
from edgevit.targets import Target
from edgevit.targets.boards.table import has_fp8

ENGINES = "engines"  # a folder of the result: each form has a folder in it, with the log of its build

Prepare = Callable[..., tuple[CalibratedModel, list[Sensitivity]]]  # `preparation.prepared` of a config


def engine_forms(
    config: Quantize, writer: CandidateWriter, target: Target, prepare: Prepare, context: Context
) -> Iterator[Candidate]:
    """The forms to try on a board: first float16, then each placement of INT8, then of FP8 if the GPU has it."""
    yield writer.float_candidate()
    yield from writer.candidates()
    if config.precision != "int8" or not _has_fp8(target):
        return
    float8 = {"precision": "float8", "calibrator": "minmax", "smoothquant": None, "sensitivity": False}
    own = config.model_copy(update=float8)
    try:
        calibrated, sensitivities = prepare(own, correction=None)
    except ArtifactError as error:
        context.progress.say(f"    {config.id}: no form in float8: {error.what}")
        return
    table = sensitivity_table(calibrated, sensitivities)
    in_float8 = replace(writer, calibrated=calibrated, floor_db=own.floor_db, sensitivity=table, correction=None)
    yield from in_float8.candidates()


def engine_builder(config: Quantize, context: Context, folder: Path) -> Callable[[Candidate], Artifact]:
    """A function that gives the engine of a form. Each engine is built once, into `folder`, and checked as by compile.

    The options of `compile` have their defaults. The function raises ModelRefused if TensorRT does not take the
    form's nodes, and CheckFailed if the engine is wrong, or runs a product in more bits than the form asks for.
    """
    engines: dict[str, Artifact] = {}

    def engine(form: Candidate) -> Artifact:
        if form.name not in engines:
            context.progress.say(f"    {form.name}: building its engine on {config.target}")
            engines[form.name] = _built(form, config, context, folder / form.name)
        return engines[form.name]

    return engine


def kept_logs(out: Path) -> list[str]:
    """The logs of all builds, as paths in the folder of the result. The engines and their other files are removed."""
    files = [file for file in (out / ENGINES).rglob("*") if file.is_file()]
    for file in files:
        if file.suffix != ".log":
            file.unlink()
    return sorted(file.relative_to(out).as_posix() for file in files if file.suffix == ".log")


def _built(form: Candidate, config: Quantize, context: Context, out: Path) -> Artifact:
    out.mkdir(parents=True)
    compiled = Compile(stage="compile", id=config.id, model=config.model, runtime="tensorrt", target=config.target)
    try:
        contents = compile_stage.run(compiled, {"model": form.artifact}, context, out)
    except ArtifactError as error:
        raise ModelRefused(error.what, where=error.where, got=error.got, next=error.next) from error
    assert contents.model_file is not None
    return compile_stage.unfinished(form.artifact, contents.model_file, out)


def _has_fp8(target: Target) -> bool:
    return bool(has_fp8(target.describe(TENSORRT.name).hardware["compute_capability"]))
