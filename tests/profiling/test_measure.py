"""measure() on a clock of its own, where every run takes what the test says."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from edgevit.profiling import MeasurePlan, interleaved, measure


@dataclass
class FakeClock:
    """Time passes only when work is timed, or when work says so."""

    now: float = 0.0
    timed: list[float] = field(default_factory=list)

    def now_s(self) -> float:
        return self.now

    def time_ms(self, work: Callable[[], object]) -> float:
        before = self.now
        work()
        self.timed.append((self.now - before) * 1e3)
        return self.timed[-1]

    def work(self, *runs_ms: float) -> Callable[[], None]:
        """Work that takes each of these times in turn, over and over."""
        turns = iter(range(10**9))

        def run() -> None:
            self.now += runs_ms[next(turns) % len(runs_ms)] / 1e3

        return run


def test_it_runs_for_the_duration_after_the_warm_up():
    clock = FakeClock()
    measured = measure(clock.work(10.0), MeasurePlan(warmup_s=0.5, duration_s=2.0, min_runs=1), clock)
    assert len(measured.samples_ms) == pytest.approx(200, abs=1)
    assert len(clock.timed) - len(measured.samples_ms) == pytest.approx(50, abs=2)


def test_a_slow_model_is_still_run_often_enough():
    clock = FakeClock()
    assert len(measure(clock.work(1000.0), MeasurePlan(0, 1.0, min_runs=7), clock).samples_ms) == 7


def test_a_warm_up_of_nothing_still_runs_once():
    clock = FakeClock()
    measured = measure(clock.work(900.0, *[5.0] * 50), MeasurePlan(warmup_s=0, duration_s=0.1, min_runs=5), clock)
    assert measured.samples_ms.max() == pytest.approx(5.0)


def test_samples_keep_their_order_and_the_summary_says_what_they_are():
    clock = FakeClock()
    plan = MeasurePlan(warmup_s=0, duration_s=0.01, min_runs=100, boundary="end_to_end")
    measured = measure(clock.work(*np.linspace(1, 2, 101)), plan, clock, {"device": "cpu"})
    assert (np.diff(measured.samples_ms) > 0).all()
    summary = measured.summary()
    assert summary["n"] == 100
    assert summary["p50"] <= summary["p90"] <= summary["p99"]
    assert summary["p50_low"] <= summary["p50"] <= summary["p50_high"]
    assert (summary["boundary"], summary["label"]) == ("end_to_end", "measured")
    assert measured.conditions["device"] == "cpu"
    assert measured.conditions["batch_size"] == 1
    assert "load_average_1min_at_start" in measured.conditions


def test_a_steady_machine_gets_no_warning():
    clock = FakeClock()
    assert measure(clock.work(5.0), MeasurePlan(0, 1.0), clock).warnings == ()


def test_scatter_and_slowing_down_are_said():
    clock = FakeClock()
    noisy = measure(clock.work(5.0, 5.0, 9.0), MeasurePlan(0, 1.0), clock).warnings
    assert len(noisy) == 1
    assert "scatter" in noisy[0]
    slowing = measure(clock.work(*np.linspace(5, 5.6, 101)), MeasurePlan(0, 0.1, min_runs=100), clock).warnings
    assert len(slowing) == 1
    assert "slower" in slowing[0]


def test_turns_are_abba_and_give_the_ratio():
    clock = FakeClock()
    turns: list[str] = []

    def named(name: str, run_ms: float) -> Callable[[], None]:
        run = clock.work(run_ms)

        def work() -> None:
            turns.append(name)
            run()

        return work

    plan = MeasurePlan(warmup_s=0, duration_s=1.0, min_runs=20)
    compared = interleaved(named("a", 6.0), named("b", 4.0), plan, clock)
    assert compared.ratio == pytest.approx(1.5)
    assert compared.interval.low == pytest.approx(1.5)
    assert compared.interval.high == pytest.approx(1.5)
    assert len(compared.a.samples_ms) == len(compared.b.samples_ms) >= 20
    order = [name for index, name in enumerate(turns) if index == 0 or turns[index - 1] != name]
    assert order[:8] == ["a", "b", "a", "b", "a", "b", "a", "b"]  # two warm-ups, then A BB AA BB A


def test_the_first_run_after_a_switch_is_not_counted():
    clock = FakeClock()
    last = ""

    def work(name: str) -> Callable[[], None]:
        def run() -> None:
            nonlocal last
            clock.now += (0.002 if last == name else 0.050) * (3 if name == "a" else 1)
            last = name

        return run

    compared = interleaved(work("a"), work("b"), MeasurePlan(warmup_s=0.01, duration_s=0.5, min_runs=20), clock)
    assert compared.a.samples_ms.max() == pytest.approx(6.0)
    assert compared.b.samples_ms.max() == pytest.approx(2.0)
