"""pseudo_label in a recipe: a teacher labels the pool of the digits, and a student learns from it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from edgevit import pipeline
from edgevit.artifacts import Artifact, ancestors
from edgevit.configs import Digits
from edgevit.context import Context
from edgevit.data import Dataset, dataset_artifacts, open_dataset
from edgevit.errors import ArtifactError, DataError, RecipeError
from edgevit.inference.over_dataset import accuracy
from edgevit.models import model_from_checkpoint
from edgevit.progress import Progress
from edgevit.recipe import load_recipe, recipe_schema
from tests.small_models import VIT, workbench

RECIPE = """\
name: guessing
datasets:
  digits: {source: digits, few_shot: {shots: 5}}
  photos: {source: image_folder, path: photos, classes: none}
stages:
  - {stage: load, id: net, model: deit_tiny_patch16_224, image_size: 32, classes_of: digits,
     model_args: {patch_size: 8, depth: 1, embed_dim: 24, num_heads: 3}}
  - {stage: pseudo_label, id: guessed, teacher: net, data: digits.pool, threshold: 0.1, most_per_class: 20}
  - {stage: train, id: student, init: net, data: guessed, epochs: 1, batch_size: 25}
  - {stage: evaluate, id: accuracy, model: student, data: digits.test}
  - {stage: evaluate, id: teachers, model: net, data: digits.test}
"""


class Lines(Progress):
    """Progress that remembers what was said and how far the bars went."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.bars: dict[str, int] = {}

    def say(self, line: str) -> None:
        self.said.append(line)

    def bar(self, title: str, total: int, unit: str = "it") -> Any:
        lines = self

        class Shown:
            def __enter__(self) -> Shown:
                lines.bars[title] = 0
                return self

            def __exit__(self, *_: object) -> None:
                assert lines.bars[title] == total

            def advance(self, count: int = 1, **values: float) -> None:
                lines.bars[title] += count

        return Shown()


@cache
def teacher() -> Artifact:
    """Learns from the half that recipes may not train on, so that it knows something and neither role below."""
    augmentation = {"horizontal_flip": 0, "scale": (0.8, 1.0)}
    fields = {"epochs": 8, "batch_size": 32, "learning_rate": 2e-3, "augmentation": augmentation}
    return workbench().run("train", "labeller", **VIT, data="digits.test", **fields)


def guessed(name: str = "guessed", context: Context | None = None, **changes: Any) -> Artifact:
    fields = {"data": "digits.pool", "calibration": "digits.support", "threshold": 0.5, **changes}
    return workbench().run("pseudo_label", name, context, **{"teacher": teacher().id, **fields})


def boastful(folder: Path) -> Artifact:
    """The same teacher, its logits five times as large."""
    state = model_from_checkpoint(teacher()).state_dict()
    louder = {name: value * 5 if name.startswith("head.") else value for name, value in state.items()}
    save_file(louder, folder / "louder.safetensors")
    weights = str(folder / "louder.safetensors")
    return workbench().run("load", "boastful", **VIT, weights=weights, classes_of="digits.support")


def share_right(found: Dataset) -> float:
    digits = {"digits": Digits.model_validate({"source": "digits", "few_shot": {"shots": 5}})}
    truth = open_dataset(dataset_artifacts(digits, Path(), ["digits.train"])["digits.train"])
    label_of = dict(zip(truth.sample_ids, truth.labels, strict=True))
    return float(np.mean([label_of[one] == label for one, label in zip(found.sample_ids, found.labels, strict=True)]))


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    text = RECIPE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = folder / "recipe.yaml"
    file.write_text(text)
    return file


def run(file: Path, runs: Path) -> dict[str, Artifact]:
    return pipeline.run(load_recipe(file), file.parent, runs, Context(workers=0))


def stale(file: Path, runs: Path) -> list[str]:
    return [one.id for one in pipeline.why(load_recipe(file), file.parent, runs) if one.runs]


class Finished(NamedTuple):
    """The recipe's file, the folder of its runs, and what they made."""

    file: Path
    runs: Path
    made: dict[str, Artifact]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("guessing")
    file, runs = written(folder), folder / "runs"
    return Finished(file, runs, run(file, runs))


# the stage


def test_kept_samples_have_the_teachers_labels_and_the_pools_images() -> None:
    artifact, pool = guessed(), open_dataset(workbench().made["digits.pool"])
    found = open_dataset(artifact)
    assert found.classes == teacher().io.classes
    assert found.labels is not None
    assert 0 < len(found) == artifact.metrics["kept"] < artifact.metrics["images"] == len(pool)
    assert list(artifact.metrics["per_class"].values()) == np.bincount(found.labels, minlength=10).tolist()
    place = {sample_id: index for index, sample_id in enumerate(pool.sample_ids)}
    for index in range(0, len(found), 20):
        assert np.array_equal(found.image(index), pool.image(place[found.sample_ids[index]]))
    assert accuracy(model_from_checkpoint(teacher()), found, teacher().io.preprocess, torch.device("cpu")) == 1


