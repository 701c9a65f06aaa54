"""Checks across stages: ids, references, and the use of data sets."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgevit.artifacts import MODEL_KINDS, Kind
from edgevit.bounds import MOST_RACED
from edgevit.configs import (
    Bundle,
    Compile,
    DatasetConfig,
    Export,
    Prune,
    Qat,
    Quantize,
    Recipe,
    Report,
    Select,
    Stage,
    kinds_of,
    makers_of,
    models_of,
    references,
)
from edgevit.configs.fields import MEASUREMENTS, Takes
from edgevit.configs.runtimes import ONNXRUNTIME, OPENVINO, TENSORRT
from edgevit.configs.targets import LOCAL_CPU, LOCAL_GPU, LOCAL_TARGETS
from edgevit.errors import RecipeError, did_you_mean
from edgevit.models.names import known_model, nearest_models
from edgevit.recipe.mistakes import place_of
from edgevit.targets.named import groups_by_name, targets_by_name
from edgevit.yaml_reader import Block

ROLES = ("train", "val", "test", "support", "pool")
ROLES_OF_EVERY_SET = ROLES[:3]
LEARNED_ROLES = ("train", "support", "pool")


class Problem(NamedTuple):
    """A wrong reference: a sentence about it, and what would be accepted."""

    what: str
    expected: str


@dataclass(frozen=True)
class _Before:
    """The recipe as far as one stage can refer to it.

    Attributes:
        kinds: the kinds of the earlier stages' results, by id.
        later: the ids of this stage and of the later ones.
    """

    recipe: Recipe
    kinds: Mapping[str, Kind]
    later: Sequence[str]
    earlier: Sequence[Stage]


def with_patterns_resolved(stage: Stage, earlier: Sequence[Stage]) -> Stage:
    """Replace each pattern in the `of` of a report, or the `models` of `select`, by the earlier results that match."""
    field, wanted = ("models", MODEL_KINDS) if isinstance(stage, Select) else ("of", MEASUREMENTS)
    given = getattr(stage, field, None)
    if given is None:
        return stage
    results = [id for id, kind in kinds_of(earlier).items() if kind in wanted]
    names = [match for name in given for match in (fnmatch.filter(results, name) if "*" in name else [name])]
    return stage.model_copy(update={field: tuple(dict.fromkeys(names)) or given})


def within_budget(stage: Stage, recipe: Recipe) -> Stage:
    """The stage with limits from the budget: top-1 and size of `quantize`, and those and latency of `select`.

    A stage `quantize` gets the limit of top-1 only if its validation images have labels. The limits of latency and size
    are those of the file that ships, so a stage gets them only if no later stage makes another model from its model.
    """
    if isinstance(stage, Select):
        drop = recipe.budget.top1_drop if stage.max_top1_drop is None else stage.max_top1_drop
        of_file = () if _is_changed_later(stage.id, recipe.stages) else ("latency_ms", "size_mib")
        limits = {name: getattr(recipe.budget, name) for name in of_file if getattr(stage, name) is None}
        return stage.model_copy(update={**limits, "max_top1_drop": drop})
    if not isinstance(stage, Quantize):
        return stage
    limits = {}
    is_labelled = stage.validation is not None and not _has_no_labels(stage.validation, recipe)
    if is_labelled and stage.max_top1_drop is None:
        limits["max_top1_drop"] = recipe.budget.top1_drop
    if stage.is_timed and stage.size_mib is None and not _is_changed_later(stage.id, recipe.stages):
        limits["size_mib"] = recipe.budget.size_mib
    return stage.model_copy(update=limits)


def _is_changed_later(id: str, stages: Sequence[Stage]) -> bool:
    """Whether a stage makes another model from this stage's model, or from a selection of it."""
    kinds = kinds_of(stages)
    readers = [stage for stage in stages if id in {name for _, name, _ in references(stage)}]
    return any(
        _is_changed_later(reader.id, stages) if isinstance(reader, Select) else kinds[reader.id] in MODEL_KINDS
        for reader in readers
    )


