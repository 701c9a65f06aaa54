"""What the benchmark scripts share: conditions, spread, and where the raw numbers go."""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.context import Context
from edgevit.profiling import MeasurePlan, measure
from edgevit.provenance import provenance
from edgevit.targets import target_info

RESULTS = Path(__file__).with_name("results")
ROOT = Path(__file__).parents[1]
LONGEST_TURN_S = 0.2  # of a neighbour
WORKING_SIZE = 400  # of a neighbour's square matrices
WARMUP_S = 0.1  # before each turn of a run that is timed in turns with others


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, smallest, largest and the raw values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "raw": list(values)}


def interleaved_p50_ms(runs: Mapping[str, Callable[[], object]], rounds: int, turn_s: float) -> dict[str, list[float]]:
    """The p50 of each run in each round: in every round each takes one turn, in an order drawn anew."""
    plan = MeasurePlan(warmup_s=WARMUP_S, duration_s=turn_s, min_runs=5)
    p50_ms: dict[str, list[float]] = {name: [] for name in runs}
    generator = np.random.default_rng(0)
    for _ in range(rounds):
        for name in generator.permutation(list(runs)).tolist():
            p50_ms[name].append(measure(runs[name], plan).percentile_ms(50))
    return p50_ms


def children_cpu_s() -> float:
    """CPU seconds, user and system, of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cpu_and_wall_s(command: Sequence[str]) -> tuple[float, float]:
    """CPU seconds and wall seconds of a command, its children included."""
    before, start = children_cpu_s(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    end = time.perf_counter()
    return children_cpu_s() - before, end - start


@contextmanager
def neighbours(count: int, longest_turn_s: float = LONGEST_TURN_S) -> Iterator[None]:
    """Processes that work and rest by turns of random length, until the end of the block."""
    processes = [
        multiprocessing.Process(target=_work_and_rest, args=(seed, longest_turn_s), daemon=True)
        for seed in range(count)
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _work_and_rest(seed: int, longest_turn_s: float) -> None:
    generator = np.random.default_rng(seed)
    matrix = generator.random((WORKING_SIZE, WORKING_SIZE))
    while True:
        end_s = time.perf_counter() + generator.uniform(0, longest_turn_s)
        while time.perf_counter() < end_s:
            matrix @ matrix
        time.sleep(generator.uniform(0, longest_turn_s))


def conditions() -> dict[str, Any]:
    """The machine and the versions that a number was measured with."""
    return {**provenance(), "target": target_info("local-cpu", "onnxruntime", Context())}


def models_before(name: str, key: str = "models") -> dict[str, Any]:
    """What earlier runs found of models; those that are measured again take their places."""
    file = RESULTS / f"{name}.json"
    models: dict[str, Any] = json.loads(file.read_text())[key] if file.is_file() else {}
    return models


def publish(name: str, result: dict[str, Any]) -> None:
    """Write results/<name>.json and print it."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"conditions": conditions(), **result}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
