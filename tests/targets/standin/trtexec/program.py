"""The flow of trtexec's main function: options, engine, layers, run, report."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.targets.standin.trtexec.log import Failed, Log
from tests.targets.standin.trtexec.options import HELP, Options, options_from, print_options
from tests.targets.standin.trtexec.settings import (
    LOADED,
    TAKES_TIME,
    VARIANTS,
    Fault,
    TrtexecSettings,
    Variant,
    read_settings,
)

# What is slow to import is imported where it is needed: wrong options are answered at once.


def main(arguments: Sequence[str]) -> int:
    """Run with the settings' file, the variant's file, the name of the program, and its arguments."""
    settings, (variant, fault) = read_settings(Path(arguments[0])), variant_in(Path(arguments[1]))
    log = Log(settings, arguments[2:])
    log.banner("RUNNING")
    if not arguments[3:] or {"--help", "-h"} & set(arguments[3:]):
        sys.stdout.write(HELP)
        return 0
    takes_time = Path(arguments[1]).with_name(TAKES_TIME).exists()
    try:
        builds = Path(arguments[1]).with_name("builds")
        _run(options_from(arguments[3:], settings, log), settings, variant, fault, builds, log, takes_time)
    except Failed:
        log.banner("FAILED")
        return 1
    log.banner("PASSED")
    return 0


def _run(
    options: Options,
    settings: TrtexecSettings,
    variant: Variant,
    fault: Fault | None,
    builds: Path,
    log: Log,
    takes_time: bool,
) -> None:
    from tests.targets.standin.trtexec.building import built
    from tests.targets.standin.trtexec.engine import read_engine
    from tests.targets.standin.trtexec.inference import output_json, outputs_of
    from tests.targets.standin.trtexec.replay import profile_json, report

    print_options(options, log)
    _print_device(settings, log)
    file = options.load_engine or options.save_engine or "unsaved.engine"
    if not options.load_engine:
        Path(file).write_bytes(built(options, settings, variant, counted(builds), log))
    engine = read_engine(file, settings, options.version_compatible, log)
    if options.export_layers:
        layers = _layers(engine, options, settings, variant)
        Path(options.export_layers).write_text(json.dumps(layers, indent=2))
    if options.skip_inference:
        log.info("Skipped inference phase since --skipInference is added.")
        return
    outputs = spoiled(outputs_of(engine, options, log, fault), "wrong-outputs" if engine.is_wrong else variant)
    if takes_time and options.export_times:
        loaded = builds.with_name(LOADED)
        loaded.touch()
        time.sleep(options.warm_up_ms / 1000 + options.duration_s)
        loaded.unlink()
    if options.profiles_apart or not options.export_profile:
        report(options, settings, variant == "unstable", log, speed=_speed(engine, variant))
    if options.export_profile:
        names = [layer["Name"] for layer in _layers(engine, options, settings, variant)["Layers"]]
        Path(options.export_profile).write_text(profile_json(names, options))
    if options.export_output and variant != "no-outputs":
        text = output_json(outputs)
        Path(options.export_output).write_text(text[: len(text) // 2] if variant == "half-outputs" else text)


def _speed(engine: Any, variant: Variant) -> float:
    """By which recorded times are divided."""
    if variant == "small-is-fast":
        return 1e6 / len(engine.onnx)
    is_fast = variant == "int8-is-fast" and b"QuantizeLinear" in engine.onnx
    return (2 if is_fast else 1) / float(engine.slowdown)


def counted(builds: Path) -> int:
    """The number of builds until now, which is one higher afterwards."""
    number = builds.stat().st_size if builds.exists() else 0
    builds.write_bytes(bytes(number + 1))
    return number


def variant_in(file: Path) -> tuple[Variant, Fault | None]:
    """The variant, and the fault of a variant that names a node: `wrong-from /blocks/0/mlp/fc1/MatMul`."""
    name, _, node = (file.read_text().strip() if file.exists() else "good").partition(" ")
    variant = next(variant for variant in VARIANTS if variant == name)
    return variant, Fault(node, vanishes=variant == "wrong-unless-marked") if node else None


def _print_device(settings: TrtexecSettings, log: Log) -> None:
    log.info("=== Device Information ===")
    log.info("Available Devices: ")
    log.info(f'  Device 0: "{settings.device}" UUID: GPU-00000000-0000-0000-0000-000000000000')
    log.info(f"Selected Device: {settings.device}")
    log.info("Selected Device ID: 0")
    log.info(f"Compute Capability: {settings.compute_capability}")
    log.info(f"SMs: {settings.sms}")
    log.info(f"Device Global Memory: {settings.memory_mib} MiB")
    log.info()
    log.info(f"TensorRT version: {'.'.join(map(str, settings.version))}")
    log.info("Loading standard plugins")


def _layers(engine: Any, options: Options, settings: TrtexecSettings, variant: Variant) -> Any:
    """The inspector's answer. With --skipInference there is no execution context."""
    from tests.targets.standin.trtexec.inspector import layers_json

    has_context = not options.skip_inference
    return layers_json(engine.onnx, engine.profile, engine.verbosity, settings.version[0], variant, has_context)


def spoiled(outputs: dict[str, Any], variant: Variant) -> dict[str, Any]:
    """The outputs of an engine that is wrong."""
    for array in outputs.values():
        if variant == "wrong-outputs" or (variant == "wrong-in-large-batches" and len(array) > 8):
            array[...] = 0
            array[..., 0] = 1
        if variant == "not-a-number":
            array[...] = float("nan")
    return outputs