def test_confident_labels_are_right_more_often() -> None:
    everything, sure = (open_dataset(guessed(f"at-{level}", threshold=level)) for level in (0.0, 0.6))
    assert set(sure.sample_ids) < set(everything.sample_ids)
    assert share_right(sure) > share_right(everything) + 0.05


def test_calibration_takes_back_what_a_teacher_boasts(tmp_path: Path) -> None:
    honest, louder = guessed(), guessed("louder", teacher=boastful(tmp_path).id)
    assert louder.metrics["temperature"] == pytest.approx(5 * honest.metrics["temperature"], rel=1e-3)
    assert louder.metrics["ece"]["before"] > louder.metrics["ece"]["after"] + 0.05
    assert louder.metrics["ece"]["after"] == pytest.approx(honest.metrics["ece"]["after"], abs=1e-3)
    labels_of = [dict(zip(one.sample_ids, one.labels, strict=True)) for one in map(open_dataset, (honest, louder))]
    kept_by_one = labels_of[0].keys() ^ labels_of[1].keys()  # the temperatures differ a little
    assert len(kept_by_one) < 0.02 * len(labels_of[0])
    assert all(labels_of[0][one] == labels_of[1][one] for one in labels_of[0].keys() & labels_of[1].keys())


def test_what_was_kept_is_told() -> None:
    progress = Lines()  # type: ignore[abstract]
    metrics = guessed("told", Context(progress=progress), balance=True).metrics
    counts = metrics["per_class"].values()
    line = f"    kept {metrics['kept']} of {metrics['images']} at ≥ 0.50 (T = {metrics['temperature']:.3g}), "
    assert f"{line}{min(counts)} to {max(counts)} a class" in progress.said
    assert progress.bars == {"ask about digits.support": 50, "ask about digits.pool": metrics["images"]}


def test_a_class_without_images_is_said_and_no_error() -> None:
    progress = Lines()  # type: ignore[abstract]
    net = workbench().run("load", "untrained", **VIT, classes_of="digits.support")
    artifact = guessed("few", Context(progress=progress), teacher=net.id, calibration=None, threshold=0.0)
    missing = [name for name, count in artifact.metrics["per_class"].items() if not count]
    assert missing
    assert f"    no image for {len(missing)} of 10 classes: {', '.join(missing[:5])}" in progress.said[-1]
    assert (artifact.metrics["temperature"], artifact.metrics["ece"]) == (1.0, None)
    assert "(not calibrated)" in progress.said[-2]


def test_a_teacher_that_is_always_right_is_not_calibrated() -> None:
    progress = Lines()  # type: ignore[abstract]
    artifact = guessed("sure", Context(progress=progress), calibration=guessed().id)  # which recipes refuse
    assert artifact.metrics["temperature"] == 1
    assert "right about every calibration image" in progress.said[0]


def test_too_high_a_threshold_is_refused() -> None:
    with pytest.raises(DataError, match=r"sure of none of the \d+ images(.|\n)*highest confidence 0"):
        guessed("never", threshold=1.0)


def test_calibration_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match="calibration needs labelled images"):
        guessed("unlabelled", calibration="digits.pool")


def test_times_and_confidences_stay_out_of_the_digest() -> None:
    artifact = guessed()
    assert guessed("again", again=True).digest == artifact.digest
    assert not artifact.manifest.files["teacher_labels.csv"].content
    assert artifact.manifest.files["labels.npz"].content


def test_labels_that_were_altered_are_refused(tmp_path: Path) -> None:
    copy = replace(guessed(), path=tmp_path)
    (tmp_path / "labels.npz").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="altered"):
        open_dataset(copy)


def test_labels_can_be_labelled_anew_and_mixed_with_true_ones() -> None:
    again = guessed("twice", data=guessed().id, threshold=0.6)
    assert set(open_dataset(again).sample_ids) <= set(open_dataset(guessed()).sample_ids)
    streams = ({"data": again.id, "share": 0.8}, {"data": "digits.support", "share": 0.2})
    student = workbench().run("distill", "pupil", **VIT, teacher=teacher().id, streams=streams, epochs=1, batch_size=25)
    assert student.io.classes == teacher().io.classes


# in a recipe


