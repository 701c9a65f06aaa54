"""`edgevit select`: a student for a folder of images, by short trainings of several students within a budget.

The shortlist is measured on the target, or predicted for a board that is not at hand. Its students train in rounds of
successive halving. On a target, the stage `select` takes one of the finalists on the validation images. For a board,
the finalists are evaluated on these images here, and their predicted latencies stand for measured ones.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgevit import pipeline
from edgevit.actions.estimate_latency import check_board, estimated_latency
from edgevit.actions.init_recipe import (
    Findings,
    InitOptions,
    WrittenRecipe,
    in_project,
    look_at_folder,
    recipe_for_student,
    usual_epochs,
    with_images_to_compare_by,
)
from edgevit.actions.short_trainings import (
    ACCURACY,
    SELECTED,
    TrialRunner,
    recipe_of_finalists,
    train_in_rounds,
    trial_stages,
)
from edgevit.actions.student_choice import ChosenStudent, students_within, timer
from edgevit.actions.training_time import images_of_epoch
from edgevit.artifacts import IOSpec, Json
from edgevit.configs import OPSET, Distill, Train
from edgevit.configs.runtimes import ONNXRUNTIME, RUNTIMES
from edgevit.configs.targets import LOCAL_CPU, LOCAL_GPU, LOCAL_TARGETS
from edgevit.context import Context
from edgevit.data.labels import short_classes
from edgevit.errors import DataError, Diverged, RecipeError, listed
from edgevit.evaluation import AccuracyRecord, accuracy_record
from edgevit.evaluation.accuracy import Share
from edgevit.exporting import onnx_from_module
from edgevit.latency_model.estimate import Estimate
from edgevit.models.cost import cost_of
from edgevit.models.creation import create_model
from edgevit.models.timm_models import default_class_names
from edgevit.selection.candidates import Candidate
from edgevit.selection.halving import STUDENTS, Round, rounds_for_images
from edgevit.selection.records import Timing
from edgevit.selection.winner import (
    MeasuredModel,
    NotBetterThanGuess,
    OverBudget,
    SelectionLimits,
    no_winner,
    winner_of,
)

SHIPPED_IN, SHIPPED_THREADS = ONNXRUNTIME.name, 1  # on a CPU, as `init` deploys
PREDICTED = ", predicted"  # after the form of a timing
FLOAT_BYTES = {"float16": 2, "float32": 4}
HELD_BACK = 0.4  # of few labels, to compare students by: two of five


@dataclass(frozen=True)
class TrialOptions:
    """The short trainings.

    Attributes:
        students: the largest number of students in the first round.
        epochs: of the students that reach the last round. None: the number of images decides, see
            `rounds_for_images`.
        runs: the folder of runs. The recipe that is written finds the teacher there, unless there are few labels: then
            that of the trials has not learned from all of them.
        retry_diverged: trainings that diverged in an earlier call are tried again.
        board: whose latency is predicted, in place of a measurement on the target.
    """

    students: int = STUDENTS
    epochs: int | None = None
    runs: Path = Path("runs")
    board: str | None = None
    retry_diverged: bool = False


@dataclass(frozen=True)
class SelectedStudent:
    """The student that was selected, and its recipe.

    Attributes:
        shortlist: the students within the budget, as measured or predicted before any training.
        rounds: the rounds of the short trainings: their epochs, and the students with their top-1 on the validation
            images.
        dropped: the students whose training diverged, with the reasons.
        selection: the record of the selection, with the label of its latencies; None where no student was compared.
        measured_on: the target; None where the shortlist was predicted.
        predicted_for: the board; None where the shortlist was measured.
    """

    written: WrittenRecipe
    student: Candidate
    shortlist: Mapping[Candidate, Timing]
    rounds: tuple[Json, ...]
    dropped: Mapping[str, str]
    selection: Json | None
    measured_on: str | None
    predicted_for: str | None

    def __str__(self) -> str:
        return "\n".join(self.written.lines)

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
            "rounds": list(self.rounds),
            "dropped": [{"student": label, "reason": reason} for label, reason in self.dropped.items()],
            "selection": self.selection,
        }


@dataclass(frozen=True)
class _Compared:
    """The students after the short trainings.

    Attributes:
        taken: the label of the selected student.
        count: the number of students.
        selection: its record; None if the labels could not tell a student from a constant guess.
        lines: what is said of the selection.
    """

    taken: str
    count: int = 1
    rounds: tuple[Json, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)
    selection: Json | None = None
    lines: tuple[str, ...] = ()


def recipe_by_trials(options: InitOptions, trials: TrialOptions, context: Context) -> SelectedStudent:
    """Train students of the shortlist in rounds, and write the recipe of the one that `select` takes.

    Args:
        options: with a latency budget.

    Raises:
        CheckFailed: no student meets the budget. Before any training, the error names a budget that can be met.
        DataError: there are no images to validate on; or see `look_at_folder`.
        Diverged: all trainings of a round diverged.
        TargetError, RecipeError, ArtifactError: see `look_at_folder`.
    """
    assert options.latency_ms is not None
    _check_target(options, trials.board)
    context = in_project(options, context)
    found = look_at_folder(options, context)
    held_back = with_images_to_compare_by(found, HELD_BACK)
    _check_has_validation_images(held_back)
    within = _shortlist(found, trials, context)
    students = {
        _label(candidate): ChosenStudent(candidate, found.sources.start_of(candidate.model), timing)
        for candidate, timing in within.items()
    }
    if len(students) == 1:
        lone = "no other student of the shortlist is within the budget, so none was trained to compare"
        compared = _Compared(next(iter(students)), lines=(lone,))
    else:
        if held_back.images.config != found.images.config:
            share = f"about {HELD_BACK:.0%} of the images, at least one of each class,"
            context.progress.say(f"few labels: {share} are held back to compare students by")
        compared = _compared(held_back, students, trials, context)
    student = students[compared.taken]
    reason = _reason(student, options, trials, compared)
    if trials.board is not None:  # a budget in the recipe would be judged on this machine
        found = replace(found, options=replace(options, latency_ms=None))
    written = recipe_for_student(found, student, context, reason)
    written = replace(written, lines=(*compared.lines, reason, *written.lines))
    return SelectedStudent(
        written,
        student.candidate,
        within,
        compared.rounds,
        compared.dropped,
        compared.selection,
        options.target if trials.board is None else None,
        trials.board,
    )


def predictor(num_classes: int, board: str, context: Context) -> Callable[[Candidate], Timing]:
    """Predicts the latency of candidates on a board that is not at hand; says a line about each.

    It is that in float16 on a board of the table, and on a calibrated target in float32, in the runtime and with the
    threads with which `init` deploys. The interval is that of 90%. The size is that of the weights.
    """
    known: dict[Candidate, Timing] = {}

    def predict(candidate: Candidate) -> Timing:
        if candidate not in known:
            known[candidate] = _predicted(candidate, num_classes, board, context.folder)
            timing = known[candidate]
            context.progress.say(f"    predicted {timing.p50_ms:.3g} ms ({timing.interval()}): {candidate}")
        return known[candidate]

    return predict


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


def _check_target(options: InitOptions, board: str | None) -> None:
    """Refuse a target that select does not take, and a board that is not known."""
    if options.target == LOCAL_GPU:
        raise RecipeError(
            "select compares ONNX files, and init deploys PyTorch on local-gpu",
            where="--target",
            got=LOCAL_GPU,
            next="edgevit init --target local-gpu",
        )
    if board is not None and options.target != LOCAL_CPU:
        what = "a board is predicted, and a target is measured"
        raise RecipeError(what, got=f"--board {board} and --target {options.target}", next="give one of them")
    if board is not None:
        check_board(board, options.out.absolute().parent, "--board", SHIPPED_IN, SHIPPED_THREADS)


def _shortlist(found: Findings, trials: TrialOptions, context: Context) -> dict[Candidate, Timing]:
    """The students within the budget, as measured on the target or predicted for the board.

    Raises:
        CheckFailed: no student meets the budget; the error names a budget that can be met.
    """
    options, say = found.options, context.progress.say
    assert options.latency_ms is not None
    if trials.board is None:
        time = timer(found.num_classes, found.form, context)
        where = "here" if options.target in LOCAL_TARGETS else f"on {options.target}"
        say(f"students, timed untrained on {options.target}, p50 of one image:")
    else:
        time, where = predictor(found.num_classes, trials.board, context), f"on {trials.board}, as predicted"
        form = check_board(trials.board, context.folder, "--board", SHIPPED_IN, SHIPPED_THREADS)
        on = "float16" if form is None else f"float32, {_on_cpu(form.runtime, form.threads)},"
        say(f"students, predicted for {trials.board} in {on} and not measured:")
    return students_within(found.sources, time, options.latency_ms, options.size_mib, trials.students, where)


def _check_has_validation_images(found: Findings) -> None:
    images, or_else = found.images, "or let edgevit init choose the student by its latency"
    what, where = "there are no images to validate students on", found.options.folder
    if images.val is None and images.test == "photos.val":
        advice = f"move a fifth of the images of each class from train into a folder test; {or_else}"
        raise DataError(
            what, where=where, got="folders train and val without test: val is the test images", next=advice
        )
    if images.val is None:
        got = f"folders {listed(list(images.survey.counts))} without val"
        advice = f"move a tenth of the images of each class from train into a folder val; {or_else}"
        raise DataError(what, where=where, got=got, next=advice)
    if images.few and not images.survey.has_split_folders:
        roles = [role for role in (images.labelled, images.test, images.val) if role is not None]
        counts = images.survey.counts.values()
        totals = {name: sum(of_split.get(name, 0) for of_split in counts) for name in images.survey.classes}
        if short := short_classes(totals, totals.values(), len(roles)):
            expected = f"{len(roles)} of each class or more, one each for {listed(roles)}"
            raise DataError(what, where=where, got=listed(short), expected=expected, next=f"add images; {or_else}")


def _compared(
    found: Findings, students: Mapping[str, ChosenStudent], trials: TrialOptions, context: Context
) -> _Compared:
    """Train the students in rounds, and compare the finalists."""
    base, on_target = found.options.out.absolute().parent, trials.board is None
    stages = trial_stages(found, students, (Round(len(students), 1),), on_target)
    recipe = recipe_of_finalists(stages, tuple(students), found, on_target)
    datasets = pipeline.datasets_of(recipe, base, trials.runs, context)
    training = next(iter(stages.rounds.values()))[0]
    assert isinstance(training, (Train, Distill))
    images = images_of_epoch(training, datasets)
    rounds = rounds_for_images(len(students), images, usual_epochs(images), trials.epochs)
    stages = trial_stages(found, students, rounds, on_target)
    runner = TrialRunner(base, trials.runs, context, datasets, trials.retry_diverged)
    try:
        trained = train_in_rounds(stages, rounds, runner)
    except Diverged as error:
        advice = "--retry-diverged trains again what diverged"
        raise Diverged(error.what, where=error.where, got=error.got, next=advice) from None
    try:
        made = runner.run(recipe_of_finalists(stages, trained.finalists, found, on_target))
        selection: Json = (
            made[SELECTED].metrics["selection"]
            if on_target
            else selected_by_prediction(
                {label: accuracy_record(made[f"{ACCURACY}/{label}"]) for label in trained.finalists},
                {label: timing for label, student in students.items() if (timing := student.timing) is not None},
                found.options,
            )
        )
    except NotBetterThanGuess as error:
        most_capable = next(label for label in students if label in trained.finalists)
        why = f"{error.what}: the images are too few to compare by, or the trainings too short (--epochs)"
        why += ", so the most capable finalist is taken"
        return _Compared(most_capable, len(students), trained.rounds, trained.dropped, lines=(why,))
    except OverBudget as error:
        raise _over_budget(error, found.options.folder) from None
    lines = tuple(_about(selection, trials.board))
    winner = _label_in(selection["winner"])
    return _Compared(winner, len(students), trained.rounds, trained.dropped, selection, lines)


def _over_budget(error: OverBudget, folder: Path) -> OverBudget:
    """The error of the stage `select` in the words of the command."""
    got, advice = (re.sub(r"\b(?:onnx|int8)/", "", str(text)) for text in (error.got, error.next))
    options = advice.replace("latency_ms: ", "--latency-ms ").replace("size_mib: ", "--size-mib ")
    what = "no student of the last round meets the budget, though it did untrained"
    return OverBudget(what, where=folder, got=got, expected=error.expected, next=options)


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


def _reason(student: ChosenStudent, options: InitOptions, trials: TrialOptions, compared: _Compared) -> str:
    """Why the recipe has this student."""
    assert student.timing is not None
    how = "the only one of the shortlist within the budget"
    if compared.count > 1:
        how = "selected" if compared.selection is not None else "the most capable finalist"
        how += f" of {compared.count} by short trainings of up to {_epochs(compared.rounds[-1]['epochs'])}"
    timing = student.timing
    latency = f"{timing.p50_ms:.3g} ms untrained ({timing.form}) on {options.target}"
    if trials.board is not None:
        form = timing.form.removesuffix(PREDICTED)
        latency = f"predicted {timing.p50_ms:.3g} ms ({form}, {timing.interval()} ms) on {trials.board}, not measured"
    return f"The student: {student.candidate}, {how}. {latency}; the budget is {options.latency_ms:g} ms."


def _on_cpu(runtime: str, threads: int) -> str:
    return f"{RUNTIMES[runtime].title}, {threads} thread{'s' if threads > 1 else ''}"


def _epochs(count: int) -> str:
    return f"{count} epochs" if count > 1 else "1 epoch"


def _predicted(candidate: Candidate, num_classes: int, board: str, folder: Path | None) -> Timing:
    built = create_model(candidate.model, num_classes, candidate.image_size)
    spec = IOSpec.for_classifier(built.preprocess, default_class_names(num_classes))
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "model.onnx"
        onnx_from_module(built.module, spec, OPSET, dynamic_batch=True).write(file)
        estimate = _estimated(file, board, folder)
    cost = cost_of(built.module, built.preprocess)
    on_cpu = [] if estimate.threads is None else [_on_cpu(estimate.runtime, estimate.threads)]
    return Timing(
        macs=cost["macs"],
        params=cost["params"],
        size_bytes=FLOAT_BYTES[estimate.precision] * cost["params"],
        form=", ".join([estimate.precision, *on_cpu]) + PREDICTED,
        p50_ms=estimate.latency_ms,
        p50_low_ms=estimate.low_90_ms,
        p50_high_ms=estimate.high_90_ms,
        is_predicted=True,
        is_nominal=not estimate.is_coverage_known,
    )


def _estimated(file: Path, board: str, folder: Path | None) -> Estimate:
    if check_board(board, folder, "--board", SHIPPED_IN, SHIPPED_THREADS) is None:
        return estimated_latency(file, board, folder=folder)
    return estimated_latency(file, board, runtime=SHIPPED_IN, threads=SHIPPED_THREADS, folder=folder)
