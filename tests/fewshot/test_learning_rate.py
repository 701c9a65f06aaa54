"""A learning rate chosen inside the support: by what was not seen, the same after a kill, and never outside of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from edgevit.configs import Fewshot
from edgevit.context import Context
from edgevit.errors import DataError
from edgevit.fewshot import learning_rate
from edgevit.fewshot.adapt import Task, adapt_head
from edgevit.fewshot.crossvalidation import folds
from edgevit.fewshot.finetuning import Finetuned, finetune
from edgevit.fewshot.learning_rate import ChosenRate, choose_learning_rate
from edgevit.inference.over_dataset import outputs_of
from edgevit.models import BuiltModel
from edgevit.models.creation import with_test_time_views
from tests.fewshot.test_adapt import CPU, checkpoint, config
from tests.learning import blobs
from tests.said import Said

SETTINGS: dict[str, Any] = {"method": "finetune", "epochs": 4, "batch_size": 6, "learning_rate": 5e-4}


def settings(*rates: float, **changes: Any) -> Fewshot:
    return config(**{**SETTINGS, "learning_rates": rates, **changes})


def chosen(folder: Path, settings: Fewshot, said: Said | None = None, per_class: int = 3) -> ChosenRate:
    folder.mkdir(exist_ok=True)
    context = Context(work=folder / "work", workers=0, progress=said or Said())
    context.work.mkdir(exist_ok=True)
    start = checkpoint(folder, ("x", "y"))
    return choose_learning_rate(start, Task(blobs("s", per_class)), settings, context)


def probabilities(model: BuiltModel, dataset: object) -> np.ndarray:
    return outputs_of(model.module, dataset, model.preprocess, CPU).double().softmax(-1).numpy()  # type: ignore[arg-type]


@pytest.mark.parametrize("views", [(), ("flip",)])
def test_scores_are_those_of_models_that_have_not_seen_the_images(tmp_path: Path, views: tuple[str, ...]) -> None:
    config_of = settings(0, 2e-3, test_time_views=views)
    got = chosen(tmp_path, config_of).scores
    support, expected = blobs("s", 3), {rate: np.zeros((9, 3)) for rate in (0, 2e-3)}
    assert support.labels is not None
    for fold in folds(support.labels, 3, seed=0):
        learned, held_out = support.subset(fold.train), support.subset(fold.held_out)
        head = adapt_head(checkpoint(tmp_path, ("x", "y")), Task(learned), config_of, Context())
        work = tmp_path / f"again{fold.held_out[0]}"
        tuned = finetune(
            checkpoint(tmp_path, ("x", "y")),
            Task(learned),
            config_of.model_copy(update={"learning_rate": 2e-3}),
            Context(work=work, workers=0),
            tmp_path,
        ).built
        for rate, model in ((0, head), (2e-3, tuned)):
            answering = with_test_time_views(model, config_of.test_time_views)
            expected[rate][fold.held_out] = probabilities(answering, held_out)
    for rate, answers in expected.items():
        assert got[rate].accuracy == pytest.approx(accuracy_score(support.labels, answers.argmax(1)))
        assert got[rate].log_likelihood == pytest.approx(-log_loss(support.labels, answers), rel=1e-4)
    assert got[0] != got[2e-3]


def test_a_rate_that_ruins_the_model_is_not_chosen(tmp_path: Path) -> None:
    said = Said()
    got = chosen(tmp_path, settings(1.0, 1e-4, 0), said)
    assert got.learning_rate < 1
    assert max(got.scores, key=lambda rate: got.scores[rate]) == got.learning_rate
    lines = [line for line in said.lines if "learning rate" in line]
    assert len(lines) == 3
    assert [line.endswith("chosen") for line in lines] == [rate == got.learning_rate for rate in got.scores]


def test_a_rate_with_which_training_diverges_has_nothing_right(tmp_path: Path) -> None:
    beyond = settings(1e-4).model_copy(update={"learning_rates": (1e30, 1e-4)})  # recipes stop at 1,000
    got = chosen(tmp_path, beyond)
    assert got.learning_rate == 1e-4
    summary = json.loads(json.dumps(got.summary(), allow_nan=False))
    assert summary["learning_rate_scores"]["1e+30"] == {"accuracy": 0.0, "log_likelihood": None}


def test_of_equal_rates_it_takes_the_smallest(tmp_path: Path) -> None:
    got = chosen(tmp_path, settings(1e-2, 1e-4, 1e-3, epochs=0))
    assert len(set(got.scores.values())) == 1
    assert got.learning_rate == 1e-4


def test_one_image_of_a_class_leaves_the_configured_rate_and_says_so(tmp_path: Path) -> None:
    said = Said()
    assert chosen(tmp_path, settings(1e-2, 0), said, per_class=1) == (5e-4, {})
    (line,) = said.lines
    assert "a class has a single image" in line
    assert line.endswith("the learning rate is 0.0005")


def test_model_of_these_classes_may_have_seen_them_and_that_is_said(tmp_path: Path) -> None:
    said = Said()
    context = Context(work=tmp_path, workers=0, progress=said)
    choose_learning_rate(checkpoint(tmp_path), Task(blobs("s", 2)), settings(0, epochs=0), context)
    assert "already has these classes" in said.lines[0]


def test_support_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs labels"):
        choose_learning_rate(checkpoint(tmp_path), Task(blobs(labelled=False)), settings(0), Context())


class Killed(Exception):
    pass


@pytest.mark.parametrize("killed_at", [1, 4])
def test_finished_trainings_are_not_repeated_after_a_kill(
    tmp_path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = chosen(tmp_path / "unbroken", settings(0, 1e-3))
    really: Callable[..., Finetuned] = learning_rate.finetune_from  # type: ignore[attr-defined]
    trainings: list[Any] = []

    def counted(*arguments: object) -> Finetuned:
        trainings.append(arguments)
        if len(trainings) == killed_at:
            raise Killed
        return really(*arguments)

    monkeypatch.setattr(learning_rate, "finetune_from", counted)
    with pytest.raises(Killed):
        chosen(tmp_path / "broken", settings(0, 1e-3))
    assert chosen(tmp_path / "broken", settings(0, 1e-3)) == unbroken
    assert len(trainings) == 3 * 2 + 1
    assert [file.name for file in (tmp_path / "broken" / "work").iterdir()] == [learning_rate.SCORES]


@pytest.mark.parametrize(
    "damage", [b"{}", *(pytest.param(one, marks=pytest.mark.slow) for one in (b"", b"[", bytes(200)))]
)
def test_damaged_scores_are_computed_again(tmp_path: Path, damage: bytes) -> None:
    whole = chosen(tmp_path, settings(0, 1e-3))
    file = tmp_path / "work" / learning_rate.SCORES
    flipped = bytearray(file.read_bytes())
    flipped[-3] ^= 1
    for content in (damage, bytes(flipped)):
        file.write_bytes(content)
        assert chosen(tmp_path, settings(0, 1e-3)) == whole


def test_the_checkpoint_stays_as_it_was(tmp_path: Path) -> None:
    start = checkpoint(tmp_path)
    before = {key: value.clone() for key, value in start.module.state_dict().items()}
    context = Context(work=tmp_path, workers=0)
    choose_learning_rate(
        start, Task(blobs("s", 2), blobs("p", 4, labelled=False)), settings(1e-2, tune="lora"), context
    )
    after = start.module.state_dict()
    assert before.keys() == after.keys()
    assert all((before[key] == after[key]).all() for key in before)
