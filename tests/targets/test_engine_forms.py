"""Forms for TensorRT, built, compared and raced on a board over a real SSH server. A stand-in plays the board."""

from __future__ import annotations

from typing import Any

import pytest

from edgevit.artifacts import Artifact
from edgevit.context import Context
from edgevit.errors import CheckFailed, TargetError
from edgevit.graphs.files import read_onnx
from edgevit.graphs.walk import nodes
from edgevit.profiling import MeasurePlan, loop
from edgevit.quantization.candidates import Trial
from edgevit.targets import base
from tests.said import Said
from tests.small_models import float_onnx, workbench
from tests.targets.ssh_host import needs_sshd
from tests.targets.standin.trtexec.settings import Variant
from tests.targets.test_tensorrt_journey import THOR, Board, board

__all__ = ["board"]  # a fixture
pytestmark = [needs_sshd, pytest.mark.slow]


@pytest.fixture(autouse=True)
def short_races(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STARTS", 6)
    monkeypatch.setattr(base, "CHOICE", MeasurePlan(warmup_s=0.01, duration_s=0.06, min_runs=12))


def fastest(name: str, context: Context | None = None) -> Artifact:
    """The form that is fastest on `orin`. A plain ViT has one INT8 form: its convolution is too narrow for integers."""
    return workbench().run(
        "quantize", name, context, again=True, model=float_onnx().id, calibration="digits.pool",
        calibration_images=32, runtime="tensorrt", placement="fastest", target="orin", min_sqnr_db=5,
    )  # fmt: skip


def forms_of(made: Artifact) -> dict[str, dict[str, Any]]:
    return {form["form"]: form for form in made.metrics["forms"]}


@pytest.mark.parametrize("ships", ["float16", "int8 all"])
def test_replayed_times_decide_nothing_and_measured_times_do(
    ships: str, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No board is here. In the second case the replayed times are taken for measured; all else is the same."""
    said = Said()
    board.standin.vary("int8-is-fast")
    if ships == "int8 all":
        monkeypatch.setattr(Trial, "is_faster", property(lambda self: self.interval is not None and self.speedup > 1))
    made = fastest(f"fastest-{ships.replace(' ', '-')}", Context(progress=said))
    forms = forms_of(made)
    assert "speedup" not in forms["float16"]  # the others race with it
    assert forms.keys() == {"float16", "int8 all"}
    int8 = forms["int8 all"]
    assert int8["speedup"] == pytest.approx(2, rel=1e-3)
    assert 1 < int8["low"] <= int8["high"]
    assert (int8["label"], int8["baseline"]) == ("replayed", "float16")
    assert made.metrics["form"] == ships
    assert made.metrics["precision"] == ships.split()[0]
    is_quantized = any(node.op_type == "QuantizeLinear" for node in nodes(read_onnx(made.file("model.onnx"))))
    assert is_quantized == (ships == "int8 all")
    assert any(f"they decide nothing. {ships} ships" in line for line in said.lines)
    logs = sorted(name for name in made.manifest.files if name.startswith("engines/"))
    assert logs == ["engines/float16/build.log", "engines/int8 all/build.log"]
    targets = made.manifest.ingredients["target"]
    assert (targets["local-cpu"]["runtime"], targets["orin"]["runtime"]) == ("onnxruntime", "tensorrt")


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        ("int8-falls-back", "in more bits than the ONNX file asks for"),
        ("int8-fails-at-node", "does not take the model"),
    ],
)
def test_a_form_that_cannot_ship_is_a_trial_with_a_failure(variant: Variant, says: str, board: Board) -> None:
    board.standin.vary(variant)
    made = fastest(f"fastest-{variant}")
    failed = {name: form["failed"] for name, form in forms_of(made).items() if name != "float16"}
    assert failed.keys() == {"int8 all"}
    assert says in failed["int8 all"]
    assert "engines/int8 all/build.log" in made.manifest.files
    assert (made.metrics["form"], made.metrics["precision"]) == ("float16", "float16")
    assert made.metrics["quantized_ops"] == {}
    assert made.model_file.weight_precision == "float16"


@pytest.mark.parametrize(("variant", "error"), [("silent-fallback", CheckFailed), ("out-of-memory", TargetError)])
def test_where_no_form_can_ship_the_first_failure_is_the_end(
    variant: Variant, error: type[Exception], board: Board
) -> None:
    board.standin.vary(variant)
    with pytest.raises(error):
        fastest(f"fastest-{variant}")


def test_a_gpu_with_fp8_gets_forms_in_fp8(board: Board) -> None:
    board.play(THOR)
    made = fastest("fastest-thor")
    forms = forms_of(made)
    assert "float8 all" in forms
    assert all("failed" not in form for form in forms.values()), forms
    assert made.metrics["form"] == "float16"
