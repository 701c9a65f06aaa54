"""Folders as people bring them, from images to a bundle, and what is refused before any stage runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgevit import pipeline
from edgevit.context import Context
from edgevit.errors import DataError
from edgevit.recipe import load_recipe
from tests.data.conftest import write_image
from tests.said import Said

RECIPE = """\
name: odd
datasets:
  support: {source: image_folder, path: support, splits: {val: 0, test: 0}}
  query: {source: image_folder, path: query, splits: {val: 0, test: 0}}
stages:
  - {stage: load, id: base, model: deit_tiny_patch16_224, image_size: 16, classes_of: query.train,
     model_args: {patch_size: 8, embed_dim: 24, depth: 1, num_heads: 2}}
  - {stage: fewshot, id: adapted, model: base, support: support.train, method: nearest_centroid, random_views: 1}
  - {stage: evaluate, id: accuracy, model: adapted, data: query}
"""
TO_BUNDLE = """\
  - {stage: export, id: onnx, model: adapted, embedding: true}
  - {stage: bundle, id: bundle, model: onnx, support: support.train}
  - {stage: report, id: report, of: [accuracy]}
"""
ODD = ("🔩 M8", "Ölfilter <b>", "x" * 200, "-rf")


def folders(root: Path, support: dict[str, int], query: dict[str, int]) -> None:
    for role, counts in (("support", support), ("query", query)):
        for name, count in counts.items():
            (root / role / name).mkdir(parents=True)
            for number in range(count):
                write_image(root / role / name / f"{number}.png", f"{role}/{name}/{number}")


def run(root: Path, recipe: str = RECIPE) -> Said:
    (root / "recipe.yaml").write_text(recipe, encoding="utf-8")
    said = Said()
    pipeline.run(load_recipe(root / "recipe.yaml"), root, root / "runs", Context(progress=said))
    return said


def test_odd_class_names_reach_the_device_as_they_are(tmp_path: Path) -> None:
    folders(tmp_path, dict.fromkeys(ODD, 2), dict.fromkeys(ODD, 1))
    run(tmp_path, RECIPE + TO_BUNDLE)
    bundle = tmp_path / "runs/odd/bundle"
    assert set((bundle / "labels.txt").read_text(encoding="utf-8").split("\n")[:-1]) == set(ODD)
    image = tmp_path / "support" / ODD[0] / "0.png"
    command = [sys.executable, "-B", str(bundle / "infer.py"), "--json", str(image)]
    answer = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    assert json.loads(answer.stdout)["labels"][0]["label"] in ODD
    page = (tmp_path / "runs/odd/report/report.html").read_text(encoding="utf-8")
    assert "Ölfilter &lt;b&gt;" in page
    assert "Ölfilter <b>" not in page


def test_an_image_in_support_and_query_is_refused_before_any_stage_runs(tmp_path: Path) -> None:
    folders(tmp_path, {"bolt": 3, "gear": 3}, {"bolt": 2, "gear": 2})
    shutil.copy(tmp_path / "support/gear/1.png", tmp_path / "query/gear/same.png")
    with pytest.raises(DataError, match="query: images that accuracy is measured on") as caught:
        run(tmp_path)
    assert caught.value.got == "1: gear/same.png is gear/1.png"
    assert not (tmp_path / "runs/odd/base").exists()


def test_query_classes_that_the_support_lacks_are_named(tmp_path: Path) -> None:
    folders(tmp_path, {"bolt": 2, "gear": 2}, {"bolt": 1, "gear": 1, "nut": 1})
    with pytest.raises(DataError, match="the model lacks 1 of the 3 classes") as caught:
        run(tmp_path)
    assert (caught.value.got, caught.value.where) == ("missing: nut", "query")


def test_an_unequal_support_and_alike_names_are_said_once(tmp_path: Path) -> None:
    folders(tmp_path, {"oil filter": 1, "Oil_Filter": 4}, {"oil filter": 1, "Oil_Filter": 1})
    said = run(tmp_path).lines
    assert [line for line in said if "images" in line and "from" in line] == [
        "note: support.train: classes have from 1 ('oil filter') to 4 ('Oil_Filter') images"
    ]
    assert len([line for line in said if line.startswith("note: support: classes whose names differ")]) == 1
    assert not any("accuracy is measured on" in line for line in said), "names of classes are no images"
