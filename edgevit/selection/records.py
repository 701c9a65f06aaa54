"""Records of the measuring: a student before training, the form in which it is deployed, and what it costs there.

They load no torch, so that a finished run need not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgevit.artifacts import Frozen, Json
from edgevit.configs import Compile, Export, Profile, Quantize
from edgevit.configs.runtimes import TORCH
from edgevit.context import Context
from edgevit.provenance import version_of
from edgevit.targets import target_info

PACKAGES = ("edgevit", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "openvino")
PROFILE_FIELDS = ("target", "batch_size", "threads", "precision", "runtime", "boundary")
EXPORT_FIELDS = ("opset", "runtime", "dynamic_batch", "normalize", "embedding")
QUANTIZE_FIELDS = ("runtime", "precision", "placement", "size_mib", "threads")


class Student(Frozen):
    """A model by its timm name, before training.

    Attributes:
        image_size: side in pixels; None is the model's own.
    """

    model: str
    image_size: int | None = None
    num_classes: int = 10
    model_args: dict[str, Any] = {}
    distillation_token: bool = False


@dataclass(frozen=True)
class DeployedForm:
    """The stages between a student and the measurement of its latency.

    Attributes:
        export: None if the checkpoint itself is timed, in PyTorch.
        quantize: None if the float file is deployed.
        compile: None if the ONNX file is deployed.
    """

    profile: Profile
    export: Export | None = None
    quantize: Quantize | None = None
    compile: Compile | None = None

    def key(self) -> Json:
        """All that decides the speed, for the key of a kept timing. Names, seeds and calibration do not."""
        return {
            "profile": self.profile.model_dump(mode="json", include=set(PROFILE_FIELDS)),
            "export": self.export and self.export.model_dump(mode="json", include=set(EXPORT_FIELDS)),
            "quantize": self.quantize and self.quantize.model_dump(mode="json", include=set(QUANTIZE_FIELDS)),
            "compile": self.compile is not None,
        }

    def machine(self, context: Context) -> Json:
        """The target and the versions that a timing holds for."""
        runtime = self.export.runtime if self.export else TORCH.name
        versions = {package: version_of(package) for package in PACKAGES}
        return {"target": target_info(self.profile.target, runtime, context), "versions": versions}


class Timing(Frozen):
    """What one student costs on a target.

    Attributes:
        macs, params: of the model with its own number of classes.
        size_bytes: of the deployed file; of the weights in float32 if a checkpoint is deployed.
        form: of the deployed file, as `quantize` names it: "int8 all", "float32".
        float_p50_ms: of the float file in the same runtime; None if the float model is deployed.
        warnings: what disturbed the measurement.
        is_predicted: whether the latency was predicted for a board, with an interval of 90%. That of a measured one is
            the interval of 95% of the p50.
        is_nominal: of a prediction: whether the coverage of its interval is not known.
    """

    macs: int
    params: int
    size_bytes: int
    form: str
    p50_ms: float
    p50_low_ms: float
    p50_high_ms: float
    float_p50_ms: float | None = None
    warnings: tuple[str, ...] = ()
    is_predicted: bool = False
    is_nominal: bool = False

    def interval(self) -> str:
        """The interval of the latency in ms, in words."""
        level = "90%" if self.is_predicted else "95%"
        nominal = "nominal " if self.is_nominal else ""
        return f"{nominal}{level} interval {self.p50_low_ms:.3g} to {self.p50_high_ms:.3g}"
