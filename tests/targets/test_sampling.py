"""The sampler as a process of this machine and around a stand-in's programs, and what is read from its file."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgevit.profiling import MeasurePlan
from edgevit.profiling.energy import EnergyRecord, NoEnergy
from edgevit.profiling.loop import STEADY_C_PER_MIN
from edgevit.profiling.measure import Measurement
from edgevit.profiling.telemetry import FEWEST, LOAD_NOT_SAMPLED, Series, Telemetry, Window
from edgevit.targets.agent import sampler
from edgevit.targets.connection import connected
from edgevit.targets.jobs import Job, run_job
from edgevit.targets.named import NamedTarget
from edgevit.targets.remote_session import _Measured
from edgevit.targets.sampling import sampled, soak_in_runs, telemetry_in
from tests.targets.machine import own_home
from tests.targets.ssh_host import is_gone, number_in
from tests.targets.standin import STANDINS, build
from tests.targets.standin.boards import Standin, heating, throttling

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, as the targets of the agent do")
NANO = STANDINS["jetpack6-orin-nano"]
RUN = "sleep 1; echo done > times.json; exit 3"


def run(folder: Path, script: str = RUN, idle_s: float = 0, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell script under the sampler."""
    command = [sys.executable, "-B", sampler.__file__, str(idle_s), "cpu", "sh", "-c", script]
    return subprocess.run(command, cwd=folder, env={**os.environ, **variables}, capture_output=True, check=False)


def telemetry_of(standin: Standin, folder: Path, script: str = RUN, idle_s: float = 0) -> Telemetry:
    """The telemetry of a script on a stand-in."""
    built = build(standin, folder / "board")
    (folder / "job").mkdir()
    run(folder / "job", script, idle_s, EDGEVIT_ROOT=str(built.root), PATH=f"{built.path}:/usr/bin:/bin")
    content = (folder / "job" / sampler.TELEMETRY).read_bytes()
    assert len(content) < 2**20
    telemetry = telemetry_in(content, "times.json", 1.0, ("VDD_IN",))
    assert telemetry is not None
    return telemetry


def measurement(telemetry: Telemetry, processor: Any = "gpu") -> Measurement:
    return Measurement(np.full(100, 5.0), MeasurePlan(), telemetry=telemetry, processor=processor)


def test_the_program_keeps_its_status_and_its_output(tmp_path: Path) -> None:
    ended = run(tmp_path, "echo out; echo err >&2; exit 3")
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, b"out\n", b"err\n")
    assert run(tmp_path, "kill -9 $$").returncode == -signal.SIGKILL
    assert run(tmp_path, "kill -SEGV $$").returncode == -signal.SIGSEGV


