"""Predicted latencies: what they follow from, what widens their interval, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

import edgevit
from benchmarks.latency_calibration import published_kernels, published_rows
from edgevit.actions.estimate_latency import estimated_latency
from edgevit.cli import app
from edgevit.errors import ArtifactError, EdgevitError, RecipeError, TargetError
from edgevit.graphs.files import onnx_file
from edgevit.latency_model.boards import board_rates
from edgevit.latency_model.constants import fitted
from edgevit.latency_model.estimate import Estimate, estimate_of
from edgevit.latency_model.kernels import Kernel, KernelPlan
from edgevit.latency_model.roofline import times_of, work_of
from edgevit.targets.boards.table import BOARD_NAMES, board_named
from tests.checking.graphs import model, node
from tests.small_models import float_onnx, int8_onnx

BOARD = "orin-nano-8gb"
VITS = ("vit_base_patch16_224@224/1000", "vit_base_patch16_clip_224@224/1000", "vit_base_patch14_dinov2@224/0")
AGX_ORINS = ("agx-orin-devkit-32gb", "agx-orin-64gb")
PREDICTED = [name for name in BOARD_NAMES if board_named(name)[1] is not None]


def plan_of(network: str) -> KernelPlan:
    return KernelPlan(tuple(published_kernels()[network]), {}, {})


def test_there_are_boards_enough_and_most_are_predicted() -> None:
    assert len(BOARD_NAMES) >= 15
    assert set(BOARD_NAMES) - set(PREDICTED) == {"thor-t4000", "orin-nx-8gb"}


@pytest.mark.parametrize("name", PREDICTED)
def test_every_board_with_verified_figures_gives_an_interval_around_the_latency(name: str) -> None:
    predicted = estimate_of(plan_of("resnet50@224/1000"), name, "float16")
    order = (predicted.low_90_ms, predicted.low_80_ms, predicted.latency_ms, predicted.high_80_ms, predicted.high_90_ms)
    assert list(order) == sorted(order)
    assert sum(predicted.shares.values()) == pytest.approx(1)
    assert predicted.label == "predicted"


@pytest.mark.parametrize("network", VITS)
def test_vits_gain_from_orin_nano_to_super_what_was_published(network: str) -> None:
    slow, fast = (estimate_of(plan_of(network), name, "float16").latency_ms for name in (BOARD, f"{BOARD}-super"))
    assert 1.45 <= slow / fast <= 1.75


def test_the_published_vit_lies_in_its_interval() -> None:
    """NVIDIA's ViT-B/16 on Orin Nano in its first power mode: 98 frames a second."""
    predicted = estimate_of(plan_of(VITS[0]), BOARD, "float16")
    assert predicted.low_90_ms < 1000 / 98 < predicted.high_90_ms


def test_more_work_of_one_shape_takes_longer_and_a_faster_board_less() -> None:
    kernel = Kernel("pointwise_conv", 10**8, 196, 256, 512, 200_000, 131_072)
    rates, constants = board_rates(BOARD), fitted()["constants"]

    def total_ms(of: Kernel, on=rates) -> float:
        return float(times_of(work_of([of], on, "float16", 1), constants).total_ms.sum())

    assert total_ms(replace(kernel, macs=2 * kernel.macs)) > total_ms(kernel)
    assert total_ms(replace(kernel, activations=2 * kernel.activations)) > total_ms(kernel)
    assert total_ms(kernel, replace(rates, bandwidth_gb_s=2 * rates.bandwidth_gb_s)) < total_ms(kernel)
    assert total_ms(kernel, replace(rates, gpu_mhz=2 * rates.gpu_mhz)) < total_ms(kernel)
    assert total_ms(kernel, replace(rates, fp16_tflops=2 * rates.fp16_tflops)) < total_ms(kernel)


def test_a_kernels_time_is_what_the_formula_gives_by_hand() -> None:
    """A depthwise convolution: 2 MACs over a rate of the CUDA cores in half precision, bytes, and a launch."""
    kernel = Kernel("depthwise_conv", 10**6, 3136, 1, 9, 600_000, 640)
    constants = fitted()["constants"]
    times = times_of(work_of([kernel], board_rates(BOARD), "float16", 2), constants)
    halves_per_s = 2 * 2 * 1024 * 625e6
    assert times.compute_ms[0] == pytest.approx(2 * 2 * 10**6 / halves_per_s / constants["depthwise_volta"] * 1e3)
    moved = 2 * (2 * 600_000 + 640)
    assert times.memory_ms[0] == pytest.approx(moved / 68e9 / constants["bandwidth_ampere"] * 1e3)
    assert times.launch_ms[0] == pytest.approx(constants["launch_ampere"] * 1e3 / 625e6 * 1e3)


