"""The device that the deployed model was measured on: what it is, and its state while the model was timed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from edgevit.artifacts import Artifact, Json
from edgevit.configs.runtimes import TENSORRT
from edgevit.configs.targets import LOCAL_TARGETS
from edgevit.profiling.latency_record import LatencyRecord
from edgevit.profiling.telemetry import TELEMETRY_FILE, Telemetry
from edgevit.report.text.energy import energy_sentence
from edgevit.report.text.numbers import interval_percent, milliseconds, percent
from edgevit.report.variants import Lineup, Variant

VERSIONS = {
    "jetpack": "JetPack", "tensorrt": "TensorRT", "onnxruntime": "ONNX Runtime", "cuda": "CUDA", "python": "Python",
}  # fmt: skip
KINDS = {"temperature_c": "°C", "clock_mhz": "MHz", "power_mw": "W"}


def on_device(models: Lineup) -> Json | None:
    """The section of the report; None if the deployed model was measured in this process alone.

    `facts` are labels and values. `rows` has a row for each model that was measured there or here, if some was measured
    here.
    """
    measured = models.deployed.measurement
    if measured is None or not has_agent(measured):
        return None
    target, conditions = measured.metrics["target"], conditions_of(models.deployed.latency)
    info = measured.manifest.ingredients.get("target") or {}
    hardware = info.get("hardware", {})
    rows = list(_rows(models, target))
    return {
        "target": target,
        "name": hardware.get("model") or hardware.get("processor") or target,
        "is_stand_in": _is_replayed(models.deployed),
        "facts": [[label, value] for label, value in _facts(models.deployed, info, conditions) if value],
        "telemetry": conditions.get("telemetry"),
        "soak": conditions.get("soak"),
        "rows": rows if any(row["here"] for row in rows) else [],
    }


def has_agent(measured: Artifact) -> bool:
    """Whether a model was measured by an agent, which tells the machine's facts: on another machine, or in TensorRT."""
    return measured.metrics["target"] not in LOCAL_TARGETS or measured.metrics["runtime"] == TENSORRT.name


def conditions_of(latency: Artifact | None) -> Json:
    """The conditions of a timing; empty without one."""
    if latency is None:
        return {}
    conditions: Json = json.loads(latency.file("latency.json").read_text(encoding="utf-8"))["conditions"]
    return conditions


def telemetry_of(latency: Artifact | None) -> Telemetry | None:
    """What was sampled during a timing; None if nothing was."""
    if latency is None or TELEMETRY_FILE not in latency.manifest.files:
        return None
    return Telemetry.of_json(json.loads(latency.file(TELEMETRY_FILE).read_text(encoding="utf-8")))


def _is_replayed(deployed: Variant) -> bool:
    return deployed.timing is not None and deployed.timing.label == "replayed"


def _facts(deployed: Variant, info: Mapping[str, Any], conditions: Json) -> Iterator[tuple[str, str | None]]:
    """Labels and values. None and empty values are facts that the device does not tell."""
    hardware, versions = info.get("hardware", {}), info.get("versions", {})
    yield "Module", hardware.get("module") or conditions.get("module")
    yield "Processor", ", ".join(dict.fromkeys(filter(None, map(hardware.get, ("processor", "architecture")))))
    yield "Power mode", hardware.get("power_mode")
    yield "SMs of the GPU", str(hardware["sm_count"]) if hardware.get("sm_count") else None
    locked = conditions.get("clocks_locked")
    yield "Clocks", None if locked is None else "locked" if locked else "not locked"
    known = {"jetpack": conditions.get("jetpack"), **versions}
    yield "Software", ", ".join(f"{VERSIONS.get(name, name)} {version}" for name, version in known.items() if version)
    yield "Latency", _latency(deployed)
    yield "Energy", energy_sentence(deployed.energy) if deployed.energy else None
    yield "Copies and start", _copies(conditions)
    yield "Accuracy there", _accuracy(deployed)
    yield "Soak", _soak(conditions.get("soak"))
    yield from _state(conditions.get("telemetry"))


def _latency(deployed: Variant) -> str | None:
    timing = deployed.timing
    if timing is None:
        return None
    label = "" if timing.label == "measured" else f", {timing.label}"
    invalid = ", INVALID" if timing.invalid else ""
    alone = " of the engine alone" if deployed.runtime == TENSORRT.name else ""
    return f"p50 {milliseconds(timing.p50_ms)}{alone}, batch {timing.batch_size}{label}{invalid}"


