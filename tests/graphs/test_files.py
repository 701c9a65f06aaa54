"""ONNX files from elsewhere: read as they are, or refused with a reason."""

import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgevit.artifacts import Artifact, IOSpec, Preprocess, TensorSpec
from edgevit.errors import ArtifactError
from edgevit.graphs import files
from edgevit.graphs.files import (
    artifact_from_onnx,
    copy_onnx,
    external_files,
    onnx_file,
    read_onnx,
    rewrite_onnx,
    write_onnx,
)
from edgevit.graphs.metadata import IOSPEC_KEY, RANGES_KEY, SESSION_OPTIONS_KEY, iospec_of_onnx, trained_ranges_in
from edgevit.graphs.precision import onnx_metrics
from edgevit.runtimes.base import SessionOptions, random_images
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


def with_constant_nodes(model):
    """The same with its weights in Constant nodes, as some exporters write them."""
    for tensor in model.graph.initializer:
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]
    return model


@pytest.fixture
def write(tmp_path):
    def to_file(model, name="theirs.onnx", **options):
        path = tmp_path / name
        onnx.save(model, path, format="protobuf", **options)
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


@pytest.mark.parametrize("name", ["theirs.pb", "theirs.ONNX", "theirs.json", "theirs.textproto"])
def test_a_file_may_be_called_anything(write, name, tmp_path):
    artifact = artifact_from_onnx(write(classifier(), name))
    assert onnx_file(artifact) == tmp_path / name
    beside = {"save_as_external_data": True, "location": "a weights.onnx", "size_threshold": 0}
    assert onnx_file(artifact_from_onnx(write(classifier(), name, **beside))) == tmp_path / name
    (tmp_path / name).write_text('{"graph": "none"}')
    with pytest.raises(ArtifactError, match="not an ONNX model"):
        artifact_from_onnx(tmp_path / name)


def test_a_graph_without_a_name_is_read_and_written(write, tmp_path):
    model = classifier()
    model.graph.name = ""
    onnx.checker.check_model(read_onnx(write(model)))
    write_onnx(model, tmp_path / "ours.onnx", float_onnx().io)


def test_sizes_of_minus_one_are_open(write):
    spec = artifact_from_onnx(write(classifier(image=(-1, 3, 8, 8), scores=(-1, 5)))).io
    assert (spec.inputs[0].shape, spec.outputs[0].shape) == (("batch", 3, 8, 8), ("batch", 5))
    with pytest.raises(ArtifactError, match="one image"):
        artifact_from_onnx(write(classifier(image=(-1, 3, -1, -1))))


def test_a_link_to_a_file_is_that_file(write, tmp_path):
    """As Hugging Face's cache has them, under other names."""
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "model.onnx"
    link.symlink_to(write(classifier()))
    assert onnx_file(artifact_from_onnx(link)) == link


@pytest.mark.parametrize("made", [float_onnx, int8_onnx, engine])
def test_our_own_files_carry_spec_and_session_options(made):
    plain = artifact_from_onnx(made().file("model.onnx"))
    assert plain.io == made().io
    assert plain.model_file.options == made().model_file.options
    assert plain.metrics["precision"] == made().metrics["precision"]
    assert plain.metrics["params"] == pytest.approx(made().metrics["params"], rel=0.02)


def test_nothing_of_this_machine_is_in_an_exported_file():
    content = float_onnx().file("model.onnx").read_bytes()
    for leak in (os.path.expanduser("~"), "site-packages", "stack_trace", "timm"):
        assert leak.encode() not in content, leak


def test_a_file_that_carries_its_spec_is_copied_byte_by_byte(tmp_path):
    copy_onnx(float_onnx(), tmp_path / "copy.onnx")
    assert (tmp_path / "copy.onnx").read_bytes() == onnx_file(float_onnx()).read_bytes()


def test_a_copy_is_one_file_with_its_weights(write, tmp_path):
    beside = {"save_as_external_data": True, "location": "weights", "size_threshold": 0}
    artifact = artifact_from_onnx(write(classifier(), **beside))
    copy_onnx(artifact, tmp_path / "folder.onnx")
    (tmp_path / "weights").unlink()
    copied = onnx.load(tmp_path / "folder.onnx", load_external_data=False)
    assert not external_files(copied, "the copy")
    expected = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)  # as `classifier` has them
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(copied.graph.initializer[0]), expected)


