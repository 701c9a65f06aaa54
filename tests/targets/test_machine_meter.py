"""Profiles on this machine: what else it does while a model is timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgevit.configs import Profile
from edgevit.context import Context
from edgevit.profiling import MeasurePlan, measure
from edgevit.profiling.latency_record import LatencyRecord
from edgevit.profiling.measure import Measurement
from edgevit.profiling.telemetry import LOAD_NOT_SAMPLED, NOT_SAMPLED, Load, Series, Telemetry, Window
from edgevit.runtimes.base import SessionOptions
from edgevit.stages.profile import run
from edgevit.targets import target_for
from edgevit.targets.local import LocalCpu
from edgevit.targets.machine_meter import ROOT, MachineMeter
from edgevit.targets.sampling import telemetry_in
from tests.small_models import float_onnx

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the meter reads Linux's /proc")
SECOND = MeasurePlan(warmup_s=0, duration_s=1.0, min_runs=1, is_watched=True)
BRIEF = MeasurePlan(warmup_s=0, duration_s=0.05, min_runs=1, is_watched=True)


class Counters:
    """The kernel's counters of processor time below a folder: two processors, and one that others keep busy."""

    def __init__(self, root: Path, others: float = 0.0) -> None:
        self._file, self._others = root / "proc" / "stat", others
        self._start_s, self._start_cpu_s = time.monotonic(), time.process_time()
        self._file.parent.mkdir()
        self.write()

    def write(self) -> None:
        """Set them to the time since the start."""
        seconds, own_s = time.monotonic() - self._start_s, time.process_time() - self._start_cpu_s
        busy, total = round(100 * (self._others * seconds + own_s)), round(200 * seconds)
        whole = self._file.with_name("stat.new")
        whole.write_text(f"cpu  {busy} 0 0 {max(0, total - busy)} 0 0 0 0 0 0\ncpu0 1 1\n")
        whole.replace(self._file)


def measured_beside(root: Path, others: float) -> Measurement:
    """A measurement on a machine of two processors. Other programs keep `others` processors busy."""
    counters = Counters(root, others)

    def work() -> None:
        sum(range(100_000))
        time.sleep(0.01)
        counters.write()

    return measure(work, SECOND, meters=[MachineMeter(str(root))])


def of_load(measured: Measurement) -> tuple[str, ...]:
    """The reasons that the telemetry gives. A drift of the runs is that of this machine."""
    assert measured.telemetry is not None
    return measured.telemetry.invalid("cpu")


def test_a_latency_beside_another_program_is_invalid(tmp_path: Path) -> None:
    measured = measured_beside(tmp_path, others=1.0)
    assert any("processors busy while the runs were timed" in reason for reason in of_load(measured))
    assert measured.telemetry is not None
    assert measured.conditions["telemetry"] == measured.telemetry.summary()
    assert Telemetry.of_json(json.loads(json.dumps(measured.telemetry.as_json()))) == measured.telemetry


def test_the_work_of_this_process_is_no_other_load(tmp_path: Path) -> None:
    measured = measured_beside(tmp_path, others=0.0)
    assert of_load(measured) == ()
    assert not any("other programs" in warning or "sampled" in warning for warning in measured.warnings)
    assert measured.conditions["cpus_used"] > 0


def test_load_is_one_difference_over_the_counted_runs() -> None:
    """Samples are of unequal length, and in one of them the counters of others stand below the program's own time."""
    stats = [(0.0, 0, 0, 0), (1.0, 100, 90, 0), (1.5, 100, 140, 0), (3.0, 360, 240, 6), (4.0, 560, 240, 6)]
    samples = [
        (time_s, own, [f"cpu  {busy} 0 0 {round(200 * time_s) - busy - taken} 0 0 0 {taken} 0 0"])
        for time_s, busy, own, taken in stats
    ]
    content = {
        "seconds": 4.0, "sampler_cpu_s": 0.0, "fixed": {}, "paths": ["/proc/stat"], "samples": samples, "lines": [],
        "written": {"times.json": 2.9},
    }  # fmt: skip
    telemetry = telemetry_in(json.dumps(content).encode(), "times.json", 1.5, ())
    assert telemetry is not None
    assert telemetry.load is not None
    # The counted runs are from 1.4 to 2.9 s: from the sample at 1.0 s to that at 3.0 s.
    assert telemetry.load == pytest.approx((2.0, 4.0, 1.5, 1.1, 0.06))


def test_a_machine_that_tells_nothing_is_doubted(tmp_path: Path) -> None:
    measured = measure(lambda: time.sleep(0.01), BRIEF, meters=[MachineMeter(str(tmp_path))])
    assert measured.telemetry is not None
    assert measured.telemetry.series == ()
    assert NOT_SAMPLED in measured.warnings


def test_counters_that_stand_still_tell_nothing(tmp_path: Path) -> None:
    """As in a sandbox, whose /proc/stat holds zeros."""
    Counters(tmp_path)
    measured = measure(lambda: time.sleep(0.01), BRIEF, meters=[MachineMeter(str(tmp_path))])
    assert measured.telemetry is not None
    assert measured.telemetry.load is None
    assert measured.telemetry.doubts("cpu") == (NOT_SAMPLED,)


def test_clocks_without_counters_are_doubted() -> None:
    clock = Series("clock_mhz", "cpu", (0.0, 1.0), (2000.0, 2000.0))
    assert Telemetry((clock,), Window(0, 1), 1.0).doubts("cpu") == (LOAD_NOT_SAMPLED,)


