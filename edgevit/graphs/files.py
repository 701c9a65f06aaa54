"""ONNX files: read with clear errors, written with the same bytes each time, wrapped as artifacts."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from pydantic import Field, ValidationError

import edgevit
from edgevit.artifacts import (
    Artifact,
    FileEntry,
    Frozen,
    IOSpec,
    Json,
    Manifest,
    Preprocess,
    TensorSpec,
    canonical_json,
    sha256_of,
    sha256_of_file,
)
from edgevit.errors import ArtifactError
from edgevit.graphs.class_scores import LOGITS
from edgevit.graphs.guard import graph_tool
from edgevit.graphs.limits import check_stored_tensors, check_structure, outline_of
from edgevit.graphs.normal_form import KNOWN_DOMAINS, normalize
from edgevit.graphs.outputs import ClassOutput, class_output, described, meaning_of, shape_of
from edgevit.graphs.walk import graphs_of, names_read, nodes, stored_tensors
from edgevit.models.ranges import Range

USERS_FILE = "file"  # the stage that a user's own ONNX file stands for
IOSPEC_KEY = "edgevit.iospec"
SESSION_OPTIONS_KEY = "edgevit.session_options"
RANGES_KEY = "edgevit.trained_ranges"
PROTOBUF_LIMIT_BYTES = 2**31 - 1
NARROW_TYPES = {TensorProto.FLOAT8E4M3FN: "float8", TensorProto.INT4: "int4"}  # of quantized weights, beside int8
QUANTIZED_OPERATORS = ("uantize", "QLinear", "Integer", "QGemm", "QAttention", "MatMulNBits")  # parts of their names
WEIGHT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8, *NARROW_TYPES)


class _WrittenOptions(Frozen):
    """The session options that a file may carry."""

    runtime: Literal["onnxruntime", "openvino"] = "onnxruntime"
    graph_optimization_level: Literal["all", "disabled"] = "all"
    disabled_optimizers: list[str] = []
    inference_precision: Literal["float32", "bfloat16"] = "float32"


class TensorRanges(Frozen):
    """Trained ranges of activations that a float file may carry.

    Attributes:
        runtime: whose dialect they were trained for.
        tensors: lowest and highest value by the tensor's name.
    """

    runtime: str
    tensors: dict[str, Range] = Field(min_length=1)


def read_onnx(path: Path) -> ModelProto:
    """The checked model in a file, with its weights, in the form that `normalize` gives it.

    Raises ArtifactError for a file that is missing, cut short, no ONNX, too large, no valid graph, or that needs
    operators which ONNX Runtime does not have, and for weights that lie outside the file's folder.
    """
    return _with_weights(_without_external_data(path), path)


def write_onnx(
    model: ModelProto,
    path: Path,
    spec: IOSpec,
    session_options: Json | None = None,
    trained_ranges: TensorRanges | None = None,
) -> None:
    """Check a model and write it, in the form that `normalize` gives it, with its IOSpec in the metadata.

    Equal models give equal bytes: what exporters note about their own run (stack traces with paths of the machine,
    source lines, versions of the exporter) is left out.
    """
    normalize(model)
    _strip_notes(model)
    _strip_shapes_of_weights(model)
    del model.metadata_props[:]
    metadata = {IOSPEC_KEY: canonical_json(spec.model_dump(mode="json"))}
    if session_options:
        metadata[SESSION_OPTIONS_KEY] = canonical_json(session_options)
    if trained_ranges:
        metadata[RANGES_KEY] = canonical_json(trained_ranges.model_dump(mode="json"))
    onnx.helper.set_model_props(model, metadata)
    model.producer_name, model.producer_version = "edgevit", edgevit.__version__
    check_structure(model, path)  # as `read_onnx` does
    with graph_tool("the graph cannot be written", path):
        onnx.checker.check_model(model)
        content = model.SerializeToString(deterministic=True)
    path.write_bytes(content)


def iospec_of_onnx(model: ModelProto, where: object) -> IOSpec:
    """The IOSpec that edgevit wrote into a model, or the one its graph suggests.

    A model made elsewhere keeps its names; its classes are called "0", "1", … and its pictures are normalised with
    ImageNet's mean and std. Raises ArtifactError if it is no image classifier, or not the one its IOSpec describes.
    """
    return written_iospec(model, where) or _inferred_iospec(model, class_output(model, where), where)


def with_class_output(spec: IOSpec, output: ClassOutput) -> IOSpec:
    """An IOSpec with another output for its classes; their names stay where there are as many."""
    scores = TensorSpec(name=output.name, shape=output.shape, layout="NC", meaning=output.meaning)
    names = spec.classes if len(spec.classes) == output.num_classes else _numbered(output.num_classes)
    others = tuple(one for one in spec.outputs[1:] if one.name != output.name)
    return spec.model_copy(update={"outputs": (scores, *others), "classes": names})


def written_iospec(model: ModelProto, where: object) -> IOSpec | None:
    """The IOSpec that edgevit wrote into a model; None in one made elsewhere.

    It describes the one input and those of the outputs that edgevit reads.

    Raises ArtifactError if it cannot be read, or describes another graph.
    """
    written = _metadata(model).get(IOSPEC_KEY)
    if written is None:
        return None
    try:
        spec = IOSpec.model_validate_json(written)
    except ValidationError as error:
        raise _unreadable(IOSPEC_KEY, error, where) from None
    _check_graph_has(spec, model, where)
    return _with_meaning(spec, model)


def session_options_of(model: ModelProto, where: object) -> Json:
    """The session options that travel in a model; empty in one made elsewhere."""
    written = _metadata(model).get(SESSION_OPTIONS_KEY, "{}")
    try:
        return _WrittenOptions.model_validate_json(written).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise _unreadable(SESSION_OPTIONS_KEY, error, where) from None


def inputs_of(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """The graph's inputs, without the weights that old files list among them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def carries_trained_ranges(model: ModelProto) -> bool:
    """Whether a model is the export of a checkpoint from a qat stage."""
    return RANGES_KEY in _metadata(model)


