"""The kernels of a TensorRT engine, read from the JSON of its inspector.

Sources: `trtexec --exportLayerInfo` with detailed verbosity, recorded from TensorRT 8; NVIDIA's documentation of
IEngineInspector. From TensorRT 11 on, `Format/Datatype` is split in two.
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
from edgevit.graphs.graph import Graph

LARGEST_BYTES = 2**28
MOST_LAYERS = 1_000_000

_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\[]|\s*$|\s+\[)")
_TYPES = (  # words for a type in the inspector's texts, such as "Row major linear FP32"
    ("int8", r"INT8"),
    ("uint8", r"UINT8"),
    ("int4", r"INT4"),
    ("fp4", r"FP4\w*"),
    ("fp8", r"FP8\w*|FLOAT8\w*"),
    ("half", r"FP16|HALF|FLOAT16"),
    ("bfloat16", r"BF16|BFLOAT16"),
    ("float", r"FP32|FLOAT|FLOAT32"),
    ("int32", r"INT32"),
    ("int64", r"INT64"),
    ("bool", r"BOOL"),
)
_PRODUCTS = {"Convolution": "correlation", "Deconvolution": "deconvolution", "MatrixMultiply": "gemm", "Gemm": "gemm"}
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
    layers: list[_Layer] = Field(alias="Layers", max_length=MOST_LAYERS)


def kernels_of_engine(file: Path) -> list[Kernel]:
    """The kernels of an engine, in order, from the inspector's JSON.

    Raises:
        ArtifactError: the file is not such JSON, or has the names of layers alone.
    """
    try:
        if file.stat().st_size > LARGEST_BYTES:
            raise ValueError(f"{file.stat().st_size:,} bytes")
        engine = _Engine.model_validate_json(file.read_bytes())
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise _unreadable(file, f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
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


def _type(text: str) -> str:
    """The type in a text such as `Channel major FP16 format where channel % 4 == 0`; the text if it names none."""
    for name, words in _TYPES:
        if re.search(rf"\b(?:{words})\b", text, re.IGNORECASE | re.ASCII):
            return name
    return text.lower()


def _unreadable(file: Path, got: str) -> ArtifactError:
    return ArtifactError(
        "the layers of the engine cannot be read",
        where=file.name,
        got=shortened(got),
        expected="the inspector's JSON with detailed layers",
    )