def mistakes_across_stages(recipe: Recipe, document: Block, folder: Path) -> Iterator[RecipeError]:
    """An error for each wrong id, model name, target and reference, in the order of the recipe.

    Args:
        folder: the folder of the recipe, whose targets.yaml counts.
    """
    kinds: dict[str, Kind] = {}
    engines: dict[str, Compile] = {}  # that do not run on this machine's CPU, by id
    for index, stage in enumerate(recipe.stages):

        def place(*path: str | int, index: int = index) -> str:
            return place_of(document, ("stages", index, *path))

        if mistake := _wrong_id(stage.id, kinds, recipe):
            yield RecipeError(mistake, where=place("id"))
        if unknown_model := _unknown_model(stage):
            near = ", ".join(nearest_models(unknown_model)) or None
            hint = "edgevit models lists compact students"
            yield RecipeError(f"timm has no model '{unknown_model}'", where=place("model"), expected=near, next=hint)
        if problem := _problem_of_target(stage, kinds, engines, folder):
            yield RecipeError(problem.what, where=place("target"), expected=problem.expected)
        if isinstance(stage, Bundle):
            for field, problem in _problems_of_bundle(stage, engines, recipe.stages[:index]):
                yield RecipeError(problem.what, where=place(field), expected=problem.expected)
        before = _Before(recipe, kinds, [later.id for later in recipe.stages[index:]], recipe.stages[:index])
        for path, name, takes in references(stage):
            if problem := _problem_of(stage, path, name, takes, before):
                yield RecipeError(problem.what, where=place(*path), got=name, expected=problem.expected)
        kinds[stage.id] = stage.kind(kinds)
        if isinstance(stage, Compile) and stage.target != LOCAL_CPU:
            engines[stage.id] = stage
        if isinstance(stage, Select) and stage.models[0] in engines:
            engines[stage.id] = engines[stage.models[0]]


def _problem_of_engine(stage: Stage, model: str, engines: Mapping[str, Compile]) -> Problem | None:
    """A model that was compiled on another target than the one that would run it."""
    engine = engines.get(model)
    if engine is None:
        return None
    target = getattr(stage, "target", engine.target)
    if target == engine.target:
        return None
    what = f"'{engine.id}' is compiled on '{engine.target}', and does not run on '{target}'"
    return Problem(what, f"target: {engine.target}")


def _problems_of_bundle(
    bundle: Bundle, engines: Mapping[str, Compile], earlier: Sequence[Stage]
) -> Iterator[tuple[str, Problem]]:
    """What a bundle cannot hold, take or serve of a model that was compiled on another machine, by the option."""
    engine = engines.get(bundle.model)
    is_tensorrt = engine is not None and engine.runtime == TENSORRT.name
    if engine is not None and bundle.compiled and not is_tensorrt:
        what = f"'{engine.id}' is compiled on '{engine.target}', and this machine cannot check its bundle"
        yield "compiled", Problem(what, "compiled: false")
    if is_tensorrt and bundle.compiled and bundle.support:
        what = f"'{bundle.model}' is a TensorRT engine: a bundle with an engine takes no classes"
        yield "support", Problem(what, "compiled: false, or no support")
    if "deepstream" in bundle.serve and (problem := _problem_of_deepstream(bundle, is_tensorrt, earlier)):
        yield "serve", problem


def _problem_of_deepstream(bundle: Bundle, is_tensorrt: bool, earlier: Sequence[Stage]) -> Problem | None:
    """A model that DeepStream would not run: it is no engine, takes uint8 images, or has an embedding."""
    if not is_tensorrt:
        what = f"DeepStream runs TensorRT engines, and '{bundle.model}' is not one"
        return Problem(what, "a model of a compile stage with runtime: tensorrt, or no deepstream")
    for export, option in itertools.product(_exports_of(bundle.model, earlier), ("normalize", "embedding")):
        if getattr(export, option):
            return Problem(f"DeepStream does not run a model with {option}: true", f"{option}: false in '{export.id}'")
    return None


