"""A recipe that trains on tar shards and on a saved Hugging Face data set."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from edgevit import pipeline
from edgevit.artifacts import Artifact
from edgevit.context import Context
from edgevit.recipe import load_recipe

RECIPE = """\
name: large
datasets: {digits: {source: SOURCE, path: data}}
stages:
  - {stage: train, id: model, model: deit_tiny_patch16_224, image_size: 16, data: digits.train, val: digits.val,
     model_args: {patch_size: 8, embed_dim: 48, depth: 1, num_heads: 3}, epochs: 1, batch_size: 16}
  - {stage: evaluate, id: accuracy, model: model, data: digits.test}
"""
SPLITS = ("train", "train", "train", "val", "test")


def trained(folder: Path, source: str, workers: int) -> dict[str, Artifact]:
    """Train on FOLDER/data, in a run folder of its own."""
    file = folder / "recipe.yaml"
    file.write_text(RECIPE.replace("SOURCE", source))
    return pipeline.run(load_recipe(file), folder, folder / f"runs{workers}", Context(workers=workers))


def digits() -> list[tuple[str, Image.Image, int]]:
    """60 scanned digits with the split of each."""
    scans = load_digits()
    images = [Image.fromarray((scan * 15).astype(np.uint8)) for scan in scans.images[:60]]
    return [(SPLITS[i % 5], image, int(scans.target[i])) for i, image in enumerate(images)]


def write_shards(folder: Path) -> None:
    folder.mkdir()
    for split in sorted(set(SPLITS)):
        with tarfile.open(folder / f"{split}-0000.tar", "w") as archive:
            for index, (_, image, label) in enumerate(one for one in digits() if one[0] == split):
                png = io.BytesIO()
                image.save(png, "png")
                for extension, content in (("png", png.getvalue()), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{index:07d}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def save_for_huggingface(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
    )
    tables = {
        split: datasets.Dataset.from_dict(
            {
                "image": [image for one, image, _ in digits() if one == split],
                "label": [label for one, _, label in digits() if one == split],
            },
            features=features,
        )
        for split in sorted(set(SPLITS))
    }
    datasets.disable_progress_bars()
    datasets.DatasetDict(tables).save_to_disk(str(folder))


def test_shards_and_tables_train_the_same_model_whatever_the_workers(tmp_path: Path) -> None:
    digests = set()
    for source, write in (("webdataset", write_shards), ("huggingface", save_for_huggingface)):
        (tmp_path / source).mkdir()
        write(tmp_path / source / "data")
        for workers in (0, 2):
            done = trained(tmp_path / source, source, workers)
            assert done["model"].metrics["params"] > 0
            assert done["accuracy"].metrics["images"] == 12
            digests.add(done["model"].manifest.files["model.safetensors"].sha256)
    assert len(digests) == 1
