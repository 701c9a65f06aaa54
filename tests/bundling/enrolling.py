"""A bundle of an INT8 ViT that knows eight of the ten digits, made through the stages, and images of the other two."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

from PIL import Image

from edgevit.artifacts import Artifact
from edgevit.configs import Digits
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.dataset import Dataset
from tests.small_models import VIT, Workbench, workbench

KNOWN = tuple("01235678")
NEW = "4"


@cache
def digits_of_eight() -> Workbench:
    """The workbench with the digits that the model knows ("eight") and those it does not ("others")."""
    bench = workbench()
    few_shot = {"shots": 5}
    configs = {
        "eight": Digits.model_validate({"source": "digits", "include_classes": KNOWN, "few_shot": few_shot}),
        "others": Digits.model_validate({"source": "digits", "include_classes": ("4", "9")}),
    }
    names = ["eight.support", "eight.pool", "eight.test", "others.train", "others.test"]
    bench.made.update(dataset_artifacts(configs, Path(), names))
    return bench


@cache
def quantized() -> Artifact:
    """The model with random weights: its features tell digits apart well enough."""
    bench = digits_of_eight()
    bench.run("load", "eight-checkpoint", classes_of="eight.test", **VIT)
    bench.run("export", "eight-onnx", model="eight-checkpoint", embedding=True)
    return bench.run("quantize", "eight-int8", model="eight-onnx", calibration="eight.pool", calibration_images=32)


@cache
def made_bundle() -> Artifact:
    """The bundle as it lies in the store."""
    return digits_of_eight().run("bundle", "eight-bundle", model=quantized().id, support="eight.support")


def copied_bundle(folder: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(made_bundle().path, folder))


def digit_files(folder: Path, label: str, count: int, start: int = 0, role: str = "others.train") -> list[Path]:
    """PNG files of one digit."""
    dataset = data(role)
    assert dataset.labels is not None
    chosen = [i for i in range(len(dataset)) if dataset.classes[dataset.labels[i]] == label][start : start + count]
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{label}-{index:04d}.png" for index in chosen]
    for index, file in zip(chosen, files, strict=True):
        Image.fromarray(dataset.image(index)).save(file)
    return files


def data(role: str) -> Dataset:
    """A data set of the workbench."""
    return open_dataset(digits_of_eight().made[role])
