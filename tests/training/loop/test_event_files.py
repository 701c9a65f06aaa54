"""TensorBoard's own reader finds in the event files what metrics.jsonl says."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edgevit.context import Context
from edgevit.errors import MissingDependency
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.loop.batches import Batch, TrainingStream
from edgevit.training.loop.event_files import check_tensorboard
from edgevit.training.loop.fit import fit
from edgevit.training.loop.validation import top1_on
from edgevit.training.objectives import Outputs, label_objective
from tests.learning import blobs, tiny_vit, train_config

needs_tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs the extra tensorboard")


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingDependency) as caught:
        check_tensorboard()
    assert caught.value.next == "pip install 'edgevit[tensorboard]'"


@needs_tensorboard
def test_events_are_the_rows_of_the_log(tmp_path: Path) -> None:
    train(tmp_path)
    assert_same(tmp_path)


@needs_tensorboard
def test_events_are_there_while_training_goes_on_and_once_after_it_went_on(tmp_path: Path) -> None:
    steps = iter(range(100))

    def broken_off(outputs: Outputs, batch: Batch) -> object:
        if next(steps) == 9:
            assert_same(tmp_path)
            raise KeyboardInterrupt
        return label_objective(3)(outputs, batch)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, broken_off)
    train(tmp_path)
    assert len(list((tmp_path / "curves" / "recipe" / "stage").iterdir())) == 2
    assert_same(tmp_path)


def train(folder: Path, objective: object = None) -> None:
    context = Context(workers=0, tensorboard=folder / "curves", recipe_name="recipe").at("stage", folder, folder)
    fit(
        ClassifierLearner(
            tiny_vit().module,
            objective or label_objective(3),  # type: ignore[arg-type]
            tiny_vit().preprocess,
        ),
        [TrainingStream(blobs())],
        train_config(epochs=4),
        context,
        out=folder,
        validate=top1_on(blobs("blobs.val", seed=9), tiny_vit().preprocess, "cpu", 6),
        save_every_s=0.0,
    )


def assert_same(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows
    reader = EventAccumulator(os.fspath(folder / "curves" / "recipe" / "stage"))
    reader.Reload()
    assert set(reader.Tags()["scalars"]) == {name for row in rows for name in row} - {"step"}
    for name in reader.Tags()["scalars"]:
        expected = [(row["step"], np.float32(row[name])) for row in rows if name in row]
        assert [(event.step, np.float32(event.value)) for event in reader.Scalars(name)] == expected
