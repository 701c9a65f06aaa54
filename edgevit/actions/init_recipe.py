"""What `edgevit init` writes: a commented recipe that fits a folder of images, a target and a budget."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgevit.actions.single_stage import SingleStages, single_stages
from edgevit.actions.student_choice import (
    ChosenStudent,
    Weights,
    WeightSources,
    choose_student,
    deployed_form,
    timer,
    weights_from,
)
from edgevit.actions.training_time import images_of_epoch, seconds_per_answer, seconds_per_image
from edgevit.artifacts import Artifact
from edgevit.configs import Distill, Fewshot, FewShotDraw, ImageFolder, Load, Recipe, Splits, Train
from edgevit.configs.fields import LONGEST_ID
from edgevit.configs.targets import LOCAL_CPU, LOCAL_GPU, LOCAL_TARGETS
from edgevit.context import Context, usable_cpus
from edgevit.data import dataset_artifacts
from edgevit.data.labels import short_classes
from edgevit.data.survey import FolderSurvey, survey_folder
from edgevit.errors import DataError, listed
from edgevit.pipeline import resolve
from edgevit.progress import SilentProgress, duration
from edgevit.recipe import recipe_and_folder
from edgevit.selection.choice import ROOM
from edgevit.selection.records import DeployedForm
from edgevit.stage_times import keep_times, kept_times, seconds_of, work_keys
from edgevit.targets import target_for
from edgevit.terminal import printable_line

USUAL_EPOCHS, USUAL_IMAGES = 40, 15_000  # of a student: the larger number of epochs counts
UNBALANCED = 3.0  # images of the largest class over those of the smallest; above it, classes are weighted
SMALLEST_POOL_SHARE, LARGEST_POOL_SHARE = 0.1, 0.8  # of unlabelled images in a batch
SMALL_SET = 640  # images of the larger role to train on; below it, batches are small
LEAST_EPOCHS, MOST_EPOCHS = 1, 300  # that --minutes may give
TEACHERS_SHARE = 0.5  # of --minutes; above it the teacher is not trained, and only its classifier is fitted
OTHER_STAGES_S = 90.0  # export, quantization, evaluation and profiling, on two cores


@dataclass(frozen=True)
class InitOptions:
    """The options of `edgevit init`.

    Attributes:
        folder: of images.
        out: the recipe to write.
        latency_ms, size_mib: limits of the deployed model; None is no limit.
        shots: number of labelled images of each class; None uses all labels.
        student, teacher: timm names; None lets init choose.
        weights: file of pretrained weights.
        offline: ask nothing of the network.
        minutes: time for the whole run, which sets the epochs.
        unlabelled: folder of images without labels.
        include, exclude: patterns of image paths.
        min_accuracy: floor of the top-1 accuracy, 0 to 1; None is no floor.
    """

    folder: Path
    out: Path
    target: str = LOCAL_CPU
    latency_ms: float | None = None
    size_mib: float | None = None
    shots: int | None = None
    student: str | None = None
    teacher: str | None = None
    weights: Path | None = None
    offline: bool = False
    minutes: float | None = None
    unlabelled: Path | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_accuracy: float | None = None


@dataclass(frozen=True)
class WrittenRecipe:
    """A recipe's text, and lines about how it was chosen."""

    text: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class _Images:
    """The images as the recipe uses them.

    Attributes:
        config: of the data set in the recipe.
        few: whether there are few labelled images for each class, so that the teacher gets only a classifier.
        labelled: the role of the labelled images.
        pool: whether there is a role of images without labels.
        test: the role to test on; None if all labels are learned from.
        val: the role to validate on, or None.
        plain_pool: whether the teacher sees the pool without random views, to save time.
    """

    survey: FolderSurvey
    config: ImageFolder
    few: bool
    labelled: str
    pool: bool
    test: str | None
    val: str | None
    plain_pool: bool = False

    @property
    def counts(self) -> tuple[int, int]:
        """About how many labelled and unlabelled images there are to train on."""
        train, shots = self.survey.counts["train"], self.config.few_shot.shots if self.config.few_shot else "all"
        every = sum(train.values())
        labelled = every if shots == "all" else sum(min(shots, count) for count in train.values())
        return labelled, every - labelled + self.survey.unlabelled_images

    @property
    def pool_leads(self) -> bool:
        """Whether the role of images without labels has more images than the labelled one."""
        labelled, unlabelled = self.counts
        return self.pool and unlabelled >= labelled

    @property
    def streams(self) -> list[tuple[str, float]]:
        """The roles that the student learns from with a teacher, with their shares of the batches.

        The shares are in proportion to the numbers of images, between limits. The first role has more images, and gives
        the epoch its length.
        """
        if not self.pool:
            return [(self.labelled, 1.0)]
        labelled, unlabelled = self.counts
        share = min(LARGEST_POOL_SHARE, max(SMALLEST_POOL_SHARE, round(unlabelled / (labelled + unlabelled), 1)))
        streams = [("photos.pool", share), (self.labelled, round(1 - share, 1))]
        return streams if self.pool_leads else streams[::-1]

    @property
    def calibration(self) -> str:
        """The role that calibrates the quantization."""
        return "photos.pool" if self.pool_leads else self.labelled

    @property
    def validation(self) -> str | None:
        """The role on which quantized forms are compared with float: the validation images, else the pool, else None.

        The pool has no labels, so only the share of changed answers is reported.
        """
        return self.val or ("photos.pool" if self.pool else None)

    @property
    def roles(self) -> list[str]:
        """All roles that the recipe uses."""
        pool = "photos.pool" if self.pool else None
        return list(dict.fromkeys(filter(None, (self.labelled, pool, self.test, self.val))))


