"""The student that the rounds of select take, against an exhaustive run over twelve, under three budgets; both costs.

    python -m benchmarks.selection_exhaustive CIFAR [--images 3000] [--validation 2000] [--epochs 9]
        [--work FOLDER] [--again]

Images: training images of CIFAR-10 (the folder with cifar-10-batches-py) at 64 px, from number 20,000 on; the lengths
of the rounds were chosen with the first 5,000. A small ResNet learns from them and teaches all students. Its training
is in no cost, since both ways need it.

Exhaustive: all twelve students train for `--epochs` epochs, once. The stage `select` measures their INT8 files: top-1
on the validation images, and p50 in turns. `rank` is by this top-1, among the students within the budget by this p50.

Rounds: for each budget anew, what `edgevit select` does. Untrained students are timed, the most capable ones within the
budget train in rounds for this number of images (`selection.halving`), and `select` takes one of the finalists. Of the
exhaustive run, nothing is used. The budgets are those that 5, 8 and all 12 students meet.

Costs are CPU seconds of this process and its children, on one thread: other work on the machine changes them little.
`cost` is that of the rounds, timings included, over that of the exhaustive run. An exhaustive run of as few epochs as
the last round would cost less. A run that was stopped goes on. The seconds of the stage that was stopped are lost, and
`resumed` counts such trainings. About an hour on one core. The latencies want a quiet machine: --again makes the INT8
files of trained students and their latencies anew. It keeps trainings, costs, and the timings of untrained students,
from which the budgets come.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import children_cpu_s, publish
from edgevit import pipeline
from edgevit.actions.init_recipe import usual_epochs
from edgevit.actions.short_trainings import SELECTED, TrialRunner, TrialStages, train_in_rounds, trainings_of
from edgevit.actions.student_choice import deployed_form, students_of_group
from edgevit.artifacts import Artifact
from edgevit.cli.output import terminal_context
from edgevit.configs import Cifar, Distill, Export, Quantize, Recipe, Select, Train
from edgevit.context import Context
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.disks import whole_or_not_at_all
from edgevit.models.catalogue import read as catalogue
from edgevit.selection.candidates import Candidate, measured, sizes_of
from edgevit.selection.choice import ROOM, most_capable
from edgevit.selection.halving import STUDENTS, Round, rounds_for_images
from edgevit.selection.kept import timed
from edgevit.selection.records import Student, Timing
from edgevit.stage_times import RESUMED

SIDE = 64
FIRST = 20_000  # of the training images of CIFAR-10
CLASSES = 10
MODELS = (
    "efficientvit_m0", "efficientvit_b0", "mobilenetv4_conv_small", "efficientvit_m2", "shvit_s1", "edgenext_xx_small",
    "efficientvit_m4", "levit_128s", "shvit_s2", "starnet_s1", "efficientvit_m5", "repvit_m0_9",
)  # fmt: skip
MEETING = (5, 8, 12)  # the number of students that meet each budget
GENTLE = {"scale": (0.6, 1.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--validation", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--students", type=int, default=STUDENTS)
    parser.add_argument("--models", type=int, default=len(MODELS), help="the first so many of the twelve")
    parser.add_argument("--again", action="store_true", help="INT8 files and latencies")
    parser.add_argument("--work", type=Path, default=Path("runs/selection"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    work = asked.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["EDGEVIT_CACHE"] = str(work / "cache")
    context = terminal_context(workers=0)
    write_images(asked.cifar, FIRST, asked.images, asked.validation, work / "images.npz")
    costs = Costs(work / "costs.json")
    timings = {candidate: _timing(candidate, costs, context) for candidate in students_by_macs(asked.models)}
    teacher = work / "teacher"
    run = partial(Run, work=work, teacher_runs=teacher, costs=costs, context=context, again=asked.again)
    exhaustive = run("exhaustive").all_of(list(timings), asked.epochs)
    rows = []
    for budget_ms in _budgets_ms(timings, len(timings)):
        rows.append(_row(budget_ms, timings, exhaustive, asked, run(f"{budget_ms:.3g}ms")))
        result = {
            "images": asked.images,
            "validation": asked.validation,
            "epochs": asked.epochs,
            "again": asked.again,
            "budgets": rows,
        }
        publish("selection_exhaustive", {"summary": _summary(rows), **result, "exhaustive": exhaustive})


class Costs:
    """CPU seconds by name. They are kept in a file, and grow when a stopped run goes on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.of: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}

    def counted(self, name: str, work: Callable[[], Any]) -> Any:
        """The result of some work, whose seconds are added to those of a name."""
        start = time.process_time() + children_cpu_s()
        result = work()
        self.of[name] = self.of.get(name, 0.0) + time.process_time() + children_cpu_s() - start
        with whole_or_not_at_all(self._file) as part:
            part.write_text(json.dumps(self.of, indent=1))
        return result


