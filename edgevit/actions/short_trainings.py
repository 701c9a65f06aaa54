"""The short trainings of `edgevit select`: rounds of successive halving over the students of the shortlist.

Each round of a student is a stage that starts from the checkpoint of the round before. All stages are kept in the store
of the runs: nothing is trained twice, a stopped run goes on, and a training that diverged is not tried again. Several
processes may share the folder of runs. Each takes a training that no other one makes now; of two that choose the same
one at the same moment, one waits.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevit import pipeline
from edgevit.actions.init_recipe import Findings, short_recipe
from edgevit.actions.student_choice import ChosenStudent
from edgevit.artifacts import Artifact, Json
from edgevit.configs import Budget, Distill, Evaluate, Recipe, Select, Stage, Train
from edgevit.context import Context
from edgevit.errors import Diverged
from edgevit.progress import duration
from edgevit.selection.halving import Round, epochs_in_all, most_accurate

SELECTED = "selected"  # the id of the stage `select`
ACCURACY = "accuracy"  # the ids of evaluations begin so
TEACHER = ("backbone", "teacher")  # the stages before the students
STUDENT = "student"
LEAST_TOLD_S = 5.0  # a first training that is shorter says nothing of the time of all rounds
SHIPPED = {True: ("onnx", "int8"), False: ("onnx",)}  # the files of a student, by whether it is timed on a target


@dataclass(frozen=True)
class TrialStages:
    """The stages of the short trainings, by the labels of the students.

    Attributes:
        recipe: with the data sets, and without stages.
        teacher: the stages before the students.
        starts: of each student: its pretrained weights, if there are any.
        rounds: of each student: a training a round.
        files: of each student: the files that are made of its last checkpoint; the last one would be deployed.
    """

    recipe: Recipe
    teacher: tuple[Stage, ...]
    starts: Mapping[str, tuple[Stage, ...]]
    rounds: Mapping[str, tuple[Stage, ...]]
    files: Mapping[str, tuple[Stage, ...]]

    def until(self, label: str, place: int) -> Recipe:
        """The recipe of a student until the end of a round."""
        return self.with_stages(*self.teacher, *self.starts[label], *self.rounds[label][: place + 1])

    def of_finalists(self, labels: Sequence[str], last: Iterable[Stage]) -> Recipe:
        """The recipe of students until the end of the last round, with their files, and with the stages `last`."""
        made = [stage for label in labels for stage in (*self.starts[label], *self.rounds[label], *self.files[label])]
        return self.with_stages(*self.teacher, *made, *last)

    def models(self, labels: Sequence[str]) -> dict[str, str]:
        """The stage of each student whose file would be deployed."""
        return {label: self.files[label][-1].id for label in labels}

    def with_stages(self, *stages: Stage) -> Recipe:
        return self.recipe.model_copy(update={"stages": stages})


@dataclass(frozen=True)
class TrialRunner:
    """Runs recipes of the short trainings.

    Attributes:
        base: the folder from which relative paths start.
        runs: the folder of all runs.
        datasets: the data sets and roles of all recipes, by name.
        retry_diverged: trainings that diverged in an earlier run are tried again.
    """

    base: Path
    runs: Path
    context: Context
    datasets: Mapping[str, Artifact]
    retry_diverged: bool = False

    def run(self, recipe: Recipe) -> Mapping[str, Artifact]:
        return pipeline.run(
            recipe,
            self.base,
            self.runs,
            self.context,
            datasets=self.datasets,
            retry_diverged=self.retry_diverged,
        )

    def is_being_made(self, recipe: Recipe) -> bool:
        """Whether another process makes the first stage that is not finished."""
        return pipeline.is_being_made(recipe, self.base, self.runs, self.context, self.datasets)


@dataclass(frozen=True)
class ShortTrainings:
    """What the rounds gave.

    Attributes:
        finalists: the labels of the students that trained in the last round, the most accurate first.
        rounds: for programs: the epochs of each round, and the students with their top-1 on the validation images.
        dropped: the students whose training diverged, with the reasons.
    """

    finalists: tuple[str, ...]
    rounds: tuple[Json, ...]
    dropped: Mapping[str, str]


def trial_stages(
    found: Findings, students: Mapping[str, ChosenStudent], rounds: Sequence[Round], on_target: bool
) -> TrialStages:
    """The stages of the short trainings of students, by their labels.

    Args:
        on_target: the students are deployed in INT8 on a target; otherwise, ONNX files in float32 are evaluated.
    """
    starts, trainings, files = {}, {}, {}
    for label, student in students.items():
        recipe = short_recipe(found, student, rounds[0].epochs)
        by_id = {stage.id: stage for stage in recipe.stages}
        starts[label] = tuple(_labelled(by_id[id], label) for id in ("start",) if id in by_id)
        training = by_id[STUDENT]
        assert isinstance(training, (Train, Distill))
        trainings[label] = tuple(trainings_of(training, label, rounds, found.images.val))
        last = trainings[label][-1].id
        files[label] = tuple(_labelled(by_id[id], label, {STUDENT: last}) for id in SHIPPED[on_target])
    empty = recipe.model_copy(update={"name": f"{recipe.name}-select", "budget": Budget(), "stages": ()})
    return TrialStages(empty, tuple(by_id[id] for id in TEACHER if id in by_id), starts, trainings, files)


def trainings_of(
    training: Train | Distill, label: str, rounds: Sequence[Round], validation: str | None
) -> Iterator[Stage]:
    """A training for each round. It goes on from the checkpoint of the round before, with a new cosine of the rate.

    Such warm restarts are those of Loshchilov and Hutter 2017 (SGDR). Other seeds give other random views.
    """
    before = 0
    for number, this in enumerate(rounds, 1):
        own: Json = {"id": f"{STUDENT}-{number}/{label}", "val": validation, "epochs": this.epochs - before}
        if number > 1:
            own |= {"init": f"{STUDENT}-{number - 1}/{label}", "model": None, "model_args": {}, "image_size": None}
        elif training.init:
            own |= {"init": f"start/{label}"}
        yield training.model_copy(update={**own, "seed": training.seed + number - 1})
        before = this.epochs


def recipe_of_finalists(stages: TrialStages, labels: Sequence[str], found: Findings, on_target: bool) -> Recipe:
    """The recipe of the last comparison.

    Args:
        on_target: the stage `select` takes a student; otherwise, each student is evaluated here.
    """
    models = stages.models(labels)
    return stages.of_finalists(labels, [_select(found, models)] if on_target else _evaluations(found, models))


def train_in_rounds(stages: TrialStages, rounds: Sequence[Round], runner: TrialRunner) -> ShortTrainings:
    """Train the students in rounds. A student whose training diverges drops out.

    In its place, the next one in the order of the round before trains, if there is one.

    Raises:
        Diverged: all trainings of a round diverged, or that of the teacher.
    """
    runner.run(stages.with_stages(*stages.teacher))
    dropped, records, say = dict[str, str](), list[Json](), runner.context.progress.say
    in_order, left = tuple[str, ...](), tuple(stages.rounds)  # of the round before, the most accurate first
    for place, this in enumerate(rounds):
        say(f"round {place + 1} of {len(rounds)}: {_counted(left)} to epoch {this.epochs}")
        top1: dict[str, float] = {}
        while waiting := [label for label in left if label not in top1.keys() | dropped.keys()]:
            for label in _free_first(waiting, stages, place, runner):
                start = time.monotonic()
                try:
                    made = runner.run(stages.until(label, place))
                except Diverged as error:
                    dropped[label] = error.what
                    spare = [other for other in in_order if other not in left]
                    if not spare and dropped.keys() >= set(left):
                        raise
                    left = (*left, *spare[:1])
                    instead = f"; {spare[0]} trains on in its place" if spare else ""
                    say(f"    {label} drops out: {error.what}{instead}")
                else:
                    if place == 0 and not top1 and (took_s := time.monotonic() - start) >= LEAST_TOLD_S:
                        about = duration(took_s * epochs_in_all(rounds) / this.epochs)
                        say(f"    about {about} for all rounds, if the other students take as long (--epochs)")
                    top1[label] = made[stages.rounds[label][place].id].metrics["val_top1"]
        of_round = {label: top1[label] for label in left if label in top1}
        in_order = most_accurate(of_round, len(of_round))
        left = in_order[: rounds[place + 1].students] if place + 1 < len(rounds) else in_order
        records.append(_record(this, of_round, left))
        for line in _lines(records[-1], is_last=place + 1 == len(rounds)):
            say(line)
    return ShortTrainings(left, tuple(records), dropped)


def _free_first(labels: Sequence[str], stages: TrialStages, place: int, runner: TrialRunner) -> Iterator[str]:
    """The students of a round: next is always one that no other process trains now, if there is one."""
    waiting = list(labels)
    while waiting:
        free = (label for label in waiting if not runner.is_being_made(stages.until(label, place)))
        label = next(free, waiting[0])
        waiting.remove(label)
        yield label


def _labelled(stage: Stage, label: str, renamed: Mapping[str, str] = {}) -> Stage:
    """A stage of a student's recipe, with the label behind its id and behind that of the stage that it reads."""
    update = {"id": f"{stage.id}/{label}"}
    model: str | None = getattr(stage, "model", None)
    if stage.id != "start" and model is not None:
        update["model"] = renamed.get(model, f"{model}/{label}")
    return stage.model_copy(update=update)