def trained_ranges_in(model: ModelProto, where: object) -> TensorRanges:
    """The trained ranges that a model carries. Raises ArtifactError where there are none."""
    if not carries_trained_ranges(model):
        raise ArtifactError(
            "the model carries no trained ranges",
            where=where,
            got="calibrator: trained",
            expected="the float32 export of a checkpoint from a qat stage",
            next="take calibrator: minmax, or train with a qat stage first",
        )
    written = _metadata(model)[RANGES_KEY]
    try:
        return TensorRanges.model_validate_json(written)
    except ValidationError as error:
        raise _unreadable(RANGES_KEY, error, where) from None


def artifact_from_onnx(path: Path) -> Artifact:
    """A user's own ONNX file as an artifact, so that stages take it like any other. Nothing is written."""
    model = _without_external_data(path)
    beside = sorted(external_files(model, path))
    model = _with_weights(model, path)
    entries = {
        name: FileEntry(sha256=sha256_of_file(path.parent / name), size=(path.parent / name).stat().st_size)
        for name in (path.name, *beside)
    }
    options = session_options_of(model, path)
    metrics = onnx_metrics(model, sum(entry.size for entry in entries.values()))
    if metrics["precision"] == "float32":
        metrics["precision"] = options.get("inference_precision", "float32")
    digest = sha256_of({name: entry.sha256 for name, entry in entries.items()})
    io, notes = written_iospec(model, path), list[str]()
    if not (is_described := io is not None):
        output = class_output(model, path)
        io, notes = _inferred_iospec(model, output, path), output.notes()
    manifest = Manifest(
        kind="onnx",
        id=path.stem,
        key=digest,
        digest=digest,
        stage=USERS_FILE,
        stage_version=1,
        config={},
        files=entries,
        metrics=metrics,
        io=io,
        session_options=options,
        provenance={"described": is_described, "notes": notes},
    )
    return Artifact(path.parent.resolve(), manifest)


def onnx_file(artifact: Artifact) -> Path:
    """The ONNX file of an artifact, its hash checked (and that of the weights beside it)."""
    files = [name for name, entry in artifact.manifest.files.items() if entry.content]
    is_users = artifact.manifest.stage == USERS_FILE  # which may be called anything, and comes first
    names = files[:1] if is_users else [name for name in files if name.endswith(".onnx")]
    if len(names) != 1:
        raise ArtifactError(
            "one ONNX file is needed", where=artifact.path, got=", ".join(names) or "none", expected="model.onnx"
        )
    checked = {name: artifact.file(name) for name in files}
    return checked[names[0]]


