"""Kill -9 during a pre-training: the same command goes on, and ends where an unbroken run ends, to the byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

EDGEVIT = str(Path(sys.executable).with_name("edgevit"))
RECIPE = """\
name: small
datasets: {digits: {source: digits, few_shot: {shots: 5}}}
stages:
  - {stage: pretrain, id: body, data: digits.pool, method: METHOD, epochs: 40, batch_size: 64, BACKBONE}
"""
VIT = (
    "model: deit_tiny_patch16_224, image_size: 32, "
    "model_args: {patch_size: 8, embed_dim: 48, depth: 2, num_heads: 3}, drop_path_rate: 0.1"
)
CONVOLUTIONAL = "model: test_resnet, image_size: 64"
METHODS = {
    "dino": "{type: dino, prototypes: 64}",
    "esvit": "{type: esvit, prototypes: 64}",
    "byol": "byol",
    "moco": "{type: moco, queue: 200}",
    "pirl": "{type: pirl, negatives: 200}",
    "mae": "mae",
    "fcmae": "fcmae",
    "sit": "sit",
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_killed_pre_training_goes_on_to_the_same_bytes(tmp_path: Path, method: str) -> None:
    unbroken, killed = (command(tmp_path / name, method) for name in ("unbroken", "killed"))
    process = subprocess.Popen(killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not saved_states(tmp_path / "killed") and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert saved_states(tmp_path / "killed")
    made, said = finished(killed)
    assert "goes on after step" in said
    assert made == finished(unbroken)[0]


def command(folder: Path, method: str) -> list[str]:
    folder.mkdir()
    backbone = CONVOLUTIONAL if method == "fcmae" else VIT
    text = RECIPE.replace("METHOD", METHODS[method]).replace("BACKBONE", backbone)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return [EDGEVIT, "run", str(folder / "recipe.yaml"), "--runs", str(folder / "runs"), "--json", "--workers", "0"]


def saved_states(folder: Path) -> list[Path]:
    return list((folder / "runs" / ".store" / "work").rglob("last.pt"))


def finished(command: list[str]) -> tuple[Any, str]:
    """The digest of the backbone, and what the run said."""
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)["stages"]["body"]["digest"], answer.stderr
