"""The reference students: how they are kept, and the recipe that trains them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.compression_peers import OPENVINO, ORT, OWN
from benchmarks.compression_plot import drop_against_speedup
from benchmarks.reference_students import RECIPE, STUDENT, keep, reference_students
from edgevit.actions.single_stage import single_stages
from edgevit.configs import Load
from edgevit.context import Context
from edgevit.errors import ArtifactError
from edgevit.models import open_checkpoint
from edgevit.recipe import load_recipe

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
TOP1 = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}


def test_a_kept_model_answers_as_the_student_did_to_within_float16(tmp_path: Path) -> None:
    load = Load(
        stage="load",
        id="student",
        model="deit_tiny_patch16_224",
        model_args=TINY,
        image_size=32,
        classes=("cat", "dog"),
    )
    with single_stages(Context()) as stages:
        student = stages.make(load)
        keep(student, TOP1, tmp_path / "tiny")
        (kept,) = reference_students(tmp_path)
        again = stages.make(kept.stage)
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            before, after = (open_checkpoint(one).module(images) for one in (student, again))
    assert (kept.name, again.io) == ("tiny", student.io)
    torch.testing.assert_close(after, before, atol=2e-3, rtol=0)


def test_weights_other_than_those_described_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.safetensors").write_bytes(b"others")
    (tmp_path / "tiny.json").write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(ArtifactError, match="these are other weights"):
        reference_students(tmp_path)


def test_every_student_of_the_recipe_is_taught_and_judged_and_kept() -> None:
    stages = {stage.id: stage for stage in load_recipe(RECIPE).stages}
    students = [name for name in stages if name.startswith(STUDENT)]
    assert sorted(name.removeprefix(STUDENT) for name in students) == [one.name for one in reference_students()]
    assert all(f"accuracy/{name.removeprefix(STUDENT)}" in stages for name in students)


def test_the_peers_plot_shows_every_runtime_and_peer() -> None:
    spread = {"median": 1.5, "min": 1.2, "max": 1.7}
    rows = [
        {
            "name": f"{peer}, {runtime}", "peer": peer, "method": "int8", "runtime": runtime, "speedup": spread,
            "sqnr_db": 25.0, "top1_agreement": 0.9, "top1": None, "top1_drop": None,
        }
        for peer in ("edgevit", "nncf", "modelopt", "olive", "onnxruntime", "float")
        for runtime in dict.fromkeys((ORT, *OWN, *OPENVINO))
    ]  # fmt: skip
    svg = drop_against_speedup({"deit_tiny_patch16_224": {"weights": "random: top-1 means nothing", "rows": rows}})
    assert svg.startswith("<?xml")
    assert "deit_tiny_patch16_224" in svg