def test_a_copy_carries_the_spec_of_the_artifact_and_not_that_of_the_file(tmp_path):
    spec = float_onnx().io.calling_its_classes(tuple(f"class {label}" for label in float_onnx().io.classes))
    copy_onnx(float_onnx().with_io(spec), tmp_path / "copy.onnx")
    assert artifact_from_onnx(tmp_path / "copy.onnx").io == spec
    assert iospec_of_onnx(read_onnx(onnx_file(float_onnx())), "the file") == float_onnx().io  # which stays as it was


def test_a_rewritten_file_keeps_session_options_and_gives_the_same_scores(tmp_path):
    options = engine().model_file.options
    assert options
    rewrite_onnx(engine(), tmp_path / "again.onnx")
    again = artifact_from_onnx(tmp_path / "again.onnx")
    assert (again.io, again.model_file.options) == (engine().io, options)
    images = {engine().io.inputs[0].name: random_images(engine().io, 3)}
    before, after = (open_session(model, SessionOptions()).infer(images)["logits"] for model in (engine(), again))
    np.testing.assert_array_equal(before, after)


def test_an_altered_file_is_not_copied(tmp_path):
    folder = tmp_path / "altered"
    shutil.copytree(float_onnx().path, folder)
    artifact = Artifact.load(folder)
    (folder / "model.onnx").write_bytes(onnx_file(float_onnx()).read_bytes() + b"0")
    for write_to in (copy_onnx, rewrite_onnx):
        with pytest.raises(ArtifactError):
            write_to(artifact, tmp_path / "copy.onnx")
    assert not (tmp_path / "copy.onnx").exists()


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
    with pytest.raises(ArtifactError, match="truncated"):
        artifact_from_onnx(path)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(64), b"PK\x03\x04 a zip", b"hello\n"])
def test_a_file_of_another_kind(content, tmp_path):
    path = tmp_path / "image.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not an ONNX model"):
        artifact_from_onnx(path)


def test_a_file_too_large_for_protobuf(write, monkeypatch):
    monkeypatch.setattr(files, "PROTOBUF_LIMIT_BYTES", 100)
    with pytest.raises(ArtifactError, match="too large"):
        read_onnx(write(classifier()))


def test_custom_operators_are_named(write):
    with pytest.raises(ArtifactError, match="custom operators") as caught:
        read_onnx(write(classifier(operator="FancyPool", domain="my.plugins")))
    assert caught.value.got == "my.plugins::FancyPool"


@pytest.mark.parametrize("made", [classifier(), with_constant_nodes(classifier())], ids=["initializer", "node"])
def test_weights_beside_the_file_are_read_and_hashed(write, made):
    beside = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0, "convert_attribute": True}
    path = write(made, **beside)
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


def test_weights_in_a_file_without_a_possible_name_are_refused(tmp_path):
    model = classifier()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "w\0.bin")
    model.graph.initializer[0].ClearField("raw_data")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="cannot be read"):
        artifact_from_onnx(tmp_path / "model.onnx")


@pytest.mark.parametrize("names", [("cat",), ("no cat", "cat")])
def test_a_written_file_of_one_score_has_one_class_or_two(names, tmp_path):
    nodes = [helper.make_node("ReduceMean", ["image"], ["logits"], axes=[2, 3], keepdims=0)]
    values = [("image", ["N", 1, 8, 8]), ("logits", ["N", 1])]
    image, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values)  # type: ignore[arg-type]
    graph = helper.make_graph(nodes, "one", [image], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    spec = IOSpec.for_classifier(Preprocess(height=8, width=8), names)
    scores = TensorSpec(name="logits", shape=("N", 1), layout="NC", meaning="class scores")
    write_onnx(model, tmp_path / "m.onnx", spec.model_copy(update={"outputs": (scores,)}))
    assert artifact_from_onnx(tmp_path / "m.onnx").io.classes == names


@pytest.mark.parametrize(("key", "value"), [("offset", "abc"), ("offset", "-3"), ("length", "-5")])
def test_weights_at_no_place_of_a_file_are_refused(key, value, tmp_path):
    (tmp_path / "weights.bin").write_bytes(bytes(60))
    model = classifier()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "weights.bin")
    model.graph.initializer[0].external_data.add(key=key, value=value)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="cannot be read") as caught:
        artifact_from_onnx(tmp_path / "model.onnx")
    assert value in str(caught.value)


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
        ({"image": ("batch", 1, 8, 8)}, "one image"),
        ({"image": ("batch", 3, "height", "width")}, "one image"),
        ({"dtype": TensorProto.FLOAT16}, "one image"),
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
    broken = classifier(operator="FancyPool", domain="com.microsoft")
    with pytest.raises(ArtifactError, match=r"ONNX Runtime cannot load it: .*FancyPool"):
        open_session(artifact_from_onnx(write(broken)), SessionOptions())