def _problem_of_target(
    stage: Stage, kinds: Mapping[str, Kind], engines: Mapping[str, Compile], folder: Path
) -> Problem | None:
    """The first problem with the target of a stage, for any of its models."""
    for model in models_of(stage):
        problem = _problem_of_engine(stage, model, engines) or _problem_with_model(stage, model, kinds, engines, folder)
        if problem:
            return problem
    return None


def _problem_with_model(
    stage: Stage, model: str, kinds: Mapping[str, Kind], engines: Collection[str], folder: Path
) -> Problem | None:
    """A target that does not run a model. The files of targets are read only if a stage names one of them."""
    name: str = getattr(stage, "target", LOCAL_CPU)
    is_tensorrt = getattr(stage, "runtime", None) == TENSORRT.name
    if name == LOCAL_CPU and isinstance(stage, Compile | Prune) and is_tensorrt:
        return Problem("TensorRT does not run on a CPU", f"{LOCAL_GPU}, or a name of edgevit devices")
    kind = kinds.get(model)
    if name == LOCAL_GPU and kind == "engine" and model not in engines:
        what = f"'{model}' is compiled for this machine's CPU"
        return Problem(what, f"target: {LOCAL_CPU}, or the ONNX file that it is compiled from")
    if name in LOCAL_TARGETS:
        return None
    targets = targets_by_name(folder)
    if name not in targets:
        if group := groups_by_name(folder).get(name):
            return Problem(f"'{name}' is a group of targets", f"a stage for each of {', '.join(group.members)}")
        hint = did_you_mean(name, targets) or f"edgevit devices add {name} ssh://user@host"
        return Problem(f"there is no target '{name}'. {hint}", f"one of {', '.join(targets)}")
    config = targets[name].config
    if isinstance(stage, Prune) and not is_tensorrt and config is not None and config.runtime == TENSORRT.name:
        what = f"'{stage.id}' would time models in {ONNXRUNTIME.title}, and '{name}' is meant for TensorRT"
        return Problem(f"{what} (targets.yaml)", f"runtime: {TENSORRT.name}, or another target")
    if kind == "engine" and model not in engines:
        what = f"'{name}' is a machine of targets.yaml, and '{model}' is compiled for this machine's CPU"
        return Problem(what, "the ONNX file that it is compiled from")
    if kind == "checkpoint" and not isinstance(stage, Prune):
        what = f"'{name}' is a machine of targets.yaml, where no checkpoint runs"
        return Problem(what, "an ONNX file: export the model first")
    if getattr(stage, "runtime", None) == OPENVINO.name:
        what = f"'{name}' is a machine of targets.yaml, where models run in {ONNXRUNTIME.title}"
        return Problem(what, "another runtime")
    return None


def _wrong_id(id: str, ids: Collection[str], recipe: Recipe) -> str | None:
    if id in ids or _is_dataset(id, recipe):
        return f"the id '{id}' is used twice"
    clash = next((other for other in ids if other.startswith(f"{id}/") or id.startswith(f"{other}/")), None)
    return None if clash is None else f"the ids '{id}' and '{clash}' cannot both be folders of the run"


def _unknown_model(stage: Stage) -> str | None:
    """The timm name in a stage, if timm has no such model."""
    model: str | None = getattr(stage, "model", None) if stage.name() in ("load", "train", "distill") else None
    return None if model is None or known_model(model) else model


def _problem_of(stage: Stage, path: tuple[str | int, ...], name: str, takes: Takes, before: _Before) -> Problem | None:
    """The first problem with one reference of a stage."""
    checks: list[Callable[[], Problem | None]] = [lambda: _wrong_reference(name, takes.kinds, before)]
    if takes.purpose != "names only" and not stage.reads_test_images:
        checks.append(lambda: _reads_test(name, before.recipe))
    if takes.purpose == "judged by":
        checks.append(lambda: _tests_learned_images(name, before.recipe))
    if takes.needs_labels:
        checks.append(lambda: _lacks_labels(name, stage, before.kinds))
    if isinstance(stage, Select) and path[0] == "models":
        checks.append(lambda: _no_choice(stage, name, before.kinds))
    if isinstance(stage, Select) and path == ("data",):
        checks.append(lambda: _nothing_to_compare_by(name, before.recipe))
    if isinstance(stage, Bundle) and path == ("support",):
        checks.append(lambda: _without_embedding(stage, before.earlier))
    if isinstance(stage, Report) and path == ("deployed",):
        checks.append(lambda: _unmeasured(stage, before.earlier))
    if isinstance(stage, Quantize) and path == ("model",):
        checks.append(lambda: _without_trained_ranges(stage, before.earlier))
    if isinstance(stage, Quantize) and path == ("validation",):
        checks.append(lambda: _limit_without_labels(stage, name, before.recipe))
    return next(filter(None, (check() for check in checks)), None)


