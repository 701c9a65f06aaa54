"""ONNX files: reading with clear errors, writing with reproducible bytes, and wrapping as artifacts."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from edgevit.artifacts import (
    Artifact,
    FileEntry,
    IOSpec,
    Manifest,
    canonical_json,
    sha256_of,
    sha256_of_file,
)
from edgevit.errors import ArtifactError
from edgevit.graphs.guard import graph_tool, has_functions_of_other_opsets, with_functions_inlined
from edgevit.graphs.limits import check_stored_tensors, check_structure, outline_of
from edgevit.graphs.metadata import (
    IOSPEC_KEY,
    RANGES_KEY,
    SESSION_OPTIONS_KEY,
    TensorRanges,
    carried_ranges,
    inferred_iospec,
    iospec_of_onnx,
    runtime_options_of,
    written_iospec,
)
from edgevit.graphs.normal_form import KNOWN_DOMAINS, normalize
from edgevit.graphs.outputs import class_output
from edgevit.graphs.precision import onnx_metrics
from edgevit.graphs.walk import graphs_of, nodes, stored_tensors
from edgevit.model_file import RuntimeOptions, TensorrtOptions, json_of_options, model_file_with
from edgevit.version import __version__

USERS_FILE = "file"  # the stage in the artifact of a user's own ONNX file
PROTOBUF_LIMIT_BYTES = 2**31 - 1


def read_onnx(path: Path) -> ModelProto:
    """The checked model of a file with its weights, repaired by `normalize`.

    Raises:
        ArtifactError: the file is missing, truncated, not ONNX, too large or not a valid graph; it needs operators that
            ONNX Runtime does not have; or its weights lie outside its folder.
    """
    return _with_weights(_without_external_data(path), path)


def write_onnx(
    model: ModelProto,
    path: Path,
    spec: IOSpec,
    options: RuntimeOptions | None = None,
    trained_ranges: TensorRanges | None = None,
) -> None:
    """Repair a model by `normalize`, check it, and write it with its IOSpec in the metadata.

    Equal models give equal bytes: an exporter's notes about its own run (stack traces with paths of the machine, source
    lines, versions) are removed.
    """
    normalize(model)
    _strip_notes(model)
    _strip_shapes_of_weights(model)
    del model.metadata_props[:]
    metadata = {IOSPEC_KEY: canonical_json(spec.model_dump(mode="json"))}
    if options and (session_options := json_of_options(options)):
        metadata[SESSION_OPTIONS_KEY] = canonical_json(session_options)
    if trained_ranges:
        metadata[RANGES_KEY] = canonical_json(trained_ranges.model_dump(mode="json"))
    onnx.helper.set_model_props(model, metadata)
    model.producer_name, model.producer_version = "edgevit", __version__
    check_structure(model, path)  # as `read_onnx` does
    with graph_tool("the graph cannot be written", path):
        onnx.checker.check_model(model)
        content = model.SerializeToString(deterministic=True)
    path.write_bytes(content)


def artifact_from_onnx(path: Path) -> Artifact:
    """A user's own ONNX file as an artifact for stages. Nothing is written."""
    model = _without_external_data(path)
    weights_files = sorted(external_files(model, path))
    model = _with_weights(model, path)
    entries = {
        name: FileEntry(sha256=sha256_of_file(path.parent / name), size=(path.parent / name).stat().st_size)
        for name in (path.name, *weights_files)
    }
    metrics = onnx_metrics(model, sum(entry.size for entry in entries.values()))
    model_file = model_file_with(runtime_options_of(model, path), metrics["precision"], path.name)
    digest = sha256_of({name: entry.sha256 for name, entry in entries.items()})
    io, notes = written_iospec(model, path), list[str]()
    if not (is_described := io is not None):
        output = class_output(model, path)
        io, notes = inferred_iospec(model, output, path), output.notes()
    manifest = Manifest(
        kind="onnx",
        id=path.stem,
        key=digest,
        digest=digest,
        stage=USERS_FILE,
        stage_version=1,
        config={},
        files=entries,
        metrics={**metrics, "precision": model_file.precision},
        io=io,
        model_file=model_file,
        provenance={"described": is_described, "notes": notes},
    )
    return Artifact(path.parent.resolve(), manifest)


