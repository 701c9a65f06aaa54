"""Progress of long work: a bar with rate, ETA and values in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from itertools import pairwise
from statistics import mean
from typing import Protocol, Self, TextIO

from edgevit.terminal import printable, printable_line

BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-=+*#@"  # levels of a sparkline, from small to large
SPARKLINE_WIDTH = 12
LEAST_LEFT_S = 10  # of a run; less is not shown

OfRun = Callable[[float | None], float | None]  # the seconds left of a run, from those of a bar; None if unknown


class Bar(Protocol):
    """One piece of work of known length."""

    def advance(self, count: int = 1, **values: float) -> None:
        """Count `count` more units as done. `values` (loss, accuracy) are shown beside the bar."""


class Progress(Protocol):
    """Receives the messages of a stage."""

    def say(self, line: str) -> None:
        """Print a line that stays."""

    def curves(self, curves: Mapping[str, Sequence[float]]) -> None:
        """Print the curves in one line. Curves of fewer than two points are left out."""

    @contextmanager
    def bar(self, title: str, total: int, unit: str = "it") -> Iterator[Bar]:
        """A bar over `total` units. At the end of the block it disappears (terminal) or becomes a line (plain)."""
        yield SilentBar()


class SilentBar:
    def advance(self, count: int = 1, **values: float) -> None:
        pass


class SilentProgress:
    """Prints nothing; for tests and library use."""

    def say(self, line: str) -> None:
        pass

    def curves(self, curves: Mapping[str, Sequence[float]]) -> None:
        pass

    @contextmanager
    def bar(self, title: str, total: int, unit: str = "it") -> Iterator[Bar]:
        yield SilentBar()


class _RunProgress:
    """Progress that shows the time left of a run, if it is told."""

    _left_s: OfRun | None = None

    def of_run(self, left_s: OfRun) -> Self:
        """The progress of a run, whose bars show its time left beside their own."""
        of_run = copy(self)
        of_run._left_s = left_s
        return of_run

    def _run(self, of_bar_s: float | None) -> str:
        return "" if self._left_s is None else run_left(self._left_s(of_bar_s))


class PlainProgress(_RunProgress):
    """Prints lines, for pipes and logs: at most one every `every_s` seconds for each bar, and one at its end."""

    def __init__(self, stream: TextIO, every_s: float = 10.0) -> None:
        self._stream, self._every_s = stream, every_s

    def say(self, line: str) -> None:
        print(printable(line), file=self._stream, flush=True)

    def curves(self, curves: Mapping[str, Sequence[float]]) -> None:
        _say_curves(self, curves, self._stream.encoding)

    @contextmanager
    def bar(self, title: str, total: int, unit: str = "it") -> Iterator[Bar]:
        bar = _PlainBar(self.say, self._run, title, total, unit, self._every_s)
        yield bar
        bar.line()


class _PlainBar:
    def __init__(
        self,
        say: Callable[[str], None],
        run: Callable[[float | None], str],
        title: str,
        total: int,
        unit: str,
        every_s: float,
    ) -> None:
        self._say, self._run = say, run
        self._title, self._total, self._unit, self._every_s = title, total, unit, every_s
        self._done, self._values = 0, dict[str, float]()
        self._start = self._last = time.monotonic()

    def advance(self, count: int = 1, **values: float) -> None:
        self._done += count
        self._values.update(values)
        if time.monotonic() - self._last >= self._every_s:
            self.line()

    def line(self) -> None:
        self._last = time.monotonic()
        spent = self._last - self._start
        rate = self._done / spent if spent > 0 else 0.0
        left_s = (self._total - self._done) / rate if rate and self._done < self._total else None
        left = "" if left_s is None else f", {left_s:.0f} s left"
        run = f", {run}" if left and (run := self._run(left_s)) else ""
        shown = "".join(f", {name} {value:.4g}" for name, value in self._values.items())
        done = f"{self._done}/{self._total} {self._unit} in {spent:.0f} s, {rate:.0f} {self._unit}/s"
        self._say(f"    {self._title}: {done}{left}{run}{shown}")


class RichProgress(_RunProgress):
    """Shows bars of the package rich, on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, markup=False, emoji=False)

    def say(self, line: str) -> None:
        self.console.print(printable(line), soft_wrap=True)

    def curves(self, curves: Mapping[str, Sequence[float]]) -> None:
        _say_curves(self, curves, self.console.encoding)

    @contextmanager
    def bar(self, title: str, total: int, unit: str = "it") -> Iterator[Bar]:
        from rich import progress as rich_progress

        columns = (
            rich_progress.TextColumn("    {task.description}", markup=False),
            rich_progress.BarColumn(bar_width=20),
            rich_progress.TaskProgressColumn(),
            rich_progress.TextColumn("{task.fields[rate]}"),
            rich_progress.TimeRemainingColumn(compact=True),
            rich_progress.TextColumn("{task.fields[run]}"),
            rich_progress.TextColumn("{task.fields[shown]}"),
        )
        with rich_progress.Progress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(printable_line(title), total=total, shown="", rate="", run=self._run(None))
            start, run = time.monotonic(), self._run

            class Shown:
                def advance(self, count: int = 1, **values: float) -> None:
                    bars.advance(task, count)
                    rate = bars.tasks[0].completed / max(time.monotonic() - start, 1e-9)
                    bars.update(task, rate=f"{rate:.0f} {unit}/s", run=run(bars.tasks[0].time_remaining))
                    if values:
                        bars.update(task, shown=" ".join(f"{name} {value:.4g}" for name, value in values.items()))

            yield Shown()


def of_run(progress: Progress, left_s: OfRun) -> Progress:
    """Progress whose bars show the time left of a run, too, if they show times at all."""
    return progress.of_run(left_s) if isinstance(progress, _RunProgress) else progress


def run_left(seconds: float | None) -> str:
    """`run 5 min left`; empty if the time is unknown or short."""
    return "" if seconds is None or seconds < LEAST_LEFT_S else f"run {duration(seconds)} left"


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def sparkline(values: Sequence[float], levels: str, width: int = SPARKLINE_WIDTH) -> str:
    """A curve of `values` in at most `width` characters of `levels`, which rise from smallest to largest."""
    columns = min(width, len(values))
    edges = [column * len(values) // columns for column in range(columns + 1)]
    means = [mean(values[start:stop]) for start, stop in pairwise(edges)]
    low, high = min(means), max(means)
    steps = len(levels) - 1
    return "".join(levels[round((value - low) / (high - low) * steps) if high > low else 0] for value in means)


def _say_curves(progress: Progress, curves: Mapping[str, Sequence[float]], encoding: str | None) -> None:
    levels = BLOCKS if encoding is None or encoding.lower().startswith("utf") else ASCII
    shown = [
        f"{name} {values[0]:.3g} {sparkline(values, levels)} {values[-1]:.3g}"
        for name, values in curves.items()
        if len(values) > 1
    ]
    if shown:
        progress.say(f"    {', '.join(shown)}")


def progress_for(stream: TextIO) -> Progress:
    """Bars if `stream` is a terminal, plain lines otherwise."""
    return RichProgress() if stream.isatty() else PlainProgress(stream)
