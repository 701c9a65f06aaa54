"""What the benchmark scripts share: conditions, spread, and where the raw numbers go."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgevit.provenance import provenance
from edgevit.targets import target_info

RESULTS = Path(__file__).with_name("results")
ROOT = Path(__file__).parents[1]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, smallest, largest and the raw values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "raw": list(values)}


def conditions() -> dict[str, Any]:
    """The machine and the versions that a number was measured with."""
    return {**provenance(), "target": target_info("local-cpu", "onnxruntime")}


def publish(name: str, result: dict[str, Any]) -> None:
    """Write results/<name>.json and print it."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"conditions": conditions(), **result}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
