"""Energy from counters and power rails: files as powercap has them, recorded lines of tegrastats, NVML's calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edgevit
from edgevit.profiling import MeasurePlan, measure
from edgevit.profiling.energy import NO_IDLE, EnergyRecord, NoEnergy
from edgevit.profiling.measure import Measurement
from edgevit.profiling.telemetry import Telemetry
from edgevit.targets.agent import sampler
from edgevit.targets.connection import connected
from edgevit.targets.energy_counters import (
    DENIED,
    NO_COUNTER,
    NO_GPU_COUNTER,
    UNKNOWN_TOTAL,
    VIRTUAL,
    EnergyCounters,
)
from edgevit.targets.jobs import Job, run_job
from edgevit.targets.machine_meter import ROOT, MachineMeter
from edgevit.targets.named import NamedTarget
from edgevit.targets.sampling import sampled, telemetry_in
from tests.small_models import float_onnx
from tests.targets.machine import own_home
from tests.targets.standin import STANDINS
from tests.targets.standin.module import compile_library, needs_gcc

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="powercap and tegrastats are of Linux")
POWERCAP = "/sys/class/powercap"
WRAP_UJ = 262_143_328_850  # of a recent package
ZONES = {  # of a laptop, beside a psys that counts the whole platform, and a second register of the package
    "intel-rapl:0": "package-0",
    "intel-rapl:0:0": "core",
    "intel-rapl:0:1": "dram",
    "intel-rapl:1": "psys",
    "intel-rapl-mmio:0": "package-0",
}
PLAN = MeasurePlan(warmup_s=0, duration_s=3.0, min_runs=1, is_watched=True, idle_s=2.5)


class Powercap:
    """A folder like powercap's. A thread lets the counters rise at `powers_w`, by zone, and wrap."""

    def __init__(self, root: Path, powers_w: Mapping[str, float]) -> None:
        self.powers_w = dict(powers_w)
        self._folder = root / POWERCAP[1:]
        self._uj = dict.fromkeys(ZONES, WRAP_UJ - 20e6)  # 20 J before the end
        self._is_over = threading.Event()
        for zone, name in ZONES.items():
            (self._folder / zone).mkdir(parents=True)
            (self._folder / zone / "name").write_text(f"{name}\n")
            (self._folder / zone / "max_energy_range_uj").write_text(f"{WRAP_UJ}\n")
        self._write()

    @contextmanager
    def counting(self) -> Iterator[None]:
        thread = threading.Thread(target=self._count)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    def _count(self) -> None:
        then = time.monotonic()
        while not self._is_over.wait(0.005):
            now = time.monotonic()
            for zone, power_w in self.powers_w.items():
                self._uj[zone] = (self._uj[zone] + 1e6 * power_w * (now - then)) % WRAP_UJ
            then = now
            self._write()

    def _write(self) -> None:
        for zone, energy_uj in self._uj.items():
            whole = self._folder / zone / "energy_uj.new"
            whole.write_text(f"{energy_uj:.0f}\n")
            whole.replace(self._folder / zone / "energy_uj")


def energy(measured: Measurement) -> EnergyRecord:
    found = measured.energy
    assert isinstance(found, EnergyRecord), found
    return found


def counter(zone: str) -> str:
    return f"{POWERCAP}/{zone}/energy_uj"


def counters_of(zones: Mapping[str, str], denied: tuple[str, ...] = ()) -> EnergyCounters:
    files = {counter(zone): "0" for zone in zones if counter(zone) not in denied}
    files |= {f"{POWERCAP}/{zone}/name": name for zone, name in zones.items()}
    files |= {f"{POWERCAP}/{zone}/max_energy_range_uj": str(WRAP_UJ) for zone in zones}
    return EnergyCounters.of_files(files, denied)


