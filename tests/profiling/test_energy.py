"""Energy for an image: simulated power whose true energy is known, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from edgevit.profiling import MeasurePlan
from edgevit.profiling.energy import (
    NO_IDLE,
    NO_POWER,
    EnergyRecord,
    NoEnergy,
    energy_in,
    energy_of_runs,
    metrics_of_energy,
)
from edgevit.profiling.measure import Measurement, valid_measurement
from edgevit.profiling.starts import Take, measure_over_starts
from edgevit.profiling.telemetry import Load, Series, Telemetry, Window

EVERY_S = 0.25
RUN_MS = 10.0


def telemetry(power_mw: NDArray[np.float64], name: str = "total", idle: Telemetry | None = None) -> Telemetry:
    """Readings of power at equal times, all of them within the window."""
    times = tuple(EVERY_S * number for number in range(len(power_mw) + 1))
    series = Series("power_mw", name, times, (power_mw[0], *power_mw.tolist()))
    return Telemetry((series,), Window(0.0, times[-1]), times[-1], idle=idle, boundaries={name: "module (VDD_IN)"})


def measured(
    power_mw: NDArray[np.float64], idle_mw: NDArray[np.float64], name: str = "total", images: int = 1
) -> Measurement:
    """Runs of RUN_MS as long as power was read."""
    during = telemetry(power_mw, name, telemetry(idle_mw, name))
    samples_ms = np.full(round(during.seconds * 1e3 / RUN_MS), RUN_MS)
    return Measurement(samples_ms, MeasurePlan(batch_size=images), telemetry=during)


def energy(measurement: Measurement) -> EnergyRecord:
    found = measurement.energy
    assert isinstance(found, EnergyRecord)
    return found


def ar1(generator: np.random.Generator, mean: float, sd: float, correlation: float, count: int) -> NDArray[np.float64]:
    """Values of which each depends on the one before it."""
    noise = generator.normal(0, sd, count)
    values = np.empty(count)
    values[0] = noise[0]
    for place in range(1, count):
        values[place] = correlation * values[place - 1] + np.sqrt(1 - correlation**2) * noise[place]
    return mean + values


def test_energy_is_power_above_rest_times_the_time_of_an_image() -> None:
    """8 W for 10 ms above 5 W at rest are 30 mJ, and a quarter for each image of a batch of four."""
    found = energy(measured(np.full(12, 8000.0), np.full(12, 5000.0)))
    assert (found.mj, found.low_mj, found.high_mj) == pytest.approx((30.0, 30.0, 30.0))
    assert (found.power_w, found.idle_w, found.readings) == (8.0, 5.0, 12)
    assert found.boundary == "module (VDD_IN)"
    assert found.is_judged
    assert energy(measured(np.full(12, 8000.0), np.full(12, 5000.0), images=4)).mj == pytest.approx(7.5)


def test_time_between_runs_counts() -> None:
    """With 10 ms of work in each 20 ms, an image takes the energy of 20 ms."""
    measurement = measured(np.full(12, 8000.0), np.full(12, 5000.0))
    half = replace(measurement, samples_ms=measurement.samples_ms[::2], seconds=3.0)
    assert energy(half).mj == pytest.approx(60.0)


def test_runs_that_take_longer_at_less_power_scatter_little() -> None:
    """A clock that falls to half: half the power above rest, twice the time, and equal energy."""
    power = np.repeat([9000.0, 7000.0], 8)
    during = telemetry(power, idle=telemetry(np.full(12, 5000.0)))
    samples_ms = np.concatenate([np.full(200, 10.0), np.full(100, 20.0)])
    found = energy(Measurement(samples_ms, MeasurePlan(), telemetry=during))
    assert found.mj == pytest.approx(40.0)
    assert found.high_mj - found.low_mj < 1e-6


@pytest.mark.parametrize(("count", "correlation"), [(11, 0.0), (11, 0.3), (11, 0.6), (40, 0.5), (240, 0.8)])
def test_the_interval_covers_the_true_energy(count: int, correlation: float) -> None:
    """Power scatters by 10% of its mean; neighbors depend on each other. The truth is 40 mJ."""
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(1000):
        power = ar1(generator, 9000.0, 900.0, correlation, count)
        found = energy(measured(power, ar1(generator, 5000.0, 250.0, correlation, 11)))
        covered += found.low_mj <= 40.0 <= found.high_mj
    assert 0.91 <= covered / 1000 <= 0.985


def test_what_cannot_be_measured_says_why() -> None:
    power, idle = np.full(12, 8000.0), np.full(12, 5000.0)
    found = measured(power, idle)
    assert found.telemetry is not None
    assert replace(found, telemetry=None).energy == NoEnergy(NO_POWER)
    assert replace(found, telemetry=replace(found.telemetry, idle=None)).energy == NoEnergy(NO_IDLE)
    short, short_rest = measured(power[:3], idle).energy, measured(power, idle[:5]).energy
    assert short == NoEnergy("too short: power was read 3 times during the runs, of 8; give duration_s more")
    assert short_rest == NoEnergy("too short: power was read 5 times at rest, of 8; give idle_s more")
    of_gpu = replace(measured(power, idle, "cpu"), processor="gpu")
    assert of_gpu.energy == NoEnergy("the machine tells no power")  # of its CPU alone


def test_energy_beside_other_programs_is_invalid() -> None:
    found = measured(np.full(12, 8000.0), np.full(12, 5000.0))
    assert found.telemetry is not None
    assert found.telemetry.idle is not None
    busy = Load(3.0, 12.0, 0.0, 3.0, 0.0)
    rest = replace(found, telemetry=replace(found.telemetry, idle=replace(found.telemetry.idle, load=busy)))
    (reason,) = energy(rest).invalid
    assert reason == "other programs kept 1.0 of 4 processors busy while idle power was measured"
    assert rest.invalid == ()  # the latency counts
    during = replace(found, telemetry=replace(found.telemetry, load=busy))
    assert energy(during).invalid == during.invalid != ()
    assert not energy(during).is_judged
    assert not energy(replace(found, label="replayed")).is_judged


def test_an_energy_beside_other_programs_is_measured_again() -> None:
    """A later take whose latency is invalid does not replace a valid latency."""
    quiet = measured(np.full(12, 8000.0), np.full(12, 5000.0))
    assert quiet.telemetry is not None
    assert quiet.telemetry.idle is not None
    busy = replace(quiet.telemetry.idle, load=Load(3.0, 12.0, 0.0, 3.0, 0.0))
    at_rest = replace(quiet, telemetry=replace(quiet.telemetry, idle=busy))
    takes, said = iter([at_rest, quiet]), list[str]()
    assert energy(valid_measurement(lambda: next(takes), 100, said.append)).is_judged
    assert "while idle power was measured" in said[0]
    hot = iter([at_rest, replace(quiet, disturbed=("hot",)), quiet])
    assert valid_measurement(lambda: next(hot), 100, said.append).invalid == ()
    last = iter([at_rest, replace(quiet, disturbed=("hot",))])
    clock = iter([0.0, 0.0, 9.0])
    ticking = SimpleNamespace(now_s=lambda: next(clock))
    assert valid_measurement(lambda: next(last), 5, said.append, ticking).invalid == ()


def test_power_like_that_at_rest_is_doubted() -> None:
    generator = np.random.default_rng(5)
    found = energy(measured(generator.normal(5000, 50, 12), generator.normal(5000, 50, 12)))
    assert found.low_mj < 0 < found.high_mj
    assert found.warnings == ("the power of the runs is not told apart from that at rest",)
    assert found.invalid == ()
    assert not found.is_judged


def test_more_power_at_rest_than_during_the_runs_is_invalid() -> None:
    generator = np.random.default_rng(5)
    found = energy(measured(generator.normal(5000, 50, 12), generator.normal(5300, 50, 12)))
    assert found.high_mj < 0
    assert found.invalid == ("the machine took more power at rest than during the runs",)
    assert found.warnings == ()
    assert not found.is_judged


def test_energy_goes_through_metrics() -> None:
    found = energy(measured(np.full(12, 8000.0), np.full(12, 5000.0)))
    assert energy_in(json.loads(json.dumps(metrics_of_energy(found)))) == found
    assert energy_in(metrics_of_energy(NoEnergy("no reason"))) == NoEnergy("no reason")
    assert energy_in({"latency_ms": {}}) is None  # of an older release


WARM = Series("power_mw", "cpu", (0.0, 0.25, 0.5, 0.75, 1.0, 1.2), (5000.0, 5000.0, 12_000.0, *[12_000.0] * 3))


def take_of(generator: Iterator[tuple[Series, Window, NDArray[np.float64]]]) -> Take:
    """Takes whose power, window and runs a test says. The machine rests at 5 W before the first of them."""

    def take(plan: MeasurePlan) -> Measurement:
        power, window, samples_ms = next(generator)
        idle = telemetry(np.full(12, 5000.0), "cpu") if plan.idle_s else None
        during = Telemetry((power,), window, 2.0, idle=idle, boundaries={power.name: "CPU package (RAPL)"})
        return Measurement(samples_ms, plan, telemetry=during, seconds=float(samples_ms.sum()) / 1e3)

    return take


def test_the_energy_of_several_starts_is_that_of_their_readings_together() -> None:
    """A reading that began before the counted runs counts none of them: 12 W above 5 W for 10 ms are 70 mJ."""
    each = itertools.repeat((WARM, Window(0.4, 1.2), np.full(80, 10.0)))
    found = energy(measure_over_starts(take_of(each), MeasurePlan(idle_s=3.0), starts=5))
    assert found.mj == pytest.approx(70.0)
    assert found.power_w == pytest.approx(12.0)
    assert found.readings == 15
    assert found.boundary == "CPU package (RAPL)"


def test_runs_are_matched_with_the_readings_of_their_start() -> None:
    """The window ends before the runs, and the last start takes twice the time: 3 W for 5 s, in which 450 runs end."""
    times = tuple(np.arange(0, 1.5, 0.25))
    power = Series("power_mw", "cpu", times, (8000.0,) * 6)
    runs = [np.full(150, 10.0)] * 4 + [np.full(75, 20.0)]
    each = iter([(power, Window(0.0, 1.25), samples_ms) for samples_ms in runs])
    found = energy(measure_over_starts(take_of(each), MeasurePlan(idle_s=3.0), starts=5))
    assert found.mj == pytest.approx(3000 * 5 / (4 * 100 + 50), rel=1e-6)


def test_the_first_reading_of_the_modules_power_counts_from_the_first_run() -> None:
    power = Series("power_mw", "total", (0.1, 0.35, 0.6, 0.85), (5000.0, 8000.0, 8000.0, 8000.0))
    idle = telemetry(np.full(12, 5000.0))
    starts = [(Telemetry((power,), Window(0.3, 0.9), 1.0, idle=idle), np.full(60, 10.0), 0.6)] * 5
    found = energy_of_runs(starts, "gpu", 1, "measured", ())
    assert isinstance(found, EnergyRecord)
    assert found.mj == pytest.approx(30.0)
    assert found.readings == 15


def test_the_interval_over_starts_covers_the_true_energy() -> None:
    """Starts differ in speed and in power, and power scatters within them."""
    generator = np.random.default_rng(11)
    covered = 0
    for _ in range(1000):
        idle, starts = telemetry(ar1(generator, 5000, 100, 0.3, 12), "cpu"), []
        for _ in range(5):
            power_mw = generator.normal(9000, 300) + generator.normal(0, 200, 3)
            during = replace(telemetry(power_mw, "cpu"), idle=idle)
            run_ms = 10 * np.exp(generator.normal(0, 0.03))
            starts.append((during, np.full(100, run_ms), run_ms / 10))
        found = energy_of_runs(starts, "cpu", 1, "measured", ())
        assert isinstance(found, EnergyRecord)
        covered += found.low_mj <= 40.0 <= found.high_mj
    assert 0.92 <= covered / 1000 <= 0.985


def test_readings_of_few_starts_are_refused_with_advice() -> None:
    power = Series("power_mw", "cpu", (0.0, 0.1), (8000.0, 8000.0))
    each = itertools.repeat((power, Window(0.0, 0.1), np.full(10, 10.0)))
    few = measure_over_starts(take_of(each), MeasurePlan(idle_s=3.0), starts=4).energy
    assert few == NoEnergy(
        "too short: power was read 4 times during the runs, of 8; give duration_s more, or fewer starts"
    )
    assert energy(measure_over_starts(take_of(each), MeasurePlan(idle_s=3.0), starts=5)).mj == pytest.approx(30.0)
