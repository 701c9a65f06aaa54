"""Seconds of each stage of a finished run, its largest memory, and what it measured, from the run's own manifests.

python -m benchmarks.stage_costs runs/quickstart
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.common import publish
from edgevit.artifacts import MANIFEST, Artifact, Manifest
from edgevit.models.checkpoints import WEIGHTS

SHOWN = ("top1", "corrupted_top1", "latency_ms", "size_bytes")


def main() -> None:
    run = Path(sys.argv[1])
    shown = [path.parent for pattern in (f"*/{MANIFEST}", f"*/*/{MANIFEST}") for path in run.glob(pattern)]
    stages = {path.relative_to(run).as_posix(): Artifact.load(path).manifest for path in shown}
    costs = {name: one.provenance for name, one in stages.items()}
    publish(
        f"stage_costs_{run.name}",
        {
            "seconds": {name: one["seconds"] for name, one in costs.items()},
            "total_s": sum(one["seconds"] for one in costs.values()),
            "peak_rss_mib": max(one["peak_rss_mib_so_far"] for one in costs.values()),
            "measured": {name: _measured(one) for name, one in stages.items()},
        },
    )


def _measured(manifest: Manifest) -> dict[str, Any]:
    """The metrics that are shown; of a checkpoint, the size of its weights."""
    found = {key: manifest.metrics[key] for key in SHOWN if key in manifest.metrics}
    return found if WEIGHTS not in manifest.files else {**found, "size_bytes": manifest.files[WEIGHTS].size}


if __name__ == "__main__":
    main()
