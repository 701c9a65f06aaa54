"""distill: a teacher and images, labelled or not → the student's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from edgevit.artifacts import Artifact, Contents, IOSpec
from edgevit.configs import Distill
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.models.checkpoints import open_checkpoint, save_checkpoint, starting_model
from edgevit.models.cost import cost_of
from edgevit.training.fit import METRICS, fit
from edgevit.training.objectives import distillation_objective
from edgevit.training.streams import distillation_streams, student_classes, validation_set
from edgevit.training.teachers import LiveTeacher


def run(config: Distill, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    teacher = open_checkpoint(inputs["teacher"])
    datasets = [open_dataset(inputs[f"streams.{index}.data"]) for index in range(len(config.streams))]
    classes = student_classes(datasets, teacher.io.classes)
    shares = [stream.share for stream in config.streams]
    streams = distillation_streams(datasets, shares, classes, config.objectives)
    built = starting_model(
        config.model,
        inputs.get("init"),
        classes,
        config.image_size,
        config.model_args,
        distillation_token=config.distillation_token,
        drop_path_rate=config.drop_path_rate,
        seed=config.seed,
    )
    live = LiveTeacher(teacher.module, teacher.io, classes, torch.device(context.device))
    val = open_dataset(inputs["val"]) if "val" in inputs else None
    trained, val_top1 = fit(
        built.module,
        distillation_objective(config.objectives, live, len(classes), config.label_smoothing),
        streams,
        config,
        context,
        preprocess=built.preprocess,
        out=out,
        val=validation_set(val, classes),
    )
    save_checkpoint(trained, built.description, out)
    return Contents(
        kind="checkpoint",
        metrics={**cost_of(trained, built.preprocess), "val_top1": val_top1},
        logs=(METRICS,),
        io=IOSpec.for_classifier(built.preprocess, classes),
        provenance={"weights_licence": built.description.licence},
    )
