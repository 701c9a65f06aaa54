"""Progress of long work: a bar with rate, ETA and values in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from statistics import mean
from typing import Protocol, TextIO

from edgevit.terminal import printable, printable_line

BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-=+*#@"  # levels of a sparkline, from small to large
SPARKLINE_WIDTH = 12


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


class PlainProgress:
    """Prints lines, for pipes and logs: at most one every `every_s` seconds for each bar, and one at its end."""

    def __init__(self, stream: TextIO, every_s: float = 10.0) -> None:
        self._stream, self._every_s = stream, every_s

    def say(self, line: str) -> None:
        print(printable(line), file=self._stream, flush=True)

    def curves(self, curves: Mapping[str, Sequence[float]]) -> None:
        _say_curves(self, curves, self._stream.encoding)

    @contextmanager
    def bar(self, title: str, total: int, unit: str = "it") -> Iterator[Bar]:
        bar = _PlainBar(self, title, total, unit, self._every_s)
        yield bar
        bar.line()


class _PlainBar:
    def __init__(self, progress: PlainProgress, title: str, total: int, unit: str, every_s: float) -> None:
        self._progress, self._title, self._total, self._unit, self._every_s = progress, title, total, unit, every_s
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
        left = f", {(self._total - self._done) / rate:.0f} s left" if rate and self._done < self._total else ""
        shown = "".join(f", {name} {value:.4g}" for name, value in self._values.items())
        done = f"{self._done}/{self._total} {self._unit} in {spent:.0f} s, {rate:.0f} {self._unit}/s"
        self._progress.say(f"    {self._title}: {done}{left}{shown}")


class RichProgress:
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
            rich_progress.TextColumn("{task.fields[shown]}"),
        )
        with rich_progress.Progress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(printable_line(title), total=total, shown="", rate="")
            start = time.monotonic()

            class Shown:
                def advance(self, count: int = 1, **values: float) -> None:
                    bars.advance(task, count)
                    rate = bars.tasks[0].completed / max(time.monotonic() - start, 1e-9)
                    bars.update(task, rate=f"{rate:.0f} {unit}/s")
                    if values:
                        bars.update(task, shown=" ".join(f"{name} {value:.4g}" for name, value in values.items()))

            yield Shown()


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
