"""bundle: an ONNX file or an engine → the folder that goes to the device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.bundling import (
    Page,
    check_bundle,
    check_engine_bundle,
    class_images,
    model_to_bundle,
    named_by,
    write_bundle,
)
from edgevit.configs import Bundle
from edgevit.context import Context
from edgevit.model_file import ONNX_FILE


def run(config: Bundle, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    """Write the bundle, then run its own `infer.py` and compare: here, and with an engine on the engine's board."""
    model, engine = model_to_bundle(inputs["model"], config.compiled, context.progress)
    images = class_images(inputs, in_recipe=bool(context.recipe_name))
    if images is not None:
        model = named_by(images.support, model, context.progress)
    metrics = write_bundle(model, out, images, context.progress, Page.of(config), engine, config.serve)
    check_bundle(model, out, context.work)
    if engine is not None:
        check_engine_bundle(engine, out, context)
    model_file = model.model_file.model_copy(update={"name": ONNX_FILE})
    return Contents("bundle", metrics=metrics, io=model.io, model_file=model_file)