def test_a_run_on_this_machine_is_sampled(tmp_path: Path) -> None:
    """Two processes that are not of the run use this machine's processors."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        run(tmp_path)
    finally:
        for other in others:
            other.kill()
            other.wait()
    telemetry = telemetry_in((tmp_path / sampler.TELEMETRY).read_bytes(), "times.json", 1.0, ())
    assert telemetry is not None
    assert 1 <= telemetry.seconds < 30
    assert telemetry.window.start_s < telemetry.window.end_s <= telemetry.seconds
    load = telemetry.of("other_load")
    assert load is not None
    assert load.values[1] > 0.3
    assert "other programs kept" in " ".join(measurement(telemetry, "gpu").warnings)
    assert not any("other programs" in reason for reason in measurement(telemetry, "gpu").invalid)
    assert any("other programs kept" in reason for reason in measurement(telemetry, "cpu").invalid)


def test_the_load_of_a_program_and_of_its_children_is_not_that_of_others(tmp_path: Path) -> None:
    run(tmp_path, "timeout 1 sh -c 'while :; do :; done'; sleep 0.1")
    content = json.loads((tmp_path / sampler.TELEMETRY).read_bytes())
    ticks = [sample[1] for sample in content["samples"]]
    assert ticks[3] - ticks[0] >= 5  # of 75 in as long a time, on a machine that others use, too
    assert ticks[-1] >= ticks[3]


def test_a_calm_board(tmp_path: Path) -> None:
    telemetry = telemetry_of(NANO, tmp_path)
    assert measurement(telemetry).invalid == ()
    assert telemetry.junction == "tj"
    assert telemetry.throttled == {"low voltage": 0, "average over-current": 0, "peak over-current": 0}
    power, gpu = telemetry.of("power_mw", "total"), telemetry.of("clock_mhz", "gpu")
    assert power is not None
    assert gpu is not None
    assert set(power.values) == {5971.0}  # VDD_IN of the recorded line
    assert set(gpu.values) == {1018.0}
    assert len(gpu.between(telemetry.window).values) >= FEWEST
    sensors = {(one["kind"], one["name"]) for one in telemetry.summary()["sensors"]}
    assert {("temperature_c", "tj"), ("power_mw", "VDD_SOC"), ("clock_mhz", "cpu"), ("clock_mhz", "memory")} <= sensors
    assert Telemetry.of_json(json.loads(json.dumps(telemetry.as_json()))) == telemetry


def test_a_board_that_throttles_makes_the_measurement_invalid(tmp_path: Path) -> None:
    reasons = measurement(telemetry_of(throttling(NANO), tmp_path)).invalid
    assert len(reasons) == 2
    assert reasons[0].startswith("the machine throttled while it was measured: peak over-current, ")
    assert reasons[1].startswith("the clock of the GPU moved between 612 and 1,018 MHz")


def test_a_board_that_heats_up_is_doubted(tmp_path: Path) -> None:
    telemetry = telemetry_of(heating(NANO), tmp_path)
    assert measurement(telemetry).invalid == ()
    doubt, warning = measurement(telemetry).warnings
    assert doubt == LOAD_NOT_SAMPLED  # a stand-in has no /proc/stat
    assert warning.startswith("the temperature of tj rose by ")
    watched = telemetry.watched
    assert watched is not None
    slope = watched.between(telemetry.window).slope_per_min
    assert slope is not None
    assert slope > 100 * STEADY_C_PER_MIN


@pytest.mark.parametrize("name", ["jetpack4-nano", "jetpack5-agx-orin", "jetpack7-agx-orin", "jetpack7-thor"])
def test_the_form_of_each_jetpack_is_sampled(name: str, tmp_path: Path) -> None:
    telemetry = telemetry_of(STANDINS[name], tmp_path, "sleep 0.4")
    assert telemetry.of("temperature_c") is not None
    assert telemetry.of("power_mw") is not None
    assert telemetry.junction == {"jetpack4-nano": "ao", "jetpack7-agx-orin": "cpu"}.get(name, "tj")


def test_power_and_throttling_without_tegrastats(tmp_path: Path) -> None:
    """A Raspberry Pi with a power monitor. Composed from the kernel's documentation."""
    monitor, firmware = "/sys/class/hwmon/hwmon1", "/sys/devices/platform/soc/soc:firmware/get_throttled"
    files = {
        f"{monitor}/name": "ina219\n",
        f"{monitor}/in1_input": "5000\n",
        f"{monitor}/curr1_input": "700\n",
        firmware: "50005\n",
    }
    pi = STANDINS["raspberry-pi-5"]
    telemetry = telemetry_of(replace(pi, files={**pi.files, **files}), tmp_path)
    rail, temperature = telemetry.of("power_mw"), telemetry.watched
    assert rail is not None
    assert temperature is not None
    assert (rail.name, set(rail.values)) == ("ina219 1", {3500.0})
    assert (temperature.name, set(temperature.values)) == ("cpu", {48.8})
    assert telemetry.throttled == {"low voltage": 1, "throttling": 1}
    assert len(measurement(telemetry, "cpu").invalid) == 2


def test_a_long_run_keeps_samples_of_its_whole_length() -> None:
    kept = sampler.Thinned()
    for number in range(100_000):
        kept.add(number)
    earlier, latest = kept.items[: -sampler.LATEST], kept.items[-sampler.LATEST :]
    assert latest == list(range(100_000 - sampler.LATEST, 100_000))
    assert sampler.MOST_SAMPLES / 2 <= len(earlier) <= sampler.MOST_SAMPLES
    assert len(set(np.diff(earlier))) == 1
    assert earlier[0] == 0
    assert earlier[-1] > 99_000 - sampler.LATEST


