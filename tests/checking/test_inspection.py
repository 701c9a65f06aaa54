"""What the command inspect shows of files made here and elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgevit.artifacts import IOSpec
from edgevit.checking import Inspection, inspect_onnx
from edgevit.errors import ArtifactError, EdgevitError
from edgevit.graphs.files import onnx_file
from edgevit.report.inspection import inspection_page
from tests.checking.graphs import CHANNELS, attention, convolution, float_convolution_between_pairs, model, node
from tests.small_models import checkpoint, engine, float_onnx, int8_onnx
from tests.test_files import run


def inspected(made: onnx.ModelProto, folder: Path) -> Inspection:
    onnx.save(made, folder / "model.onnx")
    return inspect_onnx(folder / "model.onnx")


def test_a_quantized_vit() -> None:
    """Two blocks: four products with weights in each, attention's two in float; the patches and the classifier."""
    found = inspect_onnx(onnx_file(int8_onnx()))
    assert found.is_quantized
    assert found.macs == int8_onnx().metrics["macs"]
    asked = [layer.product.asked for layer in found.layers]
    assert (asked.count("int8"), asked.count("float")) == (2 * 4 + 2, 2 * 2)
    assert [layer.product.got for layer in found.layers] == asked
    ((reason, layers),) = found.stays_float.items()
    assert reason == "a product of two activations"
    # q kᵀ and its softmax times v: heads × tokens² × width of a head, twice in each block.
    assert sum(layer.macs or 0 for layer in layers) == 2 * 2 * 3 * 17**2 * 16
    assert (found.attentions, len(found.unfused)) == (2, 2)
    assert found.operators["MatMul"] == {"int8": 8, "float": 4}
    assert found.spec == int8_onnx().io
    exact = {"exact_sums": False} if int8_onnx().metrics.get("reduce_range") else {}
    disabled = ["MatMulAddFusion", "BiasGeluFusion", "WeightBiasQuantization"]
    assert found.session_options == {"disabled_optimizers": disabled, **exact}
    assert max(found.weights_bytes, key=lambda name: found.weights_bytes[name]) == "int8"
    assert found.inputs[0].shape == ("batch", 3, 32, 32)


@pytest.mark.slow
def test_a_float_hybrid_is_told_what_would_stay_float() -> None:
    found = inspect_onnx(onnx_file(float_onnx(True)))
    assert not found.is_quantized
    assert list(found.stays_float) == ["its weights do not fill the tiles of tensor cores"]
    assert all(layer.product.asked == "float" for layer in found.layers)
    assert found.macs == float_onnx(True).metrics["macs"]


def test_an_engine_is_what_runs() -> None:
    """ONNX Runtime's own operators: what they ask for is what they are."""
    found = inspect_onnx(onnx_file(engine(True)))
    assert {layer.product.operator for layer in found.layers} >= {"QLinearConv"}
    assert {(one.product.asked, one.product.got) for one in found.layers} == {("int8", "int8")}
    assert found.macs == engine(True).metrics["macs"]
    assert found.peak is not None


def test_a_file_made_elsewhere(tmp_path: Path) -> None:
    found = inspected(convolution(), tmp_path)
    assert found.spec is None
    assert found.session_options == {}
    (layer,) = found.layers
    assert layer.operands_text == f"1×{CHANNELS}×8×8 · {CHANNELS}×{CHANNELS}×3×3"
    assert layer.output_text == f"1×{CHANNELS}×6×6"
    assert (layer.product.asked, layer.product.got, layer.ran_as) == ("int8", "float", "Conv")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (attention(16, 16, quantized=False), "a product of two activations"),
        (convolution(node("Identity", ["image"], "rounded")), "its weights are quantized, its activation is not"),
        (
            model([node("ConvTranspose", ["image", "w"], "logits")],
                  {"w": np.ones((4, 4, 1, 1), np.float32)}, [1, 4, 2, 2], [1, 4, 2, 2]),
            "ConvTranspose is not quantized",
        ),
        (
            model([node("Gemm", ["image", "w"], "logits", alpha=2.0)],
                  {"w": np.ones((32, 32), np.float32)}, [1, 32], [1, 32]),
            "its alpha or beta is not 1",
        ),
        (
            model([node("MatMul", ["w", "image"], "logits")], {"w": np.ones((32, 32), np.float32)}, [32, 1], [32, 1]),
            "its second operand is not a stored weight",
        ),
    ],
    ids=["attention", "float input", "transposed", "scaled", "weights first"],
)  # fmt: skip
def test_why_a_layer_is_float(made: onnx.ModelProto, reason: str, tmp_path: Path) -> None:
    assert set(inspected(made, tmp_path).stays_float) == {reason}