def test_packages_and_their_memory_are_counted_once() -> None:
    zones = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram",
             "intel-rapl:1": "package-1", "intel-rapl:1:0": "dram", "intel-rapl:2": "psys"}  # fmt: skip
    found = counters_of(zones)
    assert found.boundaries == {"cpu": "2 CPU packages with memory (RAPL)"}
    rises_mj = {"intel-rapl:0": 10_000, "intel-rapl:0:0": 7_000, "intel-rapl:0:1": 1_000,
                "intel-rapl:1": 20_000, "intel-rapl:1:0": 3_000, "intel-rapl:2": 99_000}  # fmt: skip
    before = {counter(zone): "5000000" for zone in zones}
    after = {counter(zone): str(5_000_000 + 1000 * rise) for zone, rise in rises_mj.items()}
    assert found.power_mw(before, after, 2.0) == {"cpu": 17_000}  # (10 + 1 + 20 + 3) J over 2 s


def test_a_counter_that_wraps_goes_on() -> None:
    found = counters_of({"intel-rapl:0": "package-0"})
    path = counter("intel-rapl:0")
    assert found.power_mw({path: str(WRAP_UJ - 3_000_000)}, {path: "1000000"}, 2.0) == {"cpu": 2_000}
    without_range = EnergyCounters.of_files({path: "0", f"{POWERCAP}/intel-rapl:0/name": "package-0"}, ())
    assert without_range.power_mw({path: "9000000"}, {path: "1000000"}, 2.0) == {}
    assert found.power_mw({path: "1"}, {}, 2.0) == {}
    assert found.power_mw({path: "1"}, {path: "2"}, 0.0) == {}


def test_a_package_that_cannot_be_read_leaves_the_others_uncounted() -> None:
    zones = {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1"}
    assert counters_of(zones, denied=(counter("intel-rapl:1"),)).paths == {}
    memory = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "dram"}
    assert counters_of(memory, denied=(counter("intel-rapl:0:0"),)).boundaries == {"cpu": "CPU package (RAPL)"}


def test_the_energy_of_runs_on_this_machine(tmp_path: Path) -> None:
    """4 W at rest and 12 W under load, of package and memory: 8 mJ for each ms, while the counters wrap."""
    at_rest = {"intel-rapl:0": 3.0, "intel-rapl:0:0": 2.0, "intel-rapl:0:1": 1.0, "intel-rapl:1": 30.0}
    powercap = Powercap(tmp_path, at_rest)
    under_load = {**at_rest, "intel-rapl:0": 10.0, "intel-rapl:0:1": 2.0, "intel-rapl:1": 50.0}

    def work() -> None:
        powercap.powers_w = under_load
        time.sleep(0.02)

    with powercap.counting():
        measured = measure(work, PLAN, meters=[MachineMeter(str(tmp_path))])
    found, mean_ms = energy(measured), float(np.mean(measured.samples_ms))
    assert found.mj == pytest.approx(8.0 * mean_ms, rel=0.1)
    assert found.low_mj < found.mj < found.high_mj
    assert found.power_w == pytest.approx(12.0, rel=0.1)
    assert found.idle_w == pytest.approx(4.0, rel=0.1)
    assert found.boundary == "CPU package with memory (RAPL)"
    assert measured.conditions["idle_s"] == 2.5
    assert measured.telemetry is not None
    assert Telemetry.of_json(json.loads(json.dumps(measured.telemetry.as_json()))) == measured.telemetry


