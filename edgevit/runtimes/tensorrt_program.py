"""The options of trtexec that edgevit uses, by TensorRT's Python module: for a board without trtexec.

    python tensorrt_program.py --onnx=model.onnx --saveEngine=model.engine --minShapes=image:1x3x224x224 …
    python tensorrt_program.py --loadEngine=model.engine --shapes=image:8x3x224x224 --exportTimes=times.json …

It runs in a folder that holds `tensorrt_loading.py` beside it. Options, files and the lines of its log have trtexec's
forms, so that edgevit reads both in one way. Needs what `tensorrt_loading.py` needs, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Sequence  # noqa: UP035 - for Python 3.8

# What trtexec does if it is asked to, and this program always does: typed networks, no TF32, copies in each run, an
# active wait, no CUDA graph, times of layers in runs of their own. Without an export, no engine is run.
ALWAYS = (
    "stronglyTyped",
    "noTF32",
    "skipInference",
    "useSpinWait",
    "includeDataTransfers",
    "noCudaGraph",
    "separateProfileRun",
)
EXPORTS = ("Times", "LayerInfo", "Profile")
MIB = 2**20


def main(arguments: Sequence[str]) -> int:
    """Do what the options say. Returns the exit status, 0 or 1."""
    options = _parser().parse_args(arguments)
    try:
        loading: Any = import_module("tensorrt_loading")
        _banner("RUNNING", loading)
    except Exception as error:  # noqa: BLE001 - a module that is missing, or does not start
        return _failed(error)
    try:
        if options.onnx is not None:
            _build(options, loading)
        if any(getattr(options, f"export{name}") for name in EXPORTS):
            _run(options, loading)
    except Exception as error:  # noqa: BLE001 - the log says which one
        status = _failed(error)
        _banner("FAILED", loading)
        return status
    _banner("PASSED", loading)
    return 0


def _failed(error: Exception) -> int:
    """Print an error as trtexec does. Returns the exit status."""
    for line in str(error).splitlines() or [type(error).__name__]:
        _say("E", line)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tensorrt_program.py", allow_abbrev=False)
    for name in ALWAYS:
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--profilingVerbosity", choices=["detailed"])
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--onnx", type=Path)
    given.add_argument("--loadEngine", type=Path)
    parser.add_argument("--saveEngine", type=Path)
    for end in ("min", "opt", "max"):
        parser.add_argument(f"--{end}Shapes", type=_shapes, default={})
    parser.add_argument("--builderOptimizationLevel", type=int, default=3)
    parser.add_argument("--memPoolSize", type=_workspace_bytes)
    parser.add_argument("--timingCacheFile", type=Path)
    parser.add_argument("--versionCompatible", action="store_true")
    parser.add_argument("--shapes", type=_shapes, default={})
    parser.add_argument("--loadInputs", type=_files, default={})
    for name in EXPORTS:
        parser.add_argument(f"--export{name}", type=Path)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--warmUp", type=float, default=200)
    parser.add_argument("--duration", type=float, default=3)
    return parser


def _build(options: argparse.Namespace, loading: Any) -> None:
    """Build --onnx into --saveEngine."""
    ends = (options.minShapes, options.optShapes, options.maxShapes)
    cache = options.timingCacheFile
    wanted = loading.BuildOptions(
        profiles={name: loading.Profile(*(end[name] for end in ends)) for name in options.optShapes},
        builder_level=options.builderOptimizationLevel,
        workspace_bytes=options.memPoolSize,
        timing_cache=None if cache is None else cache.read_bytes() if cache.exists() else b"",
        version_compatible=options.versionCompatible,
    )
    start = time.perf_counter()
    built = loading.build(options.onnx, wanted, _say_of_tensorrt)
    _say("I", f"Engine built in {time.perf_counter() - start:.6g} sec.")
    options.saveEngine.write_bytes(built.engine)
    if built.timing_cache is not None:
        cache.write_bytes(built.timing_cache)
    _say("I", f"Created engine with size: {len(built.engine) / MIB:.6g} MiB")


def _run(options: argparse.Namespace, loading: Any) -> None:
    """Load --loadEngine or the engine that was built, and write what is asked for."""
    content = (options.loadEngine or options.saveEngine).read_bytes()
    engine = loading.Engine(content, options.versionCompatible, _say_of_tensorrt)
    given = {**options.optShapes, **options.shapes}
    shapes = {name: given.get(name, engine.shape(name)) for name in engine.inputs}
    if options.exportLayerInfo is not None:
        options.exportLayerInfo.write_text(engine.layers(shapes), encoding="utf-8")
    feed = {name: _input(engine, name, shapes[name], options.loadInputs) for name in engine.inputs}
    if options.exportTimes is not None:
        times = engine.times(feed, options.warmUp / 1e3, options.duration, options.iterations)
        options.exportTimes.write_text(json.dumps([run._asdict() for run in times]), encoding="utf-8")
    if options.exportProfile is not None:
        layers = engine.layer_times(feed, options.warmUp / 1e3, options.duration, options.iterations)
        options.exportProfile.write_text(json.dumps(_profile(layers)), encoding="utf-8")


def _input(engine: Any, name: str, shape: tuple[int, ...], files: dict[str, str]) -> Any:
    """The input from its file; random numbers without one."""
    if name not in files:
        return random_input(shape, engine.dtype(name))
    return import_module("numpy").fromfile(files[name], engine.dtype(name)).reshape(shape)


def random_input(shape: tuple[int, ...], kind: Any) -> Any:
    """Seeded random numbers of a NumPy type, as even as trtexec's: from -1 to 1, or all integers of 8 bits.

    Zeros would take less power than images, and so run at higher clocks.

    Source: NVIDIA/TensorRT, samples/common/sampleInference.cpp, Binding::fill.
    """
    numpy: Any = import_module("numpy")
    generator, kind = numpy.random.default_rng(0), numpy.dtype(kind)
    if kind.kind == "f":
        return generator.uniform(-1, 1, shape).astype(kind)
    low, high = {"b": (0, 2), "u": (0, 256)}.get(kind.kind, (-128, 128))
    return generator.integers(low, high, shape).astype(kind)


def _profile(layers: dict[str, list[float]]) -> list[dict[str, Any]]:
    """The times of layers in trtexec's form: the number of runs, then a row for each layer."""
    total = sum(map(sum, layers.values())) or 1
    rows = [
        {
            "name": name,
            "timeMs": sum(times),
            "averageMs": statistics.mean(times),
            "medianMs": statistics.median(times),
            "percentage": 100 * sum(times) / total,
        }
        for name, times in layers.items()
    ]
    return [{"count": max(map(len, layers.values()), default=0)}, *rows]


