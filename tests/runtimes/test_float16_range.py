"""What leaves the range of float16 is found on images, and computed in float32 in the file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgevit.graphs.float16 import with_float16
from edgevit.graphs.tensors import types_and_shapes
from edgevit.runtimes.float16_range import HEADROOM, beyond_float16
from tests.graphs.norm_graphs import NORMS, answers, as_declared, noise_db, normed_classifier, random_images

node = helper.make_node


def graph(nodes: Sequence[NodeProto], **constants: npt.ArrayLike) -> ModelProto:
    """image (batch, 4) → logits (batch, 4)"""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("image", "logits")]
    stored = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    made = helper.make_graph(list(nodes), "small", values[:1], values[1:], stored)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def beyond(model: ModelProto, *rows: Sequence[float]) -> set[str]:
    return set(beyond_float16(model, lambda: [np.array(rows, np.float32)], threads=1))


SCALED_TWICE = graph([node("Mul", ["image", "a"], ["h"]), node("Mul", ["h", "b"], ["logits"])], a=1000.0, b=0.001)
NORMED = graph(
    [node("Mul", ["image", "a"], ["h"]), node("LayerNormalization", ["h", "scale"], ["logits"], epsilon=1e-30)],
    a=0.5,
    scale=np.ones(4),
)
RATIO = graph([node("Add", ["image", "a"], ["sum"]), node("Div", ["image", "sum"], ["logits"])], a=1e-12)


@pytest.mark.parametrize(
    ("model", "row", "expected"),
    [
        (SCALED_TWICE, [1, -2, 3, 4], set()),
        (SCALED_TWICE, [1, -2, 3, -16.3], set()),
        (SCALED_TWICE, [1, -2, 3, -16.5], {"h"}),
        (SCALED_TWICE, [1e-10, 0, -1e-9, 0], set()),
        (NORMED, [1e-10, 0, -1e-9, 0], {"image", "h"}),
        (RATIO, [1, 2, -3, 0.5], set()),
        (RATIO, [1, 2, -3, 1e-6], {"sum", "image"}),
        (RATIO, [1, 2, -3, 0], {"sum"}),
        (graph([node("Exp", ["image"], ["h"]), node("Sqrt", ["h"], ["logits"])]), [0, 1, 2, -12], {"h"}),
        (graph([node("Mul", ["image", "a"], ["logits"])], a=np.inf), [1, 1, 1, 1], set()),
    ],
    ids=[
        "in range", "within the headroom", "beyond the headroom", "small and never large", "small and normalised",
        "large divisors",
        "a small divisor", "ε alone", "a small value under a root", "infinite in float32 too",
    ],
)  # fmt: skip
def test_tensors_that_float16_does_not_hold(model: ModelProto, row: list[float], expected: set[str]) -> None:
    assert HEADROOM == 4
    assert beyond(model, [1, 1, 1, 1] if max(row) > 1e-3 else row, row) == expected


def test_types_of_tensors_that_the_graph_does_not_hold_are_passed_over() -> None:
    model = ModelProto.FromString(SCALED_TWICE.SerializeToString())
    model.graph.value_info.append(helper.make_tensor_value_info("gone", TensorProto.FLOAT, [1, 4]))
    assert beyond(model, [1, -2, 3, -16.5]) == {"h"}


def test_a_batch_that_an_output_fixes_runs_whole() -> None:
    nodes = [node("Mul", ["image", "a"], ["h"]), node("Reshape", ["h", "four"], ["logits"])]
    model = graph(nodes, a=1000.0)
    model.graph.initializer.append(numpy_helper.from_array(np.array([4, 4]), "four"))
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    assert beyond(model, *np.full((4, 4), 17.0).tolist()) == {"h", "logits"}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("gain", [1e-6, 1.0, 300.0, 1e5])
def test_a_file_in_float16_computes_the_function_in_its_declared_types(norm: str, gain: float) -> None:
    model, images = normed_classifier(norm, gain, epsilon=1e-12), random_images()
    half = with_float16(model, "test", beyond_float16(model, lambda: [images], threads=1))
    expected = answers(model, images)
    assert noise_db(as_declared(half, images), expected) > 45
    assert noise_db(answers(half, images), expected) > 45
    products = [one.output[0] for one in half.graph.node if one.op_type in ("Conv", "MatMul")]
    types = types_and_shapes(half)[0]
    wide = [name for name in products if types[name] == TensorProto.FLOAT]
    assert len(wide) == (gain in (1e-6, 1e5)), "what fits stays in 16 bits"


def test_constants_decide_without_images() -> None:
    """Nothing is clamped in silence: a mask of -1e9, a divisor of 1e-7, weights that share a number with others."""
    nodes = [
        node("Add", ["image", "mask"], ["masked"]),
        node("Softmax", ["masked"], ["soft"], axis=-1),
        node("Div", ["soft", "small"], ["large"]),
        node("Mul", ["large", "small"], ["again"]),
        node("Add", ["again", "small"], ["logits"]),
    ]
    model, images = graph(nodes, mask=-1e9, small=1e-7), np.random.default_rng(0).standard_normal((4, 4))
    half = with_float16(model, "test", ["large"])
    np.testing.assert_allclose(
        as_declared(half, images.astype(np.float32)), answers(model, images.astype(np.float32)), atol=2e-3
    )