def test_a_short_run_keeps_every_sample() -> None:
    kept = sampler.Thinned()
    for number in range(sampler.MOST_SAMPLES + sampler.LATEST):
        kept.add(number)
    assert kept.items == list(range(sampler.MOST_SAMPLES + sampler.LATEST))


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("content")
    telemetry_of(NANO, folder, "sleep 1.4", idle_s=1.2)
    return (folder / "job" / sampler.TELEMETRY).read_bytes()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_content_breaks_the_reader(content: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(content) - 1))
    length = data.draw(st.integers(0, 40))
    mutated = content[:place] + data.draw(st.binary(max_size=20)) + content[place + length :]
    telemetry = telemetry_in(mutated, "times.json", data.draw(st.sampled_from([0.0, 1.0, math.inf])), ("VDD_IN",))
    if telemetry is not None:
        assert isinstance(measurement(telemetry).warnings, tuple)
        assert isinstance(measurement(telemetry).invalid, tuple)
        assert isinstance(measurement(telemetry).energy, (EnergyRecord, NoEnergy))
        json.dumps(telemetry.summary())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_of_a_sampled_job_outlives_its_end(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sampler is killed: tegrastats and the program end, as the agent ends the group."""
    (tmp_path / "machine").mkdir()
    own_home(tmp_path / "machine", monkeypatch)
    built = build(NANO, tmp_path / "board")
    watching = f"#!/bin/sh\necho $$ > {tmp_path}/tegrastats\nexec sleep 60\n"
    (built.path / "tegrastats").write_text(watching)
    monkeypatch.setenv("PATH", f"{built.path}:{os.environ['PATH']}")
    script = f"echo $$ > {tmp_path}/program; echo $PPID > {tmp_path}/sampler; sleep 60"
    job = sampled(Job({}, ("sh", "-c", script), {}, 60, False), (sys.executable,))
    ender = subprocess.Popen(
        ["sh", "-c", f"until [ -s {tmp_path}/sampler ] && [ -s {tmp_path}/tegrastats ]; do sleep 0.1; done; "
                     f"kill -{int(number)} $(cat {tmp_path}/sampler)"]
    )  # fmt: skip
    with connected(NamedTarget("local-cpu"), pytest.fail) as here:
        finished = run_job(here, job, tmp_path / "out")
    ender.wait()
    assert finished.status == -number
    assert is_gone(number_in(tmp_path / "program"))
    assert is_gone(number_in(tmp_path / "tegrastats"))


def test_a_sampled_job_brings_its_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_home(tmp_path, monkeypatch)
    job = Job({}, ("sh", "-c", "sleep 0.3; echo x > x"), {}, 60, False, {"x": 10})
    began = time.monotonic()
    with connected(NamedTarget("local-cpu"), pytest.fail) as here:
        finished = run_job(here, sampled(job, (sys.executable,)), tmp_path / "out")
    assert set(finished.files) == {"x", sampler.TELEMETRY}
    telemetry = telemetry_in(finished.files[sampler.TELEMETRY].read_bytes(), "x", math.inf, ())
    assert telemetry is not None
    assert 0.2 <= telemetry.window.end_s <= time.monotonic() - began


def heated(values: list[float], each_s: float) -> Telemetry:
    times = tuple(np.linspace(0, each_s, len(values)).tolist())
    series = Series("temperature_c", "tj", times, tuple(values))
    return Telemetry((series,), Window(0, each_s), each_s, "tj")


def test_a_soak_in_runs_ends_when_the_temperature_is_steady() -> None:
    lengths: list[float] = []

    def run_for(seconds: float) -> Telemetry:
        start = 50.0 + 10 * min(len(lengths), 2)
        lengths.append(seconds)
        end = start if len(lengths) > 2 else start + 10
        return heated(np.linspace(start, end, 9).tolist(), seconds)

    soaked = soak_in_runs(run_for, 300, each_s=30)
    assert (soaked.seconds, soaked.start_c, soaked.end_c, soaked.is_steady) == (90, 50.0, 70.0, True)
    limited = soak_in_runs(lambda seconds: heated([50, 51, 52, 53], seconds), 70, each_s=30)
    assert (limited.seconds, limited.is_steady) == (70, False)
    assert limited.slope_c_per_min == pytest.approx(6.0)
    unknown = soak_in_runs(lambda _: None, 45, each_s=30)
    assert (unknown.seconds, unknown.end_c, unknown.is_steady) == (45, None, False)


def test_a_throttle_event_in_the_last_interval_counts() -> None:
    counter = "/sys/class/hwmon/hwmon1/oc1_event_cnt"
    label = {"/sys/class/hwmon/hwmon1/name": "soctherm_oc"}
    times_s = [0.25 * step for step in range(13)]
    samples = [(time_s, 0, ["1" if time_s >= 3.0 else "0"]) for time_s in times_s]
    content = {
        "seconds": 3.0, "sampler_cpu_s": 0.0, "fixed": label, "paths": [counter], "samples": samples,
        "lines": [], "written": {"times.json": 3.0},
    }  # fmt: skip
    telemetry = telemetry_in(json.dumps(content).encode(), "times.json", 2.0, ())
    assert telemetry is not None
    assert telemetry.window == (1.0, 2.75)  # temperatures and clocks of the last interval are left out
    assert sum(telemetry.throttled.values()) == 1


@pytest.mark.parametrize("soak", [[math.inf, None, 50.0, 0.1, True], [60.0, 40.0, 50.0, math.nan, True]])
def test_a_soak_with_numbers_that_no_soak_has_is_refused(soak: list[Any]) -> None:
    moment: dict[str, Any] = {"load_average_1min": None, "cpu_frequency": {}, "thermal_zones": {}}
    answer = {
        "conditions": {"cpu": {}, "before": moment, "after": moment}, "versions": {}, "start": [9.0, 1.0, 5, 9],
        "samples_ms": [1.0], "warm_up": [0.5, 9, True], "seconds": 1.0, "cpu_s": 1.0, "parts_ms": {},
    }  # fmt: skip
    assert _Measured.model_validate({**answer, "soak": [60.0, None, 50.0, 0.1, True]}).soak
    with pytest.raises(ValidationError, match="finite"):
        _Measured.model_validate({**answer, "soak": soak})


@pytest.mark.parametrize(
    "lie", [{"start": [math.nan, 1.0, 5, 9]}, {"start": [1.0, 1.0, -5, 9]}, {"warm_up": [math.inf, 9, True]}]
)
def test_a_start_or_a_warm_up_with_impossible_numbers_is_refused(lie: dict[str, Any]) -> None:
    moment: dict[str, Any] = {"load_average_1min": None, "cpu_frequency": {}, "thermal_zones": {}}
    answer = {
        "conditions": {"cpu": {}, "before": moment, "after": moment}, "versions": {}, "start": [9.0, 1.0, None, None],
        "samples_ms": [1.0], "warm_up": [0.5, 9, None], "seconds": 1.0, "cpu_s": 1.0, "parts_ms": {}, "soak": None,
    }  # fmt: skip
    assert _Measured.model_validate(answer).start.first_ms == 1
    with pytest.raises(ValidationError, match="finite"):
        _Measured.model_validate({**answer, **lie})


def test_throttle_counters_and_temperatures_of_a_machine_with_many_cores_are_read(tmp_path: Path) -> None:
    counter = "/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    zone = "/sys/class/thermal/thermal_zone0/"
    policies = [f"/sys/devices/system/cpu/cpufreq/policy{number}/" for number in range(256)]
    clocks = [policy + name for policy in policies for name in ("scaling_cur_freq", "scaling_max_freq")]
    for file in (counter, f"{zone}temp", f"{zone}type", *clocks):
        path = tmp_path / "root" / file[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1000\n")
    run(tmp_path, "true", EDGEVIT_ROOT=str(tmp_path / "root"))
    content = json.loads((tmp_path / sampler.TELEMETRY).read_bytes())
    assert {counter, f"{zone}temp"} <= set(content["paths"])
    assert f"{zone}type" in content["fixed"]
    assert len(content["paths"]) == 2 + sampler.MOST_POLICIES