def onnx_metrics(model: ModelProto, size_bytes: int) -> Json:
    """What a graph says about itself: parameters (weights, not scales or constants of shape), size, precision."""
    return {
        "params": sum(_parameters(model)),
        "size_bytes": size_bytes,
        "precision": onnx_precision(model),
    }


def onnx_precision(model: ModelProto) -> str:
    """Of what is quantized, or else of the weights."""
    stored = {tensor.data_type for tensor in constants_of(model).values()}
    if any(node.op_type == "MatMulNBits" and integer_attribute(node, "bits", 4) == 4 for node in nodes(model)):
        return "int4"
    if is_quantized(model):
        return next((name for number, name in NARROW_TYPES.items() if number in stored), "int8")
    return "float16" if TensorProto.FLOAT16 in stored else "float32"


def is_quantized(model: ModelProto) -> bool:
    """Whether a graph holds quantized operators of any form."""
    return any(mark in node.op_type for node in nodes(model) for mark in QUANTIZED_OPERATORS)


def external_files(model: ModelProto, where: object) -> set[str]:
    """Names of the files that hold tensors of a model. Raises ArtifactError where it does not say it in numbers."""
    try:
        return {ExternalDataInfo(tensor).location for tensor in stored_tensors(model) if uses_external_data(tensor)}
    except ValueError as error:
        raise ArtifactError(f"the weights beside the file cannot be read: {error}", where=where) from None


def operator_counts(model: ModelProto) -> Counter[str]:
    """How often each operator occurs."""
    return Counter(node.op_type for node in nodes(model))


def read_elsewhere(model: ModelProto) -> set[str]:
    """Names of what others than the main graph's nodes read: the outputs, and what If, Loop and Scan read inside."""
    inside = {name for node in model.graph.node for name in {*names_read(node)} - {*node.input}}
    return inside | {output.name for output in model.graph.output}


