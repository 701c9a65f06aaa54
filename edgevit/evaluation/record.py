"""What stays of an evaluation: every prediction, a summary, and pictures of confident mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevit.artifacts import Artifact, Json
from edgevit.data import Dataset
from edgevit.evaluation.accuracy import calibration_error, confusions, per_class, wilson_interval
from edgevit.evaluation.classify import Predictions

SHOWN_MISTAKES = 24
THUMBNAIL_SIDE = 192


def write_evaluation(found: Predictions, dataset: Dataset, out: Path, **more: Json) -> Json:
    """Write predictions.npz, evaluation.json (and in it what `more` names) and wrong/NNN.png; gives {top1, images}."""
    np.savez_compressed(
        out / "predictions.npz",
        sample_ids=np.array(found.sample_ids, dtype=np.str_),
        labels=found.labels,
        predicted=found.predicted,
        confidence=found.confidence,
        probabilities=found.probabilities,
    )
    summary = {
        "classes": found.classes,
        "confusions": confusions(found.labels, found.predicted, found.classes),
        "per_class": per_class(found.labels, found.predicted, found.classes),
        "calibration": calibration_error(found.confidence, found.correct),
        "wrong": _write_mistakes(found, dataset, out),
        **more,
    }
    (out / "evaluation.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    n, correct = len(found.labels), int(found.correct.sum())
    low, high = wilson_interval(correct, n)
    return {"top1": {"value": correct / n, "low": low, "high": high, "n": n}, "images": n}


def predictions(evaluation: Artifact) -> dict[str, NDArray[np.generic]]:
    """The arrays of an evaluation. Raises ArtifactError if the file was altered."""
    with np.load(evaluation.file("predictions.npz"), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def right_answers(evaluation: Artifact) -> NDArray[np.bool_]:
    """Of each image, (n,), whether the model was right. Raises ArtifactError if the file was altered."""
    found = predictions(evaluation)
    return np.asarray(found["predicted"] == found["labels"])


def _write_mistakes(found: Predictions, dataset: Dataset, out: Path) -> list[Json]:
    """Thumbnails of the mistakes that the model was surest of, the surest first."""
    wrong = np.flatnonzero(~found.correct)
    surest = wrong[np.argsort(-found.confidence[wrong], kind="stable")][:SHOWN_MISTAKES]
    (out / "wrong").mkdir()
    mistakes = []
    for number, index in enumerate(surest.tolist()):
        name = f"wrong/{number:03d}.png"
        picture = Image.fromarray(dataset.image(index))
        picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        picture.save(out / name)
        mistakes.append(
            {
                "file": name,
                "sample_id": found.sample_ids[index],
                "label": found.classes[found.labels[index]],
                "predicted": found.classes[found.predicted[index]],
                "confidence": float(found.confidence[index]),
            }
        )
    return mistakes
