"""The log of a training: a row of means now and then, in `metrics.jsonl` and in TensorBoard's event files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from edgevit.training.loop.event_files import EventFile

METRICS = "metrics.jsonl"


class Row:
    """Means since the last row of the log."""

    def __init__(self) -> None:
        self.steps, self.samples, self._loss, self._right, self.waited_s = 0, 0, 0.0, list[float](), 0.0
        self.last_loss, self._means = 0.0, dict[str, float]()

    def add(self, loss: float, right: float | None, means: Mapping[str, float], samples: int) -> None:
        """Add a step: its loss, the share of labelled samples that were right, further means, and its samples."""
        self.steps += 1
        self.samples += samples
        self.last_loss = loss
        self._loss += loss
        self._means = {name: self._means.get(name, 0.0) + mean for name, mean in means.items()}
        if right is not None:
            self._right.append(right)

    @property
    def loss(self) -> float:
        """The mean loss of the steps."""
        return self._loss / self.steps

    @property
    def means(self) -> dict[str, float]:
        """The learner's further means over the steps, by their names."""
        return {name: total / self.steps for name, total in self._means.items()}

    @property
    def accuracy(self) -> float | None:
        """The mean accuracy of the steps with labels; None if there was none."""
        return sum(self._right) / len(self._right) if self._right else None


class MetricsLog:
    """Writes rows to `metrics.jsonl`, one JSON object a line, and to a TensorBoard event file if there is a folder."""

    def __init__(self, path: Path, tensorboard: Path | None) -> None:
        self.rows: list[dict[str, float]] = []
        self._path, self._tensorboard = path, tensorboard
        self._events: EventFile | None = None

    def begin(self) -> None:
        """Write the file anew with the rows so far; rows of steps after the resumed step are dropped."""
        self._path.write_text(self.text(), encoding="utf-8")
        if self._tensorboard:
            self._events = EventFile(self._tensorboard)
            for row in self.rows:
                self._events.add(row)

    def add(self, row: dict[str, float]) -> None:
        """Append a row to the files."""
        self.rows.append(row)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
        if self._events:
            self._events.add(row)

    def text(self) -> str:
        """The file's content, from memory, because the file may be damaged."""
        return "".join(map(_line, self.rows))


def _line(row: dict[str, float]) -> str:
    return json.dumps(row) + "\n"
