"""The constants of the roofline, as `python -m benchmarks.latency_model` fitted them to published latencies."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def fitted() -> dict[str, Any]:
    """The fitted constants as they stand in constants.json.

    Returns:
        `constants`; `boards`, the factor of each board with rows enough; `known`, the precisions in which a board was
        measured by several sources; `intervals`; `rows` and `set_sha256` of the set.
    """
    text = files("edgevit.latency_model").joinpath("constants.json").read_text(encoding="utf-8")
    stored: dict[str, Any] = json.loads(text)
    return stored