def test_open_sizes_leave_macs_and_memory_unknown(tmp_path: Path) -> None:
    product = node("MatMul", ["image", "w"], "logits")
    found = inspected(model([product], {"w": np.ones((4, 2), np.float32)}, [1, "any", 4], [1, "any", 2]), tmp_path)
    assert found.macs is None
    assert found.peak is None
    assert found.layers[0].operands_text == "1×?×4 · 4×2"
    assert found.layers[0].product.got == "float"


def with_branches(node_inside: onnx.NodeProto) -> onnx.ModelProto:
    """image (1, 4) where its sum is above 0; else what a node makes of it, and Relu behind that."""
    made = onnx.helper.make_tensor_value_info("made", onnx.TensorProto.FLOAT, [1, 4])
    kept = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["image"], ["made"])], "kept", [], [made])
    other = onnx.helper.make_graph(
        [node_inside, onnx.helper.make_node("Relu", ["inside"], ["made"])], "other", [], [made]
    )
    nodes = [
        node("ReduceSum", ["image"], "sum", keepdims=0),
        node("Greater", ["sum", "zero"], "positive"),
        node("If", ["positive"], "logits", then_branch=kept, else_branch=other),
    ]
    return model(nodes, {"zero": np.float32(0), "w": np.eye(4, dtype=np.float32)}, [1, 4], [1, 4])


def test_subgraphs_are_shown_apart(tmp_path: Path) -> None:
    product = onnx.helper.make_node("MatMul", ["image", "w"], ["inside"])
    found = inspected(with_branches(product), tmp_path)
    assert found.operators.keys() == {"ReduceSum", "Greater", "If"}
    assert found.in_subgraphs == {"Identity": 1, "MatMul": 1, "Relu": 1}
    assert found.layers == ()
    assert found.macs is None  # one branch has a product, the other has none
    assert "1 × MatMul" in inspection_page(found)
    shown = run("inspect", tmp_path / "model.onnx")
    assert "in subgraphs (bodies of If, Loop and Scan), not counted in the other numbers\n" in shown
    assert "  1 × MatMul\n" in shown
    found = inspected(with_branches(onnx.helper.make_node("Neg", ["image"], ["inside"])), tmp_path)
    assert (found.macs, found.in_subgraphs["Neg"]) == (0, 1)


@pytest.mark.parametrize("fixed", [1, 8])
def test_a_fixed_batch_is_what_the_numbers_are_of(fixed: int, tmp_path: Path) -> None:
    product = node("MatMul", ["image", "w"], "logits")
    made = model([product], {"w": np.ones((4, 2), np.float32)}, [fixed, 4], [fixed, 2])
    found = inspected(made, tmp_path)
    assert (found.batch, found.macs) == (fixed, fixed * 4 * 2)
    shown, said = run("inspect", tmp_path / "model.onnx"), "one batch of 8, fixed by the file"
    assert (f"MACs         64 for {said}\n" in shown) == (fixed == 8)
    assert f"memory are for {said if fixed == 8 else 'one image'}." in inspection_page(found)


EINSUM = onnx.helper.make_node("Einsum", ["image", "w"], ["inside"], equation="bi,ij->bj")


@pytest.mark.parametrize(
    "made",
    [
        model([EINSUM, node("Relu", ["inside"], "logits")], {"w": np.eye(4, dtype=np.float32)}, [1, 4], [1, 4]),
        with_branches(EINSUM),
    ],
    ids=["in the graph", "in a branch"],
)
def test_what_multiplies_and_is_not_counted_leaves_macs_unknown(made: onnx.ModelProto, tmp_path: Path) -> None:
    found = inspected(made, tmp_path)
    assert found.macs is None
    assert found.to_json()["macs"] is None


