"""`edgevit devices calibrate` over a real SSH server."""

from __future__ import annotations

import pytest

from edgevit.actions import calibrate_device
from edgevit.context import Context
from edgevit.profiling import MeasurePlan
from tests.targets.ssh_host import SshHost, needs_sshd
from tests.targets.test_agent_host import host

__all__ = ["host"]  # a fixture
pytestmark = [needs_sshd, pytest.mark.slow]


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