@dataclass(frozen=True)
class Findings:
    """What a folder of images and this machine offer.

    Attributes:
        form: in which the student is deployed on the target.
        datasets: the data set and its roles, by name.
    """

    options: InitOptions
    images: _Images
    sources: WeightSources
    form: DeployedForm
    datasets: Mapping[str, Artifact]

    @property
    def num_classes(self) -> int:
        return len(self.images.survey.classes)


def recipe_for_folder(options: InitOptions, context: Context) -> WrittenRecipe:
    """Look at images, weights and machine, time students, and write the recipe.

    Raises:
        DataError, TargetError, RecipeError, ArtifactError: see `look_at_folder`.
        CheckFailed: no student meets the budget.
    """
    context = in_project(options, context)
    found = look_at_folder(options, context)
    if options.latency_ms is not None:
        context.progress.say(f"students, timed untrained on {options.target}, p50 of one image:")
    time = timer(found.num_classes, found.form, context)
    student = choose_student(found.sources, options.student, time, options.latency_ms, options.size_mib)
    written = recipe_for_student(found, student, context)
    return replace(written, lines=(*_about_student(options, student), *written.lines))


def in_project(options: InitOptions, context: Context) -> Context:
    """The context in the folder of the recipe, whose targets.yaml counts."""
    return replace(context, folder=options.out.absolute().parent)


def look_at_folder(options: InitOptions, context: Context) -> Findings:
    """Look at images, weights and machine. Nothing is timed.

    Args:
        context: in the folder of the recipe, see `in_project`.

    Raises:
        DataError: the folder holds no usable images, or too few.
        TargetError: there is no such target, or it cannot be reached.
        RecipeError, ArtifactError: a name or a file of weights cannot be used.
    """
    target_for(options.target, context)  # refuses a name that no targets.yaml has
    form = deployed_form(options.target, options.size_mib)
    form.machine(context)  # refuses a target that is not there
    sources = weights_from(options.weights, options.teacher, options.student, options.offline)
    images, say = _look_at_images(options, sources.teacher is not None, context), context.progress.say
    sources = sources.for_images(sum(images.counts) if sources.teacher else images.counts[0])
    say(_about_images(images))
    say(_about_weights(sources))
    datasets = dataset_artifacts({"photos": images.config}, Path.cwd(), images.roles, progress=context.progress)
    return Findings(options, images, sources, form, datasets)


def recipe_for_student(
    found: Findings, student: ChosenStudent, context: Context, reason: str | None = None
) -> WrittenRecipe:
    """The recipe that trains a student, and a line about its time.

    Args:
        reason: why this student was chosen, for the recipe; by default its timing.
    """
    options, sources = found.options, found.sources
    images, cost = _within_minutes(options, found.images, sources, student, found.datasets, context)
    epochs = usual_epochs(cost.images_of_epoch) if options.minutes is None else cost.epochs_in(options.minutes)
    text = _text(options, images, sources, student, epochs, reason)
    return WrittenRecipe(text, (cost.sentence(epochs, context.device, options.minutes),))


def usual_epochs(images_of_epoch: float) -> int:
    """The epochs of a student without `--minutes`: `USUAL_EPOCHS`, or as many as it takes to see `USUAL_IMAGES`.

    With fewer, a student on few photos is far from what it can learn (few_photos_epochs.json).
    """
    return min(MOST_EPOCHS, max(USUAL_EPOCHS, math.ceil(USUAL_IMAGES / images_of_epoch)))


