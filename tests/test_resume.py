"""Kill -9 at any moment: the same command goes on, and ends where an unbroken run ends, to the byte."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgevit.artifacts import MANIFEST, Artifact
from edgevit.cli import app

EDGEVIT = str(Path(sys.executable).with_name("edgevit"))
RECIPE = """\
name: small
datasets: {digits: {source: digits, few_shot: {shots: 5}}}
stages:
  - {stage: train, id: model, model: deit_tiny_patch16_224, image_size: 32, data: digits.support, epochs: EPOCHS,
     batch_size: 16, drop_path_rate: 0.1, ema_decay: 0.9, augmentation: {mixup: 0.2},
     model_args: {patch_size: 8, embed_dim: 48, depth: 2, num_heads: 3}}
  - {stage: export, id: onnx, model: model}
  - {stage: quantize, id: int8, model: onnx, calibration: digits.pool, min_sqnr_db: 0,
     placement: all}
  - {stage: evaluate, id: accuracy, model: int8, data: digits.test}
"""


class Run:
    """A recipe of seconds in a folder of its own."""

    def __init__(self, folder: Path, epochs: int = 60) -> None:
        folder.mkdir(exist_ok=True)
        self.runs = folder / "runs"
        recipe = folder / "recipe.yaml"
        recipe.write_text(RECIPE.replace("EPOCHS", str(epochs)))
        self.command = [EDGEVIT, "run", str(recipe), "--runs", str(self.runs), "--json", "--workers", "0"]

    def finish(self) -> dict[str, dict[str, Any]]:
        """Run to the end; what each stage made."""
        answer = subprocess.run(self.command, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        stages: dict[str, dict[str, Any]] = json.loads(answer.stdout)["stages"]
        return stages

    def finish_here(self) -> dict[str, dict[str, Any]]:
        """The recipe, run in this process."""
        answer = CliRunner().invoke(app, self.command[1:])
        assert answer.exit_code == 0, answer.output
        stages: dict[str, dict[str, Any]] = json.loads(answer.stdout)["stages"]
        return stages

    def kill_after_training(self) -> None:
        process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while not (self.runs / "small" / "model").exists() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

    def kill_after(self, seconds: float) -> None:
        process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def everything_published_is_whole(self) -> None:
        for manifest in (self.runs / ".store").glob(f"*/*/{MANIFEST}"):
            artifact = Artifact.load(manifest.parent)
            for name in artifact.manifest.files:
                artifact.file(name)


def digests(stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: stage["digest"] for name, stage in stages.items()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """The digests of a run that nothing stopped, and its seconds."""
    start = time.monotonic()
    made = digests(Run(tmp_path_factory.mktemp("unbroken")).finish())
    return made, time.monotonic() - start


def killed_run(run: Run, kills: int, longest_s: float, seed: int) -> dict[str, dict[str, Any]]:
    generator = random.Random(seed)
    for _ in range(kills):
        run.kill_after(generator.uniform(0.5, longest_s))
        run.everything_published_is_whole()
    return run.finish()


def test_a_kill(tmp_path: Path) -> None:
    unbroken, killed = (Run(tmp_path / name, epochs=4) for name in ("unbroken", "killed"))
    made = digests(unbroken.finish_here())
    killed.kill_after_training()
    killed.everything_published_is_whole()
    stages = killed.finish_here()
    assert digests(stages) == made
    assert not stages["model"]["made"]
    assert not any((killed.runs / ".store" / "work").iterdir())
    assert not any((killed.runs / ".store" / "tmp").iterdir())


@pytest.mark.slow
def test_two_kills(unbroken: tuple[dict[str, Any], float], tmp_path: Path) -> None:
    made, seconds = unbroken
    run = Run(tmp_path)
    assert digests(killed_run(run, 2, seconds, seed=int(time.time()))) == made
    assert not any(stage["made"] for stage in run.finish_here().values())
    assert not any((run.runs / ".store" / "work").iterdir())
    assert not any((run.runs / ".store" / "tmp").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_twenty_kills(unbroken: tuple[dict[str, Any], float], tmp_path: Path, seed: int) -> None:
    made, seconds = unbroken
    assert digests(killed_run(Run(tmp_path), 4, seconds, seed)) == made
