"""Images that change while a run reads them, and test images that a model has learned: what is made, and said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file, save_model

from edgevit import pipeline
from edgevit.artifacts import LEARNED_TOO, MANIFEST, Artifact
from edgevit.context import Context
from edgevit.errors import ArtifactError, DataError
from edgevit.progress import Bar, SilentBar, SilentProgress
from edgevit.recipe import load_recipe

RECIPE = """\
name: changing
datasets: {photos: {source: image_folder, path: photos}}
stages:
  - {stage: train, id: model, model: deit_tiny_patch16_224, image_size: 16, data: photos.train, epochs: 3,
     batch_size: 4, model_args: {patch_size: 8, embed_dim: 48, depth: 1, num_heads: 3}}
"""
EVALUATED = """\
  - {stage: evaluate, id: accuracy, model: model, data: photos.test}
  - {stage: report, id: report, of: [accuracy]}
"""


class _At(SilentProgress):
    """Does something before the given step of a training."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self._step, self._act = step, act

    @contextmanager
    def bar(self, title: str, total: int, unit: str = "it") -> Iterator[Bar]:
        yield SilentBar() if unit == "images" and title == "reading images" else _Counting(self._step, self._act)


class _Counting(SilentBar):
    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self._left, self._act = step, act

    def advance(self, count: int = 1, **values: float) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 8), ("test", 3)):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(list(f"{split}{name}{number}".encode())).integers(0, 256, (16, 16, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"photos/{split}/{name}/{number}.png")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def run(folder: Path, runs: str, progress: SilentProgress | None = None) -> dict[str, Artifact]:
    context = Context(workers=0, progress=progress or SilentProgress())
    return pipeline.run(load_recipe(folder / "recipe.yaml"), folder, folder / runs, context)


def test_images_that_are_rewritten_in_mid_training_and_put_back_spoil_nothing(folder: Path) -> None:
    images = sorted((folder / "photos/train").rglob("*.png"))
    originals = [file.read_bytes() for file in images]

    def rewrite() -> None:
        for file in images:
            Image.new("RGB", (16, 16), "red").save(file)

    with pytest.raises(DataError, match="the image was changed while it was in use"):
        run(folder, "runs", _At(6, rewrite))
    assert not list((folder / "runs/.store").glob(f"*/*/{MANIFEST}"))
    for file, content in zip(images, originals, strict=True):
        file.write_bytes(content)
    went_on, unbroken = run(folder, "runs")["model"], run(folder, "others")["model"]
    assert went_on.manifest.key == unbroken.manifest.key
    assert went_on.digest == unbroken.digest


def test_images_that_are_only_touched_in_mid_training_do_not_stop_it(folder: Path) -> None:
    def touch() -> None:
        for file in (folder / "photos/train").rglob("*.png"):
            file.chmod(0o600)
            file.touch()

    assert run(folder, "runs", _At(6, touch))["model"].digest == run(folder, "others")["model"].digest


def test_weights_that_change_while_they_are_read_are_not_published(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file({"ones": torch.ones(2)}, weights)
    stage = f"{{stage: load, id: model, model: mobilevit_xxs, classes: [a, b], weights: '{weights}'}}"
    (tmp_path / "recipe.yaml").write_text(
        f"name: changing\ndatasets: {{digits: {{source: digits}}}}\nstages: [{stage}]\n"
    )

    class Said(SilentProgress):
        def say(self, line: str) -> None:
            save_model(small, weights)  # type: ignore[arg-type]

    small = timm.create_model("mobilevit_xxs", num_classes=2)
    with pytest.raises(ArtifactError, match=r"weights\.safetensors: the file was changed while the stage read it"):
        run(tmp_path, "runs", Said())
    assert not list((tmp_path / "runs/.store").glob(f"*/*/{MANIFEST}"))
    assert run(tmp_path, "runs")["model"].metrics["params"] > 0


def test_the_report_warns_of_tested_images_that_were_learned(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE + EVALUATED)
    (folder / "photos/test/cat/copy.png").write_bytes((folder / "photos/train/cat/1.png").read_bytes())
    made = run(folder, "runs")
    overlap = {"data": "photos.train", "labelled": True, "images": 1, "of": 7}
    assert made["accuracy"].metrics[LEARNED_TOO] == [overlap]
    report = json.loads((made["report"].path / "report.json").read_text())
    (doubt,) = [each for each in report["verdict"]["doubts"] if each["kind"] == "learned_from"]
    assert doubt["headline"] == "The model learned from test images."
    assert doubt["sentence"].startswith("1 of the 7 test images are also in photos.train.")
    assert report["cautions"] == [], "it is said once"
    assert [one["top1"][LEARNED_TOO] for one in report["variants"]] == [[overlap]]
    assert doubt["sentence"] in " ".join((made["report"].path / "report.md").read_text().split())
    page = (made["report"].path / "report.html").read_text()
    assert doubt["sentence"] in page
    assert "n 7, 1 also in photos.train, which was learned from" in page