def _wrong_reference(name: str, wanted: tuple[Kind, ...], before: _Before) -> Problem | None:
    kinds, expected = before.kinds, " or ".join(wanted)
    if name in kinds:
        if kinds[name] in wanted:
            return None
        return Problem(f"'{name}' makes a {kinds[name]}", f"an earlier stage that makes a {expected}")
    if "dataset" in wanted and name not in before.later:
        return _wrong_dataset(name, kinds, before.recipe)
    candidates = [id for id, kind in kinds.items() if kind in wanted]
    if name in before.later:
        what = f"'{name}' comes later; stages run in the order of the file"
        return Problem(what, f"an earlier {expected}: {', '.join(candidates)}")
    hint = did_you_mean(name, kinds) or ""
    what = f"there is no stage '{name}'. {hint}".rstrip()
    return Problem(what, f"an earlier {expected}: {', '.join(candidates) or 'there is none'}")


def _no_choice(select: Select, name: str, kinds: Mapping[str, Kind]) -> Problem | None:
    """A model that is the only one, one of too many, or of another kind than the first."""
    if len(select.models) > MOST_RACED:
        what = f"{len(select.models)} models are too many: the intervals would say nothing"
        return Problem(what, f"at most {MOST_RACED} models")
    if len(select.models) == 1:
        return Problem("there is nothing to select from one model", "two models or more")
    if kinds[name] != kinds[select.models[0]]:
        what = f"'{name}' is of another kind than '{select.models[0]}', and select takes models of one kind"
        return Problem(what, f"a {kinds[select.models[0]]}")
    return None


def _nothing_to_compare_by(name: str, recipe: Recipe) -> Problem | None:
    """Images without labels. No accuracy can be measured on them."""
    if not _has_no_labels(name, recipe):
        return None
    return Problem(f"'{name}' has no labels, by which select compares models", "a role with labels, such as NAME.val")


def _wrong_dataset(name: str, kinds: Mapping[str, Kind], recipe: Recipe) -> Problem | None:
    dataset, _, role = name.partition(".")
    if dataset not in recipe.datasets:
        known = [*recipe.datasets, *(id for id, kind in kinds.items() if kind == "dataset")]
        hint = did_you_mean(dataset, known) or ""
        return Problem(f"there is no data set '{dataset}'. {hint}".rstrip(), f"one of {', '.join(known)}")
    roles = _possible_roles(recipe.datasets[dataset])
    if role and role not in roles:
        more = "" if role not in ROLES else _way_to_role(recipe.datasets[dataset])
        return Problem(f"data set '{dataset}' has no role '{role}'{more}", f"one of {', '.join(roles)}")
    return None


def _possible_roles(config: DatasetConfig) -> tuple[str, ...]:
    """The roles that a data set may have. A role may still turn out to hold no images."""
    may_lack_labels = config.source in ("image_folder", "csv")  # some images, beside others that have labels
    hides_labels = config.few_shot is not None and config.few_shot.shots != "all"
    has_pool = may_lack_labels or hides_labels
    return (*ROLES_OF_EVERY_SET, *(["support"] if config.few_shot else ()), *(["pool"] if has_pool else ()))


def _way_to_role(config: DatasetConfig) -> str:
    if config.few_shot is None:
        return " (give the data set few_shot: {shots: 5})"
    return " (with few_shot.shots: all, every image has a label in the support; leave the pool out)"