@pytest.mark.parametrize("network", ["resnet50@224/1000", "vgg16@224/1000"])
def test_int8_is_never_predicted_to_be_slower_on_large_convolutional_networks(network: str) -> None:
    half, eight = (estimate_of(plan_of(network), BOARD, precision) for precision in ("float16", "int8"))
    assert eight.latency_ms < half.latency_ms
    assert eight.high_90_ms / eight.latency_ms > half.high_90_ms / half.latency_ms
    assert any("two ResNets" in note for note in eight.notes)
    assert (half.is_coverage_known, eight.is_coverage_known) == (True, False)
    assert "nominal 90% interval" in eight.sentences()[0]


@pytest.mark.parametrize("network", VITS)
def test_int8_of_vits_is_refused(network: str) -> None:
    with pytest.raises(TargetError, match="attention in INT8"):
        estimate_of(plan_of(network), BOARD, "int8")


def test_int8_changes_integer_kernels_alone() -> None:
    """LayerNorm, copies and attention move float16. A depthwise convolution in INT8 moves bytes at float rates."""
    rates = board_rates(BOARD)
    norm = Kernel("memory", 0, 0, 0, 0, 10**6, 0)
    attention = Kernel("attention", 10**7, 196, 64, 64, 10**6, 0)
    depthwise = Kernel("depthwise_conv", 10**6, 3136, 1, 9, 600_000, 640, is_int8=True)
    product = Kernel("product", 10**8, 196, 768, 768, 10**6, 10**6, is_int8=True)
    plan = [norm, attention, depthwise, product]
    half, eight = (work_of(plan, rates, precision, 1) for precision in ("float16", "int8"))
    assert eight.traffic_ms / half.traffic_ms == pytest.approx([1, 1, 0.5, 0.5])
    assert eight.is_int8.tolist() == [False, False, False, True]
    assert eight.peak_ms[:3] == pytest.approx(half.peak_ms[:3])


def test_what_the_set_hardly_holds_has_the_interval_of_a_new_board() -> None:
    wide = fitted()["intervals"]["new_board"]["90%"]
    resnet, vit = plan_of("resnet50@224/1000"), plan_of(VITS[0])
    for predicted, said in (
        (estimate_of(resnet, BOARD, "float16", batch_size=2), "of one image"),
        (estimate_of(vit, "agx-orin-64gb", "float16"), "latencies of ViTs"),
    ):
        assert predicted.high_90_ms / predicted.latency_ms == pytest.approx(wide)
        assert any(said in note for note in predicted.notes)
        assert not predicted.is_coverage_known
    assert not estimate_of(vit, f"{BOARD}-super", "float16").notes


def test_boards_with_one_gpu_get_one_prediction() -> None:
    kit, module = (estimate_of(plan_of("resnet50@224/1000"), name, "float16") for name in AGX_ORINS)
    assert replace(kit, board="") == replace(module, board="")


def test_a_batch_takes_longer_than_an_image_and_less_than_as_many_images() -> None:
    one, eight = (estimate_of(plan_of(VITS[0]), BOARD, "float16", batch_size=size).latency_ms for size in (1, 8))
    assert one < eight < 8 * one


def test_unknown_operators_widen_the_interval_upwards_and_are_named() -> None:
    plan = plan_of("resnet18@224/1000")
    known = estimate_of(plan, BOARD, "float16")
    odd = estimate_of(replace(plan, unknown={"GridSample": 2}), BOARD, "float16")
    assert (odd.latency_ms, odd.low_90_ms) == (known.latency_ms, known.low_90_ms)
    assert odd.high_90_ms > known.high_90_ms
    assert odd.unknown_operators == {"GridSample": 2}
    assert any("2 × GridSample" in note for note in odd.notes)


@pytest.mark.parametrize(("name", "precision"), [("orin-nx-16gb", "float16"), ("tx2", "float16"), ("nano", "float32")])
def test_a_board_is_not_known_by_a_few_rows_or_one_source(name: str, precision: str) -> None:
    predicted = estimate_of(plan_of("resnet50@224/1000"), name, precision)
    assert predicted.high_90_ms / predicted.latency_ms == pytest.approx(fitted()["intervals"]["new_board"]["90%"])
    assert any(f"of this board in {precision}" in note for note in predicted.notes)


