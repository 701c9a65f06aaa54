"""The layers of an engine by its inspector, in the shapes of TensorRT 10 and 11; products that fall back."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.checking.layers import checked_products, kernels_of_engine
from edgevit.errors import ArtifactError, CheckFailed
from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.graphs.graph import OPERANDS, Graph
from tests.small_models import float_onnx, int8_onnx

RECORDED = Path(__file__).parents[3] / "shared" / "reference" / "device_logs"

# Recorded, from public dumps of the inspector for engines with an open batch. Each is cut to the keys that are read.
# The first: a note in Chinese on scales of INT8 convolutions (TensorRT 8, sm_80). The second: a test of a
# post-training quantization pipeline in Russian (TensorRT 10). The third: a script for Jetson in which all 166 layers
# told no types (TensorRT 10); it gives the name of the tactic alone, and the rest of the layer is composed.
UNTOLD = "N/A due to dynamic shapes"
ENDS = {"Inputs": [{"Name": "in", "Dimensions": [-1, 128, 14, 14], "Format/Datatype": UNTOLD}]}
ENDS |= {"Outputs": [{"Name": "out", "Dimensions": [-1, 12, 12, 12], "Format/Datatype": UNTOLD}]}
OPEN_BATCH: dict[str, dict[str, Any]] = {
    "int8 by weights": {
        "Name": "(Unnamed Layer* 1) [Convolution]",
        "LayerType": "CaskConvolution",
        **ENDS,
        "ParameterType": "Convolution",
        "Weights": {"Type": "Int8", "Count": 13824},
        "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_nchw_"
        "tilesize64x32x64_stage6_warpsize2x1x1_g1_tensor16x8x32_t1r3s3_alignc4_nchw",
    },
    "half by weights": {
        "Name": "node_Conv_292 + node_relu",
        "LayerType": "CaskConvolution",
        "Weights": {"Type": "Half", "Count": 9408},
        "Outputs": [{"Format/Datatype": UNTOLD}],
    },
    "int8 by tactic": {
        "Name": "Conv_0",
        "LayerType": "CaskConvolution",
        **ENDS,
        "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32",
    },
    "untold by reformat": {"Name": "Reformat_0", "LayerType": "Reformat", "Outputs": [{"Format/Datatype": UNTOLD}]},
}


def tensor(type_of_10: str, is_11: bool, name: str = "t", shape: tuple[int, ...] = (1, 197, 192)) -> dict[str, Any]:
    """A tensor as the inspector of TensorRT 10 or 11 writes it."""
    kind = {"Format": "Row major linear", "Datatype": type_of_10} if is_11 else {"Format/Datatype": type_of_10}
    return {"Name": name, "Dimensions": list(shape), **kind}


def layer(*nodes: str, types: tuple[str, ...], is_11: bool = False, **more: Any) -> dict[str, Any]:
    return {
        "Name": "__myl_Fc_myl0_1",
        "LayerType": "gemm",
        "Inputs": [tensor(name, is_11) for name in types],
        "Outputs": [tensor("Half", is_11)],
        "TacticName": "sm80_xmma_gemm_i8i8_i8i32_f32_tn",
        "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes),
        **more,
    }


def engine_file(folder: Path, *layers: Any, is_11: bool = False) -> Path:
    named = {"I/O Tensors": [{"Name": "image"}]} if is_11 else {"Bindings": ["image"]}
    file = folder / "layers.json"
    file.write_text(json.dumps({"Layers": list(layers), **named}))
    return file


@pytest.mark.parametrize("is_11", [False, True])
def test_both_shapes_give_equal_kernels(tmp_path: Path, is_11: bool) -> None:
    (kernel,) = kernels_of_engine(engine_file(tmp_path, layer("a", "b", types=("Int8",), is_11=is_11), is_11=is_11))
    assert (kernel.kind, kernel.nodes, kernel.is_product) == ("gemm", ("a", "b"), True)
    assert [one.type for one in (*kernel.inputs, *kernel.outputs)] == ["int8", "half"]
    assert kernel.inputs[0].shape == (1, 197, 192)


@pytest.mark.parametrize(
    ("text", "type_name"),
    [
        ("Row major linear FP32", "float"),
        ("Channel major FP16 format where channel % 4 == 0", "half"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Half", "half"),
        ("BFloat16", "bfloat16"),
        ("FP8", "fp8"),
        ("N/A due to dynamic shapes", ""),
    ],
)
def test_the_words_for_types(tmp_path: Path, text: str, type_name: str) -> None:
    (kernel,) = kernels_of_engine(engine_file(tmp_path, layer("a", types=(text,))))
    assert kernel.inputs[0].type == type_name


@pytest.mark.parametrize("case", OPEN_BATCH)
def test_recorded_layers_of_an_open_batch(tmp_path: Path, case: str) -> None:
    (kernel,) = kernels_of_engine(engine_file(tmp_path, OPEN_BATCH[case]))
    expected = case.split()[0]
    assert all(one.type == "" for one in (*kernel.inputs, *kernel.outputs))
    assert kernel.multiplied_type == ("" if expected == "untold" else expected)
    assert kernel.is_product == (expected != "untold")


@pytest.mark.parametrize(
    ("tactic", "type_name"),
    [
        ("sm80_xmma_gemm_i8f16_i8i32_f32_tn_n_tilesize64x64x64_stage4", "int8"),
        ("sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x64x64", "half"),
        ("sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize64x64x64_stage4", "half"),
        ("sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64_stage4", "bfloat16"),
        ("sm89_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize64x64x64", "fp8"),
        ("sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nchw_tilesize128x64x16", "float"),
        ("ampere_h16816gemm_64x64_ldg8_stages_64x5_tn_v1", "half"),
        ("ampere_sgemm_64x32_sliced1x4_tn", "float"),
        ("__myl_Fc_myl0_1_0x2a", ""),
        ("0x00000000000003e8", ""),
    ],
)
def test_the_types_in_names_of_tactics(tmp_path: Path, tactic: str, type_name: str) -> None:
    """In the form that xmma, cuBLAS and cuDNN name their kernels."""
    (kernel,) = kernels_of_engine(engine_file(tmp_path, layer("a", types=("N/A",), TacticName=tactic)))
    assert kernel.multiplied_type == type_name


def test_kinds_and_nodes_of_other_layers(tmp_path: Path) -> None:
    convolution = layer(types=("Int8",), Name="Conv_0 + Relu_1", LayerType="CaskConvolution", Metadata="")
    convolution |= {"ParameterType": "Convolution", "Weights": {"Type": "Int8", "Count": 9408}}
    fused = layer("x", types=("Half",), LayerType="fusion")
    generated = layer("y", types=("Half",), LayerType="fusion", TacticName="pointwise")
    first, second, third = kernels_of_engine(engine_file(tmp_path, convolution, fused, generated))
    assert (first.kind, first.nodes) == ("correlation", ("Conv_0", "Relu_1"))
    assert [(one.type, one.shape) for one in first.constants] == [("int8", (9408,))]
    assert (second.is_product, third.is_product) == (True, False)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"Layers": []}', '{"Layers": ["Conv_0"]}', '{"Layers": [{"LayerType": "gemm"}]}']
)
def test_no_details_are_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "layers.json"
    file.write_text(content)
    with pytest.raises(ArtifactError, match="layers of the engine cannot be read"):
        kernels_of_engine(file)


@given(st.data())
def test_mutated_layers_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    text = json.dumps({"Layers": [layer("a", types=("Int8",)), layer("b", types=("Half",), is_11=True)]})
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    file = tmp_path_factory.mktemp("layers") / "layers.json"
    file.write_text(text[:start] + data.draw(st.text(max_size=20)) + text[end:], encoding="utf-8", errors="replace")
    with suppress(ArtifactError):
        assert all(kernel.bytes_moved >= 0 for kernel in kernels_of_engine(file))


def test_products_are_held_against_the_graph(tmp_path: Path) -> None:
    """INT8 products must run in INT8. A product that no layer names is not known."""
    file = onnx_file(int8_onnx())
    graph = Graph(read_onnx(file))
    nodes = list(graph.of_type(*OPERANDS))
    asked = {"int8": "Int8", "float32": "Float"}
    right = [layer(node.name, types=(asked[graph.asked_precision(node)],)) for node in nodes]
    checked = checked_products(graph, kernels_of_engine(engine_file(tmp_path, *right)), "engine")
    assert {(one.asked, one.got) for one in checked} == {("int8", "int8"), ("float", "float")}

    place = next(place for place, node in enumerate(nodes) if graph.asked_precision(node) == "int8")
    fallen = [*right[:place], layer(nodes[place].name, types=("Float",)), *right[place + 1 :]]
    with pytest.raises(CheckFailed, match=r"1 of \d+ products in more bits") as caught:
        checked_products(graph, kernels_of_engine(engine_file(tmp_path, *fallen)), "engine")
    assert nodes[place].name in str(caught.value.got)

    without = [*right[:place], *right[place + 1 :]]
    checked = checked_products(graph, kernels_of_engine(engine_file(tmp_path, *without)), "engine")
    assert [one.node for one in checked if not one.got] == [nodes[place].name]


def test_a_float_graph_has_no_fallback(tmp_path: Path) -> None:
    graph = Graph(read_onnx(onnx_file(float_onnx())))
    layers = [layer(node.name, types=("Float",)) for node in graph.of_type(*OPERANDS)]
    assert checked_products(graph, kernels_of_engine(engine_file(tmp_path, *layers)), "engine")


@pytest.mark.skipif(not RECORDED.is_dir(), reason="needs ../shared/reference/device_logs")
def test_the_recorded_layers_of_tensorrt_8(tmp_path: Path) -> None:
    text = (RECORDED / "trtexec_export_graph_trt8_a100.json.txt").read_text(encoding="utf-8").partition("\n")[2]
    whole = text[: text.rindex("},{")] + "}]}"  # the recording is cut off within its last layer
    file = tmp_path / "layers.json"
    file.write_text(whole)
    kernels = kernels_of_engine(file)
    assert len(kernels) == len(re.findall(r'"LayerType"', whole)) >= 3
    convolution = next(kernel for kernel in kernels if kernel.is_product)
    assert convolution.nodes == ("Conv_0", "Relu_1")
    assert (convolution.inputs[0].type, convolution.constants[0].type) == ("half", "half")
