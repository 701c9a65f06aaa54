"""Energy of an inference: counters and power over spans of time, the machine at rest subtracted.

A meter measures a span: `start()`, then `stop()`. A CPU has counters (RAPL) in Linux's powercap files, which count the
packages and their memory, not the board. nvidia-smi tells the power of a GPU. Boards tell the power of their rails,
which `targets.sampling` samples. None of these is power at the wall.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevit.profiling.loop import Work
from edgevit.profiling.telemetry import Series, Window

POWERCAP = Path("/sys/class/powercap")
COUNTED = ("package", "dram")  # zones that add up; others are parts of a package, or hold it (psys)
MOST_W = 2000  # of a package: a counter that could wrap twice at this power is not trusted
BLOCKS = 20
RESAMPLES = 2000
SMI_PERIOD_MS = 100
SMI_WAIT_S = 20.0  # for a sample: a driver may be loaded anew
SMI_ARGUMENTS = ("--query-gpu=timestamp,power.draw", "--format=csv,noheader,nounits", "--id=0")

EnergyLabel = Literal["measured", "replayed", "predicted"]


@dataclass(frozen=True)
class Unmeasurable:
    """Why the energy of a machine cannot be measured, a sentence without its full stop."""

    reason: str


class Reading(NamedTuple):
    """The energy of a span.

    Attributes:
        doubts: a sentence each.
    """

    energy_mj: float
    seconds: float
    doubts: tuple[str, ...] = ()


class Meter(Protocol):
    """Measures the energy of a span."""

    source: str

    def start(self) -> None: ...

    def stop(self) -> Reading: ...


class Block(NamedTuple):
    """A span with the number of runs in it; none in a span at rest."""

    energy_mj: float
    seconds: float
    runs: int


@dataclass(frozen=True)
class EnergyRecord:
    """The energy of an inference, without that of the machine at rest over the same time.

    Attributes:
        energy_mj: of one run of `batch_size` images.
        low_mj, high_mj: 95% interval, by a bootstrap over the blocks with and without work.
        idle_w, busy_w: mean power of the blocks without and with work.
        source: what was metered: rapl, nvml, or the rail of a board.
        label: `replayed` where recorded counters answered.
        warnings: reasons to doubt it, a sentence each.
    """

    energy_mj: float
    low_mj: float
    high_mj: float
    idle_w: float
    busy_w: float
    runs: int
    batch_size: int
    source: str
    label: EnergyLabel
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def energy_record(
    busy: Sequence[Block],
    idle: Sequence[Block],
    batch_size: int,
    source: str,
    label: EnergyLabel = "measured",
    doubts: Sequence[str] = (),
) -> EnergyRecord:
    """The energy of a run: (power with work - power at rest) × time, over the runs.

    Blocks are drawn anew with replacement, those with work and those without apart (Efron and Tibshirani 1993).
    """
    resampled = _energy_mj(_resampled(busy, seed=0), _resampled(idle, seed=1))
    low, high = (float(value) for value in np.quantile(resampled, (0.025, 0.975)))
    warnings = dict.fromkeys(doubts)
    if low <= 0:
        warnings["the power with work is not told apart from that at rest"] = None
    return EnergyRecord(
        energy_mj=float(_energy_mj(_sums(busy), _sums(idle))),
        low_mj=low,
        high_mj=high,
        idle_w=float(_power_w(_sums(idle))),
        busy_w=float(_power_w(_sums(busy))),
        runs=sum(block.runs for block in busy),
        batch_size=batch_size,
        source=source,
        label=label,
        warnings=tuple(warnings),
    )


def measure_energy(
    meter: Meter,
    work: Work,
    batch_size: int,
    block_s: float = 0.5,
    now_s: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
    label: EnergyLabel = "measured",
) -> EnergyRecord:
    """Meter runs of `work` in turns with the machine at rest, BLOCKS blocks each, so that slow changes hit both.

    Args:
        block_s: least length of a block. RAPL's counters are renewed each millisecond, power of a GPU each 100 ms.
    """
    busy, idle, doubts = list[Block](), list[Block](), list[str]()

    def metered(span: Callable[[], int]) -> Block:
        meter.start()
        runs = span()
        reading = meter.stop()
        doubts.extend(reading.doubts)
        return Block(reading.energy_mj, reading.seconds, runs)

    def runs() -> int:
        end_s, count = now_s() + block_s, 0
        while count == 0 or now_s() < end_s:
            work()
            count += 1
        return count

    def rest() -> int:
        sleep(block_s)
        return 0

    work()  # a first run is not like the others
    for _ in range(BLOCKS):
        idle.append(metered(rest))
        busy.append(metered(runs))
    return energy_record(busy, idle, batch_size, meter.source, label, doubts)


# RAPL ---------------------------------------------------------------------------------------------------------


class Zone(NamedTuple):
    """A counter of powercap.

    Attributes:
        range_uj: the counter starts again at 0 behind this value.
    """

    folder: Path
    name: str
    range_uj: int


class RaplMeter:
    """The energy of the CPU's packages and their memory."""

    source = "rapl"

    def __init__(self, zones: Sequence[Zone], now_s: Callable[[], float] = time.perf_counter) -> None:
        self._zones, self._now_s = zones, now_s
        self._started: tuple[float, list[int]] = (0.0, [])

    def start(self) -> None:
        self._started = (self._now_s(), self._counters())

    def stop(self) -> Reading:
        counters, (start_s, before) = self._counters(), self._started
        seconds = self._now_s() - start_s
        counted = sum(
            counted_uj(first, last, zone.range_uj)
            for first, last, zone in zip(before, counters, self._zones, strict=True)
        )
        is_too_long = any(seconds > zone.range_uj / (1e6 * MOST_W) for zone in self._zones)
        doubts = (f"a counter of energy may have wrapped twice in {seconds:.0f} s",) if is_too_long else ()
        return Reading(counted / 1e3, seconds, doubts)

    def _counters(self) -> list[int]:
        return [int((zone.folder / "energy_uj").read_text(encoding="ascii")) for zone in self._zones]