def test_a_board_without_published_latencies_has_a_wider_interval_and_a_newer_gpu_a_wider_one_still() -> None:
    widths = [
        predicted.high_90_ms / predicted.latency_ms
        for predicted in (
            estimate_of(plan_of("resnet50@224/1000"), name, "float16")
            for name in (BOARD, "agx-orin-32gb", "thor-t5000")
        )
    ]
    assert widths == sorted(widths)
    assert len(set(widths)) == 3


REFUSED: tuple[tuple[dict[str, str], type[EdgevitError], str], ...] = (
    ({"board": "orin-nano-8"}, RecipeError, "Did you mean 'orin-nano-8gb'?"),
    ({"board": "agx-orin"}, RecipeError, "expected: agx-orin-32gb, agx-orin-64gb, agx-orin-devkit-32gb"),
    ({"board": ""}, RecipeError, "nano, tx2"),
    ({"board": "thor-t4000"}, TargetError, "not verified"),
    ({"board": "orin-nx-8gb"}, TargetError, "not verified"),
    ({"board": "nano", "precision": "int8"}, TargetError, "does not run INT8"),
    ({"board": "thor-t5000", "precision": "int8"}, TargetError, "no verified figure for INT8"),
    ({"precision": "float32"}, TargetError, "TF32"),
    ({"board": "thor-t5000", "precision": "float32"}, TargetError, "TF32"),
    ({"precision": "float8"}, RecipeError, "float32, float16, int8"),
    ({"power_mode": "25W"}, RecipeError, "15W or MAXN_SUPER"),
    ({"tensorrt": "ten"}, RecipeError, "such as 10.3"),
    ({"board": "nano", "tensorrt": "10.3"}, RecipeError, "7.1 to 8.2"),
    ({"board": "agx-xavier", "tensorrt": "10.3"}, RecipeError, "to 8.5"),
    ({"tensorrt": "99.9"}, RecipeError, "8.4 to 11.4"),
    ({"board": "thor-t5000", "tensorrt": "10.3"}, RecipeError, "10.13 to 11.4"),
)


@pytest.mark.parametrize(("options", "error", "said"), REFUSED)
def test_what_cannot_be_predicted_is_refused(options: dict[str, str], error: type[EdgevitError], said: str) -> None:
    named: dict[str, Any] = {"board": BOARD, "precision": "float16", **options}
    with pytest.raises(error) as raised:
        estimate_of(plan_of("resnet18@224/1000"), **named)
    assert said in str(raised.value)


@pytest.mark.parametrize(("board", "precision"), [("Jetson Orin Nano 8GB", "FP16"), ("ORIN_NANO_8GB", "Float16")])
def test_names_as_nvidia_writes_them(board: str, precision: str) -> None:
    plan = plan_of("resnet18@224/1000")
    assert estimate_of(plan, board, precision) == estimate_of(plan, BOARD, "float16")


def test_a_power_mode_is_a_board_of_its_own() -> None:
    plan = plan_of(VITS[0])
    assert estimate_of(plan, BOARD, "float16", power_mode="MAXN_SUPER") == estimate_of(
        plan, f"{BOARD}-super", "float16"
    )
    assert estimate_of(plan, "agx-orin-64gb", "float16", power_mode="mode_maxn").power_mode == "MAXN"


def test_a_file_says_its_own_precision_and_batch(tmp_path: Path) -> None:
    floats, quantized = onnx_file(float_onnx()), onnx_file(int8_onnx())
    assert estimated_latency(floats, BOARD).precision == "float16"
    with pytest.raises(TargetError, match="attention in INT8"):  # the file's own precision
        estimated_latency(quantized, BOARD)
    with pytest.raises(RecipeError, match="Q/DQ"):
        estimated_latency(quantized, BOARD, precision="float16")
    fixed = onnx.load(floats)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(fixed, tmp_path / "four.onnx")
    assert estimated_latency(tmp_path / "four.onnx", BOARD).batch_size == 4
    with pytest.raises(RecipeError, match="another batch size"):
        estimated_latency(tmp_path / "four.onnx", BOARD, batch_size=2)


