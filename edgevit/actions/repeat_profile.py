"""A latency measured again under the plan of its receipt: whether both agree, and what differs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgevit.actions.single_stage import SingleStages, record_from_options
from edgevit.artifacts import MANIFEST, Artifact, Json
from edgevit.configs import Profile
from edgevit.errors import ArtifactError
from edgevit.profiling import Interval
from edgevit.profiling.latency_record import LatencyRecord
from edgevit.report.text.numbers import milliseconds

START_SCATTER = 0.03  # of p50 from one start of a model to the next, beside an interval of one start. Chosen
# What a receipt repeats. `runtime` is that of the file, by its own name.
PLAN = (
    "target", "runtime", "threads", "batch_size", "precision", "boundary", "warmup_s", "most_warmup_s", "duration_s",
    "min_runs", "starts", "soak_s", "idle_s",
)  # fmt: skip
MACHINE = {
    "the CPU": ("cpu", "model"),
    "the number of cores": ("cpu", "logical_cores"),
    "the board": ("board",),
    "the power mode": ("power_mode",),
    "JetPack": ("jetpack",),
    "the GPUs": ("gpus",),
}


_Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Checked(BaseModel):
    """What is read of a file that may hold anything. Further entries are not looked at."""

    model_config = ConfigDict(strict=True)


class _P50(_Checked):
    p50: _Milliseconds
    p50_low: _Milliseconds
    p50_high: _Milliseconds
    n: int
    starts: int | None = None
    boundary: str
    label: Literal["measured", "replayed"]
    warnings: list[str]
    invalid: list[str] = []

    @model_validator(mode="after")
    def _in_order(self) -> _P50:
        if not self.p50_low <= self.p50 <= self.p50_high:
            raise ValueError("p50 is outside its interval")
        return self


class _Conditions(_Checked):
    versions: dict[str, str | None] = {}


class _Told(_Checked):
    """The part of a receipt that a repetition rests on."""

    latency_ms: _P50
    runtime: str
    target: str
    threads: int | None = None
    batch_size: int | None = None
    precision: str | None = None
    conditions: _Conditions


@dataclass(frozen=True)
class Receipt:
    """A latency with the conditions that repeat it."""

    latency: LatencyRecord
    conditions: Json

    @classmethod
    def of_artifact(cls, latency: Artifact) -> Receipt:
        recorded = json.loads(latency.file("latency.json").read_text(encoding="utf-8"))
        return cls(LatencyRecord.of_metrics(latency.metrics), recorded["conditions"])

    @classmethod
    def read(cls, path: Path) -> Receipt:
        """The receipt in a file or a folder. Raises ArtifactError if there is none."""
        if path.is_dir() and (path / MANIFEST).is_file():
            artifact = Artifact.load(path)
            if artifact.kind == "latency":
                return cls.of_artifact(artifact)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            _Told.model_validate(content)
            return cls(LatencyRecord.of_metrics(content), content["conditions"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            expected = "what `edgevit profile --json` printed for one target, or the folder of a stage profile"
            got = _first_of(error) if isinstance(error, ValidationError) else error
            raise ArtifactError("this is no receipt of a latency", where=path, got=got, expected=expected) from None

    def config(self) -> Profile:
        """The stage that measures again. Raises RecipeError if the receipt holds what no profile has."""
        told = {**self.conditions, "target": self.latency.target, "runtime": self.latency.runtime}
        told |= {
            "threads": self.latency.threads,
            "precision": self.latency.precision,
            "boundary": self.latency.boundary,
        }
        told |= {"soak_s": told.get("soak_s") or None}  # 0: without a soak
        told.setdefault("starts", 1)  # of a release that did not record them
        fields = {name: told[name] for name in PLAN if told.get(name) is not None}
        if self.latency.runtime not in ("onnxruntime", "openvino"):
            fields.pop("runtime", None)
        if self.latency.runtime != "torch":
            fields.pop("precision", None)  # a file has its own
        return record_from_options(Profile, {"stage": "profile", "id": "latency", "model": "model", **fields})


@dataclass(frozen=True)
class RepeatedLatency:
    """A latency and its repetition.

    Attributes:
        artifact: the repetition.
    """

    first: Receipt
    again: Receipt
    artifact: Artifact

    @property
    def ratio(self) -> float:
        """The p50 of the repetition over the first."""
        return self.again.latency.p50_ms / self.first.latency.p50_ms

    @property
    def interval(self) -> Interval:
        """95% interval of `ratio`, as of independent measurements.

        An interval of one start does not hold the scatter of starts: START_SCATTER stands for it, once.
        """
        latencies = [receipt.latency for receipt in (self.first, self.again)]
        scatter = math.log1p(START_SCATTER) if any((latency.starts or 1) == 1 for latency in latencies) else 0.0
        half = math.sqrt(sum(_log_half(latency) ** 2 for latency in latencies) + scatter**2)
        return Interval(self.ratio * math.exp(-half), self.ratio * math.exp(half))

    @property
    def agrees(self) -> bool | None:
        """Whether the interval of the ratio holds 1; None if one of both was not measured, or is invalid."""
        if not (self.first.latency.is_judged and self.again.latency.is_judged):
            return None
        return self.interval.low <= 1 <= self.interval.high

    @property
    def differences(self) -> list[str]:
        """What differs between both: the file, the machine, and the versions."""
        return list(_differences(self.first.conditions, self.again.conditions))

    def sentences(self) -> list[str]:
        """The answer in words."""
        again, first = self.again.latency, self.first.latency
        ratio = (
            f"{self.ratio:.2f} times the receipt's (95% interval {self.interval.low:.2f} to {self.interval.high:.2f})"
        )
        answer = {
            True: f"The latency agrees: its p50 is {ratio}.",
            False: f"The latency does NOT agree: its p50 is {ratio}.",
            None: "Whether the latency agrees cannot be told.",
        }[self.agrees]
        unjudged = [
            f"The latency {name} is {latency.label if latency.label != 'measured' else 'invalid'}"
            + (f": {'; '.join(latency.invalid)}." if latency.invalid else ".")
            for name, latency in (("of the receipt", first), ("measured now", again))
            if not latency.is_judged
        ]
        both = f"p50 {milliseconds(again.p50_ms)} now, {milliseconds(first.p50_ms)} in the receipt"
        return [both, *unjudged, answer, *(f"Different: {difference}." for difference in self.differences)]

    def as_json(self) -> Json:
        return {
            "agrees": self.agrees,
            "ratio": {"value": self.ratio, "low": self.interval.low, "high": self.interval.high},
            "differences": self.differences,
            "first": {"latency_ms": self.first.latency.numbers()},
            **receipt_json(self.artifact),
        }


def repeat_profile(stages: SingleStages, model: Artifact, receipt: Receipt, retry_s: float) -> RepeatedLatency:
    """Measure a model under the plan of a receipt."""
    config = receipt.config().model_copy(update={"retry_s": retry_s})
    artifact = stages.make(config, model=model)
    return RepeatedLatency(receipt, Receipt.of_artifact(artifact), artifact)


def receipt_json(latency: Artifact) -> Json:
    """The metrics of a latency with its conditions."""
    return {**latency.metrics, "conditions": Receipt.of_artifact(latency).conditions}


def _first_of(error: ValidationError) -> str:
    """The first entry that does not fit, and why."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


def _log_half(latency: LatencyRecord) -> float:
    return math.log(latency.p50_high_ms / latency.p50_low_ms) / 2


def _differences(first: Json, again: Json) -> Iterator[str]:
    if first.get("file_sha256") != again.get("file_sha256"):
        yield "the file of the model"
    for name, path in MACHINE.items():
        before, now = _at(first, path), _at(again, path)
        if before != now:
            yield f"{name} ({_text(now)} now, {_text(before)} in the receipt)"
    before, now = (_at(conditions, ("versions",)) or {} for conditions in (first, again))
    for package in sorted({*before, *now}):
        if before.get(package) != now.get(package):
            yield f"{package} ({_text(now.get(package))} now, {_text(before.get(package))} in the receipt)"


def _at(conditions: Json, path: tuple[str, ...]) -> Any:
    value: Any = conditions
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value or None


def _text(value: object) -> str:
    return "unknown" if value is None else str(value)