@dataclass(frozen=True, kw_only=True)
class CountingRunner(TrialRunner):
    """Counts the CPU seconds of the recipes that it runs."""

    costs: Costs
    name: str
    again: bool  # whether INT8 files and latencies are made anew, uncounted

    def run(self, recipe: Recipe) -> Mapping[str, Artifact]:
        made: Mapping[str, Artifact] = {}
        for count, stage in enumerate(recipe.stages, 1):  # stage by stage: a stop loses the seconds of one alone
            part = recipe.model_copy(update={"stages": recipe.stages[:count]})
            make = partial(pipeline.run, part, self.base, self.runs, self.context, datasets=self.datasets)
            if self.again:
                made = make(fresh=[stage.id] if stage.stage in ("quantize", "select") else ())
            else:
                made = self.costs.counted(self.name, make)
        return made


@dataclass(frozen=True)
class Run:
    """Short trainings of students in a store of their own, with a teacher from a store that all runs share."""

    name: str
    work: Path
    teacher_runs: Path
    costs: Costs
    context: Context
    again: bool

    def all_of(self, candidates: Sequence[Candidate], epochs: int) -> dict[str, Any]:
        """All students, for all epochs."""
        stages, runner = self._stages(candidates, (Round(len(candidates), epochs),))
        labels = tuple(stages.rounds)
        trained = train_in_rounds(stages, (Round(len(candidates), epochs),), runner)
        made = runner.run(stages.of_finalists(trained.finalists, [_select(stages, trained.finalists, None)]))
        return self._outcome(made, labels, trained.rounds, trained.dropped)

    def top1_after(self, candidates: Sequence[Candidate], epochs: int) -> dict[str, float]:
        """The top-1 on the validation images of all students after a number of epochs, by their names."""
        rounds = (Round(len(candidates), epochs),)
        stages, runner = self._stages(candidates, rounds)
        (record,) = train_in_rounds(stages, rounds, runner).rounds
        return {row["student"]: row["val_top1"] for row in record["students"]}

    def in_rounds(self, candidates: Sequence[Candidate], images: int, budget_ms: float) -> dict[str, Any]:
        """Students in rounds, as for this number of images, and one of the finalists."""
        rounds = rounds_for_images(len(candidates), images, usual_epochs(images))
        stages, runner = self._stages(candidates, rounds)
        trained = train_in_rounds(stages, rounds, runner)
        made = runner.run(stages.of_finalists(trained.finalists, [_select(stages, trained.finalists, budget_ms)]))
        return self._outcome(made, trained.finalists, trained.rounds, trained.dropped)

    def _stages(self, candidates: Sequence[Candidate], rounds: Sequence[Round]) -> tuple[TrialStages, TrialRunner]:
        stages, images = trial_stages(candidates, rounds), {"photos": _recipe().datasets["photos"]}
        datasets = dataset_artifacts(images, self.work, ["photos.train", "photos.val"])
        teacher = pipeline.run(stages.with_stages(*stages.teacher), self.work, self.teacher_runs, self.context)
        runs = self.work / self.name
        runner = CountingRunner(
            self.work, runs, self.context, datasets, costs=self.costs, name=self.name, again=self.again
        )
        _share_teacher(teacher["teacher"], self.teacher_runs, runner.runs)
        return stages, runner

    def _outcome(
        self,
        made: Mapping[str, Artifact],
        labels: Sequence[str],
        rounds: Sequence[dict[str, Any]],
        dropped: Mapping[str, str],
    ) -> dict[str, Any]:
        record = made[SELECTED].metrics["selection"]
        trainings = [artifact for id, artifact in made.items() if id.startswith("student-")]
        return {
            "students": list(labels),
            "cpu_s": self.costs.of[self.name],
            "resumed": sum(bool(artifact.manifest.provenance.get(RESUMED)) for artifact in trainings),
            "rounds": list(rounds),
            "dropped": dict(dropped),
            "winner": _name_in(record["winner"]),
            "models": {
                _name_in(model["id"]): {name: model[name] for name in ("top1", "p50_ms", "reason")}
                for model in record["models"]
            },
        }


