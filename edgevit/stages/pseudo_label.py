"""pseudo_label: a teacher and images without labels → a data set of those that it is sure of, with its labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from edgevit.artifacts import Artifact, Contents, Json
from edgevit.configs import PseudoLabel
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.data.pseudo_labels import source_record, write_labels
from edgevit.errors import listed
from edgevit.evaluation import calibration_error
from edgevit.models.checkpoints import open_checkpoint
from edgevit.provenance import check_classifier_fits
from edgevit.training.distillation.confident_labels import (
    Calibration,
    calibrate,
    most_confident,
    teacher_labels,
    write_teacher_labels,
)

TEACHER_LABELS = "teacher_labels.csv"


def run(config: PseudoLabel, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    check_classifier_fits(inputs["teacher"])
    teacher, device, progress = open_checkpoint(inputs["teacher"]), torch.device(context.device), context.progress
    fitted = None
    if "calibration" in inputs:
        fitted = calibrate(teacher, open_dataset(inputs["calibration"]), device, progress)
        if fitted.correct.all():
            progress.say("    the teacher is right about every calibration image, so no temperature is best: T = 1")
    temperature = fitted.temperature if fitted else 1.0
    labelled = teacher_labels(teacher, open_dataset(inputs["data"]), temperature, device, progress)
    kept = most_confident(labelled, config.threshold, config.balance, config.most_per_class)
    write_labels(out, labelled.classes, [labelled.sample_ids[index] for index in kept], labelled.labels[kept])
    write_teacher_labels(labelled, kept, out / TEACHER_LABELS)
    counts = np.bincount(labelled.labels[kept], minlength=len(labelled.classes)).tolist()
    per_class = dict(zip(labelled.classes, counts, strict=True))
    kept_text = f"kept {len(kept)} of {len(labelled.labels)} at ≥ {config.threshold:.2f}"
    how = f"T = {temperature:.3g}" if fitted else "not calibrated"
    progress.say(f"    {kept_text} ({how}), {min(counts)} to {max(counts)} a class")
    if missing := [name for name, count in per_class.items() if not count]:
        progress.say(f"    no image for {len(missing)} of {len(counts)} classes: {listed(missing)}")
    return Contents(
        kind="dataset",
        metrics={
            "images": len(labelled.labels),
            "kept": len(kept),
            "per_class": per_class,
            "source": inputs["data"].digest,  # other images under the same names are another data set
        },
        log_metrics={"temperature": temperature, "ece": _ece(fitted) if fitted else None},
        logs=(TEACHER_LABELS,),
        provenance=source_record(inputs["data"]),
    )


def _ece(fitted: Calibration) -> Json:
    """Expected calibration error on the calibration images, as the teacher is and with the temperature."""
    return {
        name: calibration_error(confidence.astype(np.float32), fitted.correct)["ece"]
        for name, confidence in (("before", fitted.confidence_before), ("after", fitted.confidence))
    }
