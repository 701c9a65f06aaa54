"""Export of a PyTorch classifier to ONNX. Equal inputs give equal graphs."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from onnx import ModelProto
from torch import nn

from edgevit.artifacts import IOSpec
from edgevit.errors import ArtifactError, first_line, is_out_of_memory
from edgevit.exporting.layers import layers_by_output, name_nodes
from edgevit.graphs.files import write_onnx
from edgevit.graphs.walk import opset_of
from edgevit.models.embedding import WithEmbedding, classifiers
from edgevit.models.folding import fused_branches
from edgevit.models.timm_models import timm_model

# Exporters would make a batch size of 1 a constant.
EXAMPLE_BATCH = 2


@dataclass(frozen=True)
class Exported:
    """An exported graph, and facts about the export.

    Attributes:
        spec: the IOSpec with the graph's batch dimension.
        layers: paths of layers in the timm model, by the outputs of their nodes; see `layers_by_output`.
        exporter: "dynamo", or "torchscript" for a model that torch.export cannot trace.
        dynamic_batch: whether the graph takes any batch size; otherwise the batch size is 1.
    """

    model: ModelProto
    spec: IOSpec
    layers: dict[str, str]
    exporter: str
    dynamic_batch: bool

    def write(self, path: Path) -> None:
        """Write the graph and its IOSpec to an ONNX file."""
        write_onnx(self.model, path, self.spec)


def onnx_from_module(
    module: nn.Module, spec: IOSpec, opset: int, dynamic_batch: bool, *, keep_branches: bool = False
) -> Exported:
    """Export a classifier in eval mode. Parallel branches are fused if timm can re-parameterize the model.

    If `spec` has an embedding, the classifier's input becomes the second output. Nodes are named after their layers.
    An exporter that writes another opset than `opset` has failed.

    Attempts, in order: torch.export with the requested batch size, torch.export with batch size 1, TorchScript with
    the requested batch size, TorchScript with batch size 1.

    Args:
        module: takes (N, 3, H, W) and gives logits (N, classes); it is not changed.
        keep_branches: do not fuse branches; the branches of a folded model are fused already.

    Raises:
        ArtifactError: no exporter can export the model; the error gives each exporter's reason.
    """
    classifier = module if keep_branches else reparameterized(module, spec)
    deployed = WithEmbedding(classifier) if spec.has_embedding else classifier
    reasons = []
    for exporter in (_dynamo, _torchscript):
        for dynamic in (True, False) if dynamic_batch else (False,):
            try:
                with _quiet(), torch.no_grad():
                    model = exporter(deployed, spec, opset, dynamic)
                    _check_batch_is_open(model, dynamic)
                    _check_opset(model, opset)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                reasons.append(f"{exporter.__name__[1:]}: {first_line(error.__cause__ or error)}")
                continue
            layers = layers_by_output(model, classifier, _example(spec, dynamic=False))
            name_nodes(model, layers)
            return Exported(model, _with_batch(spec, "batch" if dynamic else 1), layers, exporter.__name__[1:], dynamic)
    raise ArtifactError(
        "the model cannot be exported to ONNX",
        got="; ".join(dict.fromkeys(reasons)),
        next="try another opset, or a model from `edgevit models`",
    )


def reparameterized(module: nn.Module, spec: IOSpec) -> nn.Module:
    """A copy of the model with fused branches, as it is exported.

    Two heads are kept: timm's fusion would average their logits. If `spec` has an embedding, the classifier is not
    fused with the norm before it.
    """
    return fused_branches(
        module,
        apart=classifiers(module) if spec.has_embedding else (),
        whole=(module, timm_model(module)),
    )


def _check_batch_is_open(model: ModelProto, dynamic: bool) -> None:
    if dynamic and model.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value"):
        raise ValueError("the batch size became a constant")


def _check_opset(model: ModelProto, opset: int) -> None:
    # torch.export writes opset 18, and converts few graphs back to opset 17.
    if opset_of(model) != opset:
        raise ValueError(f"opset {opset_of(model)} in place of {opset}")


def _dynamo(module: nn.Module, spec: IOSpec, opset: int, dynamic: bool) -> ModelProto:
    program = torch.onnx.export(
        module,
        (_example(spec, dynamic),),
        dynamo=True,
        opset_version=opset,
        input_names=[spec.inputs[0].name],
        output_names=[output.name for output in spec.outputs],
        dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic else None,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _torchscript(module: nn.Module, spec: IOSpec, opset: int, dynamic: bool) -> ModelProto:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        image, outputs = spec.inputs[0].name, [output.name for output in spec.outputs]
        torch.onnx.export(
            module,
            (_example(spec, dynamic),),
            str(file),
            dynamo=False,
            opset_version=opset,
            input_names=[image],
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in (image, *outputs)} if dynamic else None,
        )
        return onnx.load(file)


def _example(spec: IOSpec, dynamic: bool) -> torch.Tensor:
    return torch.zeros(EXAMPLE_BATCH if dynamic else 1, 3, spec.preprocess.height, spec.preprocess.width)


def _with_batch(spec: IOSpec, batch: int | str) -> IOSpec:
    tensors = {
        name: tuple(tensor.model_copy(update={"shape": (batch, *tensor.shape[1:])}) for tensor in getattr(spec, name))
        for name in ("inputs", "outputs")
    }
    return spec.model_copy(update=tensors)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' progress and warnings; the exported graph is checked instead.

    TorchScript's tracer writes to the file descriptor of stderr from C++, so the descriptor is redirected, too.
    """
    before = logging.root.manager.disable
    stderr = os.dup(2)
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            open(os.devnull, "w", encoding="utf-8") as nowhere,
        ):
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        logging.disable(before)
