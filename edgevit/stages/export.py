"""export: checkpoint → ONNX, the same function to within float32 rounding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from edgevit.artifacts import Artifact, Contents, IOSpec
from edgevit.configs import Export
from edgevit.context import Context
from edgevit.exporting import onnx_from_module, reparameterized, tensor_ranges, with_normalization
from edgevit.exporting.float16 import in_float16
from edgevit.graphs.files import write_onnx
from edgevit.model_file import ONNX_FILE, ModelFile, options_for
from edgevit.models import open_checkpoint
from edgevit.models.cost import cost_of
from edgevit.models.embedding import WithEmbedding, embedding_width
from edgevit.models.folding import Folded
from edgevit.models.ranges import TrainedRanges, trained_ranges
from edgevit.runtimes.base import SessionOptions
from edgevit.runtimes.parity import check_sessions_agree
from edgevit.runtimes.sessions import session_as_declared
from edgevit.runtimes.torch.session import TorchSession


def run(config: Export, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    checkpoint = inputs["model"]
    built, source = open_checkpoint(checkpoint), f"its checkpoint '{checkpoint.id}'"
    is_folded, ranges = built.description.change(Folded) is not None, trained_ranges(checkpoint)
    return exported(built.module, checkpoint.io, config, context, out, source, is_folded, ranges)


def exported(
    module: nn.Module,
    spec: IOSpec,
    config: Export,
    context: Context,
    out: Path,
    source: str,
    is_folded: bool = False,
    ranges: TrainedRanges | None = None,
) -> Contents:
    """Write `model.onnx` into folder `out`, and check its answers against the module's.

    Args:
        module: images (N, 3, H, W) → logits (N, classes), in eval mode, on the CPU.
        source: what the module is, in an error.
        is_folded: the branches of the module are fused already.
        ranges: of activations, that quantization-aware training has learned.

    Raises:
        ArtifactError: the module cannot be exported.
        ParityError: the file answers otherwise than the module.
    """
    file = out / ONNX_FILE
    if config.embedding:
        spec = spec.with_embedding(embedding_width(module, spec.preprocess))
    graph = onnx_from_module(module, spec, config.opset, config.dynamic_batch, keep_branches=is_folded)
    model_file = ModelFile(weight_precision=config.precision, options=options_for(config.runtime))
    model, written, carried = graph.model, graph.spec, None
    if config.precision == "float16":
        model = in_float16(model, graph.spec, config.id, context.progress)
    if config.normalize:
        written = written.taking_uint8_images()
        model = with_normalization(model, written)
    if ranges is not None and config.precision == "float32":
        carried = tensor_ranges(ranges, model, graph.layers, config.id)
    write_onnx(model, file, written, model_file.options, carried)
    if config.dynamic_batch and not graph.dynamic_batch:
        context.progress.say("the model cannot be exported with a dynamic batch: its batch size is 1")
    agreement = check_sessions_agree(
        session_as_declared(file, written, model_file.options, threads=1),
        TorchSession(WithEmbedding(module) if config.embedding else module, graph.spec, "cpu", SessionOptions()),
        precision=config.precision,
        where=f"{config.id}, against {source}",
    )
    metrics = {
        **cost_of(module if is_folded else reparameterized(module, spec), spec.preprocess),
        "size_bytes": file.stat().st_size,
        "precision": model_file.precision,
        "exporter": graph.exporter,
        "opset": config.opset,
        "max_difference": agreement.max_difference,
    }
    return Contents(kind="onnx", metrics=metrics, io=written, model_file=model_file)