def write_images(cifar: Path, first: int, images: int, validation: int, file: Path) -> None:
    """Training images of CIFAR-10 from number `first` on, for the roles train and val, as an .npz file.

    The program ends if there is such a file with other images.
    """
    path = cifar if (cifar / "data_batch_1").is_file() else cifar / "cifar-10-batches-py"
    config = Cifar(source="cifar10", path=str(path))
    source = open_dataset(dataset_artifacts({"c": config}, Path.cwd(), ["c.train"])["c.train"])
    middle = first + images
    assert source.labels is not None
    arrays: dict[str, Any] = {}
    for role, positions in {"train": range(first, middle), "val": range(middle, middle + validation)}.items():
        arrays[f"{role}_images"] = np.stack([source.image(position) for position in positions])
        arrays[f"{role}_labels"] = source.labels[list(positions)]
    if file.is_file():
        with np.load(file) as kept:
            if not all(np.array_equal(kept[name], array) for name, array in arrays.items()):
                raise SystemExit(f"{file} holds other images: give another --work")
        return
    np.savez(file, **arrays)


def trial_stages(candidates: Sequence[Candidate], rounds: Sequence[Round]) -> TrialStages:
    """The stages of `edgevit select` for these students."""
    recipe = _recipe()
    trainings = {
        candidate.model: tuple(trainings_of(_student(candidate), candidate.model, rounds, "photos.val"))
        for candidate in candidates
    }
    files = {
        name: (
            Export(stage="export", id=f"onnx/{name}", model=stages[-1].id),
            Quantize(stage="quantize", id=f"int8/{name}", model=f"onnx/{name}", calibration="photos.train"),
        )
        for name, stages in trainings.items()
    }
    return TrialStages(
        recipe.model_copy(update={"stages": ()}), recipe.stages, dict.fromkeys(trainings, ()), trainings, files
    )


def _recipe() -> Recipe:
    teacher = Train(
        stage="train", id="teacher", model="resnet10t", image_size=SIDE // 2, data="photos.train", val="photos.val",
        epochs=12, learning_rate=2e-3, augmentation=GENTLE,
    )  # fmt: skip
    datasets = {"photos": {"source": "npz", "path": "images.npz"}}
    return Recipe.model_validate({"name": "selection", "datasets": datasets, "stages": [teacher]})


def _student(candidate: Candidate) -> Distill:
    return Distill.model_validate(
        {
            "stage": "distill", "id": "student", "model": candidate.model, "image_size": SIDE, "teacher": "teacher",
            "streams": [{"data": "photos.train"}], "learning_rate": 1e-3, "augmentation": GENTLE,
            "objectives": [{"loss": "cross_entropy", "weight": 0.5}, {"loss": "soft", "weight": 0.5, "temperature": 2}],
        }
    )  # fmt: skip


def _select(stages: TrialStages, labels: Sequence[str], budget_ms: float | None) -> Select:
    models = tuple(stages.models(labels).values())
    return Select(stage="select", id=SELECTED, models=models, data="photos.val", latency_ms=budget_ms)


