"""The teacher of a distillation stage: one model or an ensemble, live or cached, with a check of its accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import torch

from edgevit.artifacts import Artifact, Json, Preprocess
from edgevit.configs import Distillation
from edgevit.context import Context
from edgevit.data.dataset import Dataset
from edgevit.errors import RecipeError, TrainingError
from edgevit.inference.precision import teacher_precision
from edgevit.models.checkpoints import open_checkpoint
from edgevit.progress import Progress
from edgevit.training.distillation.feature_projectors import teacher_taps
from edgevit.training.distillation.teacher_cache import CachedTeacher
from edgevit.training.distillation.teachers import EnsembleTeacher, LiveTeacher, PlainTeacher, Teacher, TeacherOutput
from edgevit.training.distributed import processes
from edgevit.training.distributed.sharding import is_asked
from edgevit.training.loop.batches import Batch, batch_shares
from edgevit.training.loop.streams import needs_logits

LABELS_TO_JUDGE_BY = 200
FEWEST_VIEWS = 3000  # for `fast_forward`, in trainings of any length: the logits must not depend on the length
DECIDE_ANSWERS = ("torch", "timm", "numpy", "pillow", "onnxruntime")


class ConfiguredTeacher:
    """The teacher of a distillation stage.

    Checkpoints are opened at the first call that needs them, and never if the cache holds every row.

    Args:
        artifacts: the teachers' checkpoints.
        data: the data sets of the streams.
        datasets: the opened data sets of the streams.
        classes: the student's classes.
        canvas: the size of the views.

    Raises RecipeError if a teacher without classes is asked for its answers.
    """

    def __init__(
        self,
        config: Distillation,
        artifacts: Sequence[Artifact],
        data: Sequence[Artifact],
        datasets: Sequence[Dataset],
        classes: tuple[str, ...],
        canvas: Preprocess,
        context: Context,
    ) -> None:
        if needs_logits(config.objectives):
            _check_tells_classes_apart(artifacts)
        self._config, self._artifacts, self._datasets = config, artifacts, datasets
        self._classes, self._context = classes, context
        self._opened: list[LiveTeacher | PlainTeacher] = []
        self._cache: CachedTeacher | None = None
        if config.teacher_cache is not None:
            facts, folder = self._facts(data, canvas), (context.cache or context.work) / "answers"
            self._cache = CachedTeacher(
                self._live,
                folder,
                facts,
                config.teacher_cache,
                len(classes),
                config.batch_size,
                context.check,
                together=is_asked(context),
            )
        self._watched = _Watched(self._cache or self._live(), len(classes), context.progress)

    def __call__(self, batch: Batch) -> TeacherOutput:
        return self._watched(batch)

    @property
    def channels(self) -> dict[int, list[int]]:
        """The number of channels of each feature that a term of the loss compares, by the term's index."""
        return self._opened[0].channels if self._opened else {}

    def summary(self) -> Json:
        """The teacher's accuracy on labelled views, and the use of the cache. All ranks have to call it."""
        seen = {"teacher_top1_in_training": self._watched.top1(torch.device(self._context.device))}
        if self._cache is None:
            return seen
        self._context.progress.say(f"    {self._cache.summary()}")
        answers = {"found": self._cache.found, "computed": self._cache.computed}
        return {**seen, "teacher_cache": answers}

    def _live(self) -> Teacher:
        config = self._config
        self._opened += map(self._open, self._artifacts)
        if len(self._opened) == 1:
            return self._opened[0]
        return EnsembleTeacher(self._opened, [teacher.weight for teacher in config.teachers])

    def _open(self, artifact: Artifact) -> LiveTeacher | PlainTeacher:
        config, context, device = self._config, self._context, torch.device(self._context.device)
        module, io = open_checkpoint(artifact).module, artifact.io
        asked, taps = self._classes if needs_logits(config.objectives) else None, teacher_taps(config.objectives)
        if config.teacher_view == "plain":
            return PlainTeacher(module, io, asked, device, self._datasets, [*taps], context.cache, context.progress)
        sharded = is_asked(context)
        precision = teacher_precision(config.precision, device)
        return LiveTeacher(module, io, asked, device, taps, precision, images=FEWEST_VIEWS, shard=sharded)

    def _facts(self, data: Sequence[Artifact], canvas: Preprocess) -> Json:
        """All that decides the batches and the teachers' logits for them."""
        config = self._config
        weights = [teacher.weight for teacher in config.teachers] or [1.0]
        counts = batch_shares([stream.share for stream in config.streams], config.batch_size)
        return {
            "version": config.version,
            "teachers": [artifact.digest for artifact in self._artifacts],
            "teacher_weights": [weight / sum(weights) for weight in weights],
            "class_names": self._classes,
            "streams": [[dataset.digest, count] for dataset, count in zip(data, counts, strict=True)],
            "batch_size": config.batch_size,
            "accumulation": config.accumulation,
            "ranks": processes.count(),
            "augmentation": config.augmentation.model_dump(mode="json"),
            "canvas": [canvas.height, canvas.width],
            "seed": config.seed,
            "precision": teacher_precision(config.precision, torch.device(self._context.device)),
            "device": self._context.device,
            **({"sampling": config.sampling} if config.is_given("sampling") else {}),
            "versions": {name: version(name) for name in DECIDE_ANSWERS},
        }


def _check_tells_classes_apart(teachers: Sequence[Artifact]) -> None:
    for teacher in teachers:
        if len(teacher.io.classes) < 2:
            raise RecipeError(
                "a teacher without classes has no answers to learn from",
                where=teacher.id,
                got=f"{len(teacher.io.classes)} output",
                next="learn its features (loss: features), or give it a classifier first (a stage fewshot or train)",
            )


class _Watched:
    """A teacher whose accuracy on labelled samples is measured. If it is low, a note says so once.

    Raises TrainingError if a logit is NaN.
    """

    def __init__(self, teacher: Teacher, num_classes: int, progress: Progress) -> None:
        self._teacher, self._progress = teacher, progress
        self._too_low = max(0.5, 1.5 / num_classes)
        self._right, self._seen, self._judged = 0, 0, False

    def __call__(self, batch: Batch) -> TeacherOutput:
        answer = self._teacher(batch)
        if answer.logits is not None:
            if answer.logits.isnan().any():
                raise TrainingError("the teacher's logits are not numbers", got="NaN", next="train the teacher again")
            labels = batch.main_labels
            self._seen += int((labels >= 0).sum())
            self._right += int((answer.logits.argmax(-1) == labels).sum())
            self._judge()
        return answer

    def top1(self, device: torch.device) -> float | None:
        """The teacher's top-1 accuracy, 0 to 1, on labelled views of all ranks; None without labelled views."""
        right, seen = processes.summed([self._right, self._seen], device)
        return right / seen if seen else None

    def _judge(self) -> None:
        if self._judged or self._seen < LABELS_TO_JUDGE_BY:
            return
        self._judged = True
        if self._right < self._too_low * self._seen:
            self._progress.say(
                f"    the teacher is right in only {self._right / self._seen:.0%} of the labelled views, which is too "
                "low for distillation; adapt it first (a fewshot or train stage), or augment less"
            )


def common_canvas(student: Preprocess, teachers: Sequence[Preprocess]) -> Preprocess:
    """The largest input size. Each model resizes the shared view to its own size, and no view is enlarged."""
    return max([student, *teachers], key=lambda preprocess: preprocess.height * preprocess.width)
