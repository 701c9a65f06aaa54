"""A bundle's engine on a stand-in board: infer.py with TensorRT's module, as it is on a board.

The stand-in's trtexec builds the engine. Its module and its CUDA runtime compute with ONNX Runtime.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevit.artifacts import Artifact
from edgevit.bundling import model_to_bundle, write_bundle
from edgevit.bundling.engine_record import rebuild_command
from edgevit.progress import SilentProgress
from tests.bundling.engines import engine_in_store
from tests.targets.standin import STANDINS, BuiltStandin, build
from tests.targets.standin.module import module_of, needs_gcc

pytestmark = needs_gcc
NANO, AGX = "jetpack6-orin-nano", "jetpack7-agx-orin"  # TensorRT 10.3 and 10.16


def built_by_trtexec(board: BuiltStandin, command: list[str], folder: Path) -> Path:
    """The engine that a recorded command builds in a folder."""
    trtexec = shutil.which("trtexec", path=board.path)
    assert trtexec is not None
    ran = subprocess.run([trtexec, *command[1:]], cwd=folder, env=on(board), capture_output=True, check=False)
    assert ran.returncode == 0, ran.stdout.decode()
    return folder / "rebuilt.engine"


def on(board: BuiltStandin, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "EDGEVIT_ROOT": str(board.root), "PATH": f"{board.path}:/usr/bin:/bin", **(variables or {})}


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> BuiltStandin:
    return build(STANDINS[NANO], tmp_path_factory.mktemp("nano") / "board")


@pytest.fixture(scope="module")
def bundle(nano: BuiltStandin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose engine was built on the small board, with the command that the bundle records."""
    folder = tmp_path_factory.mktemp("bundle")

    def engine_of(onnx: Artifact, engine: Artifact) -> bytes:
        (work := folder / "build").mkdir()
        shutil.copy(onnx.path / "model.onnx", work / "model.onnx")
        return built_by_trtexec(nano, rebuild_command(engine), work).read_bytes()

    model, engine = model_to_bundle(engine_in_store(folder, engine_of), True, SilentProgress())
    (out := folder / "bundle").mkdir()
    write_bundle(model, out, engine=engine)
    return out


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def infer(bundle: Path, board: BuiltStandin, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", str(bundle / "infer.py"), *map(str, arguments)]
    environment = on(board, module_of(board))
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, check=False)


def test_infer_gives_on_the_board_what_the_onnx_file_gives(bundle: Path, nano: BuiltStandin, photo: Path) -> None:
    by_engine, by_onnx = (infer(bundle, nano, *way, "--json", "--top", 4, photo) for way in ((), ("--onnx",)))
    assert by_engine.returncode == 0, by_engine.stderr
    got, expected = (json.loads(answer.stdout)["labels"] for answer in (by_engine, by_onnx))
    assert [one["label"] for one in got] == [one["label"] for one in expected]
    for one, other in zip(got, expected, strict=True):
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-4)


def test_on_another_board_the_recorded_command_builds_an_engine_that_runs(
    bundle: Path, photo: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    agx = build(STANDINS[AGX], tmp_path / "board")
    refused = infer(copied, agx, photo)
    assert refused.returncode == 2
    assert "got: TensorRT 10.16.2, not 10.3.0" in refused.stderr
    # The file of the other TensorRT, as an engine of one's own: TensorRT's words, and no traceback.
    refused = infer(copied, agx, "--engine", copied / "model.engine", "--json", photo)
    assert refused.returncode == 2
    rebuilt = built_by_trtexec(agx, json.loads((copied / "bundle.json").read_text())["engine"]["rebuild"], copied)
    taken = infer(copied, agx, "--engine", rebuilt, "--json", photo)
    assert taken.returncode == 0, taken.stderr
    assert json.loads(taken.stdout)["labels"][0]["label"]
