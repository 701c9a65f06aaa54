"""compile: ONNX → the graph or engine that the target's runtime loads, with the same outputs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgevit.artifacts import Artifact, Contents, FileEntry, Json, sha256_of_file
from edgevit.configs import Compile
from edgevit.configs.runtimes import ONNXRUNTIME, TENSORRT
from edgevit.configs.stages import TENSORRT_OPTIONS
from edgevit.context import Context, usable_cpus
from edgevit.errors import ArtifactError, ParityError
from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.model_file import ModelFile
from edgevit.runtimes.base import Session, SessionOptions, carried_cost, fixed_batch, runtime_of
from edgevit.runtimes.parity import check_engine_agrees, check_sessions_agree
from edgevit.runtimes.sessions import session_as_declared
from edgevit.targets import Target, target_for
from edgevit.targets.trtexec.commands import LAYERS, MODEL


def run(config: Compile, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    model = inputs["model"]
    _check_is_uncompiled(model, config)
    target = target_for(config.target, context)
    if config.runtime == TENSORRT.name:
        _check_before_build(model, target)
    check = partial(_checked, config, model, target, out, context)
    compiled = target.compile(model, out, config, check)
    metrics = {
        **carried_cost(model),
        "precision": compiled.file.precision,
        "size_bytes": (out / compiled.file.name).stat().st_size,
        "runtime": config.runtime,
        **compiled.checked,
    }
    return Contents(
        kind="engine",
        metrics=metrics,
        log_metrics={"build": compiled.build} if compiled.build else {},
        logs=_logs(config, out),
        io=model.io,
        model_file=compiled.file,
    )


def _logs(config: Compile, out: Path) -> tuple[str, ...]:
    """The files that do not count as content. The ONNX file of an engine counts by the digest of the input."""
    logs = sorted(file.name for file in out.glob("build*.log"))
    return (*logs, MODEL) if config.runtime == TENSORRT.name else tuple(logs)


def _check_is_uncompiled(model: Artifact, config: Compile) -> None:
    """Raise ArtifactError if the model's runtime compiles it whenever it loads it."""
    if runtime_of(model) != ONNXRUNTIME.name:
        raise ArtifactError(
            f"{runtime_of(model)} compiles a model each time it loads it",
            where=model.id,
            got=f"runtime: {runtime_of(model)}",
            expected=f"a model that was made for {config.runtime}",
            next="leave compile out: evaluate, profile and bundle take the ONNX file",
        )


def _check_before_build(model: Artifact, target: Target) -> None:
    """Raise ArtifactError, before anything is sent, if the target's TensorRT is known to refuse the model."""
    from edgevit.checking.before_build import check_before_build

    check_before_build(onnx_file(model), target.describe(TENSORRT.name), model.id)


def _checked(
    config: Compile, model: Artifact, target: Target, out: Path, context: Context, compiled: ModelFile
) -> Json:
    """Metrics of a result that has passed the checks. Raises CheckFailed for one that is wrong."""
    where = f"{config.id}, against its ONNX file '{model.id}'"
    with target.open(unfinished(model, compiled, out), SessionOptions(threads=1)) as session:
        if config.runtime != TENSORRT.name:
            return _graph_closeness(session, model, target, where)
        closeness = _engine_closeness(config, session, model, where, context)
    return {**closeness, **_precision(config, model, out, context)}


def unfinished(model: Artifact, compiled: ModelFile, out: Path) -> Artifact:
    """The compiled model as an artifact in memory, before its folder is finished."""
    file = out / compiled.name
    entry = FileEntry(sha256=sha256_of_file(file), size=file.stat().st_size)
    manifest = model.manifest.model_copy(update={"kind": "engine", "files": {file.name: entry}, "model_file": compiled})
    return replace(model, path=out, manifest=manifest)


def _graph_closeness(session: Session, model: Artifact, target: Target, where: str) -> Json:
    """How close a compiled graph is to its ONNX file, which runs there too: another processor rounds otherwise."""
    with target.open(model, SessionOptions(threads=1)) as source:
        agreement = check_sessions_agree(session, source, model.model_file.precision, where)
    return {"max_difference": agreement.max_difference}


def _engine_closeness(config: Compile, session: Session, model: Artifact, where: str, context: Context) -> Json:
    """How close an engine's outputs are to those of its ONNX file, whose float16 tensors are rounded here, too."""
    source = session_as_declared(onnx_file(model), model.io, model.model_file.options, usable_cpus())
    fixed = fixed_batch(model.io)
    sizes = (fixed,) if fixed else (1, config.batch_size, config.max_batch)
    try:
        closeness = check_engine_agrees(session, source, model.model_file.precision, sizes, where)
    except ParityError as error:
        error.next = "; ".join(filter(None, (error.next, _how_to_find_it(config, model))))
        raise
    if closeness.between_images_db is None:
        context.progress.say(
            f"{config.id}: the ONNX file's outputs hardly differ between the seeded images. "
            "An engine that ignores its input would pass."
        )
        return {"engine_sqnr_db": closeness.sqnr_db}
    return {"engine_sqnr_db": closeness.sqnr_db, "engine_between_images_sqnr_db": closeness.between_images_db}


def _how_to_find_it(config: Compile, model: Artifact) -> str:
    """The command that finds the first tensor that differs. Its options are those of the stage."""
    values = {name: getattr(config, name) for name in ("runtime", "target", *TENSORRT_OPTIONS)}
    changed = {name: value for name, value in values.items() if value != Compile.model_fields[name].default}
    options = [_option(name.removesuffix("_size").replace("_", "-"), value) for name, value in changed.items()]
    command = ["edgevit compile", shlex.quote(str(onnx_file(model))), *options, "--out ENGINE --find-difference"]
    return f"{' '.join(command)} names the first tensor that differs"


def _option(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {value}"


def _precision(config: Compile, model: Artifact, out: Path, context: Context) -> Json:
    """The number of products by the precision that they ask for and get ("" if untold), and of all that are untold."""
    from edgevit.checking.check import graph_of
    from edgevit.checking.layers import checked_products, kernels_of_engine
    from edgevit.checking.precision import precision_counts

    file = onnx_file(model)
    products = checked_products(graph_of(read_onnx(file), file), kernels_of_engine(out / LAYERS), config.id)
    untold = sum(not product.got for product in products)
    if untold:
        context.progress.say(
            f"{config.id}: the engine does not tell the precision of {untold} of {len(products)} products"
        )
    rows = [
        {"operator": operator, "asked": asked, "got": got, "products": count}
        for (operator, asked, got), count in sorted(precision_counts(products).items())
    ]
    return {"products": rows, "products_untold": untold}
