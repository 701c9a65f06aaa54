"""The record of a model's file, its JSON, and manifests of earlier releases, which hold session options instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from pydantic import ValidationError

from edgevit.artifacts import (
    MANIFEST,
    Artifact,
    Contents,
    FileEntry,
    IOSpec,
    Json,
    Manifest,
    Preprocess,
    content_digest,
    read_manifest,
    sha256_of,
)
from edgevit.configs import Compile
from edgevit.errors import ArtifactError
from edgevit.graphs.files import artifact_from_onnx
from edgevit.graphs.metadata import SESSION_OPTIONS_KEY
from edgevit.model_file import (
    AS_WRITTEN,
    UNKNOWN_TARGET,
    ModelFile,
    OnnxruntimeOptions,
    OpenvinoOptions,
    RuntimeOptions,
    TargetInfo,
    json_of_options,
    options_from_json,
)
from edgevit.runtimes.base import SessionOptions, for_runtime, precision_of, runtime_of
from edgevit.store import Store, ingredients
from tests.bundling.small_model import small_model

SPEC = IOSpec.for_classifier(Preprocess(height=8, width=8), ("ant", "bee"))
ENTRY = FileEntry(sha256="eef93e1d14482804277fca0172464032d1a4fdbcc338524059fa1e861454ad4d", size=5)  # of b"graph"
MACHINE = TargetInfo(
    name="local-cpu", runtime="onnxruntime", versions={"onnxruntime": "1.26.0"}, hardware={"model": "a CPU", "cores": 2}
)
OF_THE_DIALECT = ("MatMulAddFusion", "BiasGeluFusion")

JSON_OF_OPTIONS: list[tuple[RuntimeOptions, Json]] = [
    (OnnxruntimeOptions(), {}),
    (AS_WRITTEN, {"graph_optimization_level": "disabled"}),
    (OnnxruntimeOptions(disabled_optimizers=OF_THE_DIALECT), {"disabled_optimizers": [*OF_THE_DIALECT]}),
    (OpenvinoOptions(), {"runtime": "openvino"}),
    (
        OpenvinoOptions(inference_precision="bfloat16"),
        {"runtime": "openvino", "inference_precision": "bfloat16"},
    ),
]


@pytest.mark.parametrize(("options", "session_options"), JSON_OF_OPTIONS)
def test_the_json_of_options_is_that_of_the_first_release(options: RuntimeOptions, session_options: Json) -> None:
    assert json.dumps(json_of_options(options)) == json.dumps(session_options)
    assert options_from_json(session_options) == options
    assert type(options_from_json(session_options)) is type(options)


def test_defaults_that_are_written_out_mean_the_same() -> None:
    written_out = {"runtime": "onnxruntime", "graph_optimization_level": "all", "disabled_optimizers": []}
    assert options_from_json(written_out) == OnnxruntimeOptions()


@pytest.mark.parametrize(
    "session_options",
    [
        {"intra_op": 3},
        {"inference_precision": "bfloat16"},
        {"runtime": "openvino", "disabled_optimizers": []},
        {"runtime": "openvino", "inference_precision": "float16"},
        {"runtime": "tensorrt"},
        {"runtime": None},
        {"disabled_optimizers": "MatMulAddFusion"},
        {"graph_optimization_level": True},
    ],
    ids=str,
)
def test_keys_of_no_or_another_runtime_and_wrong_values_are_refused(session_options: Json) -> None:
    with pytest.raises(ValidationError):
        options_from_json(session_options)


def test_the_precision_follows_from_weights_and_options() -> None:
    in_bfloat16 = OpenvinoOptions(inference_precision="bfloat16")
    for weights, options, precision in (
        ("float32", OnnxruntimeOptions(), "float32"),
        ("float32", OpenvinoOptions(), "float32"),
        ("float32", in_bfloat16, "bfloat16"),
        ("float16", in_bfloat16, "float16"),
        ("int8", in_bfloat16, "int8"),
    ):
        assert ModelFile(weight_precision=weights, options=options).precision == precision


def test_another_runtime_opens_a_file_with_its_defaults_and_the_precision_follows() -> None:
    model = artifact(ModelFile(weight_precision="float32", options=OpenvinoOptions(inference_precision="bfloat16")))
    there = for_runtime(model, "onnxruntime")
    assert (runtime_of(model), precision_of(model, SessionOptions())) == ("openvino", "bfloat16")
    assert (runtime_of(there), precision_of(there, SessionOptions())) == ("onnxruntime", "float32")
    assert json_of_options(there.model_file.options) == {}
    assert for_runtime(model, "openvino") is model


def test_contents_whose_metrics_name_another_precision_are_refused() -> None:
    with pytest.raises(ValueError, match=r"metrics\.precision"):
        Contents(
            "onnx", metrics={"precision": "float32"}, model_file=ModelFile(weight_precision="int8", options=AS_WRITTEN)
        )


DIGESTS = {
    "{}": "669aae5f4849354067b92820747adbe65c66042e",
    '{"graph_optimization_level": "disabled"}': "17ada81630f01178649a0f77ccc8a80d4029da0a",
    '{"runtime": "openvino", "inference_precision": "bfloat16"}': "f3ca1b1551de87205005810eb039fa22ab167194",
}


@pytest.mark.parametrize(
    ("kind", "metrics", "options", "bound_to"),
    [
        ("onnx", {"size_bytes": 5, "precision": "float32"}, OnnxruntimeOptions(), None),
        ("engine", {"size_bytes": 5, "precision": "int8", "runtime": "onnxruntime"}, AS_WRITTEN, MACHINE),
        ("engine", {"size_bytes": 5, "precision": "int8", "runtime": "onnxruntime"}, AS_WRITTEN, UNKNOWN_TARGET),
        (
            "onnx",
            {"size_bytes": 5, "precision": "bfloat16"},
            OpenvinoOptions(inference_precision="bfloat16"),
            None,
        ),
    ],
)
def test_digests_are_those_of_earlier_releases(
    kind: Any, metrics: Json, options: RuntimeOptions, bound_to: TargetInfo | None
) -> None:
    """The machine that an engine was compiled for is not in its digest."""
    weights = "int8" if kind == "engine" else "float32"
    model_file = ModelFile(weight_precision=weights, options=options, bound_to=bound_to)
    contents = Contents(kind, metrics=metrics, io=SPEC, model_file=model_file)
    digest = content_digest(contents, {"model.onnx": ENTRY})
    assert digest[:40] == DIGESTS[json.dumps(json_of_options(options))]


def test_a_record_in_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = ModelFile(weight_precision="int8", options=AS_WRITTEN, bound_to=MACHINE)
    config = Compile(stage="compile", id="engine", model="onnx")

    def write(out: Path, _: Path) -> Contents:
        (out / "model.onnx").write_bytes(b"graph")
        return Contents("engine", metrics={"precision": "int8"}, io=SPEC, model_file=written)

    onnx_model = {"model": artifact(ModelFile(weight_precision="int8", options=OnnxruntimeOptions()))}
    made = Store(tmp_path).make(config, onnx_model, ingredients(config, onnx_model, None, None), write)
    assert Artifact.load(made.path).model_file == written
    assert made.is_compiled


# Manifests of earlier releases ------------------------------------------------------------------------------------

SPEC_JSON = (
    '{"inputs": [{"name": "image", "shape": ["batch", 3, 8, 8], "dtype": "float32", "layout": "NCHW", '
    '"meaning": "RGB image"}], "outputs": [{"name": "logits", "shape": ["batch", 2], "dtype": "float32", '
    '"layout": "NC", "meaning": "class scores"}], "preprocess": {"height": 8, "width": 8, "resize": "crop", '
    '"crop_pct": 1.0, "interpolation": "bicubic", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], '
    '"normalised_inside": false}, "classes": ["ant", "bee"]}'
)
ENGINE_OF_SCHEMA_2 = (
    '{"schema_version": 2, "kind": "engine", "id": "engine", "key": "ad77a3a4533a03fada00efde518db3052124a002", '
    '"digest": "17ada81630f01178649a0f77ccc8a80d4029da0a", "stage": "compile", "stage_version": 2, "config": {"id": '
    '"engine", "target": "local-cpu", "stage": "compile", "model": "onnx", "runtime": "onnxruntime"}, "inputs": '
    '{"model": {"id": "onnx", "kind": "onnx", "key": "c0670e129bcdea79cd83051ac77f23ae74387596", "digest": '
    '"669aae5f4849354067b92820747adbe65c66042e"}}, "ingredients": {"stage": "compile", "stage_version": 2, "config": '
    '{"target": "local-cpu", "model": "content 669aae5f4849354067b92820747adbe65c66042e", "runtime": "onnxruntime"}, '
    '"target": {"name": "local-cpu", "runtime": "onnxruntime", "versions": {"onnxruntime": "1.26.0"}, "hardware": '
    '{"model": "a CPU", "cores": 2}}, "budget": null, "names": null}, "files": {"model.onnx": {"sha256": '
    '"eef93e1d14482804277fca0172464032d1a4fdbcc338524059fa1e861454ad4d", "size": 5, "content": true}}, "metrics": '
    '{"size_bytes": 5, "precision": "int8", "runtime": "onnxruntime"}, "io": ' + SPEC_JSON + ", "
    '"session_options": {"graph_optimization_level": "disabled"}, "provenance": {}, "sha256": '
    '"1b34dbd621efdbd26a118af462d9bd1afc161d9e2b1c916e4581fdd27af24e25"}'
)
ONNX_OF_SCHEMA_1 = (
    '{"schema_version": 1, "kind": "onnx", "id": "int8", "key": "5e1f", "digest": "f3ca", "stage": "quantize", '
    '"stage_version": 5, "config": {}, "inputs": {}, "ingredients": {}, "files": {"model.onnx": {"sha256": '
    '"eef93e1d14482804277fca0172464032d1a4fdbcc338524059fa1e861454ad4d", "size": 5, "content": true}}, "metrics": '
    '{"size_bytes": 5, "precision": "int8"}, "io": ' + SPEC_JSON + ", "
    '"session_options": {"disabled_optimizers": ["MatMulAddFusion", "BiasGeluFusion"]}, "provenance": {}}'
)


def test_a_manifest_of_schema_2_is_read(tmp_path: Path) -> None:
    """As the release before wrote it: the hash over its fields holds, and the result is found under its key."""
    folder = tmp_path / "ad77a3a4533a03fada00efde518db3052124a002" / "17ada81630f01178649a0f77ccc8a80d4029da0a"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(ENGINE_OF_SCHEMA_2)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder.parent / "current").symlink_to(folder.name)
    found = Store(tmp_path).find(folder.parent.name)
    assert found is not None
    assert found.model_file == ModelFile(weight_precision="int8", options=AS_WRITTEN, bound_to=MACHINE)
    assert (found.io, found.metrics["precision"], found.is_compiled) == (SPEC, "int8", True)
    (folder / MANIFEST).write_text(ENGINE_OF_SCHEMA_2.replace("disabled", "all"))
    with pytest.raises(ArtifactError, match="altered"):
        Artifact.load(folder)


def test_a_manifest_of_schema_1_is_read(tmp_path: Path) -> None:
    """It has no hash."""
    (tmp_path / MANIFEST).write_text(ONNX_OF_SCHEMA_1)
    read = Artifact.load(tmp_path)
    assert read.model_file == ModelFile(
        weight_precision="int8", options=OnnxruntimeOptions(disabled_optimizers=OF_THE_DIALECT)
    )
    assert (read.manifest.schema_version, read.io, read.is_compiled) == (3, SPEC, False)


@pytest.mark.parametrize(
    ("kind", "precision", "session_options", "expected"),
    [
        ("onnx", "float32", {}, ModelFile(weight_precision="float32", options=OnnxruntimeOptions())),
        (
            "onnx",
            "bfloat16",
            {"runtime": "openvino", "inference_precision": "bfloat16"},
            ModelFile(weight_precision="float32", options=OpenvinoOptions(inference_precision="bfloat16")),
        ),
        (
            "onnx",
            "float8",
            {"graph_optimization_level": "disabled"},
            ModelFile(weight_precision="float8", options=AS_WRITTEN),
        ),
        (
            "engine",
            "float8",
            {"graph_optimization_level": "disabled"},
            ModelFile(weight_precision="float8", options=AS_WRITTEN, bound_to=UNKNOWN_TARGET),
        ),
        (
            "bundle",
            "int8",
            {"graph_optimization_level": "disabled"},
            ModelFile(weight_precision="int8", options=AS_WRITTEN, bound_to=UNKNOWN_TARGET),
        ),
        ("bundle", None, {}, ModelFile(weight_precision="float32", options=OnnxruntimeOptions())),
        ("evaluation", None, {}, None),
        ("checkpoint", None, {}, None),
    ],
)
def test_each_kind_of_schema_2_gets_its_record(
    tmp_path: Path, kind: str, precision: str | None, session_options: Json, expected: ModelFile | None
) -> None:
    fields = json.loads(ONNX_OF_SCHEMA_1)
    fields |= {
        "schema_version": 2,
        "kind": kind,
        "metrics": {"precision": precision},
        "session_options": session_options,
    }
    (tmp_path / MANIFEST).write_text(json.dumps({**fields, "sha256": sha256_of(fields)}))
    assert read_manifest(tmp_path / MANIFEST).model_file == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"session_options": {"threads": 3}},
        {"session_options": [1]},
        {"session_options": None},
        {"metrics": {"precision": 3}},
        {"metrics": []},
        {"kind": "engine", "ingredients": {"target": "local-cpu"}},
        {"kind": "engine", "ingredients": {"target": {"name": "local-cpu"}}},
    ],
    ids=str,
)
def test_a_manifest_of_schema_1_that_edgevit_cannot_have_written_is_refused(tmp_path: Path, changes: Json) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps(json.loads(ONNX_OF_SCHEMA_1) | changes))
    with pytest.raises(ArtifactError, match="cannot be read"):
        Artifact.load(tmp_path)


@pytest.mark.parametrize(
    ("session_options", "is_compiled"),
    [
        (None, False),
        ("{}", False),
        ('{"graph_optimization_level":"disabled"}', True),
        ('{"runtime":"openvino"}', False),
    ],
)
def test_a_file_that_compile_wrote_is_known_by_its_metadata(
    tmp_path: Path, session_options: str | None, is_compiled: bool
) -> None:
    """Also a file of an earlier release. It does not say for which machine."""
    small_model(tmp_path / "model")
    model = onnx.load(tmp_path / "model" / "model.onnx")
    if session_options:
        onnx.helper.set_model_props(model, {SESSION_OPTIONS_KEY: session_options})
    onnx.save(model, tmp_path / "theirs.onnx")
    read = artifact_from_onnx(tmp_path / "theirs.onnx")
    assert (read.is_compiled, read.model_file.name) == (is_compiled, "theirs.onnx")
    assert read.model_file.bound_to == (UNKNOWN_TARGET if is_compiled else None)


def test_only_files_of_a_runtime_have_a_record(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps(json.loads(ONNX_OF_SCHEMA_1) | {"kind": "checkpoint"}))
    checkpoint = Artifact.load(tmp_path)
    assert (checkpoint.is_compiled, runtime_of(checkpoint)) == (False, "torch")
    with pytest.raises(ArtifactError, match="a checkpoint is no file of a runtime"):
        _ = checkpoint.model_file


def artifact(model_file: ModelFile) -> Artifact:
    """An ONNX artifact without files."""
    fields = {**json.loads(ONNX_OF_SCHEMA_1), "schema_version": 3, "model_file": model_file.model_dump()}
    del fields["session_options"]
    return Artifact(Path("nowhere"), Manifest.model_validate(fields))
