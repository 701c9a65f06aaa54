"""CPU seconds of `edgevit --help` and of `import edgevit`, and wall seconds of running a finished recipe again.

    python -m benchmarks.startup [--recipe recipes/quickstart.yaml --runs runs]

The second number needs a run that has finished before.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.common import cpu_and_wall_s, publish, spread

REPEATS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/quickstart.yaml"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    edgevit = str(Path(sys.executable).with_name("edgevit"))
    result = {
        "help_cpu_s": spread([cpu_and_wall_s([edgevit, "--help"])[0] for _ in range(REPEATS)]),
        "import_cpu_s": spread([cpu_and_wall_s([sys.executable, "-c", "import edgevit"])[0] for _ in range(REPEATS)]),
    }
    if (arguments.runs / ".store").is_dir():
        again = [edgevit, "run", str(arguments.recipe), "--runs", str(arguments.runs)]
        result["finished_run_wall_s"] = spread([cpu_and_wall_s(again)[1] for _ in range(5)])
    publish("startup", result)


if __name__ == "__main__":
    main()
