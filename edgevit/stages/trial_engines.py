"""Engines that a stage builds on a target to compare models there. Only the logs of their builds are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgevit.artifacts import Artifact
from edgevit.configs import Compile, Prune, Quantize
from edgevit.context import Context
from edgevit.errors import ArtifactError, ModelRefused
from edgevit.graphs.files import artifact_from_onnx, copy_onnx
from edgevit.stages import compile as compile_stage

ENGINES = "engines"  # a folder of the result: each engine has a folder in it, with the log of its build


def engine_builder(config: Quantize | Prune, context: Context, folder: Path) -> Callable[[str, Artifact], Artifact]:
    """A function that gives the engine of a model by its name, from its ONNX file.

    Each engine is built once, into `folder`, and checked as by compile. The options of `compile` have their defaults.
    The function raises ModelRefused if TensorRT does not take the model's nodes, and CheckFailed if the engine is
    wrong, or runs a product in more bits than the ONNX file asks for.
    """
    engines: dict[str, Artifact] = {}

    def engine(name: str, model: Artifact) -> Artifact:
        if name not in engines:
            context.progress.say(f"    {name}: building its engine on {config.target}")
            engines[name] = _built(model, config, context, folder / name)
        return engines[name]

    return engine


def kept_logs(out: Path) -> list[str]:
    """The logs of all builds, as paths in the folder of the result. The engines and their other files are removed."""
    files = [file for file in (out / ENGINES).rglob("*") if file.is_file()]
    for file in files:
        if file.suffix != ".log":
            file.unlink()
    return sorted(file.relative_to(out).as_posix() for file in files if file.suffix == ".log")


def _built(model: Artifact, config: Quantize | Prune, context: Context, out: Path) -> Artifact:
    out.mkdir(parents=True)
    file = out.with_name(f"{out.name}.onnx")  # which a refusal names: that of `model` may be a temporary one
    copy_onnx(model, file)
    compiled = Compile(stage="compile", id=config.id, model=config.model, runtime="tensorrt", target=config.target)
    try:
        contents = compile_stage.run(compiled, {"model": (kept := artifact_from_onnx(file))}, context, out)
    except ArtifactError as error:
        raise ModelRefused(error.what, where=error.where, got=error.got, next=error.next) from error
    assert contents.model_file is not None
    return compile_stage.unfinished(kept, contents.model_file, out)
