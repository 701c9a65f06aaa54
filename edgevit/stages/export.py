"""export: checkpoint → ONNX, the same function to within float32 rounding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Export
from edgevit.context import Context
from edgevit.exporting import onnx_from_module, re_parameterised, with_normalisation
from edgevit.models import model_from_checkpoint
from edgevit.models.cost import cost_of
from edgevit.models.embedding import WithEmbedding, embedding_width
from edgevit.runtimes.base import SessionOptions
from edgevit.runtimes.files import read_onnx, write_onnx
from edgevit.runtimes.float16 import with_float16
from edgevit.runtimes.onnxruntime.session import OnnxruntimeSession
from edgevit.runtimes.parity import check_sessions_agree
from edgevit.runtimes.torch.session import TorchSession


def run(config: Export, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    checkpoint, file = inputs["model"], out / "model.onnx"
    module = model_from_checkpoint(checkpoint)
    spec = checkpoint.io
    if config.embedding:
        spec = spec.with_embedding(embedding_width(module, spec.preprocess))
    exported = onnx_from_module(module, spec, file, config.opset, config.dynamic_batch)
    if config.precision == "float16":
        write_onnx(with_float16(read_onnx(file), config.id), file, exported.spec)
    written = exported.spec
    if config.normalise:
        written = written.taking_pictures()
        write_onnx(with_normalisation(read_onnx(file), written), file, written)
    if config.dynamic_batch and not exported.dynamic_batch:
        context.progress.say("the model cannot be exported with a dynamic batch: its batch size is 1")
    agreement = check_sessions_agree(
        OnnxruntimeSession(file, written, session_options={}, threads=1),
        TorchSession(WithEmbedding(module) if config.embedding else module, exported.spec, "cpu", SessionOptions()),
        precision=config.precision,
        where=f"{config.id}, against its checkpoint '{checkpoint.id}'",
    )
    metrics = {
        **cost_of(re_parameterised(module, spec), spec.preprocess),
        "size_bytes": file.stat().st_size,
        "precision": config.precision,
        "exporter": exported.exporter,
        "opset": config.opset,
        "max_difference": agreement.max_difference,
    }
    return Contents(kind="onnx", metrics=metrics, io=written)
