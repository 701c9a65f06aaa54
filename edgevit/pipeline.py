"""Run a recipe: each stage is taken from the store, or made and stored."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from edgevit.artifacts import MANIFEST, MODEL_KINDS, Artifact, Contents, InputRef, Json, sha256_of_file
from edgevit.configs import Bundle, Check, Export, Select, Stage, input_files, kinds_of, references
from edgevit.configs.fields import Purpose
from edgevit.context import Context
from edgevit.data import dataset_artifacts
from edgevit.data.duplicates import Uses
from edgevit.data.pseudo_labels import with_source
from edgevit.disks import copy_folder
from edgevit.errors import ArtifactError, Diverged, RecipeError, did_you_mean
from edgevit.profiling.conditions import peak_bytes
from edgevit.profiling.latency_record import LatencyRecord
from edgevit.progress import of_run, run_left
from edgevit.provenance import provenance, untrained, weights_origin
from edgevit.recipe import Recipe
from edgevit.runtimes.base import runtime_of
from edgevit.stage_times import RESUMED, clock_of, keep_time, work_keys
from edgevit.store import Store, changed_fields, dotted, ingredients, replace_link
from edgevit.targets import target_info

StageFunction = Callable[[Stage, Mapping[str, Artifact], Context, Path], Contents]
LEARNING_PURPOSES: tuple[Purpose, ...] = ("learned from", "adapted to", "calibrated by", "validated on")


def run(
    recipe: Recipe,
    base: Path,
    runs: Path,
    context: Context,
    fresh: Collection[str] = (),
    datasets: Mapping[str, Artifact] | None = None,
    retry_diverged: bool = False,
) -> dict[str, Artifact]:
    """Run a recipe. Finished stages are taken from the store under `runs`.

    Args:
        base: the folder that relative paths of data sets start from.
        runs: the folder of all runs; this one is runs/<recipe name>.
        fresh: ids of stages to make again, finished or not.
        datasets: the data sets and roles of the recipe by name, if they were read before.
        retry_diverged: trainings that diverged in an earlier run are tried again.

    Returns:
        The artifact of every data set role and stage, by name. Models that dropped out of a selection, because a
        training diverged, are not among them.
    """
    check_ids(fresh, recipe)
    store = Store(runs / ".store")
    context = replace(context, budget=recipe.budget, recipe_name=recipe.name, folder=base)
    done = dict(datasets_of(recipe, base, runs, context) if datasets is None else datasets)
    keys = work_keys(recipe, done, context.device)
    clock = clock_of(recipe, keys, pending(plan(recipe, base, done, runs, fresh)))
    context = replace(context, progress=of_run(context.progress, clock.left_s))
    lost: dict[str, str] = {}  # models that a training lost which diverged, with the reasons
    for number, stage in enumerate(recipe.stages, 1):
        if stage.id in lost:
            continue
        config, dropped = _without_lost(stage, lost)
        context = replace(context, dropped=dropped)
        clock.start(config.id)
        left = run_left(clock.left_s())
        title = f"[{number}/{len(recipe.stages)}] {config.id} ({config.name()}){left and f', {left}'}"
        try:
            inputs = resolve(config, done)
            if retry_diverged:
                store.forget_divergence(store.key(ingredients_of(config, inputs, context)))
            done[config.id] = make(config, inputs, store, context, title, again=config.id in fresh)
        except Diverged as error:
            lost |= _lost_with(config.id, recipe, lost, error)
            context.progress.say(f"    {error.what}. '{config.id}' drops out of the selection")
            continue
        keep_time(config, keys[config.id], done[config.id])
        _show(done[config.id], runs / recipe.name, config.id)
    return done


def _without_lost(stage: Stage, lost: Mapping[str, str]) -> tuple[Stage, Mapping[str, str]]:
    """The stage; of a selection, without the models that were lost, and the reasons for these."""
    if not isinstance(stage, Select):
        return stage, {}
    models = tuple(name for name in stage.models if name not in lost)
    return stage.model_copy(update={"models": models}), {name: lost[name] for name in stage.models if name in lost}


def _lost_with(id: str, recipe: Recipe, lost: Mapping[str, str], error: Diverged) -> dict[str, str]:
    """A stage whose training diverged and the models made from it, with the reason.

    A selection goes on as long as a model is left to it. Raises `error` if another stage than a selection needs one of
    the lost models, or if nothing needs it: then it is a result that the user asked for.
    """
    gone, needed, kinds = {id, *lost}, set[str](), kinds_of(recipe.stages)
    for stage in recipe.stages:
        lost_here = gone.intersection(name for _, name, _ in references(stage))
        if not lost_here:
            continue
        goes_on = isinstance(stage, Select) and not gone.issuperset(stage.models)
        if not goes_on and kinds[stage.id] not in MODEL_KINDS:
            raise error
        needed |= lost_here
        gone |= set() if goes_on else {stage.id}
    if gone - needed:
        raise error
    return {name: f"{error.what} in '{id}'" for name in gone if name not in lost}


def make(
    config: Stage, inputs: Mapping[str, Artifact], store: Store, context: Context, title: str = "", again: bool = False
) -> Artifact:
    """The artifact of one stage: taken from the store, or made and stored.

    Raises:
        Diverged: its training diverges, or it did in an earlier run.
    """
    parts = ingredients_of(config, inputs, context)
    artifact = None if again else store.find(store.key(parts), context.progress.say)
    if artifact is None:
        if not again and (diverged := store.kept_divergence(store.key(parts), config.id)) is not None:
            raise diverged
        if title:
            context.progress.say(title)
        write = _writer(config, inputs, context, store.cache, parts)
        artifact = store.make(config, inputs, parts, write, again=again, say=context.progress.say)
        if title:
            context.progress.say(f"    {_outcome(artifact)}")
            context.progress.curves(_curves(artifact))
    if isinstance(config, (Export, Bundle)) and (warning := untrained(artifact)):
        context.progress.say(f"note: {config.id}: {warning}")
    return _with_images(artifact, inputs)


def finished_inputs(
    recipe: Recipe, base: Path, runs: Path, context: Context, config: Stage
) -> tuple[dict[str, Artifact], Context]:
    """The inputs and the context of one stage, for work outside a run. Nothing is made.

    Raises:
        ArtifactError: a stage that the inputs come from is not finished.
    """
    store = Store(runs / ".store")
    context = replace(context, budget=recipe.budget, recipe_name=recipe.name, folder=base)
    done = datasets_of(recipe, base, runs, context)
    stages = {stage.id: stage for stage in recipe.stages}

    def inputs_of(stage: Stage) -> dict[str, Artifact]:
        for _, name, _ in references(stage):
            if name not in done:
                done[name] = finished_stage(stages[name])
        return resolve(stage, done)

    def finished_stage(stage: Stage) -> Artifact:
        inputs = inputs_of(stage)
        artifact = store.find(store.key(ingredients_of(stage, inputs, context)))
        if artifact is None:
            raise ArtifactError(f"it is not finished, and '{config.id}' needs it", where=f"stage '{stage.id}'")
        return _with_images(artifact, inputs)

    return inputs_of(config), context.at(config.id, context.work, context.cache)


def datasets_of(recipe: Recipe, base: Path, runs: Path, context: Context) -> dict[str, Artifact]:
    """The artifacts of the data sets and roles of a recipe, by name. Notes about them are said."""
    cache = Store(runs / ".store").root / "hashes.json"
    artifacts = dataset_artifacts(
        recipe.datasets, base, recipe.dataset_names(), cache=cache, progress=context.progress, uses=_uses(recipe)
    )
    notes = [note for artifact in artifacts.values() for note in artifact.manifest.provenance["notes"]]
    for note in dict.fromkeys(notes):
        context.progress.say(f"note: {note}")
    return artifacts


def is_being_made(recipe: Recipe, base: Path, runs: Path, context: Context, datasets: Mapping[str, Artifact]) -> bool:
    """Whether another process makes the first stage of a recipe that is not finished.

    Args:
        datasets: the data sets and roles of the recipe by name.
    """
    store, done = Store(runs / ".store"), dict(datasets)
    context = replace(context, budget=recipe.budget, recipe_name=recipe.name, folder=base)
    for config in recipe.stages:
        key = store.key(ingredients_of(config, resolve(config, done), context))
        artifact = store.find(key)
        if artifact is None:
            return store.is_being_made(key)
        done[config.id] = artifact
    return False


def finished(recipe: Recipe, runs: Path) -> dict[str, InputRef]:
    """The finished results in the folder of this run, by stage id."""
    results = {config.id: _result_in(runs / recipe.name / config.id) for config in recipe.stages}
    return {id: artifact.ref() for id, artifact in results.items() if artifact is not None}


def resolve(config: Stage, done: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """The artifacts that a stage refers to, by the dotted path of the reference."""
    return {dotted(path): done[name] for path, name, _ in references(config)}


def ingredients_of(config: Stage, inputs: Mapping[str, Artifact], context: Context) -> Json:
    """Everything that decides the result of a stage, with the fingerprint of its target."""
    return ingredients(
        config,
        inputs,
        _fingerprint(config, inputs, context),
        context.budget.model_dump(mode="json"),
        context.recipe_name,
        context.dropped,
    )


def stage_function(name: str) -> StageFunction:
    """The function of a stage. Stage modules are imported here and nowhere else."""
    function: StageFunction = import_module(f"edgevit.stages.{name}").run
    return function


FINISHED = "finished"


@dataclass(frozen=True)
class Reason:
    """Whether a stage would run, and the reasons. One that neither runs nor is finished was lost with a training."""

    id: str
    stage: str
    runs: bool
    reasons: tuple[str, ...]

    @property
    def state(self) -> str:
        """In words."""
        if self.runs:
            return "will run"
        return "will not run" if self.reasons else FINISHED


def why(recipe: Recipe, base: Path, runs: Path, fresh: Collection[str] = ()) -> list[Reason]:
    """Whether each stage would run, and the fields that changed since the result in the run folder was made."""
    check_ids(fresh, recipe)
    return plan(recipe, base, datasets_of(recipe, base, runs, Context()), runs, fresh)


def plan(
    recipe: Recipe, base: Path, datasets: Mapping[str, Artifact], runs: Path, fresh: Collection[str] = ()
) -> list[Reason]:
    """The answers of `why` on data sets and roles that were read before, by name."""
    store = Store(runs / ".store")
    context = Context(budget=recipe.budget, recipe_name=recipe.name, folder=base)
    done = dict(datasets)
    answers = []
    lost: dict[str, str] = {}
    for stage in recipe.stages:
        if stage.id in lost:
            answers.append(Reason(stage.id, stage.name(), False, (f"it drops out: {lost[stage.id]}",)))
            continue
        config, dropped = _without_lost(stage, lost)
        context = replace(context, dropped=dropped)
        missing = [name for _, name, _ in references(config) if name not in done]
        if missing:
            reason = f"it needs {', '.join(dict.fromkeys(missing))}, to be made first"
            answers.append(Reason(config.id, config.name(), True, (reason,)))
            continue
        parts = ingredients_of(config, resolve(config, done), context)
        if config.id in fresh:
            answers.append(Reason(config.id, config.name(), True, ("--fresh asks for it",)))
            continue
        artifact = store.find(store.key(parts))
        if artifact:
            done[config.id] = artifact
        elif (diverged := store.kept_divergence(store.key(parts), config.id)) is not None:
            lost |= _lost_in_plan(config.id, recipe, lost, diverged)
            answers.append(Reason(config.id, config.name(), False, (_not_again(config.id),)))
            continue
        reasons = () if artifact else _reasons(runs / recipe.name / config.id, parts)
        answers.append(Reason(config.id, config.name(), artifact is None, reasons))
    return answers


def _lost_in_plan(id: str, recipe: Recipe, lost: Mapping[str, str], diverged: Diverged) -> dict[str, str]:
    """The stages that drop out with a training; none if its divergence ends the run."""
    try:
        return _lost_with(id, recipe, lost, diverged)
    except Diverged:
        return {}


def _not_again(id: str) -> str:
    return f"its training diverged in an earlier run; --fresh {id} trains it again"


def pending(answers: Iterable[Reason]) -> frozenset[str]:
    """The ids of the stages that would run."""
    return frozenset(answer.id for answer in answers if answer.runs)


def check_ids(ids: Collection[str], recipe: Recipe) -> None:
    """Raise RecipeError if there is no stage of one of these ids."""
    known = [config.id for config in recipe.stages]
    for id in ids:
        if id not in known:
            hint = did_you_mean(id, known) or ""
            raise RecipeError(
                f"there is no stage '{id}' to make again. {hint}".rstrip(), expected=f"one of {', '.join(known)}"
            )


def _reasons(stage_folder: Path, parts: Json) -> tuple[str, ...]:
    before = _result_in(stage_folder)
    if before is None:
        return ("its manifest was altered" if (stage_folder / MANIFEST).is_file() else "it was never made here",)
    return tuple(changed_fields(before.manifest.ingredients, parts)) or ("its files are gone or were altered",)


def _result_in(stage_folder: Path) -> Artifact | None:
    """The artifact in a stage's folder of a run; None if there is none, or its manifest was altered."""
    try:
        return Artifact.load(stage_folder)
    except ArtifactError:
        return None