def _select(found: Findings, models: Mapping[str, str]) -> Select:
    options = found.options
    limits = {"latency_ms": options.latency_ms, "size_mib": options.size_mib, "target": options.target}
    own = {"stage": "select", "id": SELECTED, "models": list(models.values()), "data": found.images.val}
    return Select.model_validate({**own, **limits})


def _evaluations(found: Findings, models: Mapping[str, str]) -> Iterator[Evaluate]:
    for label, model in models.items():
        own = {"stage": "evaluate", "id": f"{ACCURACY}/{label}", "model": model, "data": found.images.val}
        yield Evaluate.model_validate(own)


def _counted(labels: Sequence[str]) -> str:
    return f"{len(labels)} students" if len(labels) > 1 else f"1 student, {labels[0]},"


def _record(this: Round, top1: Mapping[str, float], going_on: Sequence[str]) -> Json:
    rows = [{"student": label, "val_top1": value, "goes_on": label in going_on} for label, value in top1.items()]
    return {"epochs": this.epochs, "students": rows}


def _lines(record: Json, is_last: bool) -> Iterator[str]:
    for row in sorted(record["students"], key=lambda row: -row["val_top1"]):
        fate = "" if is_last else ", goes on" if row["goes_on"] else ", is out"
        yield f"    top-1 {row['val_top1']:.1%} on the validation images: {row['student']}{fate}"
