"""ONNX files from elsewhere: read as they are, or refused with a reason."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgevit.errors import ArtifactError
from edgevit.runtimes import files
from edgevit.runtimes.base import SessionOptions, random_images
from edgevit.runtimes.files import (
    IOSPEC_KEY,
    RANGES_KEY,
    SESSION_OPTIONS_KEY,
    artifact_from_onnx,
    iospec_of_onnx,
    onnx_file,
    onnx_metrics,
    read_onnx,
    trained_ranges_in,
    write_onnx,
)
from edgevit.runtimes.sessions import open_session
from tests.small_models import engine, float_onnx, int8_onnx


def classifier(
    image=("batch", 3, 8, 8), dtype=TensorProto.FLOAT, scores=("batch", 5), operator="GlobalAveragePool", domain=""
):
    """pixels → mean of each channel → scores, made as another tool might."""
    nodes = [
        helper.make_node(operator, ["pixels"], ["means"], domain=domain),
        helper.make_node("Flatten", ["means"], ["features"]),
        helper.make_node("MatMul", ["features", "weight"], ["scores"]),
    ]
    weight = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "elsewhere",
        [helper.make_tensor_value_info("pixels", dtype, image)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, scores)],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)] if domain else [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.fixture
def write(tmp_path):
    def to_file(model, **options):
        path = tmp_path / "theirs.onnx"
        onnx.save(model, path, **options)
        return path

    return to_file


def test_a_model_from_elsewhere_keeps_its_names(write):
    artifact = artifact_from_onnx(write(classifier()))
    spec = artifact.io
    assert (spec.inputs[0].name, spec.inputs[0].shape) == ("pixels", ("batch", 3, 8, 8))
    assert spec.outputs[0].name == "scores"
    assert spec.classes == ("0", "1", "2", "3", "4")
    assert spec.preprocess.mean == (0.485, 0.456, 0.406)
    assert (artifact.kind, artifact.metrics["params"], artifact.metrics["precision"]) == ("onnx", 15, "float32")
    images = random_images(spec, 4)
    weight = onnx.numpy_helper.to_array(read_onnx(onnx_file(artifact)).graph.initializer[0])
    scores = open_session(artifact, SessionOptions()).infer({"pixels": images})["scores"]
    np.testing.assert_allclose(scores, images.mean((2, 3)) @ weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("made", [float_onnx, int8_onnx, engine])
def test_our_own_files_carry_spec_and_session_options(made):
    plain = artifact_from_onnx(made().file("model.onnx"))
    assert plain.io == made().io
    assert plain.manifest.session_options == made().manifest.session_options
    assert plain.metrics["precision"] == made().metrics["precision"]
    assert plain.metrics["params"] == pytest.approx(made().metrics["params"], rel=0.02)


def test_nothing_of_this_machine_is_in_an_exported_file():
    content = float_onnx().file("model.onnx").read_bytes()
    for leak in (os.path.expanduser("~"), "site-packages", "stack_trace", "timm"):
        assert leak.encode() not in content, leak


def test_equal_models_give_equal_bytes(tmp_path):
    for name, note in (("a", "made on Monday"), ("b", "made on Tuesday")):
        model = classifier()
        model.doc_string = model.graph.node[0].doc_string = note
        onnx.helper.set_model_props(model, {"note": note})
        write_onnx(model, tmp_path / name, float_onnx().io)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match="no such file"):
        read_onnx(tmp_path / "missing.onnx")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.999])
def test_a_file_cut_short(keep, tmp_path):
    whole = float_onnx().file("model.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(ArtifactError, match="cut short"):
        artifact_from_onnx(path)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(64), b"PK\x03\x04 a zip", b"hello\n"])
def test_a_file_of_another_kind(content, tmp_path):
    path = tmp_path / "picture.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="no ONNX model"):
        artifact_from_onnx(path)


def test_a_file_too_large_for_protobuf(write, monkeypatch):
    monkeypatch.setattr(files, "PROTOBUF_LIMIT_BYTES", 100)
    with pytest.raises(ArtifactError, match="too large"):
        read_onnx(write(classifier()))


def test_custom_operators_are_named(write):
    with pytest.raises(ArtifactError, match="custom operators") as caught:
        read_onnx(write(classifier(operator="FancyPool", domain="my.plugins")))
    assert caught.value.got == "my.plugins::FancyPool"


def test_weights_beside_the_file_are_read_and_hashed(write):
    path = write(classifier(), save_as_external_data=True, location="weights.bin", size_threshold=0)
    artifact = artifact_from_onnx(path)
    assert set(artifact.manifest.files) == {"theirs.onnx", "weights.bin"}
    assert open_session(artifact, SessionOptions()).infer({"pixels": random_images(artifact.io, 1)})["scores"].size == 5
    (path.parent / "weights.bin").write_bytes(bytes(60))
    with pytest.raises(ArtifactError, match="altered"):
        onnx_file(artifact)
    (path.parent / "weights.bin").unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        artifact_from_onnx(path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname"])
def test_weights_outside_the_folder_are_refused(location, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(60))
    model = classifier()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].ClearField("raw_data")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="outside"):
        artifact_from_onnx(folder / "model.onnx")


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(60))
    onnx.save(classifier(), folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ArtifactError, match="outside"):
        artifact_from_onnx(folder / "m.onnx")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"image": ("batch", 1, 8, 8)}, "one picture"),
        ({"image": ("batch", 3, "height", "width")}, "one picture"),
        ({"dtype": TensorProto.FLOAT16}, "one picture"),
        ({"scores": ("batch", "classes")}, "class scores"),
    ],
)
def test_what_is_no_classifier_is_refused(changes, what):
    with pytest.raises(ArtifactError, match=what) as caught:
        iospec_of_onnx(classifier(**changes), "theirs.onnx")
    assert "(batch" in caught.value.got


def test_a_spec_that_cannot_be_read_is_refused():
    model = classifier()
    onnx.helper.set_model_props(model, {IOSPEC_KEY: '{"inputs": 3}'})
    with pytest.raises(ArtifactError, match=r"edgevit\.iospec cannot be read"):
        iospec_of_onnx(model, "theirs.onnx")


def test_what_onnxruntime_cannot_load_is_said(write):
    broken = classifier()
    broken.graph.node[2].input[1] = "no such weight"
    with pytest.raises(ArtifactError) as caught:
        open_session(artifact_from_onnx(write(broken)), SessionOptions())
    assert caught.value.what.startswith("ONNX Runtime cannot load it: Invalid model. Node input 'no such weight'")


def test_a_file_of_a_later_format_is_said_in_short(write):
    """ONNX Runtime says it at the end of a C++ signature and a path."""
    later = classifier()
    later.ir_version = 99
    with pytest.raises(ArtifactError, match="cannot load it: Unsupported model IR version: 99, max") as caught:
        open_session(artifact_from_onnx(write(later)), SessionOptions())
    assert caught.value.next.startswith("save it with ir_version 1")


@pytest.mark.parametrize(
    "written",
    ["not json", "[1]", '{"graph_optimization_level": "most"}', '{"intra_op": 3}', '{"disabled_optimizers": 1}'],
)
def test_session_options_that_cannot_be_read_are_refused(write, written):
    model = classifier()
    onnx.helper.set_model_props(model, {SESSION_OPTIONS_KEY: written})
    with pytest.raises(ArtifactError, match=r"edgevit\.session_options cannot be read"):
        artifact_from_onnx(write(model))


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('"4"]', '"4","5"]', "number of classes"),
        ('"name":"pixels"', '"name":"image"', "inputs and outputs"),
        ('"name":"scores"', '"name":"logits"', "inputs and outputs"),
    ],
)
def test_a_spec_of_another_graph_is_refused(old, new, what):
    model = classifier()
    written = iospec_of_onnx(model, "theirs.onnx").model_dump_json()
    onnx.helper.set_model_props(model, {IOSPEC_KEY: written})
    iospec_of_onnx(model, "theirs.onnx")
    onnx.helper.set_model_props(model, {IOSPEC_KEY: written.replace(old, new)})
    with pytest.raises(ArtifactError, match=what):
        iospec_of_onnx(model, "theirs.onnx")


def test_half_precision_weights_are_said():
    model = classifier()
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight.astype(np.float16), "weight"))
    assert onnx_metrics(model, 0)["precision"] == "float16"


@pytest.mark.parametrize(
    "written", ["rubbish", '{"runtime":"x","tensors":{}}', '{"runtime":"x","tensors":{"a":[1,0]}}']
)
def test_trained_ranges_that_are_none_are_refused(written):
    model = onnx.ModelProto()
    with pytest.raises(ArtifactError, match="no trained ranges"):
        trained_ranges_in(model, "here")
    onnx.helper.set_model_props(model, {RANGES_KEY: written})
    with pytest.raises(ArtifactError, match=f"{RANGES_KEY} cannot be read"):
        trained_ranges_in(model, "here")
