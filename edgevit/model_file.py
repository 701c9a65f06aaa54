"""The file of a model: its runtime, its options there, its precision, and the machine that it was compiled for."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter

from edgevit.frozen import Frozen

ONNX_FILE = "model.onnx"  # in the folder of every artifact that edgevit writes


class TargetInfo(Frozen):
    """A target's fingerprint: the facts that decide results and latencies. It enters the keys of stages that name it.

    It holds only constant facts. Load, clocks and temperatures belong to a measurement's conditions.
    """

    name: str
    runtime: str
    versions: dict[str, str | None]
    hardware: dict[str, Any]


# The machine of a compiled file that does not name it
UNKNOWN_TARGET = TargetInfo(name="unknown", runtime="onnxruntime", versions={}, hardware={})


class OnnxruntimeOptions(Frozen):
    """How ONNX Runtime loads a file. Float operators run in the file's own precision.

    Attributes:
        exact_sums: where the fastest kernels would overflow (x86 CPUs without VNNI), slower ones add products of 8-bit
            integers in 32 bits. False for weights of 7 bits, whose sums fit into the 16 bits of the faster ones.
    """

    runtime: Literal["onnxruntime"] = "onnxruntime"
    graph_optimization_level: Literal["all", "disabled"] = "all"
    disabled_optimizers: tuple[str, ...] = ()
    exact_sums: bool = True
    inference_precision: ClassVar[str] = "float32"


class OpenvinoOptions(Frozen):
    """How OpenVINO loads a file. `inference_precision` is that of the float operators of a float32 graph."""

    runtime: Literal["openvino"] = "openvino"
    inference_precision: Literal["float32", "bfloat16"] = "float32"


class TensorrtOptions(Frozen):
    """How a TensorRT engine runs. It runs on the machine that built it alone.

    Attributes:
        max_batch: the largest batch that it takes; None for an engine with a fixed batch size.
        version_compatible: whether later versions of TensorRT run it, too.
    """

    runtime: Literal["tensorrt"] = "tensorrt"
    max_batch: int | None = None
    version_compatible: bool = False
    inference_precision: ClassVar[str] = "float32"


OnnxFileOptions = Annotated[OnnxruntimeOptions | OpenvinoOptions, Field(discriminator="runtime")]
RuntimeOptions = Annotated[OnnxruntimeOptions | OpenvinoOptions | TensorrtOptions, Field(discriminator="runtime")]
_ONNX_FILE_OPTIONS: TypeAdapter[OnnxFileOptions] = TypeAdapter(OnnxFileOptions)
AS_WRITTEN = OnnxruntimeOptions(graph_optimization_level="disabled")  # ONNX Runtime changes nothing in the graph


class ModelFile(Frozen):
    """The file of a model, as its runtime opens it: the record in the manifest of an ONNX file, engine or bundle.

    1. `options` name the runtime. The union is told apart by it, and refuses keys of another runtime.
    2. `precision` follows from the weights and the options. Metrics repeat it for reports and scripts.
    3. `bound_to` says for which machine the file was compiled. A file that any machine runs has None.
    4. ONNX files, bundles and digests hold the JSON of the options alone: `json_of_options`, `options_from_json`.
    5. Manifests of earlier releases hold that JSON, too: `model_file_with` makes the record from it.

    Attributes:
        name: of the file, in the artifact's folder.
        weight_precision: of the quantized weights; in a float file, of all weights.
        bound_to: not part of the digest; UNKNOWN_TARGET if a compiled file from outside does not name its machine.
    """

    name: str = ONNX_FILE
    weight_precision: str
    options: RuntimeOptions
    bound_to: TargetInfo | None = None

    @property
    def runtime(self) -> str:
        """The name of the runtime that opens the file."""
        return self.options.runtime

    @property
    def precision(self) -> str:
        """The precision of the weights; of a float32 file, the precision that its runtime computes in."""
        return self.options.inference_precision if self.weight_precision == "float32" else self.weight_precision

    @property
    def is_compiled(self) -> bool:
        """Whether the graph was optimized for one machine."""
        return self.bound_to is not None

    def for_runtime(self, runtime: str) -> ModelFile:
        """The file, opened by another runtime with its default options."""
        return self if runtime == self.runtime else self.model_copy(update={"options": options_for(runtime)})


def model_file_with(options: RuntimeOptions, weight_precision: str, name: str = ONNX_FILE) -> ModelFile:
    """The record of a file of which only the options are known: a file from outside, or of an earlier release.

    edgevit turns graph optimizations off in compiled files and in FP8 files. FP8 files run on any machine.
    """
    is_off = isinstance(options, OnnxruntimeOptions) and options.graph_optimization_level == "disabled"
    bound_to = UNKNOWN_TARGET if is_off and weight_precision != "float8" else None
    return ModelFile(name=name, weight_precision=weight_precision, options=options, bound_to=bound_to)


def options_for(runtime: str) -> RuntimeOptions:
    """The default options of a runtime that opens ONNX files. Raises ValidationError for any other runtime."""
    return _ONNX_FILE_OPTIONS.validate_python({"runtime": runtime})


def json_of_options(options: RuntimeOptions) -> dict[str, Any]:
    """The JSON of options in ONNX files, bundles and digests, and for `runtimes/loading.py`.

    It leaves out defaults, and the runtime if that is ONNX Runtime: bundles on devices and finished results have
    such JSON.
    """
    changed = options.model_dump(mode="json", exclude_defaults=True)
    return changed if isinstance(options, OnnxruntimeOptions) else {"runtime": options.runtime, **changed}


def options_from_json(session_options: dict[str, Any]) -> RuntimeOptions:
    """The options in such JSON. Raises ValidationError if a key is unknown to the runtime, or a value is wrong."""
    return _ONNX_FILE_OPTIONS.validate_python({"runtime": OnnxruntimeOptions().runtime, **session_options})