def _share_teacher(teacher: Artifact, from_runs: Path, to_runs: Path) -> None:
    """Put the finished teacher into another store, where it costs nothing."""
    key = teacher.manifest.key
    place = to_runs / ".store" / key
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(from_runs / ".store" / key, place, symlinks=True)


def students_by_macs(count: int) -> list[Candidate]:
    """The students by rising MACs, with the latencies that `edgevit select` expects of them."""
    macs = {entry.name: entry.macs for entry in catalogue()}
    at_default_size = [
        Candidate(model=row.name, image_size=row.image_size, macs=macs[row.name], expected_ms=row.latency_ms)
        for row in measured()
        if row.name in MODELS[:count]
    ]
    found = [
        smaller
        for candidate in at_default_size
        for smaller in sizes_of(candidate, [SIDE])
        if smaller.image_size == SIDE
    ]
    return sorted(found, key=lambda candidate: candidate.macs)


def _timing(candidate: Candidate, costs: Costs, context: Context) -> Timing:
    student = Student(model=candidate.model, image_size=SIDE, num_classes=CLASSES)
    form = deployed_form("local-cpu")
    timing: Timing = costs.counted(f"timing/{candidate.model}", lambda: timed(student, form, context))
    return timing


def _budgets_ms(timings: Mapping[Candidate, Timing], count: int) -> list[float]:
    """For each number of `MEETING`, a budget that so many students meet with room."""
    high_ms = sorted(timing.p50_high_ms for timing in timings.values())
    numbers = dict.fromkeys(min(number, count) for number in MEETING)
    return [1.005 * high_ms[number - 1] / ROOM for number in numbers]


def _row(
    budget_ms: float,
    timings: Mapping[Candidate, Timing],
    exhaustive: Mapping[str, Any],
    asked: argparse.Namespace,
    run: Run,
) -> dict[str, Any]:
    """One budget: the student of the rounds, its rank in the exhaustive run, and the cost."""
    timed_here: dict[Candidate, Timing] = {}

    def time_once(candidate: Candidate) -> Timing:
        timed_here[candidate] = timings[candidate]
        return timings[candidate]

    group = tuple(timings)
    choice = most_capable(group, budget_ms, time_once)
    assert choice.best is not None, "the budgets are those that students meet"
    within = students_of_group(choice, group, time_once, asked.students)
    outcome = run.in_rounds(tuple(within), asked.images, budget_ms)
    timings_cpu_s = sum(run.costs.of[f"timing/{candidate.model}"] for candidate in timed_here)
    models, winner = exhaustive["models"], outcome["winner"]
    top1 = {name: model["top1"]["value"] for name, model in models.items()}
    able = [name for name, model in models.items() if model["p50_ms"]["high"] <= budget_ms]
    order = sorted(able, key=lambda name: -top1[name])
    return {
        "budget_ms": budget_ms,
        "within": len(able),
        "winner": winner,
        # in the exhaustive run; without it, the winner is over the budget there, or was lost, and has no rank
        "met_budget": winner in able,
        "rank": order.index(winner) + 1 if winner in able else None,
        "best": order[0] if order else None,
        "points_below_best": 100 * (top1[order[0]] - top1[winner]) if winner in able else None,
        "cost": (outcome["cpu_s"] + timings_cpu_s) / exhaustive["cpu_s"],
        "cost_without_timings": outcome["cpu_s"] / exhaustive["cpu_s"],
        "timings_cpu_s": timings_cpu_s,
        "rounds": outcome,
    }


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "budgets": len(rows),
        "within_the_top_2": sum(row["met_budget"] and row["rank"] <= 2 for row in rows),
        "at_a_fifth_of_the_cost": sum(row["cost"] <= 0.2 for row in rows),
        "largest_cost": max(row["cost"] for row in rows),
        "mean_cost": sum(row["cost"] for row in rows) / len(rows),
        "most_points_below_best": max((row["points_below_best"] for row in rows if row["met_budget"]), default=None),
    }


def _name_in(id: str) -> str:
    return id.rpartition("/")[2]


if __name__ == "__main__":
    main()
