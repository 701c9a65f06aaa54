"""The options of a run, and the texts with which trtexec refuses them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.targets.standin.trtexec.flags import flags_of
from tests.targets.standin.trtexec.log import Log, dimensions
from tests.targets.standin.trtexec.settings import TrtexecSettings

PRECISIONS = ("fp16", "bf16", "int8", "fp8", "int4")
HELP = "=== Model Options ===\n  --onnx=<file>               ONNX model\n(the rest of the help is left out here)\n"

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Options:
    """The options that the stand-in follows.

    Attributes:
        profile: the least, the usual and the largest shape of each input.
        profiles_apart: whether layers are timed in runs of their own, behind those that are summed up.
        shapes: the shapes of inputs for a run.
        precisions: those allowed by flags, in a version that has such flags.
    """

    onnx: str = ""
    save_engine: str = ""
    load_engine: str = ""
    skip_inference: bool = False
    strongly_typed: bool = False
    precisions: frozenset[str] = frozenset()
    profile: tuple[Shapes, Shapes, Shapes] = ({}, {}, {})
    shapes: Shapes = field(default_factory=dict)
    verbosity: str = "layer_names_only"
    timing_cache: str = ""
    version_compatible: bool = False
    inputs: dict[str, str] = field(default_factory=dict)
    iterations: int = 10
    duration_s: float = 3
    warm_up_ms: float = 200
    transfers: bool = True
    percentiles: tuple[float, ...] = (90, 95, 99)
    export_times: str = ""
    export_output: str = ""
    export_layers: str = ""
    export_profile: str = ""
    profiles_apart: bool = True


def options_from(arguments: Sequence[str], settings: TrtexecSettings, log: Log) -> Options:
    """The options of a command line. What is unknown or wrong ends the run, after the help, as in trtexec."""
    values: dict[str, str] = {}
    unknown = []
    known = flags_of(settings.version)
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in known or name in values:
            unknown.append(f"Unknown option: {name} {value}")
        values.setdefault(name, value)
    if unknown:
        _refuse(log, *unknown)
    try:
        return _options(values, settings, log)
    except ValueError as error:
        _refuse(log, str(error))
        raise AssertionError from error


def _refuse(log: Log, *texts: str) -> None:
    sys.stdout.write(HELP)
    log.fail(*texts)


def _options(values: dict[str, str], settings: TrtexecSettings, log: Log) -> Options:
    if "--onnx" not in values and "--loadEngine" not in values:
        raise ValueError("Model missing or format not recognized")
    profile = _profile([_shapes(values.get(f"--{end}Shapes", "")) for end in ("min", "opt", "max")])
    shapes = _shapes(values.get("--shapes", ""))
    if shapes and not profile[0]:
        profile = (shapes, shapes, shapes)
    is_typed = "--stronglyTyped" in values or settings.version >= (11,)
    return Options(
        onnx=values.get("--onnx", ""),
        save_engine=values.get("--saveEngine", ""),
        load_engine=values.get("--loadEngine", ""),
        skip_inference="--skipInference" in values,
        strongly_typed=is_typed,
        precisions=_precisions(values, is_typed, log),
        profile=profile,
        shapes={**profile[1], **shapes},
        verbosity=_verbosity(values.get("--profilingVerbosity", "layer_names_only")),
        timing_cache=values.get("--timingCacheFile", ""),
        version_compatible=bool({"--versionCompatible", "--vc"} & set(values)),
        inputs=dict(entry.rsplit(":", 1) for entry in values.get("--loadInputs", "").split(",") if entry),
        iterations=int(values.get("--iterations", 10)),
        duration_s=float(values.get("--duration", 3)),
        warm_up_ms=float(values.get("--warmUp", 200)),
        transfers=_transfers(values, settings, log),
        percentiles=tuple(float(part) for part in values.get("--percentile", "90,95,99").split(",")),
        export_times=values.get("--exportTimes", ""),
        export_output=values.get("--exportOutput", ""),
        export_layers=values.get("--exportLayerInfo", ""),
        export_profile=values.get("--exportProfile", ""),
        profiles_apart="--separateProfileRun" in values or settings.version >= (11,),
    )


def _shapes(text: str) -> Shapes:
    """`image:1x3x32x32,mask:1` → the shape of each input."""
    shapes = {}
    for entry in filter(None, text.split(",")):
        name, _, sizes = entry.rpartition(":")
        shapes[name.strip("'")] = tuple(int(size) for size in sizes.split("x"))
    return shapes


def _profile(ends: list[Shapes]) -> tuple[Shapes, Shapes, Shapes]:
    """The ends that are not given are those that are: the usual shape first."""
    least, usual, largest = ends
    usual = usual or largest or least
    return least or usual, usual, largest or usual


def _precisions(values: dict[str, str], is_typed: bool, log: Log) -> frozenset[str]:
    given = [name for name in PRECISIONS if f"--{name}" in values]
    if "--best" in values:
        given = ["fp16", "int8"]
    if not is_typed:
        return frozenset(given)
    for name in given:
        log.warning(
            f"Invalid usage, setting {name} mode is not allowed if graph is strongly typed. Disabling "
            f"BuilderFlag::k{name.upper()}."
        )
    return frozenset()


def _verbosity(name: str) -> str:
    if name not in ("layer_names_only", "none", "detailed"):
        raise ValueError(f"Unknown profilingVerbosity: {name}")
    return name


def _transfers(values: dict[str, str], settings: TrtexecSettings, log: Log) -> bool:
    """Whether inputs and outputs are copied in each run: by default up to 10.x, and not from 11 on."""
    if settings.version < (11,):
        return "--noDataTransfers" not in values
    kept = {
        "--noDataTransfers": "Data transfers are now disabled by default. Use --includeDataTransfers to re-enable data "
        "transfers.",
        "--useSpinWait": "Spin wait is now enabled by default. Use --noSpinWait to disable spin wait.",
        "--useCudaGraph": "CUDA graph is now enabled by default. Use --noCudaGraph to disable CUDA graph.",
    }
    for name, text in kept.items():
        if name in values:
            log.warning(f"{name} is deprecated. {text}")
    return "--includeDataTransfers" in values


def print_options(options: Options, log: Log) -> None:
    """The parts of trtexec's list that tell what was asked for."""
    log.info("=== Model Options ===")
    log.info(f"Format: {'ONNX' if options.onnx else '*'}")
    log.info(f"Model: {options.onnx}")
    if options.onnx:
        log.info("=== Build Options ===")
        log.info(f"Precision: {'FP32' + ''.join(f'+{name.upper()}' for name in sorted(options.precisions))}")
        log.info(f"Skip inference: {_enabled(options.skip_inference)}")
        log.info(f"Save engine: {options.save_engine}")
    log.info("=== Inference Options ===")
    log.info("Batch: Explicit")
    for name, shape in options.shapes.items():
        log.info(f"Input inference shape : {name}={dimensions(shape)}")
    log.info(f"Iterations: {options.iterations}")
    log.info(f"Duration: {options.duration_s:g}s (+ {options.warm_up_ms:g}ms warm up)")
    log.info(f"Data transfers: {_enabled(options.transfers)}")


def _enabled(is_enabled: bool) -> str:
    return "Enabled" if is_enabled else "Disabled"