def short_recipe(found: Findings, student: ChosenStudent, epochs: int) -> Recipe:
    """The recipe of a student with a number of epochs. Its relative paths start from the folder of `options.out`."""
    text = _text(found.options, found.images, found.sources, student, epochs)
    return _parsed(text, found.options.out.absolute().parent)


def with_images_to_compare_by(found: Findings, share: float) -> Findings:
    """The findings of a folder with few labels, with the role `photos.val`: its folder, or a share of the images.

    Nothing changes where there is such a role, or where folders divide the images and none is left for it.
    """
    images = found.images
    if not images.few or images.val is not None:
        return found
    if images.survey.has_split_folders:
        is_free = "val" in images.survey.counts and images.test != "photos.val"
        return replace(found, images=replace(images, val="photos.val")) if is_free else found
    splits = images.config.splits.model_copy(update={"val": share})
    config = images.config.model_copy(update={"splits": splits})
    return replace(found, images=replace(images, config=config, val="photos.val"))


# Images ----------------------------------------------------------------------------------------------------------


def _look_at_images(options: InitOptions, has_teacher: bool, context: Context) -> _Images:
    survey = survey_folder(
        options.folder,
        include=options.include,
        exclude=options.exclude,
        unlabelled=options.unlabelled,
        progress=context.progress,
    )
    for note in survey.notes:
        context.progress.say(f"note: {note}")
    _check_every_class_has_images(survey)
    few = options.shots is not None or survey.is_few_shot
    keeps_all = has_teacher and options.shots is None and options.min_accuracy is None
    test, val = _judging_roles(survey, few, keeps_all)
    config = survey.config
    if few and test is not None and not survey.has_split_folders:
        config = config.model_copy(update={"splits": Splits(val=0.0)})
    if options.shots is not None:
        config = config.model_copy(update={"few_shot": FewShotDraw(shots=options.shots)})
    has_pool = options.shots is not None or survey.has_pool
    return _Images(survey, config, few, "photos.support" if few else "photos.train", has_pool, test, val)


def _check_every_class_has_images(survey: FolderSurvey) -> None:
    totals = {name: sum(counts.get(name, 0) for counts in survey.counts.values()) for name in survey.classes}
    if short := short_classes(totals, totals.values(), 2):
        raise DataError("classes have too few images to train on", got=listed(short), expected="2 of each or more")


def _judging_roles(survey: FolderSurvey, few: bool, keeps_all: bool) -> tuple[str | None, str | None]:
    """The role to test on, and the role to validate on; None where there is none.

    Args:
        keeps_all: few labels may all be learned from. Cross-validation on the teacher's body gives the accuracy then.
    """
    if not survey.has_split_folders:
        return (None if keeps_all else "photos.test", None) if few else ("photos.test", "photos.val")
    if "test" in survey.counts:
        return "photos.test", "photos.val" if "val" in survey.counts and not few else None
    if "val" in survey.counts:
        return "photos.val", None
    if few and keeps_all:
        return None, None
    raise DataError(
        "there are no images to test on",
        where=survey.config.path,
        got="a folder train without a folder test or val",
        next="move a fifth of the images of each class into a folder test, or move all class folders out of train",
    )


def _about_images(images: _Images) -> str:
    survey = images.survey
    by_split = ", ".join(f"{sum(counts.values())} {split}" for split, counts in survey.counts.items())
    kind = "few of each class: a few-shot recipe" if images.few else "enough to train on"
    sizes = "median {} x {} px".format(*survey.median_size[::-1])
    counts = f"{len(survey.classes)} classes, {survey.images} images ({by_split}), {sizes}"
    balance = f"; the largest class has {survey.imbalance:.0f} times the images of the smallest: classes are weighted"
    return f"{survey.config.path}: {counts}; {kind}{balance if _is_unbalanced(images) else ''}"


# Weights and student ---------------------------------------------------------------------------------------------


def _about_weights(sources: WeightSources) -> str:
    if sources.teacher is None:
        where = "--offline" if sources.offline else "the hub does not answer"
        return f"no large pretrained model ({where}): --weights FILE takes weights of any timm model, for more accuracy"
    return f"teacher: {sources.teacher}"


