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
    levels = ("*", "*/*", "*/*/*")  # of a stage's id, accuracy/int8/a
    shown = [path.parent for level in levels for path in run.glob(f"{level}/{MANIFEST}")]
    stages = {path.relative_to(run).as_posix(): Artifact.load(path).manifest for path in shown}
    costs = {name: manifest.provenance for name, manifest in stages.items()}
    publish(
        f"stage_costs_{run.name}",
        {
            "seconds": {name: cost["seconds"] for name, cost in costs.items()},
            "total_s": sum(cost["seconds"] for cost in costs.values()),
            "peak_rss_mib": max(cost["peak_rss_mib_so_far"] for cost in costs.values()),
            "measured": {name: _measured(manifest) for name, manifest in stages.items()},
        },
    )


def _measured(manifest: Manifest) -> dict[str, Any]:
    """The metrics that are shown; of a checkpoint, the size of its weights."""
    shown = {key: manifest.metrics[key] for key in SHOWN if key in manifest.metrics}
    return shown if WEIGHTS not in manifest.files else {**shown, "size_bytes": manifest.files[WEIGHTS].size}


if __name__ == "__main__":
    main()
