"""check: ONNX → the result of NVIDIA's builder or, if it cannot run, of rules and tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.checking import check_for_tensorrt
from edgevit.configs import Check
from edgevit.context import Context
from edgevit.graphs.files import onnx_file


def run(config: Check, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    """Check the model. A refusal or a fallback is a result in the report; the stage does not fail."""
    check = check_for_tensorrt(onnx_file(inputs["model"]))
    if check.not_asked:
        context.progress.say(f"{config.id}: by rules and tables alone: {check.not_asked}")
    (out / "check.json").write_text(json.dumps(check.to_json(), indent=1) + "\n", encoding="utf-8")
    return Contents(kind="check", metrics=check.summary(), logs=("check.json",))
