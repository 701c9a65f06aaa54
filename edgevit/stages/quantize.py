"""quantize: ONNX → ONNX with INT8 weights and activations, close to the float one and faster; or the float one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Quantize
from edgevit.context import Context, usable_cpus
from edgevit.data import open_dataset
from edgevit.quantization import choose_images, image_batches
from edgevit.quantization.choice import FormWriter, Judge, Judged, best_of
from edgevit.quantization.preparation import prepared
from edgevit.runtimes.base import carried_cost
from edgevit.runtimes.files import onnx_file, read_onnx

SENSITIVITY = "sensitivity.json"
CALIBRATE_OTHERWISE = (
    "calibrate on more images of the kind the model will see, or try calibrator: percentile or entropy"
)
TRAINED_TO_BE_ROUNDED = (
    "lower min_sqnr_db if its accuracy is good: a model trained to be rounded need not answer alike in float"
)


def run(config: Quantize, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    model, dataset = inputs["model"], open_dataset(inputs["calibration"])
    chosen = choose_images(dataset, config.calibration_images, config.seed, context.progress)
    calibration, held_out = (
        image_batches(dataset, positions, model.io, context.progress, title)
        for positions, title in ((chosen.calibration, "calibrate"), (chosen.held_out, "compare with float"))
    )
    images = list(held_out())
    source, ready, sensitivities = prepared(
        read_onnx(onnx_file(model)), model.io, calibration, images, config, usable_cpus(), context.progress
    )
    with TemporaryDirectory() as folder:
        writer = FormWriter(source, str(model.metrics["precision"]), ready, model.io, Path(folder))
        judge = Judge(
            writer.float_form(),
            model.io,
            images,
            config.floor_db,
            CALIBRATE_OTHERWISE if config.calibrator != "trained" else TRAINED_TO_BE_ROUNDED,
            config.threads,
            usable_cpus(),
        )
        if config.target is None:
            form = writer.int8_form(config.placement if config.placement != "fastest" else "all")
            ships, judged = Judged(form, judge.closeness(form)), []
        else:
            judged = judge.all_of(writer.forms(), context.progress)
            ships = best_of(judge.float_form, judged)
        shutil.copyfile(ships.form.file, out / "model.onnx")
    metrics = {
        **carried_cost(model),
        "size_bytes": (out / "model.onnx").stat().st_size,
        "precision": ships.form.precision,
        "form": ships.form.name,
        "kept_float": len(ready.kept_float),
        "quantized_ops": ships.form.quantized_ops,
        "float_ops": ships.form.float_ops,
        "calibration_images": len(chosen.calibration),
    }
    if sensitivities:
        table = [{**one.as_json(), "kept_float": one.node in ready.kept_float} for one in sensitivities]
        (out / SENSITIVITY).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    # What was measured is no part of the result: the last digits depend on the number of threads, and on the moment.
    measured = {**ships.noise, **({"forms": [one.as_json() for one in judged]} if judged else {})}
    return Contents(
        kind="onnx",
        metrics=metrics,
        log_metrics=measured,
        logs=(SENSITIVITY,) if sensitivities else (),
        io=model.io,
        session_options=ships.form.session_options,
    )
