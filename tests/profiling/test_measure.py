"""measure() on a clock of its own, where every run takes what the test says."""

import ast
import itertools
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevit.profiling import (
    Measurement,
    MeasurePlan,
    Opener,
    SpanReading,
    comparisons_of_turns,
    interleaved,
    loop,
    measure,
)
from edgevit.profiling.loop import STARTS, STEADY_OVER_S, Work
from edgevit.profiling.measure import doubts_of_soak, valid_measurement
from edgevit.profiling.telemetry import NOT_SAMPLED


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

    def wait_until(self, time_s: float) -> None:
        self.now = max(self.now, time_s)

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
    slowing = measure(clock.work(*np.linspace(5, 5.6, 101)), MeasurePlan(0, 0.1, min_runs=100), clock)
    assert len(slowing.warnings) == 1
    assert "slower" in slowing.warnings[0]
    assert slowing.invalid == (), "half a second does not tell a drift"


@pytest.mark.parametrize(("to_ms", "word"), [(5.6, "slower"), (4.5, "faster")])
def test_a_run_that_drifts_is_invalid(to_ms: float, word: str):
    clock = FakeClock()
    measured = measure(clock.work(*np.linspace(5, to_ms, 401)), MeasurePlan(0, 1.0, min_runs=400), clock)
    (reason,) = measured.invalid
    assert word in reason
    assert measured.summary()["invalid"] == [reason]
    assert not any("last third" in warning for warning in measured.warnings)


class CountingMeter:
    """Counts the runs of its span."""

    def __init__(self, clock: FakeClock, disturbed: Iterator[bool]) -> None:
        self.clock, self.disturbed, self.runs = clock, disturbed, list[int]()

    def rest(self, plan: MeasurePlan) -> None:
        assert not self.clock.timed or self.runs, "the machine rests before the first warm-up"

    def start(self, plan: MeasurePlan) -> None:
        self.runs.append(-len(self.clock.timed))

    def stop(self) -> SpanReading:
        self.runs[-1] += len(self.clock.timed)
        return SpanReading({"meter": "read"}, ("a doubt",), ("another program ran",) if next(self.disturbed) else ())


WATCHED = MeasurePlan(warmup_s=0.5, duration_s=1.0, min_runs=1, is_watched=True)


def test_a_meter_measures_the_counted_runs_alone():
    clock = FakeClock()
    meter = CountingMeter(clock, itertools.repeat(False))
    measured = measure(clock.work(10.0), WATCHED, clock, meters=[meter])
    assert meter.runs == [len(measured.samples_ms)]
    assert measured.conditions["meter"] == "read"
    assert measured.warnings == (NOT_SAMPLED, "a doubt")  # this meter samples no machine
    measure(clock.work(10.0), MeasurePlan(0, 1.0), clock, meters=[meter])
    assert len(meter.runs) == 1, "the plan does not ask to watch"


def test_a_meter_is_stopped_where_a_run_fails():
    clock, runs = FakeClock(), itertools.count()
    meter = CountingMeter(clock, itertools.repeat(False))

    def work() -> None:
        clock.now += 0.01
        if next(runs) == 70:
            raise MemoryError

    with pytest.raises(MemoryError):
        measure(work, WATCHED, clock, meters=[meter])
    assert meter.runs[0] > 0


def test_a_meter_that_fails_does_not_leave_another_one_running():
    clock = FakeClock()
    meter, failing = (CountingMeter(clock, turns) for turns in (itertools.repeat(False), iter(())))
    with pytest.raises(StopIteration):
        measure(clock.work(10.0), WATCHED, clock, meters=[meter, failing])
    assert meter.runs[0] > 0


@pytest.mark.parametrize(("disturbed", "retry_s", "takes"), [(2, 10, 3), (99, 4, 4), (1, 0, 1), (0, 10, 1)])
def test_a_disturbed_measurement_is_repeated_for_the_stated_time(disturbed: int, retry_s: float, takes: int):
    clock, said = FakeClock(), list[str]()
    meter = CountingMeter(clock, itertools.chain([True] * disturbed, itertools.repeat(False)))
    take = lambda: measure(clock.work(10.0), WATCHED, clock, meters=[meter])  # noqa: E731
    measured = valid_measurement(take, retry_s, said.append, clock)
    assert len(meter.runs) == takes
    assert bool(measured.invalid) == (disturbed >= takes)
    assert measured.conditions["disturbed_takes"] == [["another program ran"]] * (takes - 1)
    assert said == ["measured again, because the run was disturbed: another program ran"] * (takes - 1)


def test_replayed_times_are_not_measured_again():
    replayed = Measurement(np.full(9, 5.0), WATCHED, label="replayed", disturbed=("hot",))
    takes = iter([replayed])
    assert valid_measurement(lambda: next(takes), 100, list[str]().append).invalid == ("hot",)