def _about_student(options: InitOptions, student: ChosenStudent) -> list[str]:
    start = f"starts from {student.start}" if student.start else "starts from random weights"
    if student.timing is None or student.choice is None:
        return [f"student: {student.candidate}, {start}; give --latency-ms to choose it by a budget"]
    timing = student.timing
    chosen = f"student: {student.candidate}, {timing.p50_ms:.3g} of {options.latency_ms:g} ms, {start}"
    larger = student.choice.next_larger()
    if larger is None and options.student is None and student.start is not None and student.start.is_body:
        lines = [chosen, "    bodies have no larger size; --student NAME takes another model"]
    elif larger is None:
        lines = [chosen, "    no larger student of the shortlist is expected to meet it"]
    else:
        larger_ms = student.choice.timings[larger].p50_ms
        free = f"{1 - ROOM:.0%} of the budget is kept free"
        lines = [chosen, f"    the next larger, {larger}, takes {larger_ms:.3g} ms; {free}"]
    if any(timing.warnings for timing in student.choice.timings.values()):
        lines.append("    other work disturbed the timings: init again (--force) may find a larger student")
    return lines


# Time of the run -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cost:
    """The time of a run in seconds: of one epoch of the student, with so many images, and of all the rest."""

    images_of_epoch: float
    epoch_s: float
    rest_s: float

    def epochs_in(self, minutes: float) -> int:
        """The number of epochs that fit."""
        return max(LEAST_EPOCHS, min(MOST_EPOCHS, int((60 * minutes - self.rest_s) / self.epoch_s)))

    def sentence(self, epochs: int, device: str, minutes: float | None) -> str:
        total_s = epochs * self.epoch_s + self.rest_s
        cores = f" with {usable_cpus()} cores" if device == "cpu" else ""
        count = f"{epochs} epochs" if epochs > 1 else "1 epoch"
        about = f"time: about {duration(total_s)} here ({device}{cores}), {count} of {duration(self.epoch_s)}"
        if minutes is None:
            return f"{about}; --minutes sets another time"
        return f"{about}: more than --minutes {minutes:g}" if total_s > 60 * minutes * 1.1 else about


def _within_minutes(
    options: InitOptions,
    images: _Images,
    sources: WeightSources,
    student: ChosenStudent,
    datasets: Mapping[str, Artifact],
    context: Context,
) -> tuple[_Images, _Cost]:
    """The images with as much work for the teacher as `--minutes` leaves time for, and the time of the run."""
    longest_s = math.inf
    if options.minutes is not None and sources.teacher is not None:
        longest_s = 60 * options.minutes * TEACHERS_SHARE
    while True:
        cost = _cost_of_run(_text(options, images, sources, student, USUAL_EPOCHS), images, datasets, context)
        shorter = _with_shorter_teacher(images) if cost.rest_s > longest_s else None
        if shorter is None:
            return images, cost
        images = shorter


def _with_shorter_teacher(images: _Images) -> _Images | None:
    """The images with less work for the teacher: only its classifier is fitted; then the pool gets no random views.

    Eight random views of the pool take nine times the passes for half a point of accuracy
    (benchmarks/results/fewshot_pool_views.json).
    """
    if not images.few:
        return replace(images, few=True)
    return replace(images, plain_pool=True) if images.pool and not images.plain_pool else None


def _cost_of_run(text: str, images: _Images, datasets: Mapping[str, Artifact], context: Context) -> _Cost:
    """The time of a recipe, from a few steps of its trainings. Their models have random weights here.

    The times of its trainings are kept, for the time left that `run` shows.
    """
    assert context.folder is not None
    recipe = _parsed(text, context.folder)
    with single_stages(replace(context, progress=SilentProgress())) as stages:
        done = {**datasets, **_untrained(recipe, images.survey.classes, stages)}
        student = _stage(recipe, "student", (Train, Distill))
        seen = images_of_epoch(student, datasets)
        epoch_s = seconds_per_image(student, resolve(student, done), context) * seen
        teacher_s = _teacher_s(recipe, done, context)
    keys = work_keys(recipe, datasets, context.device)
    estimates_s = {"student": epoch_s * student.epochs, "teacher": teacher_s}
    keep_times(
        {
            keys[stage.id]: seconds_of(stage, estimates_s[stage.id])
            for stage in recipe.stages
            if stage.id in estimates_s and keys[stage.id] not in kept_times()
        }
    )
    return _Cost(seen, epoch_s, OTHER_STAGES_S + teacher_s)


def _teacher_s(recipe: Recipe, done: Mapping[str, Artifact], context: Context) -> float:
    """The time that the stage `teacher` takes, in seconds; 0 without it."""
    teacher = next((stage for stage in recipe.stages if stage.id == "teacher"), None)
    if isinstance(teacher, Train):
        images: int = done[teacher.data].metrics["images"]
        return teacher.epochs * images * seconds_per_image(teacher, resolve(teacher, done), context)
    if not isinstance(teacher, Fewshot):
        return 0.0
    passes: int = (1 + teacher.random_views) * done[teacher.support].metrics["images"]
    if teacher.pool is not None:
        pool_views = teacher.random_views if teacher.pool_views is None else teacher.pool_views
        passes += (1 + pool_views) * min(done[teacher.pool].metrics["images"], teacher.max_pool_images)
    return passes * seconds_per_answer(done["backbone"], context)


