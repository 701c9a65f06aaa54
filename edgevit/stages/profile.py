"""profile: latency of a model where it will run → every sample in run order, percentiles, conditions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.checking.timed_layers import TIMES_FILE, json_of_timed, timed_in
from edgevit.configs import Profile
from edgevit.configs.runtimes import TENSORRT
from edgevit.context import Context
from edgevit.profiling import MeasurePlan
from edgevit.profiling.measure import valid_measurement
from edgevit.profiling.telemetry import TELEMETRY_FILE
from edgevit.runtimes.base import Session, SessionOptions, check_batch, for_runtime, precision_of, runtime_of
from edgevit.targets import target_for


def run(config: Profile, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    model = for_runtime(inputs["model"], config.runtime)
    check_batch(model.io, config.batch_size)
    options = SessionOptions(config.threads, config.precision)
    with target_for(config.target, context).open(model, options) as session:
        measured = valid_measurement(lambda: session.measure(_plan(config)), config.retry_s, context.progress.say)
        measured = session.with_start(measured)
        if config.layers:
            _time_layers(session, model, config, context, out)
    for reason in measured.invalid:
        context.progress.say(f"{config.id}: the latency is INVALID: {reason}")
    for warning in measured.warnings:
        context.progress.say(f"{config.id}: {warning}")
    if measured.telemetry is not None:
        (out / TELEMETRY_FILE).write_text(json.dumps(measured.telemetry.as_json()) + "\n", encoding="utf-8")
    record = {"samples_ms": measured.samples_ms.tolist(), "conditions": measured.conditions}
    (out / "latency.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    metrics = {
        "latency_ms": measured.summary(),
        "runtime": runtime_of(model),
        "target": config.target,
        "precision": precision_of(model, options),
        "threads": config.threads if runtime_of(model) != TENSORRT.name else None,  # of the CPU
        "batch_size": config.batch_size,
        "cpus_used": measured.conditions.get("cpus_used"),
        "parts_ms": dict(measured.parts_ms),
        "start": measured.start and measured.start._asdict(),
    }
    return Contents(kind="latency", metrics=metrics, logs=(TELEMETRY_FILE,) if measured.telemetry is not None else ())


def _time_layers(session: Session, model: Artifact, config: Profile, context: Context, out: Path) -> None:
    """Write the times of the layers. A target that tells none is noted."""
    timed = timed_in(session, model, _plan(config), config.threads, context.progress.say)
    if timed is None:
        note = f"{config.target} does not tell the time of each layer in {runtime_of(model)}"
        context.progress.say(f"note: {config.id}: {note}")
        return
    for reason in timed.times.invalid:
        context.progress.say(f"{config.id}: the times of the layers are INVALID: {reason}")
    (out / TIMES_FILE).write_bytes(json_of_timed(replace(timed, path=Path(model.id))))


def _plan(config: Profile) -> MeasurePlan:
    return MeasurePlan(
        warmup_s=config.warmup_s,
        most_warmup_s=config.most_warmup_s,
        duration_s=config.duration_s,
        min_runs=config.min_runs,
        batch_size=config.batch_size,
        boundary=config.boundary,
        soak_s=config.soak_s or 0.0,
        is_watched=True,
    )
