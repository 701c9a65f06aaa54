"""The worker in other Pythons and on another processor, with the wheels that edgevit fetches for them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from edgevit.errors import TargetError
from edgevit.targets.agent_session import BOOTSTRAP, agent_session
from edgevit.targets.boards.probe import System
from edgevit.targets.channel import Channel
from edgevit.targets.probing import probed
from edgevit.targets.wheels import fetched, wheels_for
from tests.pythons import index_is_reached, other_python
from tests.targets import arm64
from tests.targets.worker_runs import (
    PLAN,
    float_model,
    int8_model,
    outputs_there_and_here,
    request_for,
    run,
    uint8_model,
)

pytestmark = pytest.mark.slow


def probed_system(python: Sequence[str], folder: Path) -> System:
    """The facts that the agent tells of a Python."""
    channel = Channel([*python, "-c", BOOTSTRAP], "there")

    def ended(status: int, stderr: str) -> TargetError:
        return TargetError(f"ended with {status}", got=stderr)

    with agent_session(channel, "there", python[0], str(folder / "work"), ended) as agent:
        return probed(agent).system


def packages_for(python: Sequence[str], folder: Path, onnxruntime: str | None = None) -> str:
    """A folder with the unpacked wheels for a Python."""
    index_is_reached(folder)
    for file in fetched(wheels_for(probed_system(python, folder), onnxruntime), print):
        zipfile.ZipFile(file).extractall(folder / "packages")
    return str(folder / "packages")


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.12", "3.13"])
def test_other_pythons_compute_and_measure(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path))
    python = [str(other_python(version))]
    packages = packages_for(python, tmp_path)
    for make in (float_model, int8_model, uint8_model):
        ended, expected = outputs_there_and_here(make(tmp_path), tmp_path, python=python, PYTHONPATH=packages)
        np.testing.assert_allclose(ended.outputs["logits"], expected, atol=1e-4)
        assert ended.result["versions"]["python"].startswith(f"{version}.")
    check_measurement(tmp_path, python, packages)


def test_arm64_computes_and_measures(
    arm64_python: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path))
    assert probed_system(arm64_python, tmp_path).machine == "aarch64"
    packages = packages_for(arm64_python, tmp_path, arm64.ONNXRUNTIME)
    for make, least_sqnr_db in ((float_model, 80), (uint8_model, 80), (int8_model, 20)):
        ended, expected = outputs_there_and_here(make(tmp_path), tmp_path, python=arm64_python, PYTHONPATH=packages)
        noise = np.square(ended.outputs["logits"] - expected).sum()
        assert noise <= np.square(expected).sum() * 10 ** (-least_sqnr_db / 10)
        assert ended.result["versions"]["onnxruntime"] == arm64.ONNXRUNTIME
    check_measurement(tmp_path, arm64_python, packages)


def check_measurement(folder: Path, python: Sequence[str], packages: str) -> None:
    """Decoding, preprocessing and the timing loop run there."""
    model, plan = float_model(folder), replace(PLAN, boundary="end_to_end", min_runs=3)
    request = {"do": "measure", "threads": 1, "plan": asdict(plan), **request_for(folder, model, plan)}
    assert len(run(folder, request, python=python, PYTHONPATH=packages).result["samples_ms"]) >= 3
