"""The runtimes that open or read model files: their names in recipes, titles, packages and extras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgevit.artifacts import Kind

FileRuntime = Literal["onnxruntime", "openvino"]  # opens an ONNX file on this machine
QuantizedRuntime = Literal["onnxruntime", "openvino", "tensorrt"]  # has a dialect of Q/DQ nodes


@dataclass(frozen=True)
class RuntimeInfo:
    """One runtime.

    Attributes:
        name: in recipes, artifacts and bundles.
        title: for people.
        package: the distribution on PyPI; its import name is the same.
        extra: the extra of edgevit that installs it; None where edgevit itself does.
        opens: the kinds of artifact that it opens.
        module: where its session on this machine is; "" where there is none.
        package_with_cuda: a distribution with the same module that also has CUDA; "" where there is none.
    """

    name: str
    title: str
    package: str
    extra: str | None
    opens: tuple[Kind, ...]
    module: str
    package_with_cuda: str = ""

    @property
    def install_command(self) -> str:
        """`pip install 'edgevit[openvino]'`"""
        return f"pip install 'edgevit[{self.extra}]'" if self.extra else f"pip install {self.package}"


ONNXRUNTIME = RuntimeInfo(
    name="onnxruntime",
    title="ONNX Runtime",
    package="onnxruntime",
    extra=None,
    opens=("onnx", "engine"),
    module="edgevit.runtimes.onnxruntime.session",
    package_with_cuda="onnxruntime-gpu",
)
OPENVINO = RuntimeInfo(
    name="openvino",
    title="OpenVINO",
    package="openvino",
    extra="openvino",
    opens=("onnx",),
    module="edgevit.runtimes.openvino.session",
)
TENSORRT = RuntimeInfo(
    name="tensorrt",
    title="TensorRT",
    package="tensorrt",
    extra="tensorrt",
    opens=("engine",),
    module="",
)
TORCH = RuntimeInfo(
    name="torch",
    title="PyTorch",
    package="torch",
    extra=None,
    opens=("checkpoint",),
    module="edgevit.runtimes.torch.session",
)
RUNTIMES = {runtime.name: runtime for runtime in (ONNXRUNTIME, OPENVINO, TENSORRT, TORCH)}