@pytest.mark.parametrize(
    ("options", "on_the_command_line", "in_python"),
    [
        ({"board": "nano9"}, "--board", r"estimate(board=…)"),
        ({"board": BOARD, "power_mode": "7W"}, "--power-mode", r"estimate(power_mode=…)"),
        ({"board": BOARD, "tensorrt": "x"}, "--tensorrt", r"estimate(tensorrt=…)"),
        ({"board": BOARD, "precision": "half"}, "--precision", r"estimate(precision=…)"),
    ],
)
def test_errors_name_the_argument(options: dict[str, Any], on_the_command_line: str, in_python: str) -> None:
    file = onnx_file(float_onnx())
    with pytest.raises(EdgevitError) as raised:
        estimated_latency(file, **options)
    assert raised.value.where == on_the_command_line
    with pytest.raises(EdgevitError) as raised:
        edgevit.estimate(file, **options)
    assert raised.value.where == f"edgevit.{in_python}"


def test_a_batch_that_the_file_fixes_costs_as_much_as_one_that_is_asked(tmp_path: Path) -> None:
    fixed = onnx.load(onnx_file(float_onnx()))
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(fixed, tmp_path / "four.onnx")
    asked = estimated_latency(onnx_file(float_onnx()), BOARD, batch_size=4)
    assert estimated_latency(tmp_path / "four.onnx", BOARD).latency_ms == pytest.approx(asked.latency_ms, rel=1e-3)


def test_open_sizes_of_products_and_empty_graphs_are_refused(tmp_path: Path) -> None:
    plan = replace(plan_of("resnet18@224/1000"), unsized={"Conv": 1})
    with pytest.raises(ArtifactError, match="open"):
        estimate_of(plan, BOARD, "float16")
    nothing = model([node("Identity", ["image"], "logits")], {}, (1, 3), (1, 3))
    onnx.save(nothing, tmp_path / "nothing.onnx")
    with pytest.raises(ArtifactError, match="computes nothing"):
        estimated_latency(tmp_path / "nothing.onnx", BOARD)


def test_arithmetic_without_a_rule_is_refused_and_counted(tmp_path: Path) -> None:
    weight = np.ones((3, 3), np.float32)
    einsum = model([node("Einsum", ["image", "w"], "logits", equation="bc,cd->bd")], {"w": weight}, (1, 3), (1, 3))
    branch = helper.make_graph(
        [node("MatMul", ["image", "w"], "inner")], "body", [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, (1, 3))],
    )  # fmt: skip
    choice = node("If", ["is_on"], "chosen", then_branch=branch, else_branch=branch)
    nodes = [choice, node("MatMul", ["chosen", "w"], "logits")]
    nested = model(nodes, {"w": weight, "is_on": np.array(True)}, (1, 3), (1, 3))
    for odd, said in ((einsum, "1 × Einsum"), (nested, "2 × MatMul in subgraphs")):
        onnx.save(odd, tmp_path / "odd.onnx")
        with pytest.raises(ArtifactError, match=said):
            estimated_latency(tmp_path / "odd.onnx", BOARD)


def test_energy_is_not_predicted_and_the_reason_is_given() -> None:
    predicted = estimate_of(plan_of("resnet50@224/1000"), BOARD, "float16")
    assert predicted.energy_mj is None
    assert predicted.why_no_energy.startswith("not predictable")


def test_the_command_and_the_python_function_say_the_same() -> None:
    file = onnx_file(float_onnx())
    answer = CliRunner().invoke(app, ["estimate", str(file), "--board", BOARD, "--json"])
    assert answer.exit_code == 0
    stated = json.loads(answer.stdout)
    predicted = edgevit.estimate(file, BOARD)
    assert isinstance(predicted, Estimate)
    assert stated == json.loads(json.dumps(predicted.as_json()))
    assert (stated["label"], stated["board"], stated["power_mode"]) == ("predicted", BOARD, "15W")
    text = CliRunner().invoke(app, ["estimate", str(file), "--board", BOARD]).stdout
    assert text.startswith("predicted ")
    assert "90% interval" in text


def test_every_row_of_the_set_lies_above_the_roofline() -> None:
    """No published latency beats the peak of its chip, even with all of Winograd's savings."""
    networks = published_kernels()
    for row in published_rows():
        rates, flops = board_rates(row.board), 2 * sum(kernel.macs for kernel in networks[row.network]) * row.batch
        peaks = {"float32": rates.fp32_tflops, "float16": rates.fp16_tflops, "int8": rates.int8_tops}
        assert row.latency_ms > flops / (peaks[row.precision] * 1e9) / 2.25, row
