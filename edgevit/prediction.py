"""Labels for images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.artifacts import Artifact
from edgevit.data.images import IMAGE_SUFFIXES, is_image_name, read_image
from edgevit.data.preprocess import preprocess
from edgevit.errors import DataError
from edgevit.evaluation.classify import softmax
from edgevit.runtimes.base import SessionOptions
from edgevit.targets import target_for


def predict_images(model: Artifact, paths: Sequence[Path], top: int) -> list[dict[str, Any]]:
    """`{image, labels: [{label, confidence}]}` for each image; folders give the images below them, sorted."""
    spec = model.io
    answers = []
    with target_for("local-cpu").open(model, SessionOptions()) as session:
        for path in _images(paths):
            tensor = preprocess(read_image(path), **spec.preprocess.model_dump())[None]
            logits = session.infer({spec.inputs[0].name: tensor})[spec.outputs[0].name][0]
            probabilities = softmax(logits)
            best = np.argsort(-probabilities, kind="stable")[:top]
            labels = [{"label": spec.classes[i], "confidence": round(float(probabilities[i]), 4)} for i in best]
            answers.append({"image": str(path), "labels": labels})
    return answers


def _images(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        inside = sorted(one for one in path.rglob("*") if is_image_name(one.name)) if path.is_dir() else [path]
        if not inside:
            raise DataError("no images in this folder", where=path, expected=" ".join(sorted(IMAGE_SUFFIXES)))
        found += inside
    return found