def _copies(conditions: Json) -> str | None:
    """Medians of the work around the engine."""
    if "to_gpu_ms" not in conditions:
        return None
    to_gpu, to_host, enqueue = (milliseconds(conditions[f"{name}_ms"]) for name in ("to_gpu", "to_host", "enqueue"))
    return f"{to_gpu} to the GPU, {to_host} back, {enqueue} of the CPU to start a run; not in the latency"


def _accuracy(deployed: Variant) -> str | None:
    evaluation, accuracy, timing = deployed.evaluation, deployed.accuracy, deployed.timing
    if evaluation is None or accuracy is None:
        return "not measured"
    if timing is not None and evaluation.metrics["target"] != timing.target:
        return f"not measured (on {evaluation.metrics['target']}: {percent(accuracy.top1.value)})"
    return f"top-1 {percent(accuracy.top1.value)} ({interval_percent(accuracy.top1._asdict())}%, n {accuracy.n:,})"


def _soak(soak: Mapping[str, Any] | None) -> str | None:
    if soak is None:
        return None
    is_known = soak["start_c"] is not None and soak["end_c"] is not None
    reached = f", {soak['start_c']:.1f} to {soak['end_c']:.1f} °C" if is_known else ""
    return f"{soak['seconds']:.0f} s{reached}, {'steady' if soak['is_steady'] else 'not shown to be steady'}"


def _state(telemetry: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """The sensors that matter, over the counted runs."""
    if telemetry is None:
        return
    sensors = {(sensor["kind"], sensor["name"]): sensor for sensor in telemetry["sensors"]}
    shown = {
        f"Temperature ({telemetry['junction']})": ("temperature_c", telemetry["junction"]),
        "Clock of the GPU": ("clock_mhz", "gpu"),
        "Clock of the CPU": ("clock_mhz", "cpu"),
        "Power of the module": ("power_mw", "total"),
        "Power of the CPU": ("power_mw", "cpu"),
        "Power of the GPU": ("power_mw", "gpu"),
    }
    for label, key in shown.items():
        if key in sensors:
            yield label, _range(sensors[key])
    if telemetry["throttled"]:
        events = sum(telemetry["throttled"].values())
        yield "Throttling", f"{events} event{'s' if events > 1 else ''} during the runs" if events else "none seen"


def _range(sensor: Mapping[str, Any]) -> str:
    """`49.6 to 57.0 °C (48.9 before, 57.1 after)`"""
    scale, unit = (1e-3 if sensor["kind"] == "power_mw" else 1.0), KINDS[sensor["kind"]]
    digits = 0 if sensor["kind"] == "clock_mhz" else 1
    known = [name for name in ("before", "min", "max", "after") if sensor[name] is not None]
    text = {name: f"{sensor[name] * scale:,.{digits}f}" for name in known}
    if "min" not in text:
        return f"{text['before']} {unit} before, {text['after']} after"
    during = text["min"] if text["min"] == text["max"] else f"{text['min']} to {text['max']}"
    return f"{during} {unit} ({text['before']} before, {text['after']} after)"


def _rows(models: Lineup, target: str) -> Iterator[Json]:
    """A row for each measured model, with the device and this machine side by side."""
    for digest in dict.fromkeys(variant.model.digest for variant in models.variants):
        own = [variant for variant in models.variants if variant.model.digest == digest]
        on_target = [variant for variant in own if variant.target == target]
        timings = [variant.timing for variant in on_target if variant.timing]
        there = _cell(on_target, timings[-1:])
        elsewhere = [variant for variant in own if variant.target in LOCAL_TARGETS and variant.target != target]
        here = _cell(elsewhere, timings[-1:])
        if there or here:
            yield {"model": own[0].model.id, "there": there, "here": here}


def _is_alike(variant: Variant, timings: list[LatencyRecord]) -> bool:
    """Whether a timing has the batch size, boundary and threads of the last of `timings`, where there are both.

    An engine on a GPU has no threads.
    """
    own = variant.timing
    if own is None or not timings:
        return own is not None
    last = timings[-1]
    has_equal_threads = None in (own.threads, last.threads) or own.threads == last.threads
    return (own.batch_size, own.boundary) == (last.batch_size, last.boundary) and has_equal_threads


def _cell(variants: list[Variant], timings: list[LatencyRecord]) -> Json | None:
    """The last latency, alike `timings`, and accuracy of a model on a machine; None if it was not measured there."""
    timed = [variant.timing.numbers() for variant in variants if variant.timing and _is_alike(variant, timings)]
    tested = [variant.as_json()["top1"] for variant in variants if variant.evaluation]
    return {"latency_ms": timed[-1] if timed else None, "top1": tested[-1] if tested else None} if variants else None