def _shapes(text: str) -> dict[str, tuple[int, ...]]:
    """`image:8x3x224x224` → the shape of each input."""
    parts = [entry.rpartition(":") for entry in text.split(",")]
    return {name: tuple(int(size) for size in sizes.split("x")) for name, _, sizes in parts}


def _files(text: str) -> dict[str, str]:
    """`image:input.raw` → the file of each input."""
    parts = [entry.rpartition(":") for entry in text.split(",")]
    return {name: file for name, _, file in parts}


def _workspace_bytes(text: str) -> int:
    """`workspace:512` → bytes."""
    pool, _, mib = text.partition(":")
    if pool != "workspace":
        raise argparse.ArgumentTypeError(f"workspace:MIB is expected, not {text}")
    return int(float(mib) * MIB)


def _banner(state: str, loading: Any) -> None:
    numbers = [int(part) for part in loading.trt.__version__.split(".")[:3]]
    version = "".join(f"{number:02}" for number in numbers)
    print(f"&&&& {state} TensorRT.edgevit [TensorRT v{version}] # {' '.join(sys.argv)}", flush=True)


def _say_of_tensorrt(letter: str, message: str) -> None:
    _say(letter, f"[TRT] {message}")


def _say(letter: str, message: str) -> None:
    now = time.strftime("[%m/%d/%Y-%H:%M:%S]")
    print(f"{now} [{letter}] {message}", file=sys.stderr if letter in "EW" else sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
