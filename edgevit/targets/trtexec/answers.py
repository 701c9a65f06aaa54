"""What trtexec writes: its banner, log lines, times and outputs. Text from a board is bounded and checked.

Sources: NVIDIA/TensorRT, samples/common/sampleReporting.cpp (files), logging.h (lines), trtexec's recorded output.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.errors import TargetError, shortened
from edgevit.profiling import MeasurePlan
from edgevit.profiling.layer_times import LayerTime
from edgevit.profiling.statistics import Samples, nearest_rank

MOST_RUNS = 10_000_000
MOST_LAYERS = 1_000_000
LARGEST_JSON = 2**28  # bytes of a file
BYTES_A_VALUE = 16  # of a file of outputs: a sign, six digits, a point, an exponent and a separator
BYTES_A_RUN = 400  # of a file of times: a line is shorter
BYTES_BESIDE = 2**20  # of either file
SHORTEST_RUN_MS = 0.02
LONGEST_LINE = 400  # characters of a line of the log in an error
LONGEST_READ = 2_000  # characters of a line of the log that are searched
LARGEST_MS = 1e9  # of a time
ENQUEUE_BOUND = 0.8  # of the compute time: above, the CPU may be the limit (trtexec's own advice: a CUDA graph)

_BANNER = re.compile(r"&&&& (?:RUNNING|PASSED|FAILED) TensorRT\.\w+ \[TensorRT v(\d{2})(\d{2})(\d{2})\]", re.ASCII)
_LINE = re.compile(r"^(?:\[[\d/]+-[\d:]+\] )?\[(?P<level>[EWI])\] (?P<text>.*)$", re.ASCII | re.MULTILINE)
_NODE = re.compile(r"While parsing node number \d+ \[(?P<operator>\w+)(?: -> \"(?P<output>[^\"\n]*)\")?")
_IN_NODE = re.compile(r"In node \d+ with name: (?P<name>\S*) and operator: (?P<operator>\w+)")
_NAMED = re.compile(  # the second form is that of TensorRT 11
    r"^(?:\[[\d/]+-[\d:]+\] )?(?:\[E\] )?(?:\[TRT\] )?(?:name: \"(?P<name>[^\"\n]+)\"|Node name: (?P<name_in_11>.+))",
    re.MULTILINE,
)
_UNBUILT = re.compile(r"[Cc]ould not find any implementation for node (?P<name>.+?)(?:\.\)|\. |\.?$)", re.MULTILINE)
_SAYS_WHY = re.compile(r"ERROR:|In node \d+ with|[Cc]ould not find any implementation")
_NO_MEMORY = re.compile(r"OutOfMemory|out of memory|insufficient memory|Requested size was", re.IGNORECASE)
_OTHER_ENGINE = re.compile(
    r"(?:expecting (?:library version|compute) [^\n]*?, please rebuild)"
    r"|incompatible device|not compatible with this version of TensorRT|Serialized Engine Version: |kPLAN_MAGIC_TAG"
)
_BUILT = re.compile(r"Engine built in (\d{1,7}(?:\.\d{1,9})?(?:e[+-]\d{1,2})?) sec", re.ASCII)
_PEAK = re.compile(r"memory usage of TRT CPU/GPU memory allocators: CPU (?P<cpu>\d{1,9}) MiB, GPU (?P<gpu>\d{1,9})")
_DIMENSIONS = re.compile(r"\d{1,9}(?:x\d{1,9})*|\(\d{1,9}(?:, \d{1,9})*,?\)", re.ASCII)  # 8x1000, (8, 1000)
_PARSERS_REASON = re.compile(r"In function \w+:\n(?:\[\d+\] )?(?P<reason>(?:(?!\[[\d/]+-|&&&&).+\n?){1,4})", re.ASCII)
_FAILED_TURN = re.compile(r"^edgevit-turns: failed: (?P<engine>.+)$", re.MULTILINE)
_NOT_A_NUMBER = re.compile(r"(?<=[\s\[,:])[+-]?(?:nan|inf)(?:\(\w*\))?(?=[\s\],}])", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """Why trtexec failed.

    Attributes:
        kind: `memory`: the GPU's is too small. `engine`: it is of another GPU or TensorRT. `node`: the parser or the
            builder does not take a node. `other`: anything else.
        node: the node; empty if none is named.
        text: the words of the log that say why.
    """

    kind: str
    node: str
    text: str


@dataclass(frozen=True)
class Times:
    """The times of each run in the order of the runs, in ms, from CUDA events.

    Attributes:
        compute: of the engine alone.
        to_gpu, to_host: of the copies of inputs and outputs.
        enqueue: of the CPU's work before the GPU's.
        seconds: from the beginning of the first run to the end of the last one.
    """

    compute: Samples
    to_gpu: Samples
    to_host: Samples
    enqueue: Samples
    seconds: float

    @property
    def doubts(self) -> tuple[str, ...]:
        """Reasons to doubt the compute times, a sentence each."""
        share = nearest_rank(self.enqueue, 50) / max(nearest_rank(self.compute, 50), 1e-6)
        if share <= ENQUEUE_BOUND:
            return ()
        return (f"the CPU needs {share:.0%} of the compute time to start a run: it may be the limit, not the GPU",)


@dataclass(frozen=True)
class BuildFacts:
    """What the log of a build tells of it. None is untold.

    Attributes:
        seconds: the time of the build.
        peak_gpu_mib, peak_cpu_mib: most memory that TensorRT's allocators held on the GPU and on the CPU.
    """

    seconds: float | None
    peak_gpu_mib: int | None
    peak_cpu_mib: int | None


def build_facts_in(log: str) -> BuildFacts:
    """The facts in the log of a build."""
    seconds = _BUILT.search(log)
    peaks = [(int(peak["cpu"]), int(peak["gpu"])) for peak in _PEAK.finditer(log)]
    cpu, gpu = (max(values) for values in zip(*peaks, strict=True)) if peaks else (None, None)
    return BuildFacts(float(seconds[1]) if seconds else None, gpu, cpu)


def version_in(log: str) -> str | None:
    """The version in the banner: v100300 is 10.3.0. None without a banner of TensorRT 10 or later."""
    banner = _BANNER.search(log)
    return ".".join(str(int(number)) for number in banner.groups()) if banner else None


def warnings_in(log: str) -> tuple[str, ...]:
    """The lines of the log that warn, without their time; each once."""
    return tuple(dict.fromkeys(_text(line["text"]) for line in _LINE.finditer(log) if line["level"] == "W"))


def failure_in(log: str) -> Failure:
    """The reason in the log of a run that failed."""
    log = _FAILED_TURN.sub("", "\n".join(line[:LONGEST_READ] for line in log.split("\n")))
    errors = [line["text"].removeprefix("[TRT] ") for line in _LINE.finditer(log) if line["level"] == "E"]
    last = log.strip().splitlines()[-1:] or [""]
    for kind, pattern in (("memory", _NO_MEMORY), ("engine", _OTHER_ENGINE)):
        if line := next((line for line in errors if pattern.search(line)), None):
            return Failure(kind, "", _text(line))
    if node := _node_in(log):
        line = next((line for line in errors if _SAYS_WHY.search(line)), [*errors, *last][0])
        said = _PARSERS_REASON.search(log)
        return Failure("node", shortened(node), _text(" ".join(said["reason"].split()) if said else line))
    return Failure("other", "", _text([*errors, *last][0]))


def engine_that_failed(log: str) -> str | None:
    """The engine whose run failed in a race, as `turns.py` names it; None if the log names none."""
    named = _FAILED_TURN.search(log)
    return _text(named["engine"]) if named else None


def times_in(content: bytes, min_runs: int, where: object) -> Times:
    """The times in the file of --exportTimes. Raises TargetError if they are none, or of fewer than `min_runs` runs."""
    return _times(_json(content, where), min_runs, where)


def starts_in(content: bytes, starts: int, engines: int, min_runs: int, where: object) -> list[list[Times]]:
    """The times of all engines in each start, from the file that `turns.py` writes.

    Raises TargetError if they are none, or of fewer than `min_runs` runs.
    """
    turns = _json(content, where)
    if not isinstance(turns, list) or len(turns) != starts:
        raise _unreadable(f"times of {starts} starts", where)
    if not all(isinstance(times, list) and len(times) == engines for times in turns):
        raise _unreadable(f"times of {engines} engines in each start", where)
    return [[_times(rows, min_runs, where) for rows in times] for times in turns]


def _times(rows: object, min_runs: int, where: object) -> Times:
    keys = ("computeMs", "h2dMs", "d2hMs", "startEnqMs", "endEnqMs")
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST_RUNS:
        raise _unreadable("a list of runs", where)
    values = [[row.get(key) for key in keys] if isinstance(row, dict) else [] for row in rows]
    if not all(len(row) == len(keys) and all(map(_is_number, row)) for row in values):
        raise _unreadable(f"numbers for {', '.join(keys)}", where)
    compute, to_gpu, to_host, start, end = np.asarray(values, np.float64).T
    if not (compute.min() > 0 and to_gpu.min() >= 0 and to_host.min() >= 0):
        raise _unreadable("compute times above 0 ms, and copies of at least 0 ms", where)
    if len(compute) < min_runs:
        what = "TensorRT has timed fewer runs than it was asked for"
        raise TargetError(what, where=where, got=f"{len(compute)} runs", expected=f"at least {min_runs}")
    seconds = float(end.max() - start.min() + compute[-1] + to_host[-1]) / 1e3
    return Times(compute, to_gpu, to_host, np.maximum(end - start, 0), max(seconds, 0.0))


def outputs_in(content: bytes, where: object) -> dict[str, NDArray[np.float32]]:
    """The outputs in the file of --exportOutput, by name. Raises TargetError if they are none.

    trtexec prints six digits of each value, and `nan` and `inf` as C++ does.
    """
    outputs = _json(content, where)
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise _unreadable("a list of outputs", where)
    names = [output.get("name") for output in outputs]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise _unreadable("a name for each output", where)
    return {str(output["name"]): _output(output, where) for output in outputs}


def layer_times_in(content: bytes, where: object) -> tuple[tuple[LayerTime, ...], int]:
    """The times in the file of --exportProfile, and the number of runs. Raises TargetError if they are none."""
    rows = _json(content, where)
    if not isinstance(rows, list) or not 1 < len(rows) <= MOST_LAYERS or not isinstance(rows[0], dict):
        raise _unreadable("the number of runs, and the time of each layer", where)
    runs: Any = rows[0].get("count")
    if not (_is_number(runs) and 1 <= runs <= MOST_RUNS):
        raise _unreadable("the number of runs", where)
    return tuple(_layer_time(row, where) for row in rows[1:]), int(runs)


def largest_outputs(sizes: Iterable[int]) -> int:
    """The most bytes of the file of --exportOutput for outputs with so many values."""
    return min(LARGEST_JSON, BYTES_BESIDE + BYTES_A_VALUE * sum(sizes))


def largest_times(plan: MeasurePlan) -> int:
    """The most bytes of the file of --exportTimes for a plan: for runs of SHORTEST_RUN_MS."""
    runs = max(plan.min_runs, math.ceil(plan.duration_s * 1000 / SHORTEST_RUN_MS))
    return min(LARGEST_JSON, BYTES_BESIDE + BYTES_A_RUN * runs)


def largest_starts(plan: MeasurePlan, starts: int, engines: int) -> int:
    """The most bytes of the file of `turns.py`, for engines with this plan in each start."""
    return min(LARGEST_JSON, engines * starts * largest_times(plan))


def _layer_time(row: object, where: object) -> LayerTime:
    fields: Any = row if isinstance(row, dict) else {}
    name, mean, median = (fields.get(key) for key in ("name", "averageMs", "medianMs"))
    if not isinstance(name, str) or not all(_is_number(time) and time >= 0 for time in (mean, median)):
        raise _unreadable("the name and the times of each layer, of at least 0 ms", where)
    return LayerTime(name, mean, median)


def _output(output: dict[str, Any], where: object) -> NDArray[np.float32]:
    dimensions, values = str(output.get("dimensions")), output.get("values")
    shape = tuple(map(int, re.findall(r"\d+", dimensions))) if _DIMENSIONS.fullmatch(dimensions) else ()
    is_whole = isinstance(values, list) and min(shape, default=0) > 0 and len(values) == math.prod(shape)
    if not is_whole or not all(isinstance(value, float) for value in values or ()):
        raise _unreadable("as many numbers as the dimensions say", where)
    array = np.asarray(values, np.float64)
    if np.any(np.isfinite(array) & (np.abs(array) > np.finfo(np.float32).max)):
        raise _unreadable("numbers of float32", where)
    return array.astype(np.float32).reshape(shape)


def _node_in(log: str) -> str | None:
    """The node that the parser stumbled at, by its name or else by its output; or that the builder cannot build."""
    if at := _NODE.search(log):
        named = _NAMED.search(log, at.end())
        name = named["name"] or named["name_in_11"] if named else at["output"]
        return f"{at['operator']} {name or ''}".strip()
    if node := _IN_NODE.search(log):
        return f"{node['operator']} {node['name']}".strip()
    unbuilt = _UNBUILT.search(log)
    return unbuilt["name"] if unbuilt else None


def _json(content: bytes, where: object) -> object:
    if len(content) > LARGEST_JSON:
        raise _unreadable(f"at most {LARGEST_JSON:,} bytes", where)
    try:
        return json.loads(_NOT_A_NUMBER.sub("NaN", content.decode("utf-8")), parse_int=float)
    except (ValueError, RecursionError):
        raise _unreadable("JSON", where) from None


def _is_number(value: object) -> bool:
    return isinstance(value, float) and abs(value) <= LARGEST_MS


def _text(line: str) -> str:
    return shortened(line.strip(), LONGEST_LINE)


def _unreadable(expected: str, where: object) -> TargetError:
    return TargetError("TensorRT's answer cannot be read", where=where, expected=expected)


def log_of(streams: Sequence[str]) -> str:
    """The end of what trtexec printed, on both streams."""
    return "\n".join(stream.rstrip("\n") for stream in streams if stream)
