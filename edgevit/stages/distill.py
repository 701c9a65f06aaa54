"""distill: teachers and images, labelled or not → the student's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Distill
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.models.checkpoints import checkpoint_contents, starting_model
from edgevit.training.fit import METRICS, fit
from edgevit.training.objectives import distillation_objective
from edgevit.training.streams import distillation_streams, student_classes, validation_set
from edgevit.training.students import with_projectors
from edgevit.training.teaching import Teaching, common_canvas


def run(config: Distill, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    paths = [f"teachers.{index}.model" for index in range(len(config.teachers))] or ["teacher"]
    teachers = [inputs[path] for path in paths]
    data = [inputs[f"streams.{index}.data"] for index in range(len(config.streams))]
    datasets = [open_dataset(one) for one in data]
    classes = student_classes(datasets, teachers[0].io.classes)
    shares = [stream.share for stream in config.streams]
    streams = distillation_streams(datasets, shares, classes, config.objectives)
    val = open_dataset(inputs["val"]) if "val" in inputs else None
    built = starting_model(
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
    canvas = common_canvas(built.preprocess, [teacher.io.preprocess for teacher in teachers])
    teaching = Teaching(config, teachers, data, classes, canvas, context)
    trained, val_top1 = fit(
        with_projectors(built, config.objectives, teaching.channels, config.seed),
        distillation_objective(config.objectives, teaching, len(classes), config.label_smoothing),
        streams,
        config,
        context,
        preprocess=built.preprocess,
        canvas=canvas,
        out=out,
        val=validation_set(val, classes),
    )
    built = built._replace(module=trained)
    return checkpoint_contents(built, classes, out, {"val_top1": val_top1}, teaching.summary(), METRICS)
