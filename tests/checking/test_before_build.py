"""Files that a board's TensorRT is known to refuse are refused here, by node; others are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from edgevit.checking.before_build import check_before_build
from edgevit.errors import ArtifactError
from edgevit.model_file import TargetInfo
from tests.checking.graphs import CHANNELS, FLOAT8, SIDE, constants, convolution, model, node

NANO, AGX_ORIN, THOR = ("p3767-0005", "8.7"), ("p3701-0005", "8.7"), ("p3834-0008", "11.0")
T4, L4, UNKNOWN = (None, "7.5"), (None, "8.9"), (None, None)


def eight_bit_floats() -> ModelProto:
    zeros = {"zero": np.zeros((), FLOAT8), "weight_zero": np.zeros(CHANNELS, FLOAT8)}
    weight = np.ones((CHANNELS, CHANNELS, 3, 3)).astype(FLOAT8)
    return convolution(**constants(**zeros, weight=weight))


def of_one(operator: str, opset: int = 20) -> ModelProto:
    return model([node(operator, ["image"], "logits")], {}, [1, SIDE], [1, SIDE], opset)


def refusal(
    made: ModelProto, version: str, tmp_path: Path, gpu: tuple[str | None, str | None] = NANO
) -> ArtifactError | None:
    """The error for a GPU: its Jetson module and its compute capability."""
    onnx.save(made, tmp_path / "model.onnx")
    hardware = {"module": gpu[0], "compute_capability": gpu[1]}
    machine = TargetInfo(name="board", runtime="tensorrt", versions={"tensorrt": version}, hardware=hardware)
    try:
        check_before_build(tmp_path / "model.onnx", machine, "int8")
    except ArtifactError as error:
        return error
    return None


@pytest.mark.parametrize("version", ["10.3.0", "10.13.3", "11.4.1"])
def test_a_file_that_keeps_the_rules_is_built(version: str, tmp_path: Path) -> None:
    assert refusal(convolution(), version, tmp_path) is None
    assert refusal(of_one("Gelu"), version, tmp_path) is None


def test_a_broken_rule_names_the_node_and_the_next_step(tmp_path: Path) -> None:
    error = refusal(convolution(zero=np.int8(3)), "11.4.1", tmp_path)
    assert error is not None
    assert error.what == "TensorRT 11.4.1 does not take the model"
    assert error.where == "int8"
    assert "QuantizeLinear_rounded_integers: its zero point is 3, not 0" in str(error.got)
    assert error.next == "quantize the float model with --runtime tensorrt"


def test_only_the_parser_of_the_version_counts(tmp_path: Path) -> None:
    """NVIDIA's tables have no Det, and no opset above 20 for 10.1, which stands for 10.3."""
    for made, says in ((of_one("Det"), "Det_logits: NVIDIA's table"), (of_one("Relu", opset=21), "the file: opset 21")):
        error = refusal(made, "10.3.0", tmp_path)
        assert error is not None
        assert says in str(error.got)
        assert refusal(made, "10.13.3", tmp_path) is None
    assert error is not None
    assert error.next == "export it with opset: 20"


def test_types_that_a_board_does_not_compute_count_on_a_board(tmp_path: Path) -> None:
    error = refusal(eight_bit_floats(), "10.3.0", tmp_path)
    assert error is not None
    assert "the GPU does not compute fp8" in str(error.got)
    assert refusal(eight_bit_floats(), "10.3.0", tmp_path, L4) is None


@pytest.mark.parametrize("version", ["10.7.0", "10.16.2", "11.4.1"])
def test_no_gpu_before_ada_computes_fp8_whatever_its_tensorrt(version: str, tmp_path: Path) -> None:
    for gpu in (NANO, AGX_ORIN, T4):
        error = refusal(eight_bit_floats(), version, tmp_path, gpu)
        assert error is not None
        assert "the GPU does not compute fp8" in str(error.got)
        assert error.next == "quantize the model to int8"
    for gpu in (THOR, L4, UNKNOWN):
        assert refusal(eight_bit_floats(), version, tmp_path, gpu) is None


def test_an_input_that_trtexec_cannot_name_is_refused(tmp_path: Path) -> None:
    made = convolution()
    made.graph.input[0].name = made.graph.node[0].input[0] = "the image:0"
    error = refusal(made, "10.13.3", tmp_path)
    assert error is not None
    assert str(error.got).startswith("the image:0: trtexec takes names of")
    assert error.next == "rename the input in the ONNX file"


def test_many_refusals_are_counted(tmp_path: Path) -> None:
    nodes = [node("Det", ["image"], f"d{number}") for number in range(7)]
    made = model([*nodes, node("Sum", [f"d{number}" for number in range(7)], "logits")], {}, [SIDE, SIDE], [])
    error = refusal(made, "10.3.0", tmp_path)
    assert error is not None
    assert str(error.got).endswith("; and 2 more")