def test_a_page_escapes_what_the_file_says(tmp_path: Path) -> None:
    made = convolution()
    made.graph.node[-1].name = "<script>alert(1)</script>"
    page = inspection_page(inspected(made, tmp_path))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "1 layers fall back" not in page
    assert "A layer falls back" in page


def test_float_weights_that_the_runtime_rounds_are_named(tmp_path: Path) -> None:
    found = inspected(float_convolution_between_pairs(), tmp_path)
    assert [layer.is_rounded for layer in found.layers] == [True]
    assert "ONNX Runtime rounds the float weights of 1 layer" in inspection_page(found)
    assert not found.stays_float
    shown = run("inspect", found.path)
    rounded = (
        f"float weights that ONNX Runtime rounds to integers\n  {found.layers[0].product.node}\n  next: add Weight"
    )
    assert rounded in shown
    assert not any(layer.is_rounded for layer in inspect_onnx(onnx_file(int8_onnx())).layers)


def test_the_command_on_a_file_a_bundle_and_a_folder(tmp_path: Path) -> None:
    file = onnx_file(int8_onnx())
    shown = run("inspect", file)
    assert max(map(len, shown.removeprefix(str(file)).splitlines())) <= 80
    for line in (
        "MACs ",
        "activations ",
        "attention    0 of 2 fused",
        "  4 × a product of two activations",
        "got: the precision in ONNX",
    ):
        assert line in shown
    run("bundle", file, "--out", tmp_path / "bundle")
    answers = [json.loads(run("inspect", one, "--json")) for one in (file, tmp_path / "bundle", int8_onnx().path)]
    assert answers[0]["macs"] == int8_onnx().metrics["macs"]
    assert IOSpec.model_validate(answers[0]["iospec"]) == int8_onnx().io
    layers = [[(one["node"], one["asked"], one["got"]) for one in answer["layers"]] for answer in answers]
    assert layers[0] == layers[1] == layers[2]
    page = tmp_path / "page.html"
    run("inspect", file, "--html", page)
    assert "10 of 14 layers run in INT8" in page.read_text(encoding="utf-8")


def test_a_checkpoint_has_no_graph() -> None:
    with pytest.raises(ArtifactError, match="no graph yet"):
        run("inspect", checkpoint().path)


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "photo.onnx").write_bytes(b"not a graph")
    with pytest.raises(ArtifactError, match="not an ONNX model"):
        run("inspect", tmp_path / "photo.onnx")


def test_check_for_onnxruntime_names_what_is_rounded(tmp_path: Path) -> None:
    onnx.save(float_convolution_between_pairs(), tmp_path / "model.onnx")
    shown = run("check", tmp_path / "model.onnx", "--runtime", "onnxruntime", status=1)
    assert "the weights of Conv_convolved are rounded: float was asked for, int8 runs" in shown
    assert "next: add WeightBiasQuantization to the session option disabled_optimizers" in shown


def test_check_for_onnxruntime_names_what_falls_back(tmp_path: Path) -> None:
    onnx.save(convolution(), tmp_path / "model.onnx")
    shown = run("check", tmp_path / "model.onnx", "--runtime", "onnxruntime", status=1)
    assert "Conv_logits falls back: int8 was asked for, float runs" in shown
    assert "next: add a Q/DQ pair behind the convolution too" in shown
    assert max(map(len, shown.removeprefix(str(tmp_path)).splitlines())) <= 80
    run("check", onnx_file(int8_onnx()), "--runtime", "onnxruntime")
    answers = json.loads(
        run("check", tmp_path / "model.onnx", int8_onnx().path, "--runtime", "onnxruntime", "--json", status=1)
    )
    assert [answer["ok"] for answer in answers] == [False, True]
    assert [one["node"] for one in answers[0]["fell_back"]] == ["Conv_logits"]
    with pytest.raises(EdgevitError, match="no such runtime"):
        run("check", tmp_path / "model.onnx", "--runtime", "openvino")
