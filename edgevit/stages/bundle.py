"""bundle: an ONNX file or an engine → the folder that goes to the device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.bundling import check_bundle, named_by, write_bundle
from edgevit.configs import Bundle
from edgevit.context import Context
from edgevit.data import open_dataset


def run(config: Bundle, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    """Write the bundle, then run its own `infer.py` in a process of its own and compare with the model here."""
    model = inputs["model"]
    support = open_dataset(inputs["support"]) if "support" in inputs else None
    if support is not None:
        model = named_by(support, model, context.progress)
    metrics = write_bundle(model, out, support, context.progress)
    check_bundle(model, out, context.work)
    return Contents("bundle", metrics=metrics, io=model.io, session_options=model.manifest.session_options)
