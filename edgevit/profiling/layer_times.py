"""The times of an engine's layers, by TensorRT's profiler.

The profiler times each layer by itself, so the sum of the layers may be longer than a run of the engine.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from edgevit.artifacts import Json
from edgevit.profiling.measure import Label


@dataclass(frozen=True)
class LayerTime:
    """The time of a layer in a run: mean and median over the runs, in ms."""

    name: str
    mean_ms: float
    median_ms: float


@dataclass(frozen=True)
class LayerTimes:
    """The times of the layers of an engine, in the order of execution.

    Attributes:
        runs: the number of runs that the profiler has timed.
        batch_size: images in a run.
        engine_ms: the median time of a run without the profiler.
        warnings, invalid: of that run and the profiler's, a sentence each; see `Measurement`.
    """

    layers: tuple[LayerTime, ...]
    runs: int
    batch_size: int
    engine_ms: float
    target: str
    label: Label
    warnings: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()

    @property
    def sum_ms(self) -> float:
        """The sum of the layers' medians."""
        return sum(layer.median_ms for layer in self.layers)

    def by_layer(self, names: Sequence[str]) -> list[float | None]:
        """The median time of each layer of the inspector, in ms; None if the profiler does not name it.

        Layers of one name are told apart by their order.
        """
        return self._told_apart(names)[0]

    def elsewhere_ms(self, names: Sequence[str]) -> float:
        """The time of layers that the inspector does not name, in ms."""
        return self._told_apart(names)[1]

    def _told_apart(self, names: Sequence[str]) -> tuple[list[float | None], float]:
        """The time of each of these layers, and the sum of the others' times, in ms."""
        waiting = defaultdict[str, deque[float]](deque)
        for layer in self.layers:
            waiting[layer.name].append(layer.median_ms)
        times = [waiting[name].popleft() if waiting[name] else None for name in names]
        return times, sum(sum(left) for left in waiting.values())

    def to_json(self) -> Json:
        """Everything but the layers' own times."""
        return {**{name: value for name, value in asdict(self).items() if name != "layers"}, "sum_ms": self.sum_ms}
