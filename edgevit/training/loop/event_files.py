"""TensorBoard event files with the rows of `metrics.jsonl`, written during training."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import MissingDependency

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event


def check_tensorboard() -> None:
    """Raise MissingDependency if the package `tensorboard` is not installed."""
    if find_spec("tensorboard") is None:
        raise MissingDependency(
            "the package 'tensorboard' is not installed",
            where="--tensorboard",
            next="pip install 'edgevit[tensorboard]'",
        )


class EventFile:
    """The event file of one training run: a scalar for each number of a row.

    TensorBoard then hides earlier files of the folder: a resumed run writes its first rows again.
    """

    def __init__(self, folder: Path) -> None:
        check_tensorboard()
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"events.out.tfevents.{time.time():.6f}.{platform.node()}.{os.getpid()}"
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(Event(wall_time=time.time(), step=0, session_log=SessionLog(status=SessionLog.START)))

    def add(self, row: Mapping[str, float]) -> None:
        """Write one row of `metrics.jsonl`. TensorBoard sees it at once."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != "step"]
        self._write(Event(wall_time=time.time(), step=int(row["step"]), summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        with self._path.open("ab") as file:
            RecordWriter(file).write(event.SerializeToString())
