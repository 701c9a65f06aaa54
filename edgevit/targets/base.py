"""What every target can do."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from edgevit.artifacts import Artifact, Frozen, Json
from edgevit.runtimes.base import Session, SessionOptions


class TargetInfo(Frozen):
    """What decides results and latencies on a target; it enters the key of every stage that names one.

    Only what stays the same between two calls: load, clocks and temperatures are in a measurement's conditions.
    """

    name: str
    runtime: str
    versions: dict[str, str | None]
    hardware: dict[str, Any]


class Target(Protocol):
    """A place where models run."""

    def describe(self, runtime: str) -> TargetInfo:
        """The target's fingerprint, for one runtime on it. Raises TargetError where that does not run there."""

    def compile(self, model: Artifact, out: Path) -> Json:
        """Make an ONNX file into what the runtime loads, in folder `out`; returns the session options it needs."""

    def open(self, model: Artifact, options: SessionOptions) -> AbstractContextManager[Session]:
        """Load a model. Its kind and manifest name the runtime, its manifest the session options."""