def test_the_parts_of_a_run_are_timed_over_the_counted_runs():
    order = list[str]()

    def part(name: str, value: int) -> tuple[str, Callable[[Any], int]]:
        def run(before: object) -> int:
            order.append(f"{name} {before}")
            return value

        return name, run

    waterfall = loop.Waterfall([part("decode", 1), part("compute", 2)])
    assert waterfall() == 2
    assert order == ["decode None", "compute 1"]
    measured = measure(waterfall, MeasurePlan(warmup_s=0, duration_s=0, min_runs=20))
    assert set(measured.parts_ms) == {"decode", "compute"}
    assert 0 < sum(measured.parts_ms.values()) < measured.samples_ms.max()


@pytest.mark.parametrize(
    ("rise_c", "limit_s", "seconds", "is_steady"),
    [
        (lambda s: 60 - 20 * math.exp(-s / 60), 3600, 60 * math.log(20 / 0.5) + 15, True),  # about 15 s later
        (lambda s: 40 + s / 60, 90, 90, False),  # 1 °C a minute
        (lambda s: 70 - s / 60, 90, 90, False),  # it cools down from earlier work
        (lambda _: 50.0, 3600, STEADY_OVER_S, True),
        (lambda _: None, 20, 20, False),
    ],
)
def test_a_soak_ends_when_the_temperature_is_steady_or_the_limit_is_reached(
    rise_c: Callable[[float], float | None], limit_s: float, seconds: float, is_steady: bool
):
    clock = FakeClock()
    soaked = loop.soak(clock.work(100.0), limit_s, lambda: rise_c(clock.now), clock)
    assert soaked.seconds == pytest.approx(seconds, abs=5)
    assert soaked.is_steady is is_steady
    assert soaked.start_c == rise_c(0.0)
    assert bool(doubts_of_soak(soaked)) is not is_steady


def test_a_soak_comes_before_the_warm_up_and_is_in_the_conditions():
    clock = FakeClock()
    measured = measure(clock.work(100.0), MeasurePlan(warmup_s=0, duration_s=1.0, min_runs=1, soak_s=5.0), clock)
    assert len(clock.timed) - len(measured.samples_ms) == pytest.approx(51, abs=2)
    assert measured.conditions["soak"]["seconds"] == pytest.approx(5.0, abs=0.2)
    assert measured.conditions["soak_s"] == 5.0
    assert "soak" in measured.warnings[0] or "temperature" in measured.warnings[0]


@dataclass
class Shop:
    """Opens models whose runs take what a test says, and notes which were opened, run and closed."""

    clock: FakeClock
    notes: list[str] = field(default_factory=list)

    def opener(self, name: str, run_ms: Callable[[int], float]) -> Opener:
        """Opens model `name`; `run_ms(start)` is how long a run takes in its start, counted from 0."""
        starts = itertools.count()

        @contextmanager
        def opened() -> Iterator[Work]:
            self.notes.append(f"open {name}")
            run = self.clock.work(run_ms(next(starts)))

            def work() -> None:
                self.notes.append(name)
                run()

            yield work
            self.notes.append(f"close {name}")

        return opened


def test_turns_are_abba_and_give_the_ratio():
    shop = Shop(FakeClock())
    plan = MeasurePlan(warmup_s=0, duration_s=4.0, min_runs=20)
    a, b = shop.opener("a", lambda start: 6.0), shop.opener("b", lambda start: 4.0)
    (compared,) = interleaved((a, b), plan, shop.clock)
    assert compared.ratio == pytest.approx(1.5)
    assert compared.interval.low == pytest.approx(1.5)
    assert compared.interval.high == pytest.approx(1.5)
    assert len(compared.a.samples_ms) == len(compared.b.samples_ms) >= 20
    first_start = [note for note in shop.notes[: shop.notes.index("close a")] if not note.startswith("open")]
    order = [name for index, name in enumerate(first_start) if index == 0 or first_start[index - 1] != name]
    assert order[:8] == ["b", "a", "b", "a", "b", "a", "b", "a"]  # two warm-ups, then B AA BB AA B


