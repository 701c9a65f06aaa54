"""How often the 95% interval of an energy covers the true energy: simulated power whose mean is known.

    python -m benchmarks.energy_coverage [--simulations 2000]

The power at rest and during the runs scatters about its mean. Readings four times a second depend on each other as in
an AR(1) process. Idle power is measured for 3 s, and the runs last for 3, 10 and 60 s.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
import scipy.signal

from benchmarks.common import publish
from edgevit.profiling.energy import EnergyRecord, energy_of_runs
from edgevit.profiling.statistics import Samples
from edgevit.profiling.telemetry import Series, Telemetry, Window
from edgevit.targets.agent.sampler import INTERVAL_S

POWER_MW, IDLE_MW, SCATTER = 9_000.0, 5_000.0, 0.1  # the scatter is a share of the mean
RUN_MS = 10.0
TRUTH_MJ = (POWER_MW - IDLE_MW) * RUN_MS / 1e3
IDLE_S, LENGTHS_S = 3.0, (3, 10, 60)
DEPENDENCES = (0.0, 0.3, 0.6, 0.8)
SETTLING = 200  # readings before the first that counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000, help="measurements of each kind")
    simulations = parser.parse_args().simulations
    coverage = {
        f"AR(1), {dependence}": {str(seconds): _coverage(seconds, dependence, simulations) for seconds in LENGTHS_S}
        for dependence in DEPENDENCES
    }
    publish("energy_coverage", {"simulations": simulations, "coverage": coverage})


def _coverage(seconds: float, dependence: float, simulations: int) -> dict[str, Any]:
    """The share of intervals that hold the true energy, and their median width as a share of it."""
    generator = np.random.default_rng(0)
    energies = [_energy(seconds, dependence, generator) for _ in range(simulations)]
    covered = [energy.low_mj <= TRUTH_MJ <= energy.high_mj for energy in energies]
    width = float(np.median([energy.high_mj - energy.low_mj for energy in energies]))
    return {"covered": float(np.mean(covered)), "width": width / TRUTH_MJ}


def _energy(seconds: float, dependence: float, generator: np.random.Generator) -> EnergyRecord:
    idle = _telemetry(IDLE_MW, IDLE_S, dependence, generator, None)
    during = _telemetry(POWER_MW, seconds, dependence, generator, idle)
    samples_ms = np.full(round(seconds * 1e3 / RUN_MS), RUN_MS)
    energy = energy_of_runs([(during, samples_ms, seconds)], "cpu", 1, "measured", ())
    assert isinstance(energy, EnergyRecord)
    return energy


def _telemetry(
    mean_mw: float, seconds: float, dependence: float, generator: np.random.Generator, idle: Telemetry | None
) -> Telemetry:
    """Readings of power over some seconds, without the last interval, as a measurement has them."""
    readings = round(seconds / INTERVAL_S)
    noise = generator.normal(size=readings + SETTLING) * math.sqrt(1 - dependence**2)
    values: Samples = scipy.signal.lfilter([1], [1, -dependence], noise)[SETTLING:]
    times_s = INTERVAL_S * np.arange(readings)
    power_mw = mean_mw * (1 + SCATTER * values)
    series = Series("power_mw", "cpu", tuple(times_s.tolist()), tuple(power_mw.tolist()))
    return Telemetry((series,), Window(0.0, float(times_s[-1])), seconds, idle=idle)


if __name__ == "__main__":
    main()
