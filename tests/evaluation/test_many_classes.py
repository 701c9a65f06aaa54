"""An evaluation of thousands of classes stays small: what is stored grows with the images, not with classes²."""

import json
import tracemalloc

import numpy as np

from edgevit.data import Dataset
from edgevit.data.dataset import ArrayImages
from edgevit.evaluation import write_evaluation
from edgevit.evaluation.classify import Predictions

CLASSES, IMAGES = 5_000, 5_000


def test_an_evaluation_of_5000_classes_is_a_small_file(tmp_path):
    generator = np.random.default_rng(0)
    labels = np.arange(IMAGES) % CLASSES
    probabilities = np.zeros((IMAGES, CLASSES), np.float32)
    predicted = np.where(generator.random(IMAGES) < 0.5, labels, generator.integers(0, CLASSES, IMAGES))
    probabilities[np.arange(IMAGES), predicted] = 1
    names = tuple(f"class number {index}" for index in range(CLASSES))
    ids = tuple(map(str, range(IMAGES)))
    pixels = ArrayImages(np.zeros((IMAGES, 1, 1), np.uint8))
    dataset = Dataset("many.test", names, ids, labels, pixels, np.arange(IMAGES))
    tracemalloc.start()
    try:
        metrics = write_evaluation(Predictions(ids, names, labels, probabilities), dataset, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert metrics["top1"]["value"] == np.mean(predicted == labels)
    assert (tmp_path / "evaluation.json").stat().st_size < 2 * 2**20  # 25 million numbers would be 150 MB
    assert peak < 200 * 2**20  # a matrix of classes² alone would be 200 MB
    recorded = json.loads((tmp_path / "evaluation.json").read_text())
    assert len(recorded["per_class"]) == CLASSES
    worst = recorded["confusions"][0]
    label, answer = names.index(worst["label"]), names.index(worst["predicted"])
    assert worst["count"] == ((labels == label) & (predicted == answer)).sum()
