"""The files of an evaluation: all predictions, a summary, and thumbnails of the most confident mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevit.artifacts import Artifact, Json
from edgevit.data import Dataset
from edgevit.evaluation.accuracy import calibration_error, confusions
from edgevit.evaluation.accuracy_record import AccuracyRecord, Protocol
from edgevit.evaluation.classify import Predictions

SHOWN_MISTAKES = 24
THUMBNAIL_SIDE = 192


def write_evaluation(predictions: Predictions, dataset: Dataset, out: Path, **more: Json) -> Json:
    """Write predictions.npz, evaluation.json (with the entries of `more`) and wrong/NNN.png.

    Returns the metrics of `AccuracyRecord.metrics`.
    """
    record = predictions.record
    np.savez_compressed(
        out / "predictions.npz",
        sample_ids=np.array(predictions.sample_ids, dtype=np.str_),
        labels=predictions.labels,
        predicted=predictions.predicted,
        confidence=predictions.confidence,
        probabilities=predictions.probabilities,
    )
    summary = {
        "classes": predictions.classes,
        "confusions": confusions(predictions.labels, predictions.predicted, predictions.classes),
        "per_class": record.per_class(),
        "calibration": calibration_error(predictions.confidence, predictions.correct),
        "wrong": _write_mistakes(predictions, dataset, out),
        **more,
    }
    (out / "evaluation.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return record.metrics()


def accuracy_record(evaluation: Artifact) -> AccuracyRecord:
    """The record of an evaluation. Raises ArtifactError if one of its files was altered."""
    arrays = read_predictions(evaluation)
    summary = json.loads(evaluation.file("evaluation.json").read_text(encoding="utf-8"))
    labels, predicted = (np.asarray(arrays[name], np.int64) for name in ("labels", "predicted"))
    names = tuple(map(str, arrays["sample_ids"]))
    return AccuracyRecord(names, tuple(summary["classes"]), labels, predicted, protocol_of(evaluation))


def protocol_of(evaluation: Artifact) -> Protocol:
    """The protocol of an evaluation; "standard" under corruption, for the clean images."""
    return "cross_validation" if "cross_validation" in evaluation.metrics else "standard"


def read_predictions(evaluation: Artifact) -> dict[str, NDArray[np.generic]]:
    """The arrays of predictions.npz. Raises ArtifactError if the file was altered."""
    with np.load(evaluation.file("predictions.npz"), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def correct_predictions(evaluation: Artifact) -> NDArray[np.bool_]:
    """Whether the prediction for each image is correct, (n,) bool. Raises ArtifactError if the file was altered."""
    arrays = read_predictions(evaluation)
    return np.asarray(arrays["predicted"] == arrays["labels"])


def _write_mistakes(predictions: Predictions, dataset: Dataset, out: Path) -> list[Json]:
    """Write thumbnails of the mistakes with the highest confidence, the highest first."""
    wrong = np.flatnonzero(~predictions.correct)
    most_confident = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:SHOWN_MISTAKES]
    (out / "wrong").mkdir()
    mistakes = []
    for number, index in enumerate(most_confident.tolist()):
        name = f"wrong/{number:03d}.png"
        image = Image.fromarray(dataset.image(index))
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        image.save(out / name)
        mistakes.append(
            {
                "file": name,
                "sample_id": predictions.sample_ids[index],
                "label": predictions.classes[predictions.labels[index]],
                "predicted": predictions.classes[predictions.predicted[index]],
                "confidence": float(predictions.confidence[index]),
            }
        )
    return mistakes
