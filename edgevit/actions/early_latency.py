"""Before a recipe trains: whether its student will meet the latency budget, by a timing with random weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edgevit.artifacts import MODEL_KINDS, Artifact, Kind
from edgevit.configs import (
    OF_NEW_HEADS,
    Compile,
    Distill,
    Evaluate,
    Export,
    Fewshot,
    Load,
    Pretrain,
    Profile,
    Qat,
    Quantize,
    Recipe,
    Report,
    Stage,
    Train,
    kinds_of,
    references,
)
from edgevit.context import Context
from edgevit.errors import CheckFailed, listed
from edgevit.models.bodies import is_body
from edgevit.report.deployed import ModelInLine, deployed_model, line_of, names_teacher
from edgevit.selection.kept import timed
from edgevit.selection.records import DeployedForm, Student, Timing
from edgevit.store import dotted

S = TypeVar("S", bound=Stage)
ADVISED_TIMINGS = 3  # of students that would meet the budget
KINDS: tuple[type[Stage], ...] = (Load, Pretrain, Train, Distill, Qat, Fewshot, Export, Quantize, Compile)

WITH_A_NAME = (Load, Pretrain, Train, Distill)


@dataclass(frozen=True)
class DeployedChain:
    """The stages from the student to the model that the budget judges.

    Attributes:
        trained: the stage that makes the checkpoint of the deployed model.
        starts: the stages that the checkpoint was made from, the first one last.
    """

    form: DeployedForm
    trained: Stage
    starts: tuple[Stage, ...]

    @property
    def trains(self) -> bool:
        return any(isinstance(stage, (Pretrain, Train, Distill, Qat)) for stage in (self.trained, *self.starts))


def check_latency_early(
    recipe: Recipe, datasets: Mapping[str, Artifact], pending: Callable[[], Collection[str]], context: Context
) -> None:
    """Time the student of a recipe with a latency budget untrained, unless it is trained already.

    Args:
        datasets: the data sets and roles of the recipe, by name.
        pending: gives the ids of the stages that would run.

    Raises:
        CheckFailed: its p50 is over the budget by more than its interval. The error names students that would meet it.
    """
    limit_ms, chain = recipe.budget.latency_ms, deployed_chain(recipe)
    if limit_ms is None or chain is None or not chain.trains:
        return
    if chain.trained.id not in pending():
        return
    student = student_of(chain, datasets)
    if student is None:
        return
    timing = timed(student, chain.form, context)
    context.progress.say(
        f"{chain.trained.id}: p50 {timing.p50_ms:.3g} ms untrained ({timing.form}); the budget is {limit_ms:g} ms"
    )
    if timing.p50_low_ms > limit_ms:
        raise _too_slow(chain, student, timing, limit_ms, context)


def deployed_chain(recipe: Recipe) -> DeployedChain | None:
    """The stages behind the model that the last report will judge, or that a report of all measurements would judge.

    None if a stage on the way reshapes the model, the model is not timed, or its form is not known before the run.
    """
    reports = [stage for stage in recipe.stages if isinstance(stage, Report)]
    named, of = (reports[-1].deployed, reports[-1].of) if reports else (None, None)
    measurements = [stage for stage in recipe.stages if of is None or stage.id in of]
    profiles = {stage.model: stage for stage in measurements if isinstance(stage, Profile)}
    evaluated = [
        stage.model for stage in measurements if isinstance(stage, Evaluate) and stage.protocol not in OF_NEW_HEADS
    ]
    models = _models_behind(measurements, recipe.stages)
    deployed = named or (deployed_model(list(models.values()), evaluated, profiles) if profiles else None)
    if deployed is None or deployed not in profiles:
        return None
    stages = {stage.id: stage for stage in recipe.stages}
    return _timed_chain([stages[id] for id in line_of(deployed, models)], profiles[deployed])


def student_of(chain: DeployedChain, datasets: Mapping[str, Artifact]) -> Student | None:
    """The untrained student of a chain; None if its model is not known before the run."""
    stages = (chain.trained, *chain.starts)
    named = next((stage for stage in stages if isinstance(stage, WITH_A_NAME) and stage.model), None)
    if named is None or any(getattr(stage, "test_time_views", ()) for stage in stages[:1]):
        return None
    assert isinstance(named, WITH_A_NAME)
    assert named.model is not None
    return Student(
        model=named.model,
        image_size=named.image_size,
        num_classes=_num_classes(stages, datasets),
        model_args=named.model_args,
        distillation_token=isinstance(named, Distill) and named.distillation_token,
    )


def _models_behind(measurements: Iterable[Stage], stages: Sequence[Stage]) -> dict[str, ModelInLine]:
    """The models behind measurements by id, in the order of the recipe."""
    behind = {measurement.id for measurement in measurements}
    models: dict[str, ModelInLine] = {}
    kinds = kinds_of(stages)
    for stage in reversed(stages):
        if stage.id in behind:
            names = {dotted(path): name for path, name, _ in references(stage)}
            behind.update(names.values())
            if kinds[stage.id] in MODEL_KINDS:
                models[stage.id] = _in_line(stage, kinds[stage.id], names)
    return dict(reversed(models.items()))


def _in_line(stage: Stage, kind: Kind, names: Mapping[str, str]) -> ModelInLine:
    """A stage's model, by the names that the stage refers to. The model of `select` is not known before the run."""
    made_from = names.get("model") or names.get("init")
    teachers = tuple(name for path, name in names.items() if names_teacher(path))
    is_centroid = isinstance(stage, Fewshot) and stage.method == "nearest_centroid"
    return ModelInLine(stage.id, kind, made_from, teachers, is_centroid)