def _is_dataset(name: str, recipe: Recipe) -> bool:
    dataset, _, role = name.partition(".")
    return dataset in recipe.datasets and role in ("", *ROLES)


def _reads_test(name: str, recipe: Recipe) -> Problem | None:
    """Only evaluate and attention may read test images. A data set without a role includes its test images."""
    dataset, _, role = name.partition(".")
    config = recipe.datasets.get(dataset)
    if config is None or role not in ("", "test"):
        return None
    if not role and (config.source == "glyphs" or getattr(config, "classes", None) == "none"):
        return None  # no test images in it
    if role:
        what = "only evaluate and attention may read test images"
    else:
        what = f"'{dataset}' includes its test images, which only evaluate and attention may read"
    return Problem(what, f"a role such as {dataset}.train or {dataset}.pool")


def _tests_learned_images(name: str, recipe: Recipe) -> Problem | None:
    """A data set without a role includes the images of every role, and stages may learn from some of them."""
    if name not in recipe.datasets:
        return None
    in_dataset = {name, *(f"{name}.{role}" for role in LEARNED_ROLES)}
    read = {
        data
        for stage in recipe.stages
        if not stage.reads_test_images
        for _, data, takes in references(stage)
        if takes.purpose != "names only"
    }
    if not (learned := sorted(in_dataset & read)):
        return None
    return Problem(f"'{name}' includes images that stages learn from ({', '.join(learned)})", f"{name}.test")


def _lacks_labels(name: str, stage: Stage, kinds: Mapping[str, Kind]) -> Problem | None:
    """A stage that makes a data set gives it a teacher's labels."""
    if kinds.get(name) != "dataset":
        return None
    return Problem(f"'{name}' holds pseudo-labels; {stage.name()} needs ground-truth labels", "a labelled data set")


def _limit_without_labels(quantize: Quantize, name: str, recipe: Recipe) -> Problem | None:
    """A limit on the loss of top-1 needs labelled images."""
    if quantize.max_top1_drop is None or not _has_no_labels(name, recipe):
        return None
    return Problem(f"max_top1_drop is measured on labelled images, and '{name}' has none", "a role such as val")


def _has_no_labels(name: str, recipe: Recipe) -> bool:
    """Whether the recipe says that the images of a data set have no labels."""
    dataset, _, role = name.partition(".")
    return role == "pool" or getattr(recipe.datasets.get(dataset), "classes", None) == "none"


def _without_embedding(bundle: Bundle, earlier: Sequence[Stage]) -> Problem | None:
    """A bundle with a support set needs a model that was exported with an embedding."""
    export = next((export for export in _exports_of(bundle.model, earlier) if not export.embedding), None)
    if export is None:
        return None
    what = "a bundle that takes classes needs a model with an embedding"
    return Problem(what, f"embedding: true in stage '{export.id}'")


def _exports_of(model: str, earlier: Sequence[Stage]) -> Iterator[Export]:
    """The stage that exported a model; for a selection, those of each of its models."""
    makers = makers_of(model, {stage.id: stage for stage in earlier}, through=(Quantize, Compile, Select))
    return (maker for maker in makers if isinstance(maker, Export))


def _unmeasured(report: Report, earlier: Sequence[Stage]) -> Problem | None:
    """The deployed model of a report is one of the models that its measurements measure."""
    measured = {str(getattr(stage, "model", "")): None for stage in earlier if stage.id in report.of}
    if report.deployed in measured:
        return None
    what = f"nothing in 'of' measures the deployed model '{report.deployed}'"
    return Problem(what, f"one of {', '.join(measured)}")


def _without_trained_ranges(quantize: Quantize, earlier: Sequence[Stage]) -> Problem | None:
    """calibrator: trained needs the ranges of a qat stage."""
    by_id = {stage.id: stage for stage in earlier}
    export = by_id.get(quantize.model)
    if quantize.calibrator != "trained" or not isinstance(export, Export):
        return None
    if isinstance(by_id.get(export.model), Qat) and export.precision == "float32":
        return None
    return Problem("calibrator: trained needs the ranges of a qat stage", "the float32 export of a qat stage")
