"""quantize: ONNX → ONNX with INT8 weights and activations, close enough to the float one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Quantize
from edgevit.context import Context, usable_cpus
from edgevit.data import open_dataset
from edgevit.errors import listed
from edgevit.quantization import CalibratedModel, calibrated, choose_images, image_batches
from edgevit.runtimes.base import carried_cost
from edgevit.runtimes.files import TensorRanges, onnx_file, read_onnx, trained_ranges_in, write_onnx
from edgevit.runtimes.onnxruntime.session import OnnxruntimeSession
from edgevit.runtimes.parity import check_quantized, embedding_sqnr_db

CALIBRATE_OTHERWISE = (
    "calibrate on more images of the kind the model will see, or try calibrator: percentile or entropy"
)
TRAINED_TO_BE_ROUNDED = (
    "lower min_sqnr_db if its accuracy is good: a model trained to be rounded need not answer alike in float"
)


def run(config: Quantize, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    model, dataset, file = inputs["model"], open_dataset(inputs["calibration"]), out / "model.onnx"
    chosen = choose_images(dataset, config.calibration_images, config.seed, context.progress)
    calibration, held_out = (
        image_batches(dataset, positions, model.io, context.progress, title)
        for positions, title in ((chosen.calibration, "calibrate"), (chosen.held_out, "compare with float"))
    )
    source, threads = onnx_file(model), usable_cpus()
    graph = read_onnx(source)
    trained = trained_ranges_in(graph, config.id) if config.calibrator == "trained" else None
    calibrator = "minmax" if config.calibrator == "trained" else config.calibrator
    known = None if trained is None else trained.tensors
    found = calibrated(graph, calibration, calibrator, config.runtime, threads, config.id, known)
    if trained is not None:
        _mention_untrained(trained, found, config, context)
    quantized = found.quantized()
    write_onnx(quantized.model, file, model.io, quantized.session_options)
    sessions = (
        OnnxruntimeSession(file, model.io, quantized.session_options, threads),
        OnnxruntimeSession(source, model.io, model.manifest.session_options, threads),
    )
    where = f"{config.id}, against its float model '{model.id}'"
    advice = CALIBRATE_OTHERWISE if trained is None else TRAINED_TO_BE_ROUNDED
    noise = {"sqnr_db": check_quantized(*sessions, held_out(), config.min_sqnr_db, where, advice)}
    if model.io.has_embedding:
        noise["embedding_sqnr_db"] = embedding_sqnr_db(*sessions, held_out())
    metrics = {
        **carried_cost(model),
        "size_bytes": file.stat().st_size,
        "precision": "int8",
        "quantized_ops": quantized.quantized_ops,
        "float_ops": quantized.float_ops,
        "calibration_images": len(chosen.calibration),
    }
    return Contents(
        kind="onnx",
        metrics=metrics,
        log_metrics=noise,  # its last digits depend on the number of threads
        io=model.io,
        session_options=quantized.session_options,
    )


def _mention_untrained(trained: TensorRanges, found: CalibratedModel, config: Quantize, context: Context) -> None:
    if trained.runtime != config.runtime:
        context.progress.say(
            f"    {config.id}: these ranges were trained for {trained.runtime}, whose integers are others; a qat stage "
            f"with runtime: {config.runtime} may keep more accuracy"
        )
    calibrated_layers = [layer.made for layer in found.layers() if layer.entering not in trained.tensors]
    if calibrated_layers:
        context.progress.say(
            f"    {config.id}: {len(calibrated_layers)} of {len(found.layers())} products and convolutions have no "
            f"trained range, and are calibrated: {listed(calibrated_layers)}"
        )
