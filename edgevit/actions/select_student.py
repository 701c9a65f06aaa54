"""`edgevit select`: a student for a folder of images, by short trainings of several students within a budget.

The shortlist is measured on the target, or predicted for a board that is not at hand. Its students then train for the
same few epochs. On a target, the stage `select` takes one on the validation images. For a board, the students are
evaluated on these images here, and their predicted latencies stand for measured ones.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgevit.actions.estimate_latency import default_precision, estimated_latency
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
from edgevit.configs import OPSET, Budget, Evaluate, Recipe, Select, Stage
from edgevit.configs.targets import LOCAL_GPU
from edgevit.context import Context
from edgevit.errors import DataError, RecipeError
from edgevit.evaluation import AccuracyRecord, accuracy_record
from edgevit.evaluation.accuracy import Share
from edgevit.exporting import onnx_from_module
from edgevit.latency_model.calibration import calibration_of
from edgevit.models.cost import cost_of
from edgevit.models.creation import create_model
from edgevit.models.timm_models import default_class_names
from edgevit.pipeline import run
from edgevit.selection.candidates import Candidate
from edgevit.selection.records import Timing
from edgevit.selection.winner import MeasuredModel, SelectionLimits, no_winner, winner_of

SELECTED = "selected"  # the id of the stage `select`
ACCURACY = "accuracy"  # the ids of evaluations begin so
SHARED = ("backbone", "teacher")  # stages before the students
OF_A_STUDENT = ("start", "student", "onnx", "int8")
FLOAT_BYTES = {"float16": 2, "float32": 4}


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
        selection: the record of the selection, with the label of its latencies; None where no student was compared.
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
        precision = default_precision(calibration_of(trials.board))
        say(f"students, predicted for {trials.board} in {precision} and not measured:")
    within = students_within(found.sources, time, options.latency_ms, options.size_mib, trials.students, where)
    students = {
        _label(candidate): ChosenStudent(candidate, found.sources.start_of(candidate.model), timing)
        for candidate, timing in within.items()
    }
    selection = None
    if len(students) == 1:
        lines = ["no smaller student of another architecture is left within the budget, so none was trained to compare"]
        (student,) = students.values()
    else:
        say(f"{len(students)} students train for {_epochs(trials)} each; select --epochs sets another number")
        selection = _selection(found, students, trials, context)
        student, lines = students[_label_in(selection["winner"])], list(_about(selection, trials.board))
    compared = len(selection["models"]) if selection else 1
    reason = _reason(student, options, trials, compared)
    if trials.board is not None:  # a budget in the recipe would be judged on this machine
        found = replace(found, options=replace(options, latency_ms=None))
    written = recipe_for_student(found, student, context, reason)
    written = replace(written, lines=(*lines, reason, *written.lines))
    measured_on = options.target if trials.board is None else None
    return SelectedStudent(written, student.candidate, within, selection, measured_on, trials.board)


def predictor(num_classes: int, board: str, context: Context) -> Callable[[Candidate], Timing]:
    """Predicts the latency of candidates on a board that is not at hand; says a line about each.

    It is that in float16 on a board of the table, and in float32 on a calibrated target. The interval is that of 90%.
    The size is that of the weights.
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
    """The short trainings of students, by their labels, with the stage that selects one; for a board, with evaluations.

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
    models = {label: f"{shipped}/{label}" for label in students}
    last: list[Stage] = []
    if trials.board is None:
        limits = {"latency_ms": options.latency_ms, "size_mib": options.size_mib, "target": options.target}
        select = {"stage": "select", "id": SELECTED, "models": list(models.values()), "data": images.val, **limits}
        last.append(Select.model_validate(select))
    else:
        for label, model in models.items():
            evaluate = {"stage": "evaluate", "id": f"{ACCURACY}/{label}", "model": model, "data": images.val}
            last.append(Evaluate.model_validate(evaluate))
    name, chosen = f"{recipe.name}-select", (*stages.values(), *last)
    return recipe.model_copy(update={"name": name, "budget": Budget(), "stages": chosen})


def selected_by_prediction(
    accuracies: Mapping[str, AccuracyRecord], timings: Mapping[str, Timing], options: InitOptions
) -> Json:
    """The record of a selection by the accuracies and the predicted latencies of students, by their labels.

    The shortlist is within the budget as predicted, so no limit of latency or size is left. Of students of equal
    accuracy, the one with the least predicted latency wins.

    Raises:
        CheckFailed: no student is shown to be better than a constant guess.
    """
    models = [
        MeasuredModel(
            label,
            accuracy,
            Share(timings[label].p50_ms, timings[label].p50_low_ms, timings[label].p50_high_ms),
            timings[label].size_bytes,
        )
        for label, accuracy in accuracies.items()
    ]
    limits = SelectionLimits()
    selection = winner_of(models, limits)
    if selection.winner is None:
        raise no_winner(models, limits, selection, str(options.folder))
    return selection.record(models, limits, "predicted")


def _check_has_validation_images(found: Findings) -> None:
    if found.images.val is None:
        raise DataError(
            "there are no images to validate students on",
            where=found.options.folder,
            got="few labelled images of each class, or folders train and test without val",
            next="add labelled images, or a folder val; or let edgevit init choose the student by its latency",
        )


def _selection(found: Findings, students: Mapping[str, ChosenStudent], trials: TrialOptions, context: Context) -> Json:
    """The record of the selection."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = trial_recipe(found, students, trials, Path(folder))
        made = run(recipe, Path(folder), trials.runs, context)
    if trials.board is None:
        record: Json = made[SELECTED].metrics["selection"]
        return record
    accuracies = {label: accuracy_record(made[f"{ACCURACY}/{label}"]) for label in students}
    timings = {label: student.timing for label, student in students.items() if student.timing is not None}
    return selected_by_prediction(accuracies, timings, found.options)


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
    return id.rpartition("/")[2]


def _about(selection: Json, board: str | None) -> Iterator[str]:
    """The winner with its reason, and the Pareto front with intervals."""
    by_id: dict[str, Json] = {model["id"]: model for model in selection["models"]}
    yield f"selected: {_label_in(selection['winner'])}: {by_id[selection['winner']]['reason']}"
    latency = "p50 measured" if board is None else f"p50 predicted for {board}, with 90% intervals"
    yield f"Pareto front after the short trainings: top-1 with 95% intervals, {latency}:"
    for model in sorted(by_id.values(), key=lambda model: model["p50_ms"]["value"]):
        if model["on_front"]:
            yield f"    {_label_in(model['id'])}: {_in_numbers(model, selection['label'])}"
    yield "the top-1 of the selected student is the best of several on the same images, so it is too high on average"


def _in_numbers(model: Json, label: str) -> str:
    top1, p50_ms = model["top1"], model["p50_ms"]
    predicted = "predicted " if label == "predicted" else ""
    return (
        f"top-1 {top1['value']:.1%} ({top1['low']:.1%} to {top1['high']:.1%}), "
        f"{predicted}p50 {p50_ms['value']:.3g} ms ({p50_ms['low']:.3g} to {p50_ms['high']:.3g})"
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
        estimate = estimated_latency(file, board)
    cost = cost_of(built.module, built.preprocess)
    return Timing(
        macs=cost["macs"],
        params=cost["params"],
        size_bytes=FLOAT_BYTES[estimate.precision] * cost["params"],
        form=f"{estimate.precision}, predicted",
        p50_ms=estimate.latency_ms,
        p50_low_ms=estimate.low_90_ms,
        p50_high_ms=estimate.high_90_ms,
    )