def rapl_meter(root: Path = POWERCAP) -> RaplMeter | Unmeasurable:
    """The meter of this machine's CPU; or why there is none."""
    zones = [zone for folder in sorted(root.glob("intel-rapl:*")) if (zone := _zone(folder)) is not None]
    if not any(zone.name.startswith("package") for zone in zones):
        return Unmeasurable(f"the kernel shows no energy counter of the CPU in {root} (virtual machines have none)")
    try:
        for zone in zones:
            int((zone.folder / "energy_uj").read_text(encoding="ascii"))
    except PermissionError as error:
        return Unmeasurable(f"no right to read {error.filename}: the kernel lets root alone read it")
    except (OSError, ValueError) as error:
        return Unmeasurable(f"a counter of energy cannot be read: {error}")
    return RaplMeter(zones)


def counted_uj(first: int, last: int, range_uj: int) -> int:
    """The energy between two readings of a counter that starts again at 0 behind `range_uj`, at most once."""
    return last - first if last >= first else last - first + range_uj + 1


def _zone(folder: Path) -> Zone | None:
    try:
        name = (folder / "name").read_text(encoding="ascii").strip()
        zone = Zone(folder, name, int((folder / "max_energy_range_uj").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return None
    return zone if name.startswith(COUNTED) else None


# Power over time ----------------------------------------------------------------------------------------------


def energy_of_power(power: Series, window: Window) -> Reading | Unmeasurable:
    """The energy in a window of a power (mW) that was sampled: its integral by trapezoids.

    At the ends of the window, the power is interpolated between samples.
    """
    if len(power.values) < 2 or power.time_s[0] > window.start_s or power.time_s[-1] < window.end_s:
        return Unmeasurable(f"the power {power.name} was not sampled over all of the runs")
    inside = [time_s for time_s in power.time_s if window.start_s < time_s < window.end_s]
    times = [window.start_s, *inside, window.end_s]
    values = np.interp(times, power.time_s, power.values)
    energy_mj = sum(
        (later - sooner) * (first + last) / 2
        for (sooner, later), (first, last) in zip(pairwise(times), pairwise(values), strict=True)
    )
    return Reading(float(energy_mj), window.end_s - window.start_s)


class NvmlMeter:
    """The energy of the first NVIDIA GPU: the power that nvidia-smi tells, over time. nvidia-smi runs in the block."""

    source = "nvml"

    def __init__(self, program: str) -> None:
        self._command = (program, *SMI_ARGUMENTS, f"--loop-ms={SMI_PERIOD_MS}")
        self._start_s = 0.0

    def __enter__(self) -> NvmlMeter:
        self._told = TemporaryFile()
        self._process = subprocess.Popen(self._command, stdout=self._told)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._told.close()

    def start(self) -> None:
        self._power_after(0.0)
        self._start_s = time.time()

    def stop(self) -> Reading:
        window = Window(self._start_s, time.time())
        reading = energy_of_power(self._power_after(window.end_s), window)
        if isinstance(reading, Unmeasurable):
            return Reading(0.0, window.end_s - window.start_s, (reading.reason,))
        return reading

    def _power_after(self, time_s: float) -> Series:
        """The power so far, once there is a sample later than `time_s`; or after SMI_WAIT_S."""
        until_s = time.monotonic() + SMI_WAIT_S
        while True:
            self._told.seek(0)
            power = power_of_smi(self._told.read().decode("utf-8", errors="replace"))
            if (power.time_s and power.time_s[-1] > time_s) or time.monotonic() > until_s:
                return power
            time.sleep(SMI_PERIOD_MS / 2e3)


def nvml_meter(program: str | None) -> NvmlMeter | Unmeasurable:
    """The meter of the first NVIDIA GPU; or why there is none. Some GPUs answer a power query with "not supported".

    Args:
        program: nvidia-smi; None if it is not there.
    """
    if program is None:
        return Unmeasurable("nvidia-smi is not installed, so the power of a GPU is not known")
    try:
        answer = subprocess.run(
            (program, *SMI_ARGUMENTS), capture_output=True, text=True, timeout=30, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Unmeasurable(f"nvidia-smi does not answer: {error}")
    if answer.returncode != 0 or not power_of_smi(answer.stdout).values:
        said = (answer.stdout or answer.stderr).strip().splitlines()
        return Unmeasurable(f"nvidia-smi does not tell the power of the GPU: {said[0][:120] if said else 'no answer'}")
    return NvmlMeter(program)


def power_of_smi(text: str) -> Series:
    """The power in lines of nvidia-smi, such as `2026/03/01 12:00:00.100, 65.21`; other lines are left out.

    Times are seconds of this machine's clock.
    """
    samples = [sample for line in text.splitlines() if (sample := _sample_of_smi(line)) is not None]
    times, powers = zip(*samples, strict=True) if samples else ((), ())
    return Series("power_mw", "gpu", times, tuple(1e3 * watts for watts in powers))


def _sample_of_smi(line: str) -> tuple[float, float] | None:
    moment, _, watts = line.partition(",")
    try:
        return datetime.strptime(moment.strip(), "%Y/%m/%d %H:%M:%S.%f").timestamp(), float(watts)
    except ValueError:
        return None


# Arithmetic ---------------------------------------------------------------------------------------------------

_Sums = NDArray[np.float64]  # (…, 3): energy, seconds and runs of some blocks


def _sums(blocks: Sequence[Block]) -> _Sums:
    sums: _Sums = np.asarray(blocks, np.float64).sum(axis=0)
    return sums


def _resampled(blocks: Sequence[Block], seed: int) -> _Sums:
    """The sums of RESAMPLES draws of as many blocks, (RESAMPLES, 3)."""
    drawn = np.random.default_rng(seed).integers(0, len(blocks), (RESAMPLES, len(blocks)))
    sums: _Sums = np.asarray(blocks, np.float64)[drawn].sum(axis=1)
    return sums


def _power_w(sums: _Sums) -> NDArray[np.float64]:
    power_w: NDArray[np.float64] = sums[..., 0] / sums[..., 1] / 1e3
    return power_w


def _energy_mj(busy: _Sums, idle: _Sums) -> NDArray[np.float64]:
    energy_mj: NDArray[np.float64] = (busy[..., 0] - 1e3 * _power_w(idle) * busy[..., 1]) / busy[..., 2]
    return energy_mj