def onnx_file(artifact: Artifact) -> Path:
    """The ONNX file of an artifact, after a check of its hash and those of its weights files."""
    if artifact.kind == "checkpoint":
        raise ArtifactError("a checkpoint has no graph yet", where=artifact.id, next="export it to ONNX")
    if isinstance(artifact.model_file.options, TensorrtOptions):
        machine = artifact.model_file.bound_to
        raise ArtifactError(
            "a TensorRT engine is no ONNX file: it runs on the machine that built it",
            where=artifact.id,
            got=f"an engine of {machine.name}" if machine else None,
            next="take the ONNX file that it was built from, or the target that built it",
        )
    files = [name for name, entry in artifact.manifest.files.items() if entry.content]
    checked = {name: artifact.file(name) for name in dict.fromkeys([artifact.model_file.name, *files])}
    return checked[artifact.model_file.name]


def copy_onnx(artifact: Artifact, to: Path) -> None:
    """Copy the ONNX file of an artifact. The copy is one file, and carries the artifact's IOSpec.

    A file with weights beside it, or with another IOSpec, is written anew; all other files are copied byte by byte.

    Raises:
        ArtifactError: the file was altered, or its weights are too large for one file.
    """
    source = onnx_file(artifact)
    is_one_file = sum(entry.content for entry in artifact.manifest.files.values()) == 1
    if is_one_file and iospec_of_onnx(read_onnx(source), source) == artifact.io:
        shutil.copyfile(source, to)
    else:
        rewrite_onnx(artifact, to)


def rewrite_onnx(artifact: Artifact, to: Path) -> None:
    """Write the ONNX file of an artifact anew, as one file with its weights, IOSpec, options and ranges.

    Raises:
        ArtifactError: the file was altered, or its weights are too large for one file.
    """
    source = onnx_file(artifact)
    graph = read_onnx(source)
    write_onnx(graph, to, artifact.io, artifact.model_file.options, carried_ranges(graph, source))


def external_files(model: ModelProto, where: object) -> set[str]:
    """Names of the files that hold tensors of a model. Raises ArtifactError if an offset or length is not a number."""
    try:
        return {ExternalDataInfo(tensor).location for tensor in stored_tensors(model) if uses_external_data(tensor)}
    except ValueError as error:
        raise ArtifactError(f"the weights beside the file cannot be read: {error}", where=where) from None


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
    """The model, in place, with the weights beside the file and inferred types of its outputs."""
    _load_external_data(model, path)
    check_stored_tensors(stored_tensors(model), path)
    if has_functions_of_other_opsets(model):
        model = with_functions_inlined(model, path)
    for output, inferred in zip(model.graph.output, outline_of(model, path).graph.output, strict=True):
        _take_type(output, inferred)
    return model


def _take_type(output: onnx.ValueInfoProto, inferred: onnx.ValueInfoProto) -> None:
    """Give an output its inferred type, as ONNX Runtime does. Declared names of open sizes stay."""
    declared_sizes = list(output.type.tensor_type.shape.dim)
    output.type.CopyFrom(inferred.type)
    sizes = output.type.tensor_type.shape.dim
    for size, declared in zip(sizes, declared_sizes if len(declared_sizes) == len(sizes) else (), strict=False):
        if not size.HasField("dim_value") and (declared.HasField("dim_param") or not size.HasField("dim_param")):
            size.CopyFrom(declared)


def _not_onnx(path: Path) -> ArtifactError:
    return ArtifactError(
        "the file is not an ONNX model, or it is truncated",
        where=path,
        got=f"{path.stat().st_size} bytes",
        expected="ONNX",
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
    """Load the weights beside the file. onnx itself refuses paths and links that lead out of the folder."""
    with graph_tool("the weights beside the file cannot be read", path):
        try:
            for name in sorted(external_files(model, path)):
                _check_lies_beside(name, path)
            onnx.load_external_data_for_model(model, str(path.parent))
        except OSError as error:
            raise ValueError(error) from None


def _check_lies_beside(name: str, path: Path) -> None:
    if (path.parent / name).exists() and not (path.parent / name).is_file():
        raise ArtifactError("the weights beside the model are not a regular file", where=path, got=name)
    if not (path.parent / name).resolve().is_relative_to(path.parent.resolve()):
        raise ArtifactError(
            "the weights lie outside the model's folder", where=path, got=name, expected=f"a file in {path.parent}"
        )


def _strip_shapes_of_weights(model: ModelProto) -> None:
    """Remove the value_info of weights: it is wrong after a tool transposes a weight.

    onnxruntime's dynamic quantizer does that, and then refuses its own file.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


def _strip_notes(model: ModelProto) -> None:
    model.doc_string = ""
    graphs = list(graphs_of(model))
    with_notes = [*nodes(model), *model.functions, *graphs]
    for graph in graphs:
        with_notes += [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for item in with_notes:
        item.doc_string = ""
        del item.metadata_props[:]
