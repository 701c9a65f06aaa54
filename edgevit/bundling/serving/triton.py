"""config.pbtxt for the Triton Inference Server.

Sources: triton-inference-server/common, protobuf/model_config.proto (ModelConfig); onnxruntime_backend, README.md
(optimization level 2 turns graph optimizations off).
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.text_encoding import CEscape  # type: ignore[import-untyped]

from edgevit.artifacts import Artifact, Preprocess, TensorSpec
from edgevit.bundling.engine_record import is_version_compatible
from edgevit.bundling.infer import ENGINE
from edgevit.configs import Compile
from edgevit.configs.runtimes import ONNXRUNTIME
from edgevit.errors import ArtifactError
from edgevit.model_file import ONNX_FILE, OnnxruntimeOptions, TensorrtOptions
from edgevit.runtimes.base import fixed_batch, runtime_of
from edgevit.terminal import printable_line

CONFIG = "config.pbtxt"
TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
}
OPTIMIZATIONS_OFF = """
# Some graph optimizations of ONNX Runtime are off for this model. Triton turns all of them off, or none.
optimization { graph { level: 2 } }
"""


def triton_files(model: Artifact, engine: Artifact | None) -> dict[str, str]:
    """config.pbtxt of the engine, else of the ONNX file. Raises ArtifactError if the model is for another runtime."""
    if engine is None and runtime_of(model) != ONNXRUNTIME.name:
        raise ArtifactError(
            "this configuration of Triton is for ONNX Runtime and TensorRT",
            where=model.id,
            got=f"a model for {runtime_of(model)}",
            next="leave triton out of serve",
        )
    largest_batch = 0 if fixed_batch(model.io) else _largest_batch(engine)
    platform, kind, file = "onnxruntime_onnx", "KIND_CPU", ONNX_FILE
    if engine is not None:
        platform, kind, file = "tensorrt_plan", "KIND_GPU", ENGINE
    spec = model.io
    inputs = _tensors("input", spec.inputs, largest_batch)
    outputs = _tensors("output", spec.outputs, largest_batch, labels_of=spec.outputs[0].name)
    return {
        CONFIG: f"{_notes(spec.preprocess, spec.outputs[0], engine)}"
        f'platform: "{platform}"\ndefault_model_filename: "{file}"\nmax_batch_size: {largest_batch}\n'
        f"{inputs}{outputs}instance_group [ {{ kind: {kind} }} ]\n{_optimization(model, engine)}"
    }


def _largest_batch(engine: Artifact | None) -> int:
    """The engine's; of an ONNX file, which takes any number of images, the default of `compile`."""
    options = None if engine is None else engine.model_file.options
    most = options.max_batch if isinstance(options, TensorrtOptions) else None
    return most or int(Compile.model_fields["max_batch"].default)


def _tensors(field: str, tensors: Sequence[TensorSpec], largest_batch: int, labels_of: str = "") -> str:
    """Entries of the model's inputs or outputs. With a largest batch, Triton adds the first dimension itself."""
    entries = []
    for tensor in tensors:
        dims = tensor.shape[1:] if largest_batch else tensor.shape
        labels = '    label_filename: "labels.txt"\n' if tensor.name == labels_of else ""
        entries.append(
            f'  {{\n    name: "{CEscape(tensor.name, as_utf8=True)}"\n    data_type: {_type(tensor)}\n'
            f"    dims: [ {', '.join(map(_size, dims))} ]\n{labels}  }}"
        )
    return f"{field} [\n" + ",\n".join(entries) + "\n]\n"


def _size(size: int | str) -> str:
    """A size of a tensor. Triton writes -1 for one that has a name."""
    return str(size) if isinstance(size, int) else "-1"


def _type(tensor: TensorSpec) -> str:
    if tensor.dtype not in TYPES:
        raise ArtifactError(
            "Triton has no name for this type", where=tensor.name, got=tensor.dtype, expected=", ".join(TYPES)
        )
    return TYPES[tensor.dtype]


def _notes(rule: Preprocess, output: TensorSpec, engine: Artifact | None) -> str:
    """Comments: what the client sends and gets."""
    size = f"{rule.height}x{rule.width} pixels (height x width)"
    if rule.normalised_inside:
        sent = f"an RGB image of {size} as uint8. The graph scales and normalizes it."
    else:
        sent = (
            f"an RGB image of {size} as planes of float32, scaled to 0..1, minus {_numbers(rule.mean)}, "
            f"divided by {_numbers(rule.std)}. The graph does not normalize: the client does."
        )
    resized = f"How an image is resized to this size: preprocess.py, with the values of iospec.json ({rule.resize})."
    lines = [
        "A model of the Triton Inference Server. README.md says how the folder of the model is laid out.",
        f"The client sends {sent}",
        resized,
        f"Output '{output.name}': {output.meaning or 'numbers by class'}, in the order of labels.txt.",
    ]
    if engine is not None:
        lines.append("The server needs the TensorRT and the GPU that the engine was built with (bundle.json).")
    if engine is not None and is_version_compatible(engine):
        lines.append("For a later TensorRT, start it with --backend-config=tensorrt,version-compatible=true.")
    return "".join(f"# {printable_line(line)}\n" for line in lines) + "\n"


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"


def _optimization(model: Artifact, engine: Artifact | None) -> str:
    options = model.model_file.options
    if engine is None and isinstance(options, OnnxruntimeOptions):
        is_off = options.graph_optimization_level == "disabled" or options.disabled_optimizers
        return OPTIMIZATIONS_OFF if is_off else ""
    return ""