def test_every_start_opens_both_models_anew_in_alternating_order():
    shop = Shop(FakeClock())
    plan = MeasurePlan(warmup_s=0, duration_s=0.5, min_runs=10)
    interleaved([shop.opener(name, lambda start: 2.0) for name in "ab"], plan, shop.clock)
    opened = [note for note in shop.notes if note.startswith(("open", "close"))]
    one_way = ["open b", "open a", "close a", "close b"]
    other_way = ["open a", "open b", "close b", "close a"]
    assert opened == (one_way + other_way) * (STARTS // 2)


def test_many_models_take_turns_there_and_back_and_each_is_compared_with_the_first():
    shop = Shop(FakeClock())
    latencies = {"a": 6.0, "b": 4.0, "c": 12.0, "d": 6.0}
    openers = [shop.opener(name, partial(_constant, run_ms)) for name, run_ms in latencies.items()]
    compared = interleaved(openers, MeasurePlan(warmup_s=0, duration_s=4.0, min_runs=20), shop.clock)
    assert [one.ratio for one in compared] == pytest.approx([1.5, 0.5, 1.0])
    assert all(one.a is compared[0].a for one in compared)
    assert {len(measured.samples_ms) for one in compared for measured in (one.a, one.b)} == {
        len(compared[0].a.samples_ms)
    }
    first_start = [note for note in shop.notes[: shop.notes.index("close a")] if len(note) == 1]
    order = [name for index, name in enumerate(first_start) if index == 0 or first_start[index - 1] != name]
    assert "".join(order).startswith("bcad" * 2 + "acb")  # four warm-ups, then B C A DD A C B


def _constant(run_ms: float, start: int) -> float:
    return run_ms


@pytest.mark.parametrize("models", [2, 3, 4, 5, 6, 9])
def test_each_model_takes_each_place_and_follows_each_other_equally_often(models: int):
    orders = [loop.order_of_start(start, models) for start in range(models)]
    for place in zip(*orders, strict=True):
        assert sorted(place) == list(range(models))
    there_and_back = [(order, order[::-1]) for order in orders]
    followed = Counter(pair for both in there_and_back for order in both for pair in itertools.pairwise(order))
    assert set(followed) == set(itertools.permutations(range(models), 2))
    assert set(followed.values()) == {2}


def test_the_intervals_of_a_race_hold_together():
    """The intervals of three comparisons are wider than the interval of one."""
    generator = np.random.default_rng(7)
    starts = [[[float(generator.lognormal(1, 0.1))] for _ in range(4)] for _ in range(STARTS)]
    of_two = [comparisons_of_turns([[turns[0], turns[i]] for turns in starts], MeasurePlan(), {}) for i in (1, 2, 3)]
    of_four = comparisons_of_turns(starts, MeasurePlan(), {})
    for (alone,), together in zip(of_two, of_four, strict=True):
        assert alone.ratio == together.ratio
        assert [alone.confidence, together.confidence] == pytest.approx([0.95, 1 - 0.05 / 3])
        logarithms = np.log(np.divide(alone.a.samples_ms, alone.b.samples_ms))
        walsh = np.sort([(x + y) / 2 for i, x in enumerate(logarithms) for y in logarithms[i:]])
        # Wilcoxon's table for n = 12: 13 for 5% and 10 for 2% on two sides; 1.67% gives 9.
        assert np.log([alone.interval.low, alone.interval.high]) == pytest.approx([walsh[13], walsh[-14]])
        assert np.log([together.interval.low, together.interval.high]) == pytest.approx([walsh[9], walsh[-10]])


def test_luck_of_a_start_is_in_the_interval():
    """A copy that is 4% slower in half of its starts, without any scatter within a start, is not told apart."""
    shop = Shop(FakeClock())
    lucky = shop.opener("a", lambda start: 5.0 if start % 2 else 5.2)
    unlucky = shop.opener("b", lambda start: 5.2 if start // 2 % 2 else 5.0)
    (compared,) = interleaved((lucky, unlucky), MeasurePlan(0, 1.0, min_runs=10), shop.clock)
    assert compared.interval.low < 1 < compared.interval.high


def test_the_first_run_after_a_switch_is_not_counted():
    clock = FakeClock()
    last = ""

    def opener(name: str) -> Opener:
        def run() -> None:
            nonlocal last
            clock.now += (0.002 if last == name else 0.050) * (3 if name == "a" else 1)
            last = name

        return lambda: nullcontext(run)

    plan = MeasurePlan(warmup_s=0.1, duration_s=0.5, min_runs=20)
    (compared,) = interleaved((opener("a"), opener("b")), plan, clock)
    assert compared.a.samples_ms.max() == pytest.approx(6.0)
    assert compared.b.samples_ms.max() == pytest.approx(2.0)


def test_the_loop_needs_the_standard_library_of_python_38_alone():
    source = Path(loop.__file__).read_text()
    ast.parse(source, feature_version=(3, 8))
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); print('numpy' in sys.modules, 'edgevit' in sys.modules)"
    answer = subprocess.check_output([sys.executable, "-S", "-c", code, loop.__file__], text=True)
    assert answer.split() == ["False", "False"]


def test_a_soak_of_a_processor_without_a_known_temperature_is_doubted():
    clock = FakeClock()
    plan = MeasurePlan(warmup_s=0, duration_s=1.0, min_runs=1, soak_s=40.0)
    measured = measure(clock.work(100.0), plan, clock, temperature_c=lambda: None)
    assert measured.conditions["soak"]["is_steady"] is False
    assert "tells no temperature" in measured.warnings[0]
