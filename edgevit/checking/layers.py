"""The kernels of a TensorRT engine, read from the JSON of its inspector.

Sources: `trtexec --exportLayerInfo` with detailed verbosity, recorded from TensorRT 8; NVIDIA's documentation of
IEngineInspector. From TensorRT 11 on, `Format/Datatype` is split in two. Without an execution context, the inspector
tells no types of tensors for an open batch: `N/A due to dynamic shapes`. It tells the types of weights and the names of
tactics.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from edgevit.checking.plan import Kernel, KernelTensor
from edgevit.checking.precision import Product, got_in_plan, products
from edgevit.errors import ArtifactError, CheckFailed, listed, shortened
from edgevit.frozen import first_problem
from edgevit.graphs.graph import Graph

LARGEST_BYTES = 2**28
MOST_LAYERS = 1_000_000

_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\[]|\s*$|\s+\[)")
_TYPES = (  # words for a type in the inspector's texts, such as "Row major linear FP32"
    ("int8", r"\bINT8\b"),
    ("uint8", r"\bUINT8\b"),
    ("int4", r"\bINT4\b"),
    ("fp4", r"\bFP4\w*\b"),
    ("fp8", r"\b(?:FP8\w*|FLOAT8\w*)\b"),
    ("half", r"\b(?:FP16|HALF|FLOAT16)\b"),
    ("bfloat16", r"\b(?:BF16|BFLOAT16)\b"),
    ("float", r"\b(?:FP32|FLOAT|FLOAT32)\b"),
    ("int32", r"\bINT32\b"),
    ("int64", r"\bINT64\b"),
    ("bool", r"\bBOOL\b"),
)
_TACTICS = (  # names of tactics, such as sm80_xmma_gemm_i8f16_i8i32_f32_tn_n_…: the first operand's type is i8
    ("int8", r"_i8\w{2,4}_i8i32_|int8|imma"),
    ("fp8", r"_e[45]m[23]\w*_e[45]m[23]"),
    ("bfloat16", r"_bf16(?:bf16|f32)_bf16"),
    ("half", r"_f16(?:f16|f32)_f16|h884|h1688|h16816|hmma"),
    ("float", r"_f32f32_t?f32|sgemm|scudnn|ffma"),
)
_PRODUCTS = {
    "Convolution": "correlation",
    "CaskConvolution": "correlation",
    "CaskGemmConvolution": "correlation",
    "Deconvolution": "deconvolution",
    "MatrixMultiply": "gemm",
    "CaskGemmMatrixMultiply": "gemm",
    "Gemm": "gemm",
}
_GEMM_TACTIC = re.compile(r"gemm|xmma|cutlass|fprop", re.IGNORECASE)


def checked_products(graph: Graph, kernels: Sequence[Kernel], where: object) -> list[Product]:
    """Each product of a graph with the precision that it asks for and that of its kernel.

    Raises:
        CheckFailed: a product runs in more bits than it asks for.
    """
    checked = products(graph, got_in_plan(graph, kernels))
    fallen = [product for product in checked if product.fell_back]
    if fallen:
        by_types: dict[tuple[str, str], list[str]] = {}
        for product in fallen:
            by_types.setdefault((product.got, product.asked), []).append(product.node)
        raise CheckFailed(
            f"the engine runs {len(fallen)} of {len(checked)} products in more bits than the ONNX file asks for",
            where=where,
            got="; ".join(f"{got} in place of {asked} in {listed(by)}" for (got, asked), by in by_types.items()),
            next="quantize with another placement, or compile the float16 export",
        )
    return checked


class _Read(BaseModel):
    """Further keys are not read: each release adds some."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def _listed(value: Any) -> Any:
    return [] if value is None else value


class _Tensor(_Read):
    name: str = Field("", alias="Name")
    shape: Annotated[tuple[int, ...], BeforeValidator(_listed)] = Field((), alias="Dimensions")
    format_and_type: str = Field("", alias="Format/Datatype")  # to TensorRT 10
    type: str = Field("", alias="Datatype")  # from TensorRT 11


class _Weights(_Read):
    type: str = Field("", alias="Type")
    count: int = Field(0, alias="Count")


_Tensors = Annotated[tuple[_Tensor, ...], BeforeValidator(_listed)]


class _Layer(_Read):
    name: str = Field(alias="Name")
    kind: str = Field("", alias="LayerType")
    parameters: str = Field("", alias="ParameterType")
    inputs: _Tensors = Field((), alias="Inputs")
    outputs: _Tensors = Field((), alias="Outputs")
    constants: _Tensors = Field((), alias="Constants")
    weights: _Weights | None = Field(None, alias="Weights")
    tactic: str = Field("", alias="TacticName")
    metadata: str = Field("", alias="Metadata")


class _Engine(_Read):
    layers: list[_Layer] = Field(alias="Layers", min_length=1, max_length=MOST_LAYERS)


def kernels_of_engine(file: Path) -> list[Kernel]:
    """The kernels of an engine, in order, from the inspector's JSON.

    Raises:
        ArtifactError: the file is not such JSON, has no layers, or has the names of layers alone.
    """
    try:
        if file.stat().st_size > LARGEST_BYTES:
            raise ValueError(f"{file.stat().st_size:,} bytes")
        engine = _Engine.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise _unreadable(file, first_problem(error)) from None
    except ValueError as error:
        raise _unreadable(file, str(error)) from None
    return [_kernel(layer) for layer in engine.layers]


def _kernel(layer: _Layer) -> Kernel:
    constants = [_tensor(tensor) for tensor in layer.constants]
    if layer.weights is not None:
        constants.append(KernelTensor("weights", (max(1, layer.weights.count),), _type(layer.weights.type)))
    return Kernel(
        name=layer.name,
        kind=_kind(layer),
        inputs=tuple(map(_tensor, layer.inputs)),
        constants=tuple(constants),
        outputs=tuple(map(_tensor, layer.outputs)),
        nodes=_nodes(layer),
        tactic_type=_type(layer.tactic, _TACTICS),
    )


def _kind(layer: _Layer) -> str:
    """The kind by the names of `plan`: a product by its parameters, or by the tactic of a fused kernel."""
    named = _PRODUCTS.get(layer.parameters) or _PRODUCTS.get(layer.kind)
    if named is not None:
        return named
    is_fused_product = layer.kind == "fusion" and _GEMM_TACTIC.search(layer.tactic)
    return "runtime_fusion" if is_fused_product else layer.kind


def _nodes(layer: _Layer) -> tuple[str, ...]:
    """The ONNX nodes in a layer: of its metadata, or else of its name, such as `Conv_0 + Relu_1`."""
    nodes = _NODE.findall(layer.metadata) or layer.name.split(" + ")
    return tuple(dict.fromkeys(nodes))


def _tensor(tensor: _Tensor) -> KernelTensor:
    shape = tuple(max(1, size) for size in tensor.shape)  # -1 is an open batch size
    return KernelTensor(tensor.name, shape, _type(tensor.type or tensor.format_and_type))


def _type(text: str, patterns: Sequence[tuple[str, str]] = _TYPES) -> str:
    """The type in a text such as `Channel major FP16 format where channel % 4 == 0`; "" if it names none."""
    return next((name for name, pattern in patterns if re.search(pattern, text, re.IGNORECASE | re.ASCII)), "")


def _unreadable(file: Path, got: str) -> ArtifactError:
    return ArtifactError(
        "the layers of the engine cannot be read",
        where=file.name,
        got=shortened(got),
        expected="the inspector's JSON with detailed layers",
    )
