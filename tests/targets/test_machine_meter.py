"""Profiles on this machine: what else it does while a model is timed, and the model's start in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgevit.configs import Profile
from edgevit.context import Context
from edgevit.profiling import MeasurePlan, measure
from edgevit.profiling.latency_record import LatencyRecord
from edgevit.profiling.measure import Measurement
from edgevit.profiling.telemetry import Series, Telemetry, Window
from edgevit.runtimes.base import SessionOptions
from edgevit.stages.profile import run
from edgevit.targets import target_for
from edgevit.targets.fresh_start import FreshStart
from edgevit.targets.machine_meter import ROOT, MachineMeter
from tests.small_models import float_onnx

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the meter reads Linux's /proc")
PLAN = MeasurePlan(warmup_s=0.01, duration_s=1.0, min_runs=5, is_watched=True)


def write_stat(root: Path, user: int, idle: int, steal: int) -> None:
    file = root / "proc" / "stat"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".new").write_text(f"cpu  {user} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 1 1\n")
    file.with_suffix(".new").replace(file)


def measured_beside(root: Path, others: float, stolen: float, monkeypatch: pytest.MonkeyPatch) -> Measurement:
    """A measurement on a machine of two processors whose counters say this. The run itself takes no processor time."""
    monkeypatch.setenv(ROOT, str(root))
    write_stat(root, 0, 0, 0)
    start_s = time.monotonic()

    def work() -> None:
        time.sleep(0.02)
        ticks = 200 * (time.monotonic() - start_s) * 1000  # 1000 times as fine as a kernel's: own ticks do not matter
        busy = int(ticks * others)
        write_stat(root, busy, int(ticks) - busy, int(ticks * stolen))

    return measure(work, PLAN, meters=[MachineMeter()])


@pytest.mark.parametrize(
    ("others", "stolen", "reason"),
    [
        (0.03, 0.0, None),
        (0.25, 0.0, "other programs used 25% of the processors"),  # half the time on one of two
        (0.03, 0.03, "the host of this virtual machine took 50% of its time"),
    ],
)
def test_a_latency_beside_other_work_is_invalid(
    others: float, stolen: float, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = measured_beside(tmp_path, others, stolen, monkeypatch)
    assert measured.telemetry is not None
    assert measured.conditions["telemetry"] == measured.telemetry.summary()
    if reason is None:
        assert measured.invalid == ()
    else:
        assert any(one.startswith(reason) for one in measured.invalid), measured.invalid


BURNER = "import time\nend_s = time.monotonic() + 20\nwhile time.monotonic() < end_s: sum(range(1000))"
STARTER = """
import subprocess, sys
for _ in range(int(sys.argv[1])):
    print(subprocess.Popen([sys.executable, "-c", sys.argv[2]], stdout=subprocess.DEVNULL).pid)
"""


def test_a_burner_on_every_processor_of_this_machine_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ROOT)
    # The children of this process are its own work, so another process starts the burners, and ends.
    command = [sys.executable, "-c", STARTER, str(os.cpu_count()), BURNER]
    burners = subprocess.check_output(command, text=True).split()
    try:
        measured = measure(lambda: time.sleep(0.01), PLAN, meters=[MachineMeter()])
    finally:
        for process in burners:
            os.kill(int(process), signal.SIGKILL)
    assert any("other programs used" in reason for reason in measured.invalid)


def test_work_of_this_process_is_no_other_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a machine that does nothing else: its counters are those of this process."""
    monkeypatch.setenv(ROOT, str(tmp_path))
    write_stat(tmp_path, 0, 0, 0)
    start_s, start_cpu_s = time.monotonic(), time.process_time()

    def work() -> None:
        sum(range(20_000))
        total, own = (int(200 * (time.monotonic() - start_s)), int(100 * (time.process_time() - start_cpu_s)))
        write_stat(tmp_path, own, total - own, 0)

    measured = measure(work, PLAN, meters=[MachineMeter()])
    assert not any("other programs" in reason for reason in measured.invalid)
    assert measured.conditions["cpus_used"] > 0


def telemetry(kind: str, share: float) -> Telemetry:
    times = tuple(0.25 * step for step in range(12))
    return Telemetry((Series(kind, "processors", times, (share,) * 12),), Window(0, 3), 3.0)  # type: ignore[arg-type]


def test_a_gpu_is_slowed_less_by_the_load_of_processors() -> None:
    assert telemetry("other_load", 0.08).invalid("cpu")
    assert not telemetry("other_load", 0.08).invalid("gpu")
    assert not telemetry("other_load", 0.08).doubts("gpu")
    assert telemetry("other_load", 0.2).doubts("gpu")
    assert not telemetry("other_load", 0.04).invalid("cpu")
    assert telemetry("stolen", 0.05).invalid("cpu")


def test_the_start_of_a_model_is_that_of_a_process_without_torch() -> None:
    starter = FreshStart(float_onnx(), SessionOptions())
    starter.start(MeasurePlan(batch_size=3))
    start = starter.stop().start
    assert start is not None
    assert start.load_ms > 0
    assert start.first_ms > 0
    assert start.own_bytes is not None
    assert start.peak_bytes is not None
    assert 2**23 < start.own_bytes < start.peak_bytes < 2**28  # NumPy and ONNX Runtime; torch alone takes more


def test_a_model_that_does_not_start_is_doubted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise OSError('no such library')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    starter = FreshStart(float_onnx(), SessionOptions())
    starter.start(MeasurePlan())
    reading = starter.stop()
    assert reading.start is None
    assert "no such library" in reading.doubts[0]


def test_a_profile_records_all_of_it(tmp_path: Path) -> None:
    config = Profile(
        stage="profile", id="latency", model="onnx", boundary="end_to_end", warmup_s=0, duration_s=0.1, min_runs=70
    )
    contents = run(config, {"model": float_onnx()}, Context(), tmp_path)
    record = LatencyRecord.of_metrics(json.loads(json.dumps(contents.metrics)))
    assert list(record.parts_ms) == ["decode", "preprocess", "compute", "post"]
    assert sum(record.parts_ms.values()) == pytest.approx(record.p50_ms, rel=0.5)
    assert record.start is not None
    assert record.cpus_used is not None
    assert record.percentiles[90].ms >= record.p50_ms
    assert record.percentiles[99].low_ms is None
    assert contents.logs == ("telemetry.json",)
    assert record.numbers() == contents.metrics["latency_ms"]
    with target_for("local-cpu", Context()).open(float_onnx(), SessionOptions()) as session:
        unwatched = session.measure(MeasurePlan(warmup_s=0, duration_s=0.05, min_runs=5))
    assert (unwatched.start, unwatched.telemetry) == (None, None)
