"""check: ONNX → what NVIDIA's builder makes of it, or what rules and tables say where it cannot be asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.checking import check_onnx
from edgevit.configs import Check
from edgevit.context import Context
from edgevit.graphs.files import onnx_file


def run(config: Check, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    """A model that would be refused or fall back is an answer, not a failure: it stands in the report."""
    found = check_onnx(onnx_file(inputs["model"]))
    if found.not_asked:
        context.progress.say(f"{config.id}: by rules and tables alone: {found.not_asked}")
    (out / "check.json").write_text(json.dumps(found.to_json(), indent=1) + "\n", encoding="utf-8")
    return Contents(kind="check", metrics=found.summary(), logs=("check.json",))
