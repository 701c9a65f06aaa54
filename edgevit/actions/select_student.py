"""`edgevit select`: a student for a folder of images, by short trainings of several students within a budget.

The shortlist is measured on the target, or predicted for a board that is not at hand. Its students then train for the
same few epochs, and the stage `select` takes one on the validation images.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgevit.actions.estimate_latency import estimated_latency
from edgevit.actions.init_recipe import (
    Findings,
    InitOptions,
    WrittenRecipe,
    look_at_folder,
    recipe_for_student,
    short_recipe,
)
from edgevit.actions.student_choice import ChosenStudent, students_within, timer
from edgevit.artifacts import IOSpec, Json
from edgevit.configs import OPSET, Budget, Recipe, Select, Stage
from edgevit.configs.targets import LOCAL_GPU
from edgevit.context import Context
from edgevit.errors import DataError, RecipeError
from edgevit.exporting import onnx_from_module
from edgevit.models.cost import cost_of
from edgevit.models.creation import create_model
from edgevit.models.timm_models import default_class_names
from edgevit.pipeline import run
from edgevit.selection.candidates import Candidate
from edgevit.selection.records import Timing

SELECTED = "selected"  # the id of the stage `select`
SHARED = ("backbone", "teacher")  # stages before the students
OF_A_STUDENT = ("start", "student", "onnx", "int8")
FLOAT16_BYTES = 2


@dataclass(frozen=True)
class TrialOptions:
    """The short trainings.

    Attributes:
        students: the largest number of students.
        epochs: of each student.
        runs: the folder of runs. The recipe that is written finds the teacher there.
        board: whose latency is predicted, in place of a measurement on the target.
    """

    students: int
    epochs: int
    runs: Path
    board: str | None = None


@dataclass(frozen=True)
class SelectedStudent:
    """The student that was selected, and its recipe.

    Attributes:
        shortlist: the students within the budget, as measured or predicted before any training.
        selection: the record of the stage `select`; None where one student alone meets the budget.
        measured_on: the target; None where the shortlist was predicted.
        predicted_for: the board; None where the shortlist was measured.
    """

    written: WrittenRecipe
    student: Candidate
    shortlist: Mapping[Candidate, Timing]
    selection: Json | None
    measured_on: str | None
    predicted_for: str | None

    def as_json(self) -> Json:
        """For programs. `label` says whether the latencies of the shortlist are measured or predicted."""
        return {
            "student": {"model": self.student.model, "image_size": self.student.image_size},
            "label": "measured" if self.predicted_for is None else "predicted",
            "target": self.measured_on,
            "board": self.predicted_for,
            "shortlist": [
                {"model": one.model, "image_size": one.image_size, **timing.model_dump(mode="json")}
                for one, timing in self.shortlist.items()
            ],
            "selection": self.selection,
        }


def recipe_by_trials(options: InitOptions, trials: TrialOptions, context: Context) -> SelectedStudent:
    """Train students of the shortlist for a few epochs, and write the recipe of the one that `select` takes.

    Args:
        options: with a latency budget.

    Raises:
        CheckFailed: no student meets the budget. Before any training, the error names a budget that can be met.
        DataError: there are no images to validate on; or see `look_at_folder`.
        TargetError, RecipeError, ArtifactError: see `look_at_folder`.
    """
    assert options.latency_ms is not None
    if options.target == LOCAL_GPU:
        what, next_step = (
            "select compares ONNX files, and init deploys PyTorch on local-gpu",
            "edgevit init --target local-gpu",
        )
        raise RecipeError(what, where="--target", got=LOCAL_GPU, next=next_step)
    found, say = look_at_folder(options, context), context.progress.say
    _check_has_validation_images(found)
    if trials.board is None:
        time, where = timer(found.num_classes, found.form, context), "here"
        say(f"students, timed untrained on {options.target}, p50 of one image:")
    else:
        time, where = predictor(found.num_classes, trials.board, context), f"on {trials.board}, as predicted"
        say(f"students, predicted for {trials.board} in float16 and not measured:")
    within = students_within(found.sources, time, options.latency_ms, options.size_mib, trials.students, where)
    students = {
        _label(candidate): ChosenStudent(candidate, found.sources.start_of(candidate.model), timing)
        for candidate, timing in within.items()
    }
    selection = None
    if len(students) == 1:
        (student,), lines = students.values(), ["one student meets the budget, so none was trained to compare"]
    else:
        say(f"{len(students)} students train for {_epochs(trials)} each; select --epochs sets another number")
        selection = _selection(found, students, trials, context)
        student, lines = students[_label_in(selection["winner"])], list(_about(selection))
    reason = _reason(student, options, trials, len(students))
    if trials.board is not None:  # a budget in the recipe would be judged on this machine
        found = replace(found, options=replace(options, latency_ms=None))
    written = recipe_for_student(found, student, context, reason)
    written = replace(written, lines=(*lines, reason, *written.lines))
    measured_on = options.target if trials.board is None else None
    return SelectedStudent(written, student.candidate, within, selection, measured_on, trials.board)


def predictor(num_classes: int, board: str, context: Context) -> Callable[[Candidate], Timing]:
    """Predicts the latency of candidates in float16 on a board that is not at hand; says a line about each.

    The interval is that of 90%. The size is that of the weights in float16.
    """
    known: dict[Candidate, Timing] = {}

    def predict(candidate: Candidate) -> Timing:
        if candidate not in known:
            known[candidate] = _predicted(candidate, num_classes, board)
            timing = known[candidate]
            interval = f"90% interval {timing.p50_low_ms:.3g} to {timing.p50_high_ms:.3g}"
            context.progress.say(f"    predicted {timing.p50_ms:.3g} ms ({interval}): {candidate}")
        return known[candidate]

    return predict


def trial_recipe(found: Findings, students: Mapping[str, ChosenStudent], trials: TrialOptions, folder: Path) -> Recipe:
    """The short trainings of students, by their labels, and the stage that selects one of them.

    Args:
        folder: from which relative paths of the recipe start.
    """
    options, images = found.options, found.images
    shipped = "int8" if trials.board is None else "onnx"
    stages: dict[str, Stage] = {}
    recipe = None
    for label, student in students.items():
        recipe = short_recipe(found, student, trials.epochs, folder)
        stages |= {stage.id: stage for stage in recipe.stages if stage.id in SHARED}
        own = [stage for stage in recipe.stages if stage.id in OF_A_STUDENT[: OF_A_STUDENT.index(shipped) + 1]]
        stages |= {stage.id: stage for stage in (_of_student(stage, label) for stage in own)}
    assert recipe is not None
    select = {
        "stage": "select",
        "id": SELECTED,
        "models": [f"{shipped}/{label}" for label in students],
        "data": images.val,
        **(_limits(options) if trials.board is None else {}),
    }
    name, chosen = f"{recipe.name}-select", (*stages.values(), Select.model_validate(select))
    return recipe.model_copy(update={"name": name, "budget": Budget(), "stages": chosen})


def _limits(options: InitOptions) -> Json:
    return {"latency_ms": options.latency_ms, "size_mib": options.size_mib, "target": options.target}


def _check_has_validation_images(found: Findings) -> None:
    if found.images.val is None:
        raise DataError(
            "there are no images to validate students on",
            where=found.options.folder,
            got="few labelled images of each class, or folders train and test without val",
            next="add labelled images, or a folder val; or let edgevit init choose the student by its latency",
        )


def _selection(found: Findings, students: Mapping[str, ChosenStudent], trials: TrialOptions, context: Context) -> Json:
    """The record of the stage `select`."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = trial_recipe(found, students, trials, Path(folder))
        record: Json = run(recipe, Path(folder), trials.runs, context)[SELECTED].metrics["selection"]
    return record


