"""CPU seconds of `edgevit --help` and of `import edgevit`, and wall seconds of running a finished recipe again.

    python -m benchmarks.startup [--recipe recipes/quickstart.yaml --runs runs]

The second number needs a run that has finished before.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import publish, spread

REPEATS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/quickstart.yaml"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    edgevit = str(Path(sys.executable).with_name("edgevit"))
    result = {
        "help_cpu_s": spread([_cpu_s([edgevit, "--help"])[0] for _ in range(REPEATS)]),
        "import_cpu_s": spread([_cpu_s([sys.executable, "-c", "import edgevit"])[0] for _ in range(REPEATS)]),
    }
    if (arguments.runs / ".store").is_dir():
        again = [edgevit, "run", str(arguments.recipe), "--runs", str(arguments.runs)]
        result["finished_run_wall_s"] = spread([_cpu_s(again)[1] for _ in range(5)])
    publish("startup", result)


def _cpu_s(command: list[str]) -> tuple[float, float]:
    """CPU seconds (user and system) and wall seconds of a command, its children included."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, end - start


if __name__ == "__main__":
    main()
