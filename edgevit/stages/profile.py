"""profile: latency and energy of a model where it will run → every sample in run order, percentiles, conditions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgevit.artifacts import Artifact, Contents, Json
from edgevit.checking.timed_layers import TIMES_FILE, TimedModel, json_of_timed, timed_in
from edgevit.configs import Profile
from edgevit.configs.runtimes import TENSORRT
from edgevit.context import Context
from edgevit.errors import EdgevitError, TargetError
from edgevit.profiling import Measurement, MeasurePlan
from edgevit.profiling.energy import EnergyRecord, metrics_of_energy
from edgevit.profiling.loop import WallClock
from edgevit.profiling.measure import valid_measurement
from edgevit.profiling.scenarios import FrameStream, LoadgenResult, Throughput, stream_seconds
from edgevit.profiling.starts import measure_over_starts
from edgevit.profiling.telemetry import TELEMETRY_FILE
from edgevit.runtimes.base import Session, SessionOptions, check_batch, for_runtime, precision_of, runtime_of
from edgevit.targets import check_is_measured, target_for

MOST_S_OF_LAYERS, MOST_RUNS_OF_LAYERS = 10.0, 100  # of their runs, though the latency may take longer


def run(config: Profile, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    model = for_runtime(inputs["model"], config.runtime)
    for batch_size in config.batch_sizes or (config.batch_size,):
        check_batch(model.io, batch_size)
    _check_rate(model, config)
    options = SessionOptions(config.threads, config.precision)
    with target_for(config.target, context).open(model, options) as session:
        profiling = _Profiling(session, config, context.progress.say)
        measured = profiling.latency()
        scenario = profiling.scenario(measured)
        if config.layers:
            _time_layers(session, model, profiling.plan, config, context, out)
    energy = measured.energy
    for reason in measured.invalid:
        context.progress.say(f"{config.id}: the latency is INVALID: {reason}")
    for name, one in scenario.measured:
        for reason in one.invalid:
            context.progress.say(f"{config.id}: {name} is INVALID: {reason}")
        for warning in one.warnings:
            context.progress.say(f"{config.id}: {name}: {warning}")
    if isinstance(energy, EnergyRecord) and not measured.invalid:
        for reason in energy.invalid:
            context.progress.say(f"{config.id}: the energy is INVALID: {reason}")
    for warning in (*measured.warnings, *scenario.failed):
        context.progress.say(f"{config.id}: {warning}")
    if measured.telemetry is not None:
        (out / TELEMETRY_FILE).write_text(json.dumps(measured.telemetry.as_json()) + "\n", encoding="utf-8")
    record = {**_samples(measured), "conditions": measured.conditions, **scenario.samples()}
    (out / "latency.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    metrics = {
        "latency_ms": measured.summary(),
        **metrics_of_energy(energy),
        "runtime": runtime_of(model),
        "target": config.target,
        "precision": precision_of(model, options),
        "threads": config.threads if runtime_of(model) != TENSORRT.name else None,  # of the CPU
        "batch_size": config.latency_batch,
        "cpus_used": measured.conditions.get("cpus_used"),
        "parts_ms": dict(measured.parts_ms),
        "start": measured.start and measured.start._asdict(),
        **scenario.metrics(),
        **({"like_mlperf": LoadgenResult.of(measured).as_json()} if config.like else {}),
    }
    return Contents(kind="latency", metrics=metrics, logs=(TELEMETRY_FILE,) if measured.telemetry is not None else ())


def _time_layers(
    session: Session, model: Artifact, plan: MeasurePlan, config: Profile, context: Context, out: Path
) -> None:
    """Write the times of the layers. A target that tells none is noted.

    They are compute alone: so is the run without the profiler that they stand beside. If they cannot be told, the
    latency is kept.
    """
    say = context.progress.say
    plan = replace(
        plan,
        boundary="compute",
        soak_s=0.0,
        idle_s=0.0,
        duration_s=min(plan.duration_s, MOST_S_OF_LAYERS),
        min_runs=min(plan.min_runs, MOST_RUNS_OF_LAYERS),
    )
    try:
        timed = _undisturbed(partial(timed_in, session, model, plan, config.threads, say), config.retry_s, say)
    except EdgevitError as error:
        say(f"note: {config.id}: the layers are not timed: {error.what}")
        return
    if timed is None:
        note = f"{config.target} does not tell the time of each layer in {runtime_of(model)}"
        say(f"note: {config.id}: {note}")
        return
    for reason in timed.times.invalid:
        say(f"{config.id}: the times of the layers are INVALID: {reason}")
    (out / TIMES_FILE).write_bytes(json_of_timed(replace(timed, path=Path(model.id))))


def _undisturbed(
    take: Callable[[], TimedModel | None], retry_s: float, say: Callable[[str], None]
) -> TimedModel | None:
    """The times of the layers, taken again while they are disturbed, as a latency is."""
    clock = WallClock()
    timed, end_s = take(), clock.now_s() + retry_s
    while timed and timed.times.invalid and timed.times.label == "measured" and clock.now_s() < end_s:
        say(f"layers timed again, because the run was disturbed: {'; '.join(timed.times.invalid)}")
        timed = take()
    return timed


def _check_rate(model: Artifact, config: Profile) -> None:
    """Raise TargetError for a rate of a TensorRT engine."""
    if config.rate_hz is not None and runtime_of(model) == TENSORRT.name:
        raise TargetError(
            "trtexec runs an engine again as soon as it has ended: it knows no rate",
            where=model.id,
            got=f"{config.rate_hz:g} frames a second",
            next="leave the rate out, or time the ONNX file at a rate, in ONNX Runtime",
        )


@dataclass(frozen=True)
class _Scenario:
    """What was measured beside the latency.

    Attributes:
        batches: the measurement of each batch size of `offline`.
        failed: a sentence, if the scenario broke off.
    """

    batches: tuple[Measurement, ...] = ()
    stream: Measurement | None = None
    failed: tuple[str, ...] = ()

    @property
    def measured(self) -> list[tuple[str, Measurement]]:
        """The measurements beside the latency, with their names for people."""
        batches = [(f"batch size {measured.plan.batch_size}", measured) for measured in self.batches[1:]]
        return [*batches, *([("the stream", self.stream)] if self.stream else [])]

    def metrics(self) -> Json:
        """The records for the metrics of the artifact."""
        offline = {"offline": [Throughput.of(measured).as_json() for measured in self.batches]} if self.batches else {}
        stream = {"fixed_rate": FrameStream.of(self.stream).as_json()} if self.stream else {}
        return {**offline, **stream, **({"scenario_failed": list(self.failed)} if self.failed else {})}

    def samples(self) -> Json:
        """All latencies, for latency.json."""
        batches = [{"batch_size": measured.plan.batch_size, **_samples(measured)} for measured in self.batches]
        stream = {"rate_hz": self.stream.plan.rate_hz, **_samples(self.stream)} if self.stream else None
        return {**({"offline": batches} if batches else {}), **({"fixed_rate": stream} if stream else {})}


class _Profiling:
    """The measurements of a profile, each repeated while it is disturbed."""

    def __init__(self, session: Session, config: Profile, say: Callable[[str], None]) -> None:
        self._session, self._config, self._say = session, config, say
        self.plan = MeasurePlan(
            warmup_s=config.warmup_s,
            most_warmup_s=config.most_warmup_s,
            duration_s=config.duration_s,
            min_runs=config.min_runs,
            batch_size=config.latency_batch,
            boundary=config.boundary,
            soak_s=config.soak_s or 0.0,
            idle_s=config.idle_s,
            is_watched=True,
        )

    def latency(self) -> Measurement:
        """The latency in single stream."""
        return self._measured(self.plan, self._config.starts)

    def scenario(self, latency: Measurement) -> _Scenario:
        """What the scenario asks for beside the latency. If it fails, what was measured before is kept.

        Raises:
            TargetError: a stand-in replays the times of the target.
        """
        if self._config.scenario == "single_stream":
            return _Scenario()
        choice, next_step = f"scenario: {self._config.scenario}", "leave the scenario out, or measure on the device"
        check_is_measured(latency.label, choice, next_step)
        if self._config.rate_hz is not None:
            return self._stream(self._config.rate_hz)
        return self._offline(latency)

    def _offline(self, latency: Measurement) -> _Scenario:
        batches = [latency]
        for batch_size in self._config.batch_sizes[1:]:
            try:
                plan = replace(self.plan, batch_size=batch_size, soak_s=0.0, idle_s=0.0)
                batches.append(self._measured(plan, self._config.starts))
            except EdgevitError as error:
                return _Scenario(tuple(batches), failed=(f"partial: batch size {batch_size} failed: {error.what}",))
        return _Scenario(tuple(batches))

    def _stream(self, rate_hz: float) -> _Scenario:
        duration_s = stream_seconds(rate_hz, self._config.duration_s)
        plan = replace(self.plan, rate_hz=rate_hz, duration_s=duration_s, min_runs=1, soak_s=0.0, idle_s=0.0)
        try:
            return _Scenario(stream=self._measured(plan, starts=1))
        except EdgevitError as error:
            return _Scenario(failed=(f"partial: the stream of {rate_hz:g} frames a second failed: {error.what}",))

    def _measured(self, plan: MeasurePlan, starts: int) -> Measurement:
        def take() -> Measurement:
            return measure_over_starts(self._session.measure_anew, plan, starts)

        return valid_measurement(take, self._config.retry_s, self._say)


def _samples(measured: Measurement) -> dict[str, Any]:
    start_runs = [len(one.samples_ms) for one in measured.of_starts]  # empty for a single start
    return {"samples_ms": measured.samples_ms.tolist(), "start_runs": start_runs}
