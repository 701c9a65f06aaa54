"""`evaluate` with protocol: corruptions: the same hurt images for every model, from a recipe and on plain files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

from edgevit.cli import app
from edgevit.configs import CORRUPTIONS, Evaluate
from edgevit.data import open_dataset
from edgevit.data.corruptions import at_common_size, corrupt
from edgevit.data.splits import sample_by_hash
from edgevit.errors import RecipeError
from edgevit.evaluation import classify, classify_corrupted, mean_accuracy, wilson_interval
from edgevit.evaluation import corruptions as room
from edgevit.progress import SilentProgress
from edgevit.recipe import load_recipe
from tests.evaluation.test_classify import ColourSession, dataset_of
from tests.small_models import checkpoint, engine, float_onnx, workbench

FEW: dict[str, Any] = {"protocol": "corruptions", "kinds": ("noise", "fog"), "severities": (1, 5), "max_images": 60}


class Remembering(ColourSession):
    """Keeps every input that it is shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def infer(self, inputs):
        self.seen.append(inputs["image"])
        return super().infer(inputs)


def colours(count: int):
    names = (["red", "green", "blue"] * count)[:count]
    return dataset_of(names, ["red", "green", "blue"])


def test_a_model_sees_each_image_as_it_is_and_hurt_in_each_way():
    dataset, session = colours(7), Remembering()
    classify_corrupted(session, dataset, ("noise", "jpeg"), (2, 4), 3, 4, SilentProgress())
    seen = (np.concatenate(session.seen).transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)
    images = [at_common_size(dataset.image(index)) for index in range(7)]
    expected = list(images)
    for kind in ("noise", "jpeg"):
        for severity in (2, 4):
            expected += [
                corrupt(image, kind, severity, f"3/{name}")
                for image, name in zip(images, dataset.sample_ids, strict=True)
            ]
    np.testing.assert_array_equal(seen, expected)


def test_neither_batches_nor_memory_change_what_is_found(monkeypatch):
    dataset = colours(11)
    one = classify_corrupted(ColourSession(), dataset, ("noise", "snow"), (5,), 0, 4, SilentProgress())
    monkeypatch.setattr(room, "IMAGES_IN_MEMORY", 3)
    other = classify_corrupted(ColourSession(batch=2), dataset, ("noise", "snow"), (5,), 0, 9, SilentProgress())
    assert (one.correct == other.correct).all()
    assert one.correct.shape == (2, 1, 11)
    assert one.clean.sample_ids == other.clean.sample_ids == dataset.sample_ids
    np.testing.assert_array_equal(one.clean.probabilities, other.clean.probabilities)


def test_drawn_images_depend_on_their_ids_alone():
    dataset = colours(50)
    some, more = sample_by_hash(dataset, 10, 0), sample_by_hash(dataset, 20, 0)
    assert len(some) == 10
    assert set(some.sample_ids) < set(more.sample_ids)
    assert list(some.sample_ids) == [name for name in dataset.sample_ids if name in set(some.sample_ids)]
    for index, name in enumerate(some.sample_ids):
        place = dataset.sample_ids.index(name)
        assert some.labels[index] == dataset.labels[place]
        assert (some.image(index) == dataset.image(place)).all()
    assert sample_by_hash(dataset, 10, 1).sample_ids != some.sample_ids
    assert sample_by_hash(dataset, 500, 0).sample_ids == dataset.sample_ids


def test_the_interval_of_a_mean_counts_images_not_answers():
    generator = np.random.default_rng(0)
    once = generator.random((1, 400)) < 0.7
    low, high = wilson_interval(int(once.sum()), 400)
    assert mean_accuracy(once) == pytest.approx({"value": once.mean(), "low": low, "high": high, "n": 400})
    repeated, independent = np.repeat(once, 20, axis=0), generator.random((20, 400)) < 0.7
    assert mean_accuracy(repeated) == pytest.approx(mean_accuracy(once))
    widths = [mean_accuracy(answers)["high"] - mean_accuracy(answers)["low"] for answers in (once, independent)]
    assert widths[1] == pytest.approx(widths[0] / np.sqrt(20), rel=0.1)
    for value in (False, True):
        found = mean_accuracy(np.full((3, 50), value))
        assert found["low"] <= found["value"] == value <= found["high"]
        assert found["high"] - found["low"] > 0.05


@pytest.fixture(scope="module")
def evaluated():
    models = (checkpoint(), float_onnx(), engine())
    return {
        one.kind: workbench().run("evaluate", f"hurt-{one.kind}", model=one.id, data="digits.test", **FEW)
        for one in models
    }


def test_an_evaluation_under_corruption_holds_every_number(evaluated):
    for found in evaluated.values():
        table, metrics = json.loads(found.file("evaluation.json").read_text())["corruptions"], found.metrics
        assert found.kind == "evaluation"
        assert {kind: list(shares) for kind, shares in table["kinds"].items()} == {
            "noise": ["1", "5"],
            "fog": ["1", "5"],
        }
        cells = [share for shares in table["kinds"].values() for share in shares.values()]
        assert all(share["n"] == 60 and share["low"] <= share["value"] <= share["high"] for share in cells)
        assert metrics["corrupted_top1"] == table["mean"]
        assert metrics["corrupted_top1"]["value"] == pytest.approx(np.mean([share["value"] for share in cells]))
        for kind, shares in table["kinds"].items():
            mean = np.mean([share["value"] for share in shares.values()])
            assert metrics["corrupted_top1_by_kind"][kind] == pytest.approx(mean)
        for severity in ("1", "5"):
            mean = np.mean([shares[severity]["value"] for shares in table["kinds"].values()])
            assert metrics["corrupted_top1_by_severity"][severity] == pytest.approx(mean)
        assert metrics["top1"]["n"] == metrics["images"] == 60


