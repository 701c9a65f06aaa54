"""Names of the element types of ONNX tensors, and their widths."""

from __future__ import annotations

from onnx import TensorProto

from edgevit.graphs.outputs import element_type_name

SHORT_NAMES = {"float32": "float", "float16": "half", "float8": "fp8"}  # in TensorRT's logs
BITS = {
    "float": 32, "half": 16, "bfloat16": 16, "bf16": 16, "fp8": 8, "int8": 8, "uint8": 8, "int4": 4, "fp4": 4,
    "int16": 16, "uint16": 16, "int32": 32, "uint32": 32, "int64": 64, "uint64": 64, "double": 64, "bool": 8,
}  # fmt: skip


def type_name(number: int | None) -> str:
    """float32, int8, …; "unknown" for None."""
    names = {int(TensorProto.FLOAT): "float32", int(TensorProto.FLOAT8E4M3FN): "float8"}
    if number is None:
        return "unknown"
    return names.get(number) or element_type_name(number)


def short_type_name(number: int | None) -> str:
    """float, half, int8, …; "unknown" for None."""
    return short_name(type_name(number))


def short_name(name: str) -> str:
    """TensorRT's name of a type: float for float32, half for float16, fp8 for float8; other names stay."""
    return SHORT_NAMES.get(name, name)