def _timed_chain(line: Sequence[Stage], profile: Profile) -> DeployedChain | None:
    """The chain of these stages, the last one first; None if the speed of its form cannot be known before the run."""
    if not all(isinstance(stage, KINDS) for stage in line):
        return None
    checkpoints = [stage for stage in line if not isinstance(stage, (Export, Quantize, Compile))]
    form = DeployedForm(profile, _first(line, Export), _first(line, Quantize), _first(line, Compile))
    return DeployedChain(form, checkpoints[0], tuple(checkpoints[1:])) if _can_be_timed(form) else None


def _can_be_timed(form: DeployedForm) -> bool:
    """Whether the form can be timed before the run, in the runtime that it is written for."""
    quantize, export = form.quantize, form.export
    if quantize is not None and (quantize.runtime == "tensorrt" or quantize.precision != "int8"):
        return False
    if form.compile is not None and form.compile.runtime == "tensorrt":
        return False
    return export is None or (export.precision == "float32" and form.profile.runtime in (None, export.runtime))


def _first(chain: Sequence[Stage], kind: type[S]) -> S | None:
    return next((stage for stage in chain if isinstance(stage, kind)), None)


def _num_classes(stages: Collection[Stage], datasets: Mapping[str, Artifact]) -> int:
    """The number of outputs: of the data that the last training learns from, or of the loaded model."""
    for stage in stages:
        counts = [datasets[name].metrics.get("classes") or 0 for _, name, _ in references(stage) if name in datasets]
        if max(counts, default=0) > 1:
            return int(max(counts))
        if isinstance(stage, Load) and (stage.num_classes or stage.classes):
            return stage.num_classes or len(stage.classes or ())
    return 1000


def _too_slow(chain: DeployedChain, student: Student, timing: Timing, limit_ms: float, context: Context) -> CheckFailed:
    size = f" at {student.image_size} px" if student.image_size else ""
    what = f"the student {student.model}{size} will not meet the latency budget"
    got = f"p50 {timing.p50_ms:.3g} ms untrained, interval {timing.p50_low_ms:.3g} to {timing.p50_high_ms:.3g} ms"
    advice = _advice(chain, student, limit_ms, context)
    return CheckFailed(
        what, where=f"stage '{chain.trained.id}'", got=got, expected=f"at most {limit_ms:g} ms", next=advice
    )


def _advice(chain: DeployedChain, student: Student, limit_ms: float, context: Context) -> str:
    """Students that would meet the budget, as timed, and the way to go on regardless."""
    from edgevit.actions.student_choice import sizes_of_bodies, timer
    from edgevit.selection.candidates import shortlist
    from edgevit.selection.choice import most_capable

    context.progress.say(f"students within {limit_ms:g} ms, timed untrained:")
    time = timer(student.num_classes, chain.form, context)
    candidates = sizes_of_bodies() if is_body(student.model) else shortlist()
    choice = most_capable(candidates, limit_ms, time, most=ADVISED_TIMINGS)
    anyway = "--anyway runs it all the same"
    if choice.best is None:
        return f"raise budget.latency_ms; {anyway}"
    within = [str(candidate) for candidate, timing in choice.timings.items() if timing.p50_high_ms <= limit_ms]
    return f"take {listed(within)}; {anyway}"