def test_the_clean_accuracy_is_that_of_a_plain_evaluation_of_these_images(evaluated):
    plain = workbench().run("evaluate", "plain", model=engine().id, data="digits.test")
    tables = [np.load(one.file("predictions.npz"), allow_pickle=False) for one in (plain, evaluated["engine"])]
    answers = [dict(zip(one["sample_ids"].tolist(), one["predicted"].tolist(), strict=True)) for one in tables]
    assert answers[1].items() <= answers[0].items()
    assert len(answers[1]) == 60
    assert "corruptions" not in json.loads(plain.file("evaluation.json").read_text())
    accuracies = {"top1", "balanced_accuracy", "macro_f1", "lowest_recall", "constant_guess"}
    assert plain.metrics.keys() == {*accuracies, "images", "runtime", "target"}


def test_models_that_agree_agree_under_corruption(evaluated):
    one, other = (evaluated[kind].metrics["corrupted_top1_by_kind"] for kind in ("checkpoint", "onnx"))
    assert one == other


def test_what_is_made_again_is_the_same(evaluated):
    again = workbench().run("evaluate", "hurt-engine", again=True, model=engine().id, data="digits.test", **FEW)
    assert again.digest == evaluated["engine"].digest


def test_clean_images_answer_as_classify_does():
    dataset = colours(5)
    found = classify_corrupted(ColourSession(), dataset, ("blur",), (1,), 0, 2, SilentProgress())
    expected = classify(ColourSession(), dataset, 2, SilentProgress())
    np.testing.assert_array_equal(found.clean.probabilities, expected.probabilities)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("kinds: [blur]", "'kinds' goes with protocol: corruptions"),
        ("max_images: 10", "'max_images' goes with protocol: corruptions"),
        ("seed: 1", "'seed' goes with protocol: corruptions"),
        ("protocol: corruptions, kinds: [blurr]", "'brightness'"),
        ("protocol: corruptions, kinds: []", "'kinds' is empty"),
        ("protocol: corruptions, kinds: [fog, fog]", "'kinds' has a value twice"),
        ("protocol: corruptions, severities: [0]", "at least 1 and at most 5"),
        ("protocol: corruptions, severities: [6]", "at least 1 and at most 5"),
        ("protocol: corruption", "'cross_validation', 'knn' or 'linear'"),
        ("protocol: corruptions, max_images: 0", "at least 1"),
    ],
)
def test_mistakes_in_a_recipe_are_named_with_their_line(tmp_path: Path, fields: str, says: str):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: hurt\ndatasets:\n  digits: {source: digits}\nstages:\n"
        "  - {stage: load, id: model, model: resnet18, classes_of: digits.train}\n"
        f"  - {{stage: evaluate, id: shifted, model: model, data: digits.test, {fields}}}\n"
    )
    with pytest.raises(RecipeError, match=r"recipe\.yaml:6") as caught:
        load_recipe(recipe)
    assert says in str(caught.value)


def test_defaults_may_be_written_out():
    plain = Evaluate(stage="evaluate", id="e", model="m", data="d")
    assert plain.kinds == CORRUPTIONS
    assert Evaluate.model_validate(plain.model_dump()) == plain
    with pytest.raises(ValidationError, match="protocol"):
        Evaluate.model_validate({**plain.model_dump(), "seed": 4})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    dataset = open_dataset(workbench().made["digits.test"])
    for index in range(40):
        home = folder / dataset.classes[dataset.labels[index]]
        home.mkdir(exist_ok=True)
        Image.fromarray(dataset.image(index)).save(home / f"{index}.png")
    return folder


def command(*arguments: object) -> str:
    answer = CliRunner().invoke(app, ["evaluate", str(engine().path / "model.onnx"), *map(str, arguments)])
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_the_command_prints_a_table_of_80_columns(photos: Path):
    text = command("--data", photos, "--protocol", "corruptions", "--max-images", 20)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith("20 images")
    firsts = [line.split()[0] for line in lines[1:5]]
    assert firsts == ["always", "balanced", "lowest", "under"]
    lines = lines[3:]
    assert lines[2].split() == ["top-1", "at", "severity", "1", "2", "3", "4", "5", "mean"]
    assert [line.split()[0] for line in lines[3:]] == [*CORRUPTIONS, "mean"]
    numbers = np.array([[float(cell.removesuffix("%")) for cell in line.split()[1:]] for line in lines[3:]])
    np.testing.assert_allclose(numbers[:-1].mean(0), numbers[-1], atol=0.11)
    np.testing.assert_allclose(numbers[:, :-1].mean(1), numbers[:, -1], atol=0.11)


def test_the_command_gives_json(photos: Path):
    options = ("--protocol", "corruptions", "--kinds", "jpeg,fog", "--severities", "2,4", "--json")
    found = json.loads(command("--data", photos, *options))
    assert list(found["corruptions"]["kinds"]) == ["jpeg", "fog"]
    assert list(found["corrupted_top1_by_severity"]) == ["2", "4"]
    assert found["top1"]["n"] == 40


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--kinds", "fog"), "'kinds' goes with protocol: corruptions"),
        (("--protocol", "corruptions", "--kinds", "smog"), "--kinds"),
        (("--protocol", "corruptions", "--severities", "9"), "--severities"),
        (("--protocol", "knn"), "needs 'support'"),
        (("--protocol", "neighbors"), "--protocol"),
    ],
)
def test_wrong_options_are_named(photos: Path, options: tuple[str, ...], says: str):
    with pytest.raises(RecipeError) as caught:
        command("--data", photos, *options)
    assert says in str(caught.value)
