"""`edgevit devices calibrate`, and times of layers, over a real SSH server."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.actions import calibrate_device
from edgevit.checking.timed_layers import TIMES_FILE
from edgevit.configs import Profile
from edgevit.context import Context
from edgevit.profiling import MeasurePlan
from edgevit.stages import profile
from tests.small_models import float_onnx
from tests.targets.ssh_host import SshHost, needs_sshd
from tests.targets.test_agent_host import host

__all__ = ["host"]  # a fixture
pytestmark = [needs_sshd, pytest.mark.slow]


def test_a_target_that_tells_no_layers_is_noted(host: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latency is kept, and the run goes on."""
    said: list[str] = []
    context = Context()
    monkeypatch.setattr(type(context.progress), "say", lambda _, line: said.append(line))
    short = {"warmup_s": 0.01, "most_warmup_s": 0.0, "duration_s": 0.05, "min_runs": 5, "retry_s": 0.0}
    fields = {"stage": "profile", "id": "latency", "model": "model", "target": "board", "layers": True, **short}
    (tmp_path / "out").mkdir()
    profile.run(Profile.model_validate(fields), {"model": float_onnx()}, context, tmp_path / "out")
    assert "note: latency: board does not tell the time of each layer in onnxruntime" in said
    assert not (tmp_path / "out" / TIMES_FILE).exists()
    assert (tmp_path / "out" / "latency.json").exists()


def test_a_model_of_the_catalogue_is_measured_there(host: SshHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may leave it out; what is measured has units and a time."""
    said: list[str] = []
    monkeypatch.setattr(calibrate_device, "PLAN", MeasurePlan(warmup_s=0.05, duration_s=0.2, min_runs=5))
    monkeypatch.setattr(calibrate_device, "RETRY_S", 0.0)
    context = Context()
    monkeypatch.setattr(type(context.progress), "say", lambda _, line: said.append(line))
    measured = calibrate_device.measured_models("board", "onnxruntime", 1, ["float32"], ["efficientvit_m0"], context)
    assert said[0] == "[1/1] efficientvit_m0"
    assert len(measured["float32"]) + sum("left out" in line for line in said) == 1
    for row in measured["float32"]:
        assert row.name == "efficientvit_m0 at 224 px"
        assert row.units.sum() > 0
        assert row.p50_ms > 0
