"""The setup of a training stage: its model, objective and streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from edgevit.artifacts import Artifact, Json, Preprocess
from edgevit.configs import ClassifierTraining, Distill, Distillation, Train, Training
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.data.dataset import Dataset
from edgevit.data.labels import labels_among
from edgevit.models.checkpoints import starting_model
from edgevit.models.creation import BuiltModel
from edgevit.provenance import check_classifier_fits
from edgevit.training.class_balance import check_every_class_has_samples, class_balance
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.distillation.feature_projectors import with_projectors
from edgevit.training.distillation.teacher_from_config import ConfiguredTeacher, common_canvas
from edgevit.training.loop.batches import TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.loop.learner import Learner
from edgevit.training.loop.streams import (
    class_counts,
    distillation_streams,
    labelled_stream,
    needs_logits,
    sampled,
    student_classes,
    validation_set,
)
from edgevit.training.loop.validation import VAL_TOP1, top1_on
from edgevit.training.losses import LabelLoss, cross_entropy
from edgevit.training.objectives import distillation_objective, label_objective


@dataclass(frozen=True)
class TrainingSetup:
    """The arguments of `fit` for a stage.

    Attributes:
        start: the model before training.
        learner: trains `start.module`, with projectors if a term of the loss compares features.
        canvas: the size of the views; the model's input size if None.
        val: the data set for validation after each epoch.
        unnamed: whether the classes have no names; they are then the positions of the outputs.
    """

    start: BuiltModel
    learner: Learner
    classes: tuple[str, ...]
    streams: Sequence[TrainingStream]
    canvas: Preprocess | None = None
    val: Dataset | None = None
    unnamed: bool = False

    @property
    def computed_in(self) -> Json:
        """The precision that the training took, for its provenance."""
        return {"precision": self.learner.precision}

    def train(self, config: Training, context: Context, out: Path) -> tuple[BuiltModel, float | None]:
        """Train the model. Returns it and its accuracy on `val`; see `fit`."""
        validate = None
        if self.val is not None:
            validate = top1_on(self.val, self.start.preprocess, context.device, config.batch_size)
        trained, validated = fit(
            self.learner, self.streams, config, context, out=out, canvas=self.canvas, validate=validate
        )
        return self.start._replace(module=trained), validated.get(VAL_TOP1)


def supervised_setup(config: Train, inputs: Mapping[str, Artifact]) -> TrainingSetup:
    """The setup of supervised training."""
    data = open_dataset(inputs["data"])
    start = starting_model(
        config.model,
        inputs.get("init"),
        data.classes,
        config.image_size,
        config.model_args,
        drop_rates=config.model_rates,
        seed=config.seed,
    )
    streams = sampled([labelled_stream(data)], config.sampling)
    objective = label_objective(len(data.classes), config.label_smoothing, label_loss(config, streams))
    return TrainingSetup(
        start=start,
        learner=ClassifierLearner(start.module, objective, start.preprocess),
        classes=data.classes,
        streams=streams,
        val=_validation_set(inputs, data.classes),
    )


def distillation_setup(
    config: Distill, inputs: Mapping[str, Artifact], context: Context
) -> tuple[TrainingSetup, ConfiguredTeacher]:
    """The setup of a distillation, and its teacher."""
    datasets = opened_streams(config, inputs)
    classes = student_classes(datasets, _teachers(config, inputs)[0].io.classes, config.objectives)
    start = starting_model(
        config.model,
        inputs.get("init"),
        classes,
        config.image_size,
        config.model_args,
        distillation_token=config.distillation_token,
        inference=config.inference,
        drop_rates=config.model_rates,
        seed=config.seed,
    )
    return taught(start, classes, datasets, config, inputs, context)


def taught(
    start: BuiltModel,
    classes: tuple[str, ...],
    datasets: Sequence[Dataset],
    config: Distillation,
    inputs: Mapping[str, Artifact],
    context: Context,
) -> tuple[TrainingSetup, ConfiguredTeacher]:
    """The setup of a distillation of the student `start`, on opened streams, and its teacher."""
    teachers = _teachers(config, inputs)
    if needs_logits(config.objectives):
        for artifact in teachers:
            check_classifier_fits(artifact)
    data = [inputs[f"streams.{index}.data"] for index in range(len(config.streams))]
    shares = [stream.share for stream in config.streams]
    streams = sampled(distillation_streams(datasets, shares, classes, config.objectives), config.sampling)
    looking = teachers if config.teacher_view == "same" else []
    canvas = common_canvas(start.preprocess, [teacher.io.preprocess for teacher in looking])
    teacher = ConfiguredTeacher(
        config, teachers, data, [stream.dataset for stream in streams], classes, canvas, context
    )
    objective = distillation_objective(
        config.objectives, teacher, len(classes), config.label_smoothing, label_loss(config, streams)
    )
    student = with_projectors(start, config.objectives, teacher.channels, config.seed)
    setup = TrainingSetup(
        start=start,
        learner=ClassifierLearner(student, objective, start.preprocess),
        classes=classes,
        streams=streams,
        canvas=canvas,
        val=_validation_set(inputs, classes),
        unnamed=not _are_named(classes, datasets, [*teachers, *filter(None, [inputs.get("init")])]),
    )
    return setup, teacher


def label_loss(config: ClassifierTraining, streams: Sequence[TrainingStream]) -> LabelLoss:
    """The cross-entropy with labels, corrected for classes of unequal size as a stage asks.

    Raises:
        DataError: a class has no image in the streams with labels.
    """
    balance = class_balance(config)
    if not balance.is_on:
        return cross_entropy
    counts, datasets = class_counts(streams), [stream.dataset for stream in streams if stream.labelled]
    check_every_class_has_samples(counts, datasets[0].classes, ", ".join(dataset.name for dataset in datasets))
    weights, offsets = balance.weights(counts), balance.offsets(counts)
    return partial(
        cross_entropy,
        class_weights=None if weights is None else torch.from_numpy(weights),
        offsets=None if offsets is None else torch.from_numpy(offsets),
    )


def opened_streams(config: Distillation, inputs: Mapping[str, Artifact]) -> list[Dataset]:
    """The data sets of a distillation's streams."""
    return [open_dataset(inputs[f"streams.{index}.data"]) for index in range(len(config.streams))]


def _teachers(config: Distillation, inputs: Mapping[str, Artifact]) -> list[Artifact]:
    """The teachers' checkpoints; `init` if the stage names no teacher (self-distillation)."""
    paths = [f"teachers.{index}.model" for index in range(len(config.teachers))]
    return [inputs[path] for path in paths or ["init" if config.teacher is None else "teacher"]]


def _are_named(classes: tuple[str, ...], datasets: Sequence[Dataset], models: Sequence[Artifact]) -> bool:
    """Whether the class names come from a labelled data set, or from a model with named outputs."""
    by_labels = any(labels_among(dataset, classes) is not None for dataset in datasets)
    return by_labels or any(model.io.names_its_classes and model.io.classes == classes for model in models)


def _validation_set(inputs: Mapping[str, Artifact], classes: tuple[str, ...]) -> Dataset | None:
    return validation_set(open_dataset(inputs["val"]) if "val" in inputs else None, classes)