def _fingerprint(config: Stage, inputs: Mapping[str, Artifact], context: Context) -> Json | None:
    """The fingerprint of the target that decides the result; of several targets, each by its name."""
    if isinstance(config, Check):
        from edgevit.checking.nvidia import installed_builder

        return {"builder": installed_builder()}
    if isinstance(config, Select):
        runtimes = sorted({runtime_of(model) for model in inputs.values() if model.kind in MODEL_KINDS})
        return {runtime: target_info(config.target, runtime, context) for runtime in runtimes}
    infos = {
        name: target_info(name, config.runtime_on(name) or runtime_of(inputs["model"]), context)
        for name in config.runs_on()
    }
    return infos if len(infos) > 1 else next(iter(infos.values()), None)


def _writer(
    config: Stage, inputs: Mapping[str, Artifact], context: Context, cache: Path, parts: Json
) -> Callable[[Path, Path], Contents]:
    def write(out: Path, work: Path) -> Contents:
        start, is_resumed = time.monotonic(), any(work.iterdir())
        stage_context = context.at(config.id, work, cache, training=work.name)
        contents = stage_function(config.name())(config, inputs, stage_context, out)
        _check_files_are_those_of_the_key(config, parts)
        cost = {"seconds": round(time.monotonic() - start, 3), "peak_rss_mib_so_far": round(_peak_rss_mib(), 1)}
        cost |= {RESUMED: True} if is_resumed else {}  # the seconds are those of the last part
        origin = weights_origin(config, inputs, contents)
        return replace(contents, provenance={**contents.provenance, **origin, **provenance(), **cost})

    return write