def _of_student(stage: Stage, label: str) -> Stage:
    """A stage of a student's recipe, with the label behind its id and behind the ids of the student's other stages."""
    renamed = {"id": f"{stage.id}/{label}"}
    for field in ("init", "model"):
        if (name := getattr(stage, field, None)) in OF_A_STUDENT:
            renamed[field] = f"{name}/{label}"
    return stage.model_copy(update=renamed)


def _label(candidate: Candidate) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{candidate.model}-{candidate.image_size}")


def _label_in(id: str) -> str:
    return id.partition("/")[2]


def _about(selection: Json) -> Iterator[str]:
    """The winner with its reason, and the Pareto front with intervals."""
    by_id: dict[str, Json] = {model["id"]: model for model in selection["models"]}
    yield f"selected: {_label_in(selection['winner'])}: {by_id[selection['winner']]['reason']}"
    yield "Pareto front after the short trainings, with 95% intervals:"
    for model in sorted(by_id.values(), key=lambda model: model["p50_ms"]["value"]):
        if model["on_front"]:
            yield f"    {_label_in(model['id'])}: {_measured(model)}"


def _measured(model: Json) -> str:
    top1, p50_ms = model["top1"], model["p50_ms"]
    return (
        f"top-1 {top1['value']:.1%} ({top1['low']:.1%} to {top1['high']:.1%}), "
        f"p50 {p50_ms['value']:.3g} ms ({p50_ms['low']:.3g} to {p50_ms['high']:.3g})"
    )


def _reason(student: ChosenStudent, options: InitOptions, trials: TrialOptions, count: int) -> str:
    """Why the recipe has this student."""
    assert student.timing is not None
    of_several = f"selected of {count} after {_epochs(trials)}" if count > 1 else "the only one within the budget"
    timing = student.timing
    latency = f"{timing.p50_ms:.3g} ms untrained ({timing.form}) on {options.target}"
    if trials.board is not None:
        interval = f"{timing.p50_low_ms:.3g} to {timing.p50_high_ms:.3g} ms"
        latency = f"predicted {timing.p50_ms:.3g} ms (90% interval {interval}) on {trials.board}, not measured"
    return f"The student: {student.candidate}, {of_several}. {latency}; the budget is {options.latency_ms:g} ms."


def _epochs(trials: TrialOptions) -> str:
    return f"{trials.epochs} epochs" if trials.epochs > 1 else "1 epoch"


def _predicted(candidate: Candidate, num_classes: int, board: str) -> Timing:
    built = create_model(candidate.model, num_classes, candidate.image_size)
    spec = IOSpec.for_classifier(built.preprocess, default_class_names(num_classes))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        onnx_from_module(built.module, spec, OPSET, dynamic_batch=True).write(file)
        estimate = estimated_latency(file, board, precision="float16")
    cost = cost_of(built.module, built.preprocess)
    return Timing(
        macs=cost["macs"],
        params=cost["params"],
        size_bytes=FLOAT16_BYTES * cost["params"],
        form="float16, predicted",
        p50_ms=estimate.latency_ms,
        p50_low_ms=estimate.low_90_ms,
        p50_high_ms=estimate.high_90_ms,
    )