def test_a_graph_that_reads_what_nothing_makes_is_refused(write):
    broken = classifier()
    broken.graph.node[2].input[1] = "no such weight"
    with pytest.raises(ArtifactError, match="graph is not valid") as caught:
        artifact_from_onnx(write(broken))
    assert "no such weight" in caught.value.got


def test_a_file_of_a_later_format_is_said_in_short(write):
    """ONNX Runtime says it at the end of a C++ signature and a path."""
    later = classifier()
    later.ir_version = 99
    with pytest.raises(ArtifactError, match="cannot load it: Unsupported model IR version: 99, max") as caught:
        open_session(artifact_from_onnx(write(later)), SessionOptions())
    assert caught.value.next.startswith("save it with ir_version 1")


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("not json", "Invalid JSON"),
        ("[1]", "Input should be an object"),
        ('{"graph_optimization_level": "most"}', "graph_optimization_level: Input should be 'all' or 'disabled'"),
        ('{"intra_op": 3}', "intra_op: Extra inputs are not permitted"),
        ('{"runtime": "openvino", "disabled_optimizers": []}', "disabled_optimizers: Extra inputs are not permitted"),
        ('{"runtime": "tensorrt"}', "'tensorrt' found using 'runtime'"),
        ('{"disabled_optimizers": 1}', "disabled_optimizers: Input should be a valid tuple"),
        ('{"\\u001b[2J": 3}', "\\u001b[2J: Extra inputs"),
    ],
)
def test_session_options_that_cannot_be_read_are_refused(write, written, reason):
    model = classifier()
    onnx.helper.set_model_props(model, {SESSION_OPTIONS_KEY: written})
    with pytest.raises(ArtifactError, match=r"edgevit\.session_options cannot be read") as caught:
        artifact_from_onnx(write(model))
    assert reason in str(caught.value)


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


@pytest.mark.parametrize("place", [0, 1])
def test_an_output_beside_the_scores_is_carried_along(write, place):
    model = classifier()
    model.graph.node.append(helper.make_node("Shape", ["scores"], ["sizes"]))
    model.graph.output.insert(place, helper.make_tensor_value_info("sizes", TensorProto.INT64, [2]))
    path = write(model)
    spec = artifact_from_onnx(path).io
    write_onnx(model, path, spec)
    again = artifact_from_onnx(path)
    assert again.io == spec
    assert open_session(again, SessionOptions()).infer({"pixels": random_images(spec, 2)}).keys() == {"scores"}


def test_half_precision_weights_are_said():
    model = classifier()
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight.astype(np.float16), "weight"))
    for one in (model, with_constant_nodes(model)):
        assert onnx_metrics(one, 0) == {"params": 15, "size_bytes": 0, "precision": "float16"}


@pytest.mark.parametrize(
    ("operator", "precision"),
    [
        ("DynamicQuantizeMatMul", "int8"),
        ("MatMulIntegerToFloat", "int8"),
        ("QAttention", "int8"),
        ("QGemm", "int8"),
        ("MatMulNBits", "int4"),
        ("FusedMatMul", "float32"),
    ],
)
def test_what_onnxruntime_quantized_is_not_called_float(operator, precision):
    assert onnx_metrics(classifier(operator=operator, domain="com.microsoft"), 0)["precision"] == precision


@pytest.mark.parametrize(
    "written",
    [
        "rubbish",
        '{"runtime":"x","tensors":{}}',
        *(f'{{"runtime":"x","tensors":{{"a":{bounds}}}}}' for bounds in ("[1,0]", "[0,NaN]", "[0,1e999]", "[0,1e300]")),
    ],
)
def test_trained_ranges_that_are_none_are_refused(written):
    model = onnx.ModelProto()
    with pytest.raises(ArtifactError, match="no trained ranges"):
        trained_ranges_in(model, "here")
    onnx.helper.set_model_props(model, {RANGES_KEY: written})
    with pytest.raises(ArtifactError, match=f"{RANGES_KEY} cannot be read"):
        trained_ranges_in(model, "here")