def test_a_student_learns_from_guesses_and_a_finished_recipe_hits(finished: Finished) -> None:
    file, runs, done = finished
    assert done["student"].manifest.inputs["data"].id == "guessed"
    assert {one.id for one in ancestors(done["accuracy"])} == {"net", "guessed", "student", "accuracy"}
    assert max(done["guessed"].metrics["per_class"].values()) <= 20
    assert run(file, runs) == done
    assert not stale(file, runs)
    assert len(open_dataset(Artifact.load(runs / "guessing" / "guessed"))) == done["guessed"].metrics["kept"]


def test_a_new_threshold_makes_only_what_reads_the_guesses_stale(finished: Finished, tmp_path: Path) -> None:
    _, runs, before = finished
    changed = written(tmp_path, ("most_per_class: 20", "most_per_class: 10"))
    assert stale(changed, runs) == ["guessed", "student", "accuracy"]
    after = run(changed, runs)
    assert before["student"].digest != after["student"].digest
    assert before["teachers"] == after["teachers"]


def test_the_same_labels_from_another_threshold_leave_the_student_finished(finished: Finished, tmp_path: Path) -> None:
    _, runs, before = finished
    changed = written(tmp_path, ("threshold: 0.1", "threshold: 0.05"))
    assert run(changed, runs)["student"] == before["student"]


def test_folders_that_moved_keep_their_labels_and_changed_ones_do_not(tmp_path: Path) -> None:
    folder, runs = tmp_path / "photos", tmp_path / "runs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
    file = written(tmp_path, ("data: digits.pool", "data: photos"))
    done = run(file, runs)
    (folder / "0.png").rename(tmp_path / "0.png")
    with pytest.raises(DataError, match="added or removed"):
        open_dataset(done["guessed"])
    (tmp_path / "0.png").rename(folder / "0.png")
    shutil.move(folder, tmp_path / "elsewhere")
    moved = written(tmp_path, ("data: digits.pool", "data: photos"), ("path: photos", "path: elsewhere"))
    assert not stale(moved, runs)
    assert len(open_dataset(run(moved, runs)["guessed"])) == done["guessed"].metrics["kept"]
    with Image.open(tmp_path / "elsewhere" / "0.png") as image:
        other = image.point(lambda value: value ^ 1)  # the same name, hardly another image, the same label
    other.save(tmp_path / "elsewhere" / "0.png")
    assert run(moved, runs)["guessed"].digest != done["guessed"].digest


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("data: digits.pool", "data: digits.test", 8, "only evaluate and attention may read"),
        ("data: digits.pool", "data: digits", 8, "includes its test images"),
        ("threshold: 0.1", "calibration: digits.test", 8, "only evaluate and attention may read"),
        ("data: digits.pool", "data: guessed", 8, "comes later"),
        ("data: guessed", "data: gessed", 9, "Did you mean 'guessed'?"),
        ("data: guessed", "data: net", 9, "'net' makes a checkpoint"),
        ("init: net", "init: guessed", 9, "'guessed' makes a dataset"),
        ("model: student, data: digits.test", "model: student, data: guessed", 10, "pseudo-labels"),
        ("id: guessed", "id: digits.val", 8, "used twice"),
        ("threshold: 0.1", "threshold: 1.1", 8, "at most 1"),
        ("most_per_class", "most_per_clas", 8, "Did you mean 'most_per_class'?"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, (old, new)))
    assert says in str(caught.value)
    assert f"recipe.yaml:{line}: " in str(caught.value)


def test_calibration_by_guesses_is_refused(tmp_path: Path) -> None:
    second = (
        "\n  - {stage: pseudo_label, id: more, teacher: net, data: photos, calibration: guessed}\n  - {stage: train"
    )
    with pytest.raises(RecipeError, match="pseudo-labels"):
        load_recipe(written(tmp_path, ("\n  - {stage: train", second)))


def test_stages_with_dots_and_copies_are_found(tmp_path: Path) -> None:
    block = """\
  - for_each: {level: [0.1, 0.2]}
    stages:
      - {stage: pseudo_label, id: guessed.set, teacher: net, data: digits.pool, threshold: "${level}"}
      - {stage: train, id: student, init: net, data: guessed.set, epochs: 1}
"""
    head = RECIPE.split("  - {stage: pseudo_label")[0]
    (tmp_path / "recipe.yaml").write_text(head + block)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.stages[2].data == "guessed.set/0.1"
    assert recipe.dataset_names() == ["digits", "digits.pool"]


def test_the_schema_knows_the_stage() -> None:
    assert set(recipe_schema()["$defs"]["PseudoLabel"]["properties"]) == {
        "stage", "id", "teacher", "data", "calibration", "threshold", "balance", "most_per_class",
    }  # fmt: skip