@pytest.mark.slow
def test_the_energy_of_a_job_of_an_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine rests, and then the program starts and doubles the power."""
    own_home(tmp_path, monkeypatch)
    powercap, begun = Powercap(tmp_path / "root", {"intel-rapl:0": 5.0}), tmp_path / "begun"
    script = f"touch {begun}; sleep 3.2; touch times.json"
    job = Job({}, ("sh", "-c", script), {"EDGEVIT_ROOT": str(tmp_path / "root")}, 60, False)
    is_over = threading.Event()

    def double() -> None:
        while not begun.exists() and not is_over.wait(0.01):
            pass
        powercap.powers_w = {"intel-rapl:0": 10.0}

    with powercap.counting(), connected(NamedTarget("local-cpu"), pytest.fail) as here:
        watcher = threading.Thread(target=double)
        watcher.start()
        try:
            finished = run_job(here, sampled(job, (sys.executable,), idle_s=2.5), tmp_path / "out")
        finally:
            is_over.set()
            watcher.join()
    found = telemetry_in(finished.files[sampler.TELEMETRY].read_bytes(), "times.json", 3.0, ())
    assert found is not None
    measured = energy(Measurement(np.full(300, 10.0), MeasurePlan(), telemetry=found))
    assert (measured.power_w, measured.idle_w) == pytest.approx((10.0, 5.0), rel=0.1)
    assert measured.mj == pytest.approx(50.0, rel=0.2)
    assert found.idle is not None
    assert found.idle.seconds >= 3.5


@pytest.mark.parametrize(
    ("files", "unreadable", "reason"),
    [
        ({}, (), NO_COUNTER),
        ({"proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu hypervisor lahf_lm\n"}, (), VIRTUAL),
        ({f"{POWERCAP[1:]}/intel-rapl:0/name": "package-0\n"}, (counter("intel-rapl:0"),), DENIED),
        ({"sys/class/hwmon/hwmon1/name": "ina219\n", "sys/class/hwmon/hwmon1/in1_input": "5000\n",
          "sys/class/hwmon/hwmon1/curr1_input": "700\n"}, (), UNKNOWN_TOTAL),
    ],
)  # fmt: skip
def test_a_machine_without_energy_says_why(
    files: dict[str, str], unreadable: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for path in unreadable:
        (tmp_path / path[1:]).mkdir(parents=True)  # root could read any file
    plan = MeasurePlan(warmup_s=0, duration_s=0.05, min_runs=1, is_watched=True, idle_s=0.05)
    measured = measure(lambda: time.sleep(0.01), plan, meters=[MachineMeter(str(tmp_path))])
    assert measured.energy == NoEnergy(reason)


@pytest.mark.slow
def test_a_board_that_measures_itself_knows_the_rail_of_its_module(tmp_path: Path) -> None:
    files = {"proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
             "sys/class/hwmon/hwmon1/name": "ina3221\n", "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
             "sys/class/hwmon/hwmon1/in1_input": "5000\n", "sys/class/hwmon/hwmon1/curr1_input": "1200\n"}  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    measured = measure(lambda: time.sleep(0.01), PLAN, meters=[MachineMeter(str(tmp_path))])
    found = energy(measured)
    assert (found.power_w, found.idle_w) == pytest.approx((6.0, 6.0))
    assert found.boundary == "module (VDD_IN)"
    assert not found.is_judged


def test_no_rest_without_a_meter(tmp_path: Path) -> None:
    began = time.monotonic()
    assert sampler.at_rest(3600.0, str(tmp_path)) is None
    assert sampler.at_rest(0.0, "") is None
    assert time.monotonic() - began < 600


# Recorded on an Orin Nano in MAXN_SUPER; device_logs/tegrastats_jp6_orin_nano.txt.
LINE = STANDINS["jetpack6-orin-nano"].tegrastats[0]


def line_of(power_mw: int) -> str:
    """The recorded line with another power of VDD_IN."""
    head, _, tail = LINE.partition("VDD_IN ")
    return f"{head}VDD_IN {power_mw}mW/{power_mw}mW {tail.partition(' ')[2]}"


def of_lines(rest_mw: list[int], run_mw: list[int], rails: tuple[str, ...] = ("VDD_IN",)) -> Measurement:
    """Runs of 5 ms each on a board, read four times a second."""

    def part(powers: list[int]) -> dict[str, Any]:
        lines = [[0.25 * number, line_of(power)] for number, power in enumerate(powers)]
        return {"seconds": 0.25 * len(powers), "sampler_cpu_s": 0.0, "fixed": {}, "paths": [], "samples": [],
                "lines": lines}  # fmt: skip

    content = {**part(run_mw), "written": {"times.json": 0.25 * len(run_mw)}, "idle": part(rest_mw)}
    seconds = content["seconds"]
    found = telemetry_in(json.dumps(content).encode(), "times.json", seconds, rails)
    return Measurement(np.full(round(seconds / 0.005), 5.0), MeasurePlan(), telemetry=found, processor="gpu")


def test_the_energy_of_a_board_from_its_lines() -> None:
    """The log at rest: 5,971, 6,011 and 6,050 mW in turn, mean 6,010.67 over whole turns. Under load: 12,479 mW.

    (12,479 - 6,010.67) mW for 5 ms are 32.34 mJ.
    """
    measured = of_lines([12_000] * 5 + [5971, 6011, 6050] * 4, [12_479] * 14)  # the first second settles
    found = energy(measured)
    assert found.idle_w == pytest.approx(6.01067, abs=0.006)  # 11 readings are no whole turns
    assert found.mj == pytest.approx(32.34, abs=0.03)
    assert found.low_mj < 32.34 < found.high_mj
    assert found.high_mj - found.low_mj < 0.5
    assert found.boundary == "module (VDD_IN)"


def test_a_board_whose_module_rail_is_not_known_has_no_energy() -> None:
    assert of_lines([6000] * 16, [12_000] * 14, rails=()).energy == NoEnergy(UNKNOWN_TOTAL)


def test_a_run_shorter_than_the_interval_of_the_meter_is_refused() -> None:
    found = of_lines([6000] * 16, [12_000] * 3).energy
    assert isinstance(found, NoEnergy)
    assert found.reason.startswith("too short: power was read ")


@pytest.mark.slow
@needs_gcc
def test_the_energy_of_a_gpu_through_nvml(tmp_path: Path) -> None:
    """80 W at rest and 200 W while the program runs: 1,200 mJ in 10 ms. A second GPU tells no energy."""
    compile_library("nvml.c", tmp_path / "libnvidia-ml.so.1")
    command = [
        sys.executable,
        "-B",
        sampler.__file__,
        "2.5",
        "gpu",
        "sh",
        "-c",
        "touch on; sleep 3.2; touch times.json",
    ]
    environment = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": str(tmp_path), "NVML_LOADED": str(tmp_path / "on")}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    found = telemetry_in((tmp_path / sampler.TELEMETRY).read_bytes(), "times.json", 3.0, ())
    measured = energy(Measurement(np.full(300, 10.0), MeasurePlan(), telemetry=found, processor="gpu"))
    assert (measured.power_w, measured.idle_w) == pytest.approx((200.0, 80.0), rel=0.1)
    assert measured.mj == pytest.approx(1200.0, rel=0.2)
    assert measured.boundary == "GPU (NVML)"


def test_the_gpu_is_asked_only_if_it_works() -> None:
    """A driver may hang."""
    for processor, root in (("cpu", ""), ("gpu", "/a/stand-in")):
        watching = sampler.Sampler(os.getpid(), time.monotonic(), root, processor)
        assert not any("nvml" in path for path in watching.ended()["paths"])


def test_an_old_driver_has_no_counter() -> None:
    assert sampler.NvidiaCounters(SimpleNamespace()).paths == []
    assert sampler.NvidiaCounters(SimpleNamespace(nvmlInit_v2=lambda: 9)).paths == []


def test_a_gpu_without_a_counter_says_so(tmp_path: Path) -> None:
    plan = MeasurePlan(warmup_s=0, duration_s=0.05, min_runs=1, is_watched=True)
    measured = measure(lambda: time.sleep(0.01), plan, meters=[MachineMeter(str(tmp_path))], processor="gpu")
    assert measured.energy == NoEnergy(NO_GPU_COUNTER)


@pytest.mark.slow
def test_a_profile_in_python_has_the_energy_or_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_home(tmp_path, monkeypatch)
    powercap, options = Powercap(tmp_path / "root", {"intel-rapl:0": 5.0}), {"warmup_s": 0.01, "most_warmup_s": 0}
    monkeypatch.setenv(ROOT, str(tmp_path / "root"))
    model = edgevit.load(float_onnx().path)
    with powercap.counting():
        latency = edgevit.profile(model, retry_s=0, **options)
    assert isinstance(latency.energy, EnergyRecord), latency.energy
    assert (latency.energy.power_w, latency.energy.idle_w) == pytest.approx((5.0, 5.0), rel=0.1)
    assert f"{latency.energy.mj:.3g} mJ for an image above rest" in str(latency)
    assert latency.record.starts > 1
    untold = edgevit.profile(model, starts=1, duration_s=0.1, min_runs=5, idle_s=0, retry_s=0, **options)
    assert untold.energy == NoEnergy(NO_IDLE)