def told(
    others: float,
    seconds: float = 3.0,
    processors: int = 2,
    own: float = 1.0,
    stolen: float = 0.0,
) -> Telemetry:
    """Telemetry of runs beside other programs; all in processors that are kept busy."""
    load = Load(seconds, processors * seconds, own * seconds, others * seconds, stolen * seconds)
    return Telemetry((), Window(0, seconds), seconds, load=load)


@pytest.mark.parametrize("processors", [1, 2, 4, 24, 64, 128])
def test_a_neighbor_on_one_processor_is_seen_on_machines_of_any_size(processors: int) -> None:
    (reason,) = told(1.0, processors=processors).invalid("cpu")
    assert reason.startswith(f"other programs kept 1.0 of {processors} processors busy")
    assert told(0.05, processors=processors).invalid("cpu") == ()
    assert told(0.05, processors=processors).doubts("cpu") == ()


def test_runs_that_are_too_short_to_tell_are_doubted() -> None:
    (doubt,) = told(0.0, seconds=0.05).doubts("cpu")
    assert doubt.startswith("the runs lasted 0.05 s: a load of other programs below 0.6 processors")
    assert told(0.0, seconds=0.5).doubts("cpu") == ()
    assert told(1.0, seconds=0.5).invalid("cpu")


def test_a_quiet_machine_is_rarely_invalid_although_its_counters_are_noisy() -> None:
    """A kernel looks once a tick what runs: a busy share is counted binomially, and that of the program exactly."""
    generator, seconds, invalid = np.random.default_rng(3), 3.0, 0
    for own in np.repeat([0.3, 0.6, 0.8, 1.0], 250):
        looks = round(100 * seconds)
        busy_s = (generator.binomial(looks, own) + generator.binomial(looks, 0.05)) / 100
        load = Load(seconds, 2 * seconds, own * seconds, busy_s - own * seconds, 0.0)
        invalid += bool(Telemetry((), Window(0, seconds), seconds, load=load).invalid("cpu"))
    assert invalid <= 0.05 * 1000


def test_a_gpu_is_slowed_less_by_the_load_of_processors() -> None:
    assert told(0.4).invalid("cpu")
    assert not told(0.4).invalid("gpu")
    assert not told(0.4).doubts("gpu")
    assert not told(0.9).invalid("gpu")
    assert told(0.9).doubts("gpu")


def test_time_that_the_host_took_is_told_apart_from_the_counters_resolution() -> None:
    (reason,) = told(0.0, stolen=0.1).invalid("cpu")
    assert reason.startswith("the host of this virtual machine took 9% of its time")
    assert told(0.0, stolen=0.015).invalid("cpu") == ()
    assert told(0.0, own=0.01, stolen=0.005).invalid("cpu") == (), "one tick and a half of an idle processor"
    assert told(0.0, stolen=0.1).invalid("gpu") == ()
    assert told(0.0, stolen=0.1).doubts("gpu") == (reason,)


def test_the_sampler_counts_its_own_time_alone(tmp_path: Path) -> None:
    """This process has worked for longer before."""
    while time.process_time() < 1.0:
        sum(range(10_000))
    measured = measured_beside(tmp_path, others=0.0)
    assert measured.telemetry is not None
    assert 0 < measured.telemetry.sampler_cpu_s < 0.5


BURNER = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
while True: sum(range(1000))
"""
STARTER = """
import subprocess, sys
for _ in range(int(sys.argv[1])): subprocess.Popen([sys.executable, "-c", sys.argv[2]])
"""


@pytest.mark.slow
def test_a_burner_on_every_processor_of_this_machine_is_seen() -> None:
    # The children of this process are its own work, so another process starts the burners, and ends.
    command = [sys.executable, "-c", STARTER, str(os.cpu_count()), BURNER]
    starter = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        starter.wait()
        measured = measure(lambda: time.sleep(0.01), SECOND, meters=[MachineMeter("")])
    finally:
        starter.communicate()  # closes the stdin of the burners, at which they end
    assert any("other programs kept" in reason for reason in of_load(measured))


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


def test_a_race_beside_other_work_is_doubted_and_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work hits all models of a race alike, and the interval is over starts. Their latencies are longer."""
    counters = Counters(tmp_path, others=1.0)
    monkeypatch.setenv(ROOT, str(tmp_path))
    plan = MeasurePlan(warmup_s=0, duration_s=0.1, min_runs=12)

    def work() -> None:
        time.sleep(0.005)
        counters.write()

    session = SimpleNamespace(work=lambda plan: work)
    monkeypatch.setattr(LocalCpu, "_opener", lambda *_: lambda: session)
    first, *others = LocalCpu().race([float_onnx()] * 3, SessionOptions(), plan)
    for measured in (first.a, first.b, others[0].b):
        assert any("processors busy" in warning for warning in measured.warnings)
        assert measured.conditions["telemetry"]["load"]["others_s"] > 0
    assert first.invalid == ()
    assert others[0].a is first.a


def test_a_longest_warm_up_of_zero_switches_the_test_off(tmp_path: Path) -> None:
    config = Profile(
        stage="profile", id="latency", model="onnx", warmup_s=0.05, most_warmup_s=0, duration_s=0.05, min_runs=5
    )
    run(config, {"model": float_onnx()}, Context(), tmp_path)
    warm_up = json.loads((tmp_path / "latency.json").read_text())["conditions"]["warm_up"]
    assert warm_up["is_steady"] is None
