"""Energy from recorded counters and powers, against sums by hand. Nothing is metered on this machine."""

from __future__ import annotations

import math
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.profiling.energy import (
    BLOCKS,
    Block,
    NvmlMeter,
    RaplMeter,
    Reading,
    Unmeasurable,
    counted_uj,
    energy_of_power,
    energy_record,
    measure_energy,
    nvml_meter,
    power_of_smi,
    rapl_meter,
)
from edgevit.profiling.telemetry import Series, Window

RANGE_UJ = 262_143_328_850  # of a server's package


class Machine:
    """A powercap tree whose counters run with a clock of their own: 10 W at rest, 35 W with work; memory 2 W more."""

    def __init__(self, root: Path, start_uj: int = 0) -> None:
        self.now_s, self.root, self._uj = 0.0, root, {"package-0": start_uj, "dram": start_uj}
        for folder, name in {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram"}.items():
            (root / folder).mkdir(parents=True)
            (root / folder / "name").write_text(f"{name}\n", encoding="ascii")
            (root / folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n", encoding="ascii")
            (root / folder / "energy_uj").write_text(f"{start_uj}\n", encoding="ascii")
        (root / "intel-rapl").mkdir()

    def spend(self, seconds: float, watts: float) -> None:
        self.now_s += seconds
        for (name, folder), power in zip(
            {"package-0": "intel-rapl:0", "dram": "intel-rapl:0:1"}.items(), (watts, 2.0), strict=True
        ):
            self._uj[name] = (self._uj[name] + round(1e6 * power * seconds)) % (RANGE_UJ + 1)
            (self.root / folder / "energy_uj").write_text(f"{self._uj[name]}\n", encoding="ascii")

    def meter(self) -> RaplMeter:
        found = rapl_meter(self.root)
        assert isinstance(found, RaplMeter)
        return RaplMeter(found._zones, lambda: self.now_s)


@pytest.mark.parametrize("start_uj", [0, RANGE_UJ - 20_000_000], ids=["from 0", "over the end of the counter"])
def test_a_span_of_rapl(start_uj: int, tmp_path: Path) -> None:
    """The package and its memory add up; the cores are a part of the package."""
    machine = Machine(tmp_path, start_uj)
    meter = machine.meter()
    meter.start()
    machine.spend(2, 35)
    energy_mj, seconds, doubts = meter.stop()
    assert energy_mj == pytest.approx(2 * (35 + 2) * 1e3, rel=1e-9)
    assert (seconds, doubts) == (2, ())


def test_idle_power_is_subtracted(tmp_path: Path) -> None:
    """Runs of 100 ms at 35 W over 10 W at rest: 2,500 mJ each. Memory takes 2 W either way."""
    machine = Machine(tmp_path, RANGE_UJ - 100_000_000)
    record = measure_energy(
        machine.meter(),
        lambda: machine.spend(0.1, 35),
        batch_size=1,
        now_s=lambda: machine.now_s,
        sleep=lambda seconds: machine.spend(seconds, 10),
        label="replayed",
    )
    assert record.energy_mj == pytest.approx(2500, rel=1e-6)
    assert record.low_mj == pytest.approx(record.high_mj, rel=1e-6)
    assert (record.idle_w, record.busy_w) == pytest.approx((12, 37))
    assert record.runs == pytest.approx(BLOCKS * 5, abs=BLOCKS)
    assert (record.source, record.label, record.warnings) == ("rapl", "replayed", ())


def test_a_counter_that_may_wrap_twice_is_doubted(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    meter = machine.meter()
    meter.start()
    machine.spend(200, 35)
    assert meter.stop().doubts == ("a counter of energy may have wrapped twice in 200 s",)


@given(first=st.integers(0, RANGE_UJ), spent=st.integers(0, RANGE_UJ))
def test_a_counter_may_start_again_once(first: int, spent: int) -> None:
    assert counted_uj(first, (first + spent) % (RANGE_UJ + 1), RANGE_UJ) == spent


def test_where_there_is_no_counter(tmp_path: Path) -> None:
    found = rapl_meter(tmp_path / "powercap")
    assert isinstance(found, Unmeasurable)
    assert found.reason.startswith("the kernel shows no energy counter of the CPU")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_where_the_counter_is_roots_alone(tmp_path: Path) -> None:
    Machine(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").chmod(0)
    found = rapl_meter(tmp_path)
    assert isinstance(found, Unmeasurable)
    assert found.reason.startswith("no right to read ")


def test_a_refused_counter_is_told_from_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel answers anybody but root; root, who runs tests in containers, is refused nothing."""
    Machine(tmp_path)
    read = Path.read_text

    def refusing(path: Path, *args: object, **options: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refusing)
    found = rapl_meter(tmp_path)
    assert isinstance(found, Unmeasurable)
    assert found.reason == f"no right to read {tmp_path}/intel-rapl:0/energy_uj: the kernel lets root alone read it"


def test_a_damaged_counter(tmp_path: Path) -> None:
    Machine(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("none", encoding="ascii")
    assert "cannot be read" in rapl_meter(tmp_path).reason


def test_the_integral_of_a_power() -> None:
    """1 W, then a line from 1 to 3 W over 2 s: 1 + 4 J. Of the window from 0.5 to 2 s: 0.5 + 1.5 J."""
    power = Series("power_mw", "total", (0.0, 1.0, 3.0), (1000.0, 1000.0, 3000.0))
    assert energy_of_power(power, Window(0, 3)) == Reading(5000.0, 3)
    assert energy_of_power(power, Window(0.5, 2))[:2] == pytest.approx((2000.0, 1.5))
    assert isinstance(energy_of_power(power, Window(0, 3.1)), Unmeasurable)
    assert isinstance(energy_of_power(Series("power_mw", "total", (), ()), Window(0, 1)), Unmeasurable)


def test_the_interval_covers_the_truth() -> None:
    """400 mJ a run, of blocks whose power scatters. Covered in 95 of 100 trials, within five deviations."""
    generator, covered, trials = np.random.default_rng(7), 0, 200
    for _ in range(trials):
        busy = [Block(1e3 * 0.5 * (30 + generator.normal(0, 2)), 0.5, 25) for _ in range(BLOCKS)]
        idle = [Block(1e3 * 0.5 * (10 + generator.normal(0, 2)), 0.5, 0) for _ in range(BLOCKS)]
        record = energy_record(busy, idle, 1, "rapl")
        covered += record.low_mj <= 20 * 0.5 * 1e3 / 25 <= record.high_mj
    assert abs(covered - 0.95 * trials) < 5 * math.sqrt(trials * 0.95 * 0.05)


def test_work_that_is_not_told_from_rest() -> None:
    generator = np.random.default_rng(0)
    blocks = [Block(1e3 * (10 + generator.normal(0, 1)), 1.0, 10) for _ in range(2 * BLOCKS)]
    record = energy_record(blocks[:BLOCKS], blocks[:BLOCKS], 1, "rapl", doubts=("one", "one"))
    assert record.warnings == ("one", "the power with work is not told apart from that at rest")


SMI = """
import datetime, sys, time
if "--loop-ms=100" not in sys.argv:
    print("{now:%Y/%m/%d %H:%M:%S}.000, {power}".format(now=datetime.datetime.now(), power=POWER))
while "--loop-ms=100" in sys.argv:
    now = datetime.datetime.now()
    print(f"{now:%Y/%m/%d %H:%M:%S}.{now.microsecond // 1000:03d}, {POWER}", flush=True)
    time.sleep(0.02)
"""


@pytest.fixture
def smi(tmp_path: Path) -> Path:
    """A program that answers as nvidia-smi does, 65.5 W at each moment."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nPOWER = '65.50'{SMI}", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_the_power_of_a_gpu(smi: Path) -> None:
    meter = nvml_meter(str(smi))
    assert isinstance(meter, NvmlMeter)
    with meter:
        for _ in range(2):
            meter.start()
            reading = meter.stop()
            assert reading.energy_mj == pytest.approx(65_500 * reading.seconds, rel=1e-6)
            assert reading.doubts == ()


@pytest.mark.parametrize("power", ["[N/A]", "[Not Supported]"])
def test_a_gpu_that_does_not_tell_its_power(power: str, smi: Path) -> None:
    smi.write_text(smi.read_text(encoding="utf-8").replace("65.50", power), encoding="utf-8")
    found = nvml_meter(str(smi))
    assert isinstance(found, Unmeasurable)
    assert power in found.reason


def test_a_machine_without_nvidia_smi() -> None:
    assert isinstance(nvml_meter(None), Unmeasurable)


def test_lines_of_nvidia_smi() -> None:
    text = (
        "2026/03/01 12:00:00.100, 65.21\nFailed to query\n2026/03/01 12:00:00.200, [N/A]\n2026/03/01 12:00:00.350, 70"
    )
    power = power_of_smi(text)
    assert power.values == pytest.approx((65_210.0, 70_000.0))
    assert power.time_s[1] - power.time_s[0] == pytest.approx(0.25)
    assert power_of_smi("").values == ()
