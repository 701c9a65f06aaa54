"""A model that is timed in processes of its own on this machine, by a real ONNX Runtime."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgevit.artifacts import Artifact
from edgevit.configs import Profile
from edgevit.context import Context
from edgevit.errors import TargetError
from edgevit.profiling import Measurement, MeasurePlan, SpanReading
from edgevit.profiling.latency_record import LatencyRecord
from edgevit.profiling.starts import measure_over_starts
from edgevit.runtimes.base import SessionOptions
from edgevit.stages import profile
from edgevit.targets import model_process, target_for
from edgevit.targets.model_process import measure_in_process
from tests.small_models import checkpoint, float_onnx

PLAN = MeasurePlan(warmup_s=0, duration_s=0.05, min_runs=20, is_watched=True)


class Span:
    """A meter that notes the processor time of the process at both ends of the span."""

    def __init__(self) -> None:
        self.program, self.cpu_s = 0, list[float]()

    def follow(self, program: int) -> None:
        self.program = program

    def rest(self, plan: MeasurePlan) -> None:
        assert not self.program

    def start(self, plan: MeasurePlan) -> None:
        self.cpu_s.append(self._cpu_s())

    def stop(self) -> SpanReading:
        self.cpu_s.append(self._cpu_s())
        return SpanReading({"span": self.cpu_s}, doubts=("a doubt",))

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self.program}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


class Killer(Span):
    """A meter that kills the process when its runs begin to count."""

    def start(self, plan: MeasurePlan) -> None:
        os.kill(self.program, signal.SIGKILL)
        os.waitid(os.P_PID, self.program, os.WEXITED | os.WNOWAIT)  # its end of the pipe is closed

    def stop(self) -> SpanReading:
        return SpanReading()


def timed(plan: MeasurePlan = PLAN, meter: Span | None = None) -> Measurement:
    meters, follow = ((meter,), meter.follow) if meter else ((), lambda program: None)
    return measure_in_process(float_onnx(), SessionOptions(), plan, {"device": "cpu"}, meters, follow)


def test_the_model_is_timed_in_a_process_without_torch() -> None:
    measured = timed(replace(PLAN, batch_size=3, soak_s=0.1))
    assert len(measured.samples_ms) >= 20
    assert (measured.samples_ms > 0).all()
    assert measured.conditions["device"] == "cpu"
    assert measured.conditions["batch_size"] == 3
    assert measured.conditions["soak"]["seconds"] >= 0.1
    start = measured.start
    assert start is not None
    assert start.load_ms > 0
    assert start.first_ms > 0
    assert start.own_bytes is not None
    assert start.peak_bytes is not None
    assert "torch" in sys.modules
    own_peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 2**23 < start.own_bytes < start.peak_bytes < own_peak_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="it reads Linux's /proc")
def test_meters_measure_the_counted_runs_of_the_process() -> None:
    measured = timed(replace(PLAN, duration_s=0.4), Span())
    began_s, ended_s = measured.conditions["span"]
    assert began_s > 0, "the process has loaded its model before"
    assert ended_s - began_s == pytest.approx(measured.conditions["cpus_used"] * 0.4, abs=0.1)
    assert "a doubt" in measured.warnings
    unwatched = timed(replace(PLAN, is_watched=False), Span())
    assert "span" not in unwatched.conditions


def test_a_process_that_cannot_run_the_model_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise OSError('no such library')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(TargetError, match="no such library"):
        timed()


def test_a_process_that_does_not_end_or_has_no_room_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(model_process, "limit_s", lambda plan: 0.01)
        with pytest.raises(TargetError, match="SIGKILL"):
            timed()
    monkeypatch.setattr(tempfile, "tempdir", "/proc")  # no folder can be made there
    with pytest.raises(TargetError, match="not timed in a process of its own"):
        timed()


def test_the_starts_before_a_crash_are_kept_and_the_latency_is_invalid() -> None:
    meters = iter([None, None, Killer()])
    measured = measure_over_starts(lambda plan: timed(plan, next(meters)), PLAN, starts=5)
    assert len(measured.of_starts) == 2
    assert measured.conditions["starts"] == 2
    (reason,) = (reason for reason in measured.invalid if reason.startswith("partial"))
    assert "start 3 of 5 failed" in reason
    assert "SIGKILL" in reason
    with pytest.raises(TargetError, match="SIGKILL"):
        measure_over_starts(lambda plan: timed(plan, Killer()), PLAN, starts=5)


def test_each_start_of_a_file_has_a_process_and_each_start_of_a_checkpoint_a_module() -> None:
    """A model that a process has loaded stays at its place in memory. A checkpoint needs torch, which takes seconds."""
    programs = set[int]()
    measure_over_starts(
        lambda plan: measure_in_process(float_onnx(), SessionOptions(), plan, {}, follow=programs.add), PLAN, starts=3
    )
    assert len(programs) == 3
    assert os.getpid() not in programs
    with target_for("local-cpu", Context()).open(checkpoint(), SessionOptions()) as session:
        again = session.measure_anew(PLAN)
    assert again.start is None
    assert len(again.samples_ms) >= 20


def profiled(out: Path, **options: object) -> LatencyRecord:
    fields = {"warmup_s": 0.05, "duration_s": 0.2, "min_runs": 20, "starts": 2, "retry_s": 0, **options}
    config = Profile(stage="profile", id="latency", model="onnx", **fields)
    contents = profile.run(config, {"model": float_onnx()}, Context(), out)
    return LatencyRecord.of_metrics(json.loads(json.dumps(contents.metrics)))


def test_a_profile_divides_its_time_among_its_starts(tmp_path: Path) -> None:
    record = profiled(tmp_path, starts=3)
    assert record.starts == 3
    assert record.p50_low_ms <= record.p50_ms <= record.p50_high_ms
    recorded = json.loads((tmp_path / "latency.json").read_text())
    assert sum(recorded["start_runs"]) == len(recorded["samples_ms"]) == record.n
    assert recorded["conditions"]["starts"] == 3
    assert recorded["conditions"]["duration_s"] == 0.2
    window = json.loads((tmp_path / "telemetry.json").read_text())["window_s"]
    assert window[1] - window[0] < 1.5, "the time between the starts is left out"


def test_offline_tells_the_throughput_of_each_batch_size(tmp_path: Path) -> None:
    record = profiled(tmp_path, scenario="offline", batch_sizes=(2, 8))
    assert record.batch_size == 2
    assert [batch.batch_size for batch in record.offline] == [2, 8]
    recorded = json.loads((tmp_path / "latency.json").read_text())["offline"]
    for batch, raw in zip(record.offline, recorded, strict=True):
        assert batch.images_per_s == pytest.approx(batch.batch_size / np.mean(raw["samples_ms"]) * 1e3)
        assert batch.low is not None
        assert batch.high is not None
        assert batch.low <= batch.images_per_s <= batch.high
    assert record.offline[0].p50_ms == record.p50_ms


def test_a_batch_size_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_memory(model: Artifact, options: SessionOptions, plan: MeasurePlan, **_: object) -> Measurement:
        return timed(plan, Killer() if plan.batch_size == 4 else None)

    monkeypatch.setattr(model_process, "measure_in_process", without_memory)
    record = profiled(tmp_path, scenario="offline", batch_sizes=(1, 2, 4, 8))
    assert [batch.batch_size for batch in record.offline] == [1, 2]
    assert record.scenario_failed[0].startswith("partial: batch size 4 failed")


def test_a_rate_that_is_too_fast_is_not_kept(tmp_path: Path) -> None:
    record = profiled(tmp_path, scenario="fixed_rate", rate_hz=1e5)
    stream = record.fixed_rate
    assert stream is not None
    assert stream.is_kept is False
    assert stream.late > 0.9
    assert stream.frames_per_s < 1e5
    assert stream.p99_ms > record.p50_ms
    assert len(json.loads((tmp_path / "latency.json").read_text())["fixed_rate"]["samples_ms"]) == stream.frames
