"""Seconds of each stage of a finished run, and the largest memory of its process, from the run's own manifests.

python -m benchmarks.stage_costs runs/quickstart
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.common import publish
from edgevit.artifacts import MANIFEST, Artifact


def main() -> None:
    run = Path(sys.argv[1])
    shown = [path.parent for pattern in (f"*/{MANIFEST}", f"*/*/{MANIFEST}") for path in run.glob(pattern)]
    costs = {path.relative_to(run).as_posix(): Artifact.load(path).manifest.provenance for path in shown}
    publish(
        f"stage_costs_{run.name}",
        {
            "seconds": {name: one["seconds"] for name, one in costs.items()},
            "total_s": sum(one["seconds"] for one in costs.values()),
            "peak_rss_mib": max(one["peak_rss_mib_so_far"] for one in costs.values()),
        },
    )


if __name__ == "__main__":
    main()
