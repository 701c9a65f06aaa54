"""The seconds left of a run, from the seconds that stages took on this machine before.

The seconds are kept in the user's cache folder: <cache>/stage_seconds.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from pydantic import NonNegativeFloat, TypeAdapter, ValidationError

from edgevit.artifacts import Artifact, Frozen, sha256_of
from edgevit.configs import Distill, Pretrain, Qat, Recipe, Stage, Train, input_files, known_folders, references
from edgevit.disks import cache_folder, whole_or_not_at_all
from edgevit.profiling.conditions import cpu
from edgevit.store import dotted

RESUMED = "resumed"  # in the provenance of a stage that went on after an interruption
MOST_KEPT = 500
LONGEST_BYTES = 262_144
# Stages whose time depends little on the model and the data. The others count only if this very work was done before.
ALIKE = ("load", "export", "quantize", "compile", "evaluate", "profile", "report", "bundle")


class StageSeconds(Frozen):
    """The time of a stage.

    Attributes:
        kind: the stage's name in recipes.
        seconds: of one epoch if the stage trains for epochs, otherwise of the whole stage.
    """

    kind: str
    seconds: NonNegativeFloat


StageTimes = dict[str, StageSeconds]  # by the key of the work, the latest last
_FILE = TypeAdapter(StageTimes)


def epochs_of(stage: Stage) -> int:
    """The number of epochs that a stage trains for; 1 for a stage that counts as a whole."""
    return stage.epochs if isinstance(stage, (Pretrain, Train, Distill, Qat)) else 1


def work_keys(recipe: Recipe, datasets: Mapping[str, Artifact], device: str) -> dict[str, str]:
    """A key of the work of each stage on this machine, by stage id: its options but the epochs, and its inputs."""
    keys = {name: artifact.digest for name, artifact in datasets.items()}
    machine = {"cpu": cpu(), "device": device}
    for stage in recipe.stages:
        left_out = {"id", "epochs", *input_files(stage), *known_folders(stage)}
        fields = stage.model_dump(mode="json", exclude=left_out)
        inputs = {dotted(path): keys[name] for path, name, _ in references(stage)}
        keys[stage.id] = sha256_of({"machine": machine, "fields": fields, "inputs": inputs})[:40]
    return {stage.id: keys[stage.id] for stage in recipe.stages}


def kept_times() -> StageTimes:
    """The kept times; none if there is no file, or it is damaged."""
    file = _file()
    try:
        if file is None or file.stat().st_size > LONGEST_BYTES:
            return {}
        return _FILE.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return {}


def keep_times(new: Mapping[str, StageSeconds]) -> None:
    """Keep times by the key of their work. Where the folder cannot be written, nothing is kept."""
    file = _file()
    if file is None:
        return
    times = {key: seconds for key, seconds in kept_times().items() if key not in new} | dict(new)
    latest = dict(list(times.items())[-MOST_KEPT:])
    with suppress(OSError), whole_or_not_at_all(file) as part:
        part.write_bytes(_FILE.dump_json(latest))


def keep_time(stage: Stage, key: str, made: Artifact) -> None:
    """Keep the time of a finished stage, if it is not kept yet, and the stage was not interrupted."""
    origin = made.manifest.provenance
    seconds = None if origin.get(RESUMED) else origin.get("seconds")
    if seconds is not None and kept_times().get(key) != (kept := seconds_of(stage, seconds)):
        keep_times({key: kept})


def seconds_of(stage: Stage, seconds: float) -> StageSeconds:
    """The time of a stage that took `seconds` as a whole."""
    return StageSeconds(kind=stage.name(), seconds=seconds / epochs_of(stage))


def expected_s(stage: Stage, key: str, times: StageTimes) -> float | None:
    """The time of a stage in seconds, as this work took before, or as stages of its kind took; None if unknown."""
    if key in times:
        return epochs_of(stage) * times[key].seconds
    alike = [kept.seconds for kept in times.values() if kept.kind == stage.name()]
    return median(alike) if alike and stage.name() in ALIKE else None


@dataclass
class RunClock:
    """The seconds left of a run: those of the running stage and of the stages after it.

    Attributes:
        expected_s: the time of each stage that will run, in their order, by stage id; None if it is unknown.
        now: a clock in seconds.
    """

    expected_s: dict[str, float | None]
    now: Callable[[], float] = time.monotonic
    _start: float = field(default=0.0, init=False)
    _running: float | None = field(default=0.0, init=False)

    def start(self, id: str) -> None:
        """Begin a stage; the stages before it are over."""
        self._running, self._start = self.expected_s.pop(id, 0.0), self.now()

    def left_s(self, of_bar_s: float | None = None) -> float | None:
        """The seconds left; None if the time of a stage is unknown.

        Args:
            of_bar_s: the seconds left of the bar that is shown, by its own rate. The running stage takes this long at
                least.
        """
        later = list(self.expected_s.values())
        if self._running is None or None in later:
            return None  # a bar alone does not tell: a stage may have several
        rest = max(0.0, self._running - (self.now() - self._start))
        return max(rest, of_bar_s or 0.0) + sum(seconds for seconds in later if seconds is not None)


def clock_of(recipe: Recipe, keys: Mapping[str, str], pending: Collection[str]) -> RunClock:
    """The clock of a run of these stages."""
    times = kept_times()
    stages = [stage for stage in recipe.stages if stage.id in pending]
    return RunClock({stage.id: expected_s(stage, keys[stage.id], times) for stage in stages})


def _file() -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / "stage_seconds.json"
