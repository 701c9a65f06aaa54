"""Which output of a file gives the classes, what that output holds, and the confidence that follows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image
from scipy.special import expit, softmax

from edgevit.actions.predict_images import predict_images
from edgevit.artifacts import Artifact, Preprocess
from edgevit.bundling.runner import RUNNER
from edgevit.data.preprocess import open_image
from edgevit.errors import ArtifactError
from edgevit.graphs import class_scores
from edgevit.graphs.files import artifact_from_onnx, read_onnx, write_onnx
from edgevit.graphs.metadata import with_class_output
from edgevit.graphs.outputs import class_output
from edgevit.runtimes.base import preprocessed
from tests.graphs.odd_graphs import plain_session

CLASSES = 4


def classifier(*last: str, classes: int = CLASSES, outputs: tuple[tuple[str, int], ...] = ()) -> ModelProto:
    """image (N, 3, 8, 8) → "features" (N, 3) → "z" (N, classes) → `last` → "scores"."""
    weight = np.random.default_rng(0).normal(size=(3, classes)).astype(np.float32)
    names = ["z", *(f"step{place}" for place in range(len(last)))]
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "weight"], ["z"]),
        *(helper.make_node(one, [names[place]], [names[place + 1]]) for place, one in enumerate(last)),
        helper.make_node("Identity", [names[-1]], ["scores"]),
    ]
    given = outputs or (("scores", classes),)
    graph = helper.make_graph(
        nodes,
        "elsewhere",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name, width in given],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def with_written_out_softmax(axis: int = 1) -> ModelProto:
    model = classifier()
    axes = numpy_helper.from_array(np.array([axis]), "axes")
    model.graph.initializer.append(axes)
    del model.graph.node[-1:]
    model.graph.node.extend(
        [
            helper.make_node("Exp", ["z"], ["e"]),
            helper.make_node("ReduceSum", ["e", "axes"], ["sum"]),
            helper.make_node("Div", ["e", "sum"], ["scores"]),
        ]
    )
    return model


def in_a_function(operator: str) -> ModelProto:
    model = classifier(operator)
    opset = [helper.make_opsetid("", 17)]
    body = [helper.make_node(operator, ["x"], ["y"])]
    model.functions.append(helper.make_function("local", "Head", ["x"], ["y"], body, opset))
    model.opset_import.append(helper.make_opsetid("local", 1))
    node = next(one for one in model.graph.node if one.op_type == operator)
    node.op_type, node.domain = "Head", "local"
    return model


def saved(model: ModelProto, folder: Path) -> Artifact:
    onnx.save(model, folder / "theirs.onnx")
    return artifact_from_onnx(folder / "theirs.onnx")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def one_softmax(z: np.ndarray) -> np.ndarray:
    return softmax(z.astype(np.float64))


def two_classes(z: np.ndarray) -> np.ndarray:
    likely = expit(z.astype(np.float64))
    return np.concatenate([1 - likely, likely])


@pytest.mark.parametrize(
    ("model", "meaning", "confidence"),
    [
        (classifier(), class_scores.LOGITS, one_softmax),
        (classifier("LogSoftmax"), class_scores.LOGITS, one_softmax),
        (classifier("Softmax"), class_scores.PROBABILITIES, one_softmax),
        (classifier("Softmax", "Flatten"), class_scores.PROBABILITIES, one_softmax),
        (with_written_out_softmax(), class_scores.PROBABILITIES, one_softmax),
        (with_written_out_softmax(-1), class_scores.PROBABILITIES, one_softmax),
        (in_a_function("Softmax"), class_scores.PROBABILITIES, one_softmax),
        (classifier("Sigmoid"), class_scores.INDEPENDENT, lambda z: expit(z.astype(np.float64))),
        (classifier(classes=1), class_scores.ONE_LOGIT, two_classes),
        (classifier("Sigmoid", classes=1), class_scores.ONE_PROBABILITY, two_classes),
    ],
    ids=[
        "logits",
        "LogSoftmax",
        "Softmax",
        "Flatten",
        "written out",
        "axis -1",
        "function",
        "labels",
        "one logit",
        "one sigmoid",
    ],
)
def test_confidences_are_what_the_graph_says(model, meaning, confidence, tmp_path, image):
    artifact = saved(model, tmp_path)
    assert artifact.io.outputs[0].meaning == meaning
    images = preprocessed([open_image(image)], Preprocess(height=8, width=8))
    weight = numpy_helper.to_array(next(one for one in model.graph.initializer if one.name == "weight"))
    expected = confidence(images.mean((2, 3))[0] @ weight)
    [answer] = predict_images(artifact, [image], top=len(expected)).answers
    found = {one["label"]: one["confidence"] for one in answer["labels"]}
    assert [found[str(place)] for place in range(len(expected))] == pytest.approx(expected.tolist(), abs=1e-4)
    assert len(artifact.io.classes) == len(expected)


def test_exponentials_over_their_sum_over_the_images_are_no_probabilities(tmp_path):
    assert saved(with_written_out_softmax(axis=0), tmp_path).io.outputs[0].meaning == class_scores.LOGITS


def test_a_softmax_of_one_number_gives_two_classes(tmp_path, image):
    artifact = saved(classifier("Softmax", classes=1), tmp_path)
    assert artifact.io.outputs[0].meaning == class_scores.ONE_PROBABILITY
    [answer] = predict_images(artifact, [image], top=2).answers
    assert {one["label"]: one["confidence"] for one in answer["labels"]} == {"0": 0, "1": 1}


def test_a_written_spec_that_calls_probabilities_scores_is_corrected(tmp_path):
    """As an earlier `describe` wrote it."""
    artifact = saved(classifier("Softmax"), tmp_path)
    first = artifact.io.outputs[0].model_copy(update={"meaning": class_scores.LOGITS})
    write_onnx(classifier("Softmax"), tmp_path / "old.onnx", artifact.io.model_copy(update={"outputs": (first,)}))
    assert artifact_from_onnx(tmp_path / "old.onnx").io.outputs[0].meaning == class_scores.PROBABILITIES


@pytest.mark.parametrize(
    ("outputs", "taken", "why"),
    [
        ((("features", 3), ("scores", 4)), "scores", "computes it from the others"),
        ((("scores", 4), ("features", 3)), "scores", "computes it from the others"),
        ((("z", 4), ("scores", 4)), "scores", "computes it from the others"),
        ((("embedding", 3), ("logits", 4)), "logits", "its name"),
        ((("aux", 4), ("main", 4)), "main", "the names of the others"),
        ((("first", 4), ("second", 4)), "first", "it comes first"),
        ((("only", 4),), "only", ""),
    ],
)
def test_the_output_that_is_taken_and_why(outputs, taken, why):
    model = classifier(outputs=outputs)
    made = {name for node in model.graph.node for name in node.output}
    for name, width in outputs:
        if name not in made:
            source = "z" if width == 4 else "features"
            model.graph.node.append(helper.make_node("Identity", [source], [name]))
    found = class_output(model, "here")
    assert found.name == taken
    assert why in found.why
    assert bool(found.why) == (len(outputs) > 1)


def test_the_number_of_classes_and_a_name_choose(tmp_path):
    model = classifier(outputs=(("features", 3), ("scores", 4)))
    assert class_output(model, "here", classes=3).name == "features"
    assert class_output(model, "here", name="features").name == "features"
    with pytest.raises(ArtifactError, match="no output 'score'") as caught:
        class_output(model, "here", name="score")
    assert "scores" in caught.value.next
    spec = saved(model, tmp_path).io
    other = with_class_output(spec, class_output(model, "here", name="features"))
    write_onnx(read_onnx(tmp_path / "theirs.onnx"), tmp_path / "described.onnx", other)
    again = artifact_from_onnx(tmp_path / "described.onnx").io
    assert (again.outputs[0].name, again.classes) == ("features", ("0", "1", "2"))


def test_an_output_without_a_type_or_with_a_wrong_one_is_as_onnxruntime_gives_it(tmp_path):
    for value in (onnx.ValueInfoProto(name="scores"), helper.make_tensor_value_info("scores", 1, ["N", 9])):
        model = classifier()
        model.graph.output[0].CopyFrom(value)
        assert saved(model, tmp_path).io.outputs[0].shape == ("N", CLASSES)
        given = plain_session(model).run(None, {"image": np.zeros((2, 3, 8, 8), np.float32)})[0]
        assert given.shape == (2, CLASSES)


def test_bundles_carry_the_file_that_computes_probabilities():
    assert RUNNER["answers.py"] == Path(class_scores.__file__)
