"""quantize: ONNX → ONNX with INT8 weights and activations, close enough to the float one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Quantize
from edgevit.context import Context, usable_cpus
from edgevit.data import open_dataset
from edgevit.quantization import choose_images, image_batches, quantized_onnx
from edgevit.runtimes.base import carried_cost
from edgevit.runtimes.files import onnx_file, read_onnx, write_onnx
from edgevit.runtimes.onnxruntime.session import OnnxruntimeSession
from edgevit.runtimes.parity import check_quantized, embedding_sqnr_db


def run(config: Quantize, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    model, dataset, file = inputs["model"], open_dataset(inputs["calibration"]), out / "model.onnx"
    chosen = choose_images(dataset, config.calibration_images, config.seed, context.progress)
    calibration, held_out = (
        image_batches(dataset, positions, model.io, context.progress, title)
        for positions, title in ((chosen.calibration, "calibrate"), (chosen.held_out, "compare with float"))
    )
    source, threads = onnx_file(model), usable_cpus()
    quantized = quantized_onnx(read_onnx(source), calibration, config.calibrator, config.runtime, threads, config.id)
    write_onnx(quantized.model, file, model.io, quantized.session_options)
    sessions = (
        OnnxruntimeSession(file, model.io, quantized.session_options, threads),
        OnnxruntimeSession(source, model.io, model.manifest.session_options, threads),
    )
    where = f"{config.id}, against its float model '{model.id}'"
    noise = {"sqnr_db": check_quantized(*sessions, held_out(), config.min_sqnr_db, where)}
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