def shapes_of_weights(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of each initializer, by its name."""
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def float_weights(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of each float32 initializer that holds any numbers, by its name."""
    stored = model.graph.initializer
    return {one.name: tuple(one.dims) for one in stored if one.data_type == TensorProto.FLOAT and 0 not in one.dims}


def without_unread_weights(model: ModelProto) -> ModelProto:
    """The model, in place, without initializers that no node reads and that are no output."""
    read = {name for node in nodes(model) for name in node.input} | {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def types_and_shapes(model: ModelProto) -> tuple[dict[str, int], dict[str, tuple[int | None, ...]]]:
    """The element type of each tensor of the main graph, and its shape with None for an open size, where inferred."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        inferred = model.graph
    types, shapes = {}, {}
    existing = {tensor.name for tensor in model.graph.initializer}.union(*(node.output for node in model.graph.node))
    infos = [value for value in inferred.value_info if value.name in existing]  # a file may type what it does not hold
    for value in (*infos, *inferred.input, *inferred.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return types, shapes


def with_unique_node_names(model: ModelProto) -> ModelProto:
    """A copy in which every node has a name of its own, for what knows nodes by their names."""
    named = ModelProto()
    named.CopyFrom(model)
    given = Counter(node.name for node in named.graph.node)
    met: set[str] = set()
    for index, node in enumerate(named.graph.node):
        if not node.name or node.name in met:
            numbers = itertools.count(index)
            node.name = next(name for number in numbers if (name := f"{node.op_type}_{number}") not in given)
            given[node.name] += 1
        met.add(node.name)
    return named


def constants_of(model: ModelProto) -> dict[str, TensorProto]:
    """The constant tensors of the main graph by their names: initializers, and what Constant nodes hold."""
    made = {node.output[0]: tensor for node in model.graph.node if (tensor := _held_by(node)) is not None}
    return {tensor.name: tensor for tensor in model.graph.initializer} | made


def with_stored_constants(model: ModelProto) -> ModelProto:
    """The model, in place, with what Constant nodes of the main graph hold as initializers.

    A Constant node that makes an output of the graph stays.
    """
    outputs = {value.name for value in model.graph.output}
    others = []
    for node in model.graph.node:
        tensor = _held_by(node)
        if tensor is None or node.output[0] in outputs:
            others.append(node)
        else:
            stored = model.graph.initializer.add()
            stored.CopyFrom(tensor)
            stored.name = node.output[0]
    del model.graph.node[:]
    model.graph.node.extend(others)
    return model


def _held_by(node: onnx.NodeProto) -> TensorProto | None:
    """The tensor of a Constant node; None for other nodes, and for text or sparse tensors."""
    if node.op_type != "Constant" or node.domain or not node.attribute:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        held: TensorProto = attribute.t
        return held
    numbers = {
        "value_float": np.float32(attribute.f),
        "value_floats": np.asarray(attribute.floats, np.float32),
        "value_int": np.int64(attribute.i),
        "value_ints": np.asarray(attribute.ints, np.int64),
    }
    found = numbers.get(attribute.name)
    return None if found is None else onnx.numpy_helper.from_array(np.asarray(found), node.output[0])


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators; 0 where the model names none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def integer_attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An attribute of a node, or what it is where the node leaves it out."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _without_external_data(path: Path) -> ModelProto:
    if not path.is_file():
        raise ArtifactError("there is no such file", where=path, expected="an ONNX file")
    if path.stat().st_size > PROTOBUF_LIMIT_BYTES:
        raise ArtifactError(
            "the file is too large for one ONNX file",
            where=path,
            got=f"{path.stat().st_size} bytes",
            expected=f"at most {PROTOBUF_LIMIT_BYTES}",
            next="save it with external data (onnx.save_model(…, save_as_external_data=True))",
        )
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError:
        raise _not_onnx(path) from None
    if not model.graph.node or not model.opset_import:
        raise _not_onnx(path)
    check_structure(model, path)
    _refuse_custom_operators(model, path)
    normalize(model)
    return model


def _with_weights(model: ModelProto, path: Path) -> ModelProto:
    """The model, in place, with the weights beside the file; its outputs have the types that can be inferred."""
    _load_external_data(model, path)
    check_stored_tensors(stored_tensors(model), path)
    for output, inferred in zip(model.graph.output, outline_of(model, path).graph.output, strict=True):
        _take_type(output, inferred)
    return model


def _take_type(output: onnx.ValueInfoProto, inferred: onnx.ValueInfoProto) -> None:
    """Where they differ ONNX Runtime gives what is inferred; declared names of open sizes stay."""
    declared = list(output.type.tensor_type.shape.dim)
    output.type.CopyFrom(inferred.type)
    sizes = output.type.tensor_type.shape.dim
    for size, known in zip(sizes, declared if len(declared) == len(sizes) else (), strict=False):
        if not size.HasField("dim_value") and (known.HasField("dim_param") or not size.HasField("dim_param")):
            size.CopyFrom(known)


def _not_onnx(path: Path) -> ArtifactError:
    return ArtifactError(
        "this is no ONNX model, or it was cut short", where=path, got=f"{path.stat().st_size} bytes", expected="ONNX"
    )


def _refuse_custom_operators(model: ModelProto, path: Path) -> None:
    known = {*KNOWN_DOMAINS, *(function.domain for function in model.functions)}
    custom = sorted({f"{node.domain}::{node.op_type}" for node in nodes(model) if node.domain not in known})
    if custom:
        raise ArtifactError(
            "the model needs custom operators",
            where=path,
            got=", ".join(custom),
            expected="operators of ONNX or ONNX Runtime",
            next="export it without plugins",
        )


def _load_external_data(model: ModelProto, path: Path) -> None:
    """Load the weights that lie beside the file; onnx itself refuses paths and links that lead out of the folder."""
    with graph_tool("the weights beside the file cannot be read", path):
        try:
            for name in sorted(external_files(model, path)):
                _check_lies_beside(name, path)
            onnx.load_external_data_for_model(model, str(path.parent))
        except OSError as error:
            raise ValueError(error) from None


def _check_lies_beside(name: str, path: Path) -> None:
    if (path.parent / name).exists() and not (path.parent / name).is_file():
        raise ArtifactError("the weights beside the file are no file", where=path, got=name)
    if not (path.parent / name).resolve().is_relative_to(path.parent.resolve()):
        raise ArtifactError(
            "the weights lie outside the model's folder", where=path, got=name, expected=f"a file in {path.parent}"
        )


def _metadata(model: ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _unreadable(key: str, error: ValidationError, where: object) -> ArtifactError:
    return ArtifactError(f"{key} cannot be read: {error.errors()[0]['msg']}", where=where)


def _check_graph_has(spec: IOSpec, model: ModelProto, where: object) -> None:
    outputs = {value.name: value for value in model.graph.output}
    described = ([one.name for one in spec.inputs], [one.name for one in spec.outputs])
    found = ([one.name for one in inputs_of(model)], list(outputs))
    if described[0] != found[0] or not outputs.keys() >= set(described[1]):
        raise ArtifactError(
            f"{IOSPEC_KEY} names other inputs and outputs than the graph has",
            where=where,
            got=described,
            expected=found,
        )
    scores = shape_of(outputs[spec.outputs[0].name])
    if len(scores) != 2 or not isinstance(scores[1], int):
        return
    if len(spec.classes) not in (scores[1], max(2, scores[1])):  # a written file may have a single class
        raise ArtifactError(
            f"{IOSPEC_KEY} names another number of classes than the graph has",
            where=where,
            got=len(spec.classes),
            expected=max(2, scores[1]),
        )


def _with_meaning(spec: IOSpec, model: ModelProto) -> IOSpec:
    """The IOSpec with what the graph tells of its class output, which earlier versions did not look at."""
    scores = next(value for value in model.graph.output if value.name == spec.outputs[0].name)
    first, *others = spec.outputs
    if first.meaning != LOGITS or (told := meaning_of(model, scores)) == LOGITS:
        return spec
    return spec.model_copy(update={"outputs": (first.model_copy(update={"meaning": told}), *others)})


def _inferred_iospec(model: ModelProto, output: ClassOutput, where: object) -> IOSpec:
    images = inputs_of(model)
    if len(images) != 1 or not _is_image(images[0]):
        raise ArtifactError(
            "the model does not take one picture",
            where=where,
            got=", ".join(map(described, images)) or "no input",
            expected="one float32 input (batch, 3, height, width) of fixed height and width",
        )
    batch, *sizes = shape_of(images[0])
    if isinstance(batch, str) and isinstance(output.shape[0], int):
        batch = output.shape[0]  # a Reshape inside fixes it
    shape = (batch, *sizes)
    return IOSpec(
        inputs=(TensorSpec(name=images[0].name, shape=shape, layout="NCHW", meaning="RGB image"),),
        outputs=(TensorSpec(name=output.name, shape=output.shape, layout="NC", meaning=output.meaning),),
        preprocess=Preprocess(height=int(shape[2]), width=int(shape[3])),
        classes=_numbered(output.num_classes),
    )


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _is_image(value: onnx.ValueInfoProto) -> bool:
    shape = shape_of(value)
    fixed = len(shape) == 4 and shape[1] == 3 and all(isinstance(size, int) for size in shape[2:])
    return fixed and value.type.tensor_type.elem_type == TensorProto.FLOAT


def _parameters(model: ModelProto) -> Iterator[int]:
    """Elements of each weight, and of each bias that was stored as int32 beside quantized weights."""
    for name, tensor in constants_of(model).items():
        if tensor.data_type in WEIGHT_TYPES and not name.endswith(("_scale", "_zero_point")) and tensor.dims:
            yield math.prod(tensor.dims)


def _strip_shapes_of_weights(model: ModelProto) -> None:
    """Weights have their shapes themselves: a second note of it goes stale where a tool transposes one.

    onnxruntime's own dynamic quantizer does, and then refuses the file.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


def _strip_notes(model: ModelProto) -> None:
    model.doc_string = ""
    graphs = list(graphs_of(model))
    noted = [*nodes(model), *model.functions, *graphs]
    for graph in graphs:
        noted += [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for item in noted:
        item.doc_string = ""
        del item.metadata_props[:]