def _check_files_are_those_of_the_key(config: Stage, parts: Json) -> None:
    """Raise ArtifactError if an input file changed after the key was computed.

    Images are compared with their hashes as they are read, see `Dataset.image`.
    """
    for name, file in input_files(config).items():
        if not file.is_file() or f"sha256 {sha256_of_file(file)}" != parts["config"][name]:
            raise ArtifactError(
                "the file was changed while the stage read it",
                where=file,
                got=f"another content than when '{config.id}' began",
                next="run the command again",
            )


def _peak_rss_mib() -> float:
    """Largest resident memory of this process so far, or of its largest child."""
    unit = 1 if sys.platform == "darwin" else 2**10
    own, children = (
        unit * resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return max(peak_bytes() or own, children) / 2**20


def _outcome(artifact: Artifact) -> str:
    """The main numbers of a finished stage, for the console."""
    metrics = artifact.metrics
    words = [f"done in {artifact.manifest.provenance['seconds']:.1f} s"]
    if "top1" in metrics:
        top1 = metrics["top1"]
        words.append(f"top-1 {top1['value']:.1%} ({top1['low']:.1%} to {top1['high']:.1%}, n {top1['n']})")
        words.append(f"constant guess {metrics['constant_guess']['value']:.1%}")
    if "episodes" in metrics:
        words += [f"{method} {top1['value']:.1%}" for method, top1 in metrics["episodes"].items()]
    for head in metrics.get("heads", ()):
        words.append(f"{head['head']} {head['top1']['value']:.1%} with {head['support_images']} labels")
    if "corrupted_top1" in metrics:
        words.append(f"{metrics['corrupted_top1']['value']:.1%} under corruption")
    if "latency_ms" in metrics:
        latency = LatencyRecord.of_metrics(metrics)
        label = "" if latency.label == "measured" else f" ({latency.label}, not measured)"
        p99 = f", p99 {latency.p99.ms:.3g} ms" if latency.p99 else ""
        words.append(f"p50 {latency.p50_ms:.3g} ms{p99}{label}{' INVALID' if latency.invalid else ''}")
    if "params" in metrics and artifact.kind == "checkpoint":
        words.append(f"{metrics['params'] / 1e6:.2f} M parameters")
    if "size_bytes" in metrics:
        words.append(f"{metrics['size_bytes'] / 2**20:.2f} MiB")
    return ", ".join(words)


def _with_images(artifact: Artifact, inputs: Mapping[str, Artifact]) -> Artifact:
    """A data set that a stage made, with the paths of its images; any other artifact as it is."""
    return with_source(artifact, inputs["data"]) if artifact.kind == "dataset" else artifact


def _curves(artifact: Artifact) -> dict[str, list[float]]:
    """Loss and validation accuracy by step, if the artifact comes from a training."""
    if "metrics.jsonl" not in artifact.manifest.files:
        return {}
    rows = [json.loads(line) for line in artifact.file("metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {name: [row[name] for row in rows if name in row] for name in ("loss", "val_top1")}


def _uses(recipe: Recipe) -> Uses:
    """The data sets that stages test, learn from and adapt to. Class names alone are no use of images."""
    of_purpose: dict[Purpose | None, set[str]] = defaultdict(set)
    for stage in recipe.stages:
        for _, name, takes in references(stage):
            of_purpose[takes.purpose].add(name)
    datasets = frozenset(recipe.dataset_names())
    learned = set().union(*(of_purpose[purpose] for purpose in LEARNING_PURPOSES))
    return Uses(datasets & of_purpose["judged by"], datasets & learned, datasets & of_purpose["adapted to"])


def _show(artifact: Artifact, run_folder: Path, stage_id: str) -> None:
    """Show an artifact in its stage's folder of the run: as a link, or a bundle as a copy, which may be changed."""
    stage_folder = run_folder / stage_id
    for above in stage_folder.relative_to(run_folder).parents:
        if (run_folder / above).is_symlink() and above != Path():  # an older recipe had a stage of this name
            (run_folder / above).unlink()
    stage_folder.parent.mkdir(parents=True, exist_ok=True)
    if artifact.kind == "bundle":
        _show_copy(artifact, stage_folder)
        return
    if stage_folder.is_dir() and not stage_folder.is_symlink():
        raise ArtifactError("a folder is in the way of a stage's result", where=stage_folder, next="move it away")
    replace_link(stage_folder, Path(os.path.relpath(artifact.path, stage_folder.parent.resolve())))


def _show_copy(bundle: Artifact, stage_folder: Path) -> None:
    """Copy a bundle into the run. Another bundle there is renamed, since a user may have changed it."""
    if _holds(stage_folder, bundle):
        return
    copy = stage_folder.with_name(f".{stage_folder.name}.{os.getpid()}")
    shutil.rmtree(copy, ignore_errors=True)
    try:
        copy_folder(bundle.path, copy)
        if _holds(stage_folder, bundle):
            return
        if stage_folder.is_symlink():
            stage_folder.unlink()
        elif stage_folder.exists():
            stage_folder.rename(stage_folder.with_name(f"{stage_folder.name}.before-{time.strftime('%Y%m%d-%H%M%S')}"))
        copy.rename(stage_folder)
    except OSError:
        if not _holds(stage_folder, bundle):  # unless another run of the recipe has just copied it
            raise
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _holds(stage_folder: Path, artifact: Artifact) -> bool:
    result = _result_in(stage_folder)
    return result is not None and result.digest == artifact.digest