def _untrained(recipe: Recipe, classes: Sequence[str], stages: SingleStages) -> dict[str, Artifact]:
    """The checkpoints that trainings start from or learn from, by the ids of their stages, with random weights."""
    made: dict[str, Artifact] = {}
    for stage in recipe.stages:
        if isinstance(stage, Load):
            random = stage.model_copy(update={"pretrained": False, "weights": None, "classes": tuple(classes)})
            made[stage.id] = stages.make(random)
    if "backbone" in made:
        made["teacher"] = made["backbone"]
    return made


def _stage(recipe: Recipe, id: str, kinds: tuple[type[Any], ...]) -> Any:
    return next(stage for stage in recipe.stages if stage.id == id and isinstance(stage, kinds))


def _parsed(text: str, base: Path) -> Recipe:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(text, encoding="utf-8")
        return recipe_and_folder(file, base=base)[0]


# Text ------------------------------------------------------------------------------------------------------------


def _text(
    options: InitOptions,
    images: _Images,
    sources: WeightSources,
    student: ChosenStudent,
    epochs: int,
    reason: str | None = None,
) -> str:
    folder, config, teacher = options.out.absolute().parent, images.config, sources.teacher
    unlabelled = None if config.unlabelled is None else _path_from(folder, Path(config.unlabelled))
    environment = _environment()
    environment.filters["source"] = lambda weights: _source(weights, folder)
    return environment.get_template("recipe.yaml.j2").render(
        name=_recipe_name(options.folder),
        file=printable_line(shlex.quote(str(options.out))),
        path=_path_from(folder, Path(config.path)),
        config=config,
        unlabelled=unlabelled,
        images=images,
        on_gpu=options.target == LOCAL_GPU,
        on_target="" if options.target in LOCAL_TARGETS else f", target: {_quoted(options.target)}",
        latency_ms=options.latency_ms,
        size_mib=options.size_mib,
        min_accuracy=options.min_accuracy,
        weighted=", class_weights: balanced" if _is_unbalanced(images) else "",
        teacher=teacher,
        student=student,
        epochs=epochs,
        small_set=(max(images.counts) if teacher else images.counts[0]) < SMALL_SET,
        measurements=_measurements(options.target, teacher is not None, images.test is not None),
        reason=reason or _reason(options, student),
    )


def _is_unbalanced(images: _Images) -> bool:
    """Whether the labelled images are unbalanced. A draw of as many images from each class never is."""
    is_drawn = images.config.few_shot is not None and images.config.few_shot.shots != "all"
    return images.survey.imbalance > UNBALANCED and not is_drawn


def _measurements(target: str, has_teacher: bool, has_test: bool) -> list[str]:
    """The ids of the measurements in the report. On a GPU, the student in PyTorch is judged, not the file."""
    on_gpu = target == LOCAL_GPU
    accuracies = ["float_accuracy", *([] if on_gpu else ["accuracy"])] if has_test else ["cross_validated"]
    if has_teacher and has_test:
        accuracies = [*([] if on_gpu else ["teacher_accuracy"]), "centroid_accuracy", *accuracies]
    teacher = ["teacher_latency"] if has_teacher else []
    return [*accuracies, *teacher, *(["student_latency"] if on_gpu else ["float_latency", "latency"])]


def _reason(options: InitOptions, student: ChosenStudent) -> str:
    if student.timing is None:
        return "The student: `edgevit models` lists compact ones."
    took = f"it took {student.timing.p50_ms:.3g} ms ({student.timing.form}) on {options.target}"
    return f"The student: the most MACs within {options.latency_ms:g} ms. Untrained, {took}."


def _source(weights: Weights, folder: Path) -> str:
    if weights.file is None:
        return "pretrained: true"
    return f"weights: {_quoted(_path_from(folder, weights.file.absolute()))}"


def _recipe_name(folder: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")[:LONGEST_ID] or "photos"


def _path_from(start: Path, folder: Path) -> Path:
    """Relative where recipe and photos lie together, so that they can move together; absolute elsewhere."""
    return Path(os.path.relpath(folder, start)) if folder.is_relative_to(start.parent) else folder


def _quoted(text: object) -> str:
    """Text as YAML has it between quotes."""
    plain = str(text)
    if plain == printable_line(plain):
        return "'" + plain.replace("'", "''") + "'"
    return printable_line(json.dumps(plain, ensure_ascii=False))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("edgevit"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = _quoted
    return environment
