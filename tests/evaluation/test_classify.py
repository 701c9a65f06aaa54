"""Classes are matched by name, whatever their order; every image is answered for, whatever the batch."""

import numpy as np
import pytest

from edgevit.artifacts import IOSpec, Preprocess
from edgevit.data import Dataset
from edgevit.data.dataset import ArrayImages
from edgevit.errors import ArtifactError, DataError
from edgevit.evaluation import classify
from edgevit.progress import SilentProgress
from edgevit.runtimes.base import Session

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourSession(Session):
    """Scores of the classes red, green, blue: the means of the three channels."""

    def __init__(self, classes=("red", "green", "blue"), batch="batch"):
        self.spec = IOSpec.for_classifier(
            Preprocess(height=4, width=4, mean=(0, 0, 0), std=(1, 1, 1)), tuple(classes), batch
        )
        self.batches = []

    def infer(self, inputs):
        self.batches.append(len(inputs["image"]))
        return {"logits": inputs["image"].mean((2, 3))}

    def measure(self, plan):
        raise AssertionError("nothing is timed here")


def dataset_of(names, classes, labelled=True):
    pixels = np.array([np.full((4, 4, 3), COLOURS[name], np.uint8) for name in names]).reshape(-1, 4, 4, 3)
    labels = np.array([classes.index(name) for name in names], np.int64) if labelled else None
    ids = tuple(f"{name}/{index}" for index, name in enumerate(names))
    return Dataset("colours.test", tuple(classes), ids, labels, ArrayImages(pixels), np.arange(len(names)))


def test_other_order_is_mapped():
    names = ["blue", "red", "green", "blue"]
    found = classify(ColourSession(), dataset_of(names, ["blue", "green", "red"]), 3, SilentProgress())
    assert found.labels.tolist() == found.predicted.tolist() == [2, 0, 1, 2]
    assert found.correct.all()


def test_fewer_classes_than_the_model_are_fine():
    found = classify(ColourSession(), dataset_of(["green"], ["green"]), 3, SilentProgress())
    assert found.labels.tolist() == [1]


@pytest.mark.parametrize("bad", [(np.nan, 0, 0), (np.inf, 0, 0), (-np.inf,) * 3])
def test_answers_that_are_no_numbers_have_no_accuracy(bad):
    class Overflowing(ColourSession):
        def infer(self, inputs):
            logits = super().infer(inputs)["logits"]
            return {"logits": np.where(logits[:, 2:] > 0, np.float32(bad), logits)}

    names = ["red", "red", "green", "red", "blue"]
    with pytest.raises(ArtifactError, match=r"image 5: the model's scores are not finite"):
        classify(Overflowing(), dataset_of(names, ["blue", "green", "red"]), 3, SilentProgress())


def test_a_class_that_the_model_lacks_is_named():
    session = ColourSession(classes=("red", "green", "cyan"))
    with pytest.raises(DataError, match="lacks 1 of the 2 classes") as caught:
        classify(session, dataset_of(["blue"], ["blue", "red"]), 3, SilentProgress())
    assert caught.value.got == "missing: blue"


def test_a_model_without_class_names_takes_the_data_sets_order():
    said: list[str] = []
    progress = SilentProgress()
    progress.say = said.append  # type: ignore[assignment, method-assign]
    found = classify(ColourSession(classes="012"), dataset_of(["green"], ["red", "green", "blue"]), 3, progress)
    assert found.correct.all()
    assert "order" in said[0]


@pytest.mark.parametrize(("names", "labelled"), [(["red"], False), ([], True)])
def test_there_must_be_labelled_images(names, labelled):
    with pytest.raises(DataError, match="labelled"):
        classify(ColourSession(), dataset_of(names, ["red", "green"], labelled), 3, SilentProgress())


@pytest.mark.parametrize(("batch", "sizes"), [("batch", [4, 4, 1]), (2, [2, 2, 2, 2, 2])])
def test_a_fixed_batch_is_filled_up_and_the_filling_not_counted(batch, sizes):
    session = ColourSession(batch=batch)
    found = classify(session, dataset_of(["red", "green", "blue"] * 3, ["red", "green", "blue"]), 4, SilentProgress())
    assert session.batches == sizes
    assert found.correct.tolist() == [True] * 9
    np.testing.assert_allclose(found.probabilities[0], np.exp([1, 0, 0]) / np.exp([1, 0, 0]).sum(), rtol=1e-6)
