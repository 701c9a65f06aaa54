"""Arguments of the Python interface: checked as options are, with errors that name the argument."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import edgevit
from edgevit.api.arguments import as_settings, size_argument
from edgevit.errors import EdgevitError, RecipeError
from tests.api.test_api import DIGITS, DigitImages

api: Any = edgevit  # wrong types are given on purpose
MODULE = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))


class Labelled:
    """A data set object of black images with one label."""

    classes = ("a", "b")

    def __init__(self, label: int = 0, count: int = 2) -> None:
        self.label, self.count = label, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return np.zeros((8, 8, 3), np.uint8), self.label


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda onnx: api.compare(onnx, onnx, threads=0), r"^edgevit\.compare\(threads=…\)"),
        (lambda onnx: api.compare(onnx, onnx, threads=True), r"^edgevit\.compare\(threads=…\)"),
        (lambda onnx: api.compare(onnx, onnx, batch_size=1.5), r"^edgevit\.compare\(batch_size=…\)"),
        (lambda onnx: api.compare(onnx, onnx, batch_size=0), r"^edgevit\.compare\(batch_size=…\)"),
        (lambda onnx: api.compare(onnx, onnx, duration_s=float("nan")), r"^edgevit\.compare\(duration_s=…\)"),
        (lambda onnx: api.compare(onnx, onnx, duration_s="6"), r"^edgevit\.compare\(duration_s=…\)"),
        (lambda onnx: api.load("test_vit", classes="bolt"), r"^edgevit\.load\(classes=…\)"),
        (lambda onnx: api.load("test_vit", classes=[1, 2]), r"^edgevit\.load\(classes=…\)"),
        (lambda onnx: api.load("test_vit", weights=3), r"^edgevit\.load\(weights=…\)"),
        (lambda onnx: api.load("test_vit", id="student"), r"^edgevit\.load\(id=…\)"),
        (lambda onnx: api.load("test_vit", stage="train"), r"^edgevit\.load\(stage=…\)"),
        (lambda onnx: api.load(3), r"^edgevit\.load\(source=…\): this is no path"),
        (lambda onnx: api.quantize(onnx, DigitImages(), inputs={}), r"^edgevit\.quantize\(inputs=…\)"),
        (lambda onnx: api.evaluate(onnx, DigitImages(), id="m"), r"^edgevit\.evaluate\(id=…\)"),
        (lambda onnx: api.profile(onnx, config=1), r"^edgevit\.profile\(config=…\)"),
        (lambda onnx: api.profile(onnx, threads=object()), r"^edgevit\.profile\(threads=…\)"),
        (lambda onnx: api.export(MODULE, classes="ab", image_size=8), r"^edgevit\.export\(classes=…\)"),
        (
            lambda onnx: api.export(MODULE, classes=["a", "b"], image_size=[8, 8, 8]),
            r"^edgevit\.export\(image_size=…\)",
        ),
        (lambda onnx: api.export(MODULE, classes=["a", "b"], image_size="8"), r"^edgevit\.export\(image_size=…\)"),
        (lambda onnx: api.export(MODULE, classes=["a", "b"], image_size=0), r"^edgevit\.export\(image_size=…\)"),
        (
            lambda onnx: api.export(MODULE, classes=["a", "b"], image_size=8, std=(0, 1, 1)),
            r"^edgevit\.export\(std=…\)",
        ),
        (lambda onnx: onnx.predict(np.zeros((8, 8, 3), np.uint8), top=0), r"^edgevit\.Model\.predict\(top=…\)"),
        (lambda onnx: onnx.save(3), r"^edgevit\.Model\.save\(path=…\)"),
        (lambda onnx: api.run("quickstart", workers=-1), r"^edgevit\.run\(workers=…\)"),
        (lambda onnx: api.run("quickstart", fresh="student"), r"^edgevit\.run\(fresh=…\)"),
        (lambda onnx: api.run("quickstart", ["name=x"]), r"^edgevit\.run\(settings=…\)"),
        (lambda onnx: api.run("quickstart", {"name": {1}}), r"^edgevit\.run\(settings=…\)"),
        (lambda onnx: api.run("quickstart", device="gpu"), r"^edgevit\.run\(device=…\)"),
        (lambda onnx: api.load(onnx.file, pretrained=True), r"^edgevit\.load\(pretrained=…\)"),
        (lambda onnx: api.export(onnx, mean=(0, 0, 0)), r"^edgevit\.export\(mean=…\)"),
        (lambda onnx: api.export(MODULE, classes=["a", "b"]), r"^edgevit\.export\(image_size=…\)"),
        (
            lambda onnx: api.export(MODULE, classes=["a", "b"], image_size=8, embedding=True),
            r"^edgevit\.export\(embedding=…\)",
        ),
        (lambda onnx: onnx.predict(np.zeros((0, 4, 3), np.uint8)), r"^edgevit\.Model\.predict\(images=…\): "),
        (lambda onnx: api.quantize(onnx, 3), r"^edgevit\.quantize\(calibration=…\): this is no data set"),
        (
            lambda onnx: api.evaluate(onnx, Labelled(label=7)),
            r"(?s)^edgevit\.evaluate\(data=…\), sample 0: the label is no index into the classes.*0 to 1",
        ),
        (lambda onnx: api.evaluate(onnx, Labelled(count=0)), r"^edgevit\.evaluate\(data=…\): .* no images"),
        (lambda onnx: api.profile(onnx, duration_s=0.1, warmup_s=0).percentile_ms(95), r"50, 90 or 99"),
    ],
)
def test_a_wrong_argument_is_named(call: Callable[[Any], object], match: str, onnx: edgevit.Model) -> None:
    with pytest.raises(EdgevitError, match=match) as caught:
        call(onnx)
    assert "--" not in str(caught.value)  # no option of the command line


def test_settings_take_paths_scalars_of_numpy_and_sequences() -> None:
    given = {
        "datasets.photos.path": Path("~/photos"),
        "stages.student.epochs": np.int64(3),
        "stages.student.learning_rate": np.float32(0.5),
        "stages.accuracy.kinds": ("fog", "snow"),
        "stages.student.ema": np.bool_(True),
    }
    assert as_settings(given, "settings") == [
        f'datasets.photos.path="{Path.home()}/photos"',
        "stages.student.epochs=3",
        "stages.student.learning_rate=0.5",
        'stages.accuracy.kinds=["fog", "snow"]',
        "stages.student.ema=true",
    ]


def test_a_list_is_a_size_too() -> None:
    model = api.export(MODULE, classes=("a", "b"), image_size=[8, np.int32(12)], mean=np.full(3, 0.5))
    assert (model.preprocess.height, model.preprocess.width) == (8, 12)
    assert model.preprocess.mean == (0.5, 0.5, 0.5)


def test_a_tilde_is_the_home_folder(
    checkpoint: edgevit.Model, onnx: edgevit.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert onnx.save("~/model.onnx") == tmp_path / "model.onnx"
    assert edgevit.load("~/model.onnx").classes == onnx.classes
    assert edgevit.bundle("~/model.onnx", "~/bundle") == tmp_path / "bundle"
    checkpoint.save("~/checkpoint")
    weights = edgevit.load("test_vit", classes=DIGITS, image_size=32, weights="~/checkpoint/model.safetensors")
    expected, got = checkpoint.module.state_dict(), weights.module.state_dict()
    assert all((got[name] == value).all() for name, value in expected.items())


def test_a_name_that_is_a_model_and_a_folder_is_refused(
    checkpoint: edgevit.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved = checkpoint.save("test_vit")
    with pytest.raises(RecipeError, match=r"'\./test_vit'"):
        edgevit.load("test_vit")
    assert edgevit.load("./test_vit").artifact.digest == edgevit.load(saved).artifact.digest
    shutil.move("test_vit", "mine")
    assert edgevit.load("mine").artifact.digest == checkpoint.artifact.digest


def test_a_model_is_saved_over_a_file_only_where_asked(onnx: edgevit.Model, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(EdgevitError, match="overwrite=True"):
        onnx.save(notes)
    assert notes.read_text() == "mine"
    onnx.save(notes, overwrite=True)
    assert edgevit.load(notes).classes == onnx.classes


def test_a_saved_model_holds_its_weights(onnx: edgevit.Model, tmp_path: Path) -> None:
    import onnx as onnx_package

    source = tmp_path / "from" / "model.onnx"
    source.parent.mkdir()
    graph = onnx_package.load(onnx.file)
    onnx_package.save(graph, source, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    saved = edgevit.load(source).save(tmp_path / "saved.onnx")
    shutil.rmtree(source.parent)
    images = [DigitImages()[index][0] for index in range(4)]
    assert edgevit.load(saved).predict(images) == onnx.predict(images)


def test_a_side_may_be_a_scalar_of_numpy() -> None:
    assert size_argument(np.array(24), "here") == size_argument(np.int64(24), "here") == (24, 24)
    assert size_argument(np.array([24, 32]), "here") == (24, 32)


def test_a_checkpoint_has_to_be_exported_first(checkpoint: edgevit.Model, tmp_path: Path) -> None:
    for call in (lambda: api.quantize(checkpoint, DigitImages()), lambda: api.bundle(checkpoint, tmp_path / "b")):
        with pytest.raises(EdgevitError, match="export"):
            call()
