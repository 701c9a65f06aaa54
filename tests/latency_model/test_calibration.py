"""The calibration of a target of one's own: from receipts to a prediction, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgevit
from edgevit.actions import calibrate_device
from edgevit.actions.select_student import predictor
from edgevit.artifacts import IOSpec, Preprocess, sha256_of_file
from edgevit.context import Context
from edgevit.errors import ArtifactError, EdgevitError, RecipeError, TargetError
from edgevit.graphs.files import onnx_file, write_onnx
from edgevit.latency_model.calibration import Calibration, calibration_of, write_calibration
from edgevit.model_file import options_for
from edgevit.selection.candidates import Candidate
from edgevit.targets.named import project_file, user_file
from tests.small_models import float_onnx, int8_onnx
from tests.test_files import run

WIDTHS = (8, 12, 16, 24, 32, 40, 48, 56, 64)


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def classifier(width: int, file: Path) -> None:
    """image → 3 × 3 convolution → ReLU → mean → logits of three classes."""
    weights = {
        "conv": np.full((width, 3, 3, 3), 0.01, np.float32), "head": np.full((width, 3), 0.01, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["image", "conv"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("ReduceMean", ["b"], ["c"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["c", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    spec = IOSpec.for_classifier(Preprocess(height=32, width=32), ("a", "b", "c"))
    write_onnx(model, file, spec, options_for("onnxruntime"))


def receipt(file: Path, p50_ms: float, **changes: Any) -> None:
    """A receipt as `profile --json` prints it, of the fields that are read."""
    latency = {
        "p50": p50_ms, "p50_low": 0.99 * p50_ms, "p50_high": 1.01 * p50_ms, "n": 100, "boundary": "compute",
        "label": "measured", "warnings": [], "invalid": [], **changes.pop("latency_ms", {}),
    }  # fmt: skip
    conditions = {"file_sha256": {"model.onnx": sha256_of_file(file)}, "versions": {"onnxruntime": "1.24.4"}}
    told = {
        "latency_ms": latency, "runtime": "onnxruntime", "target": "local-cpu", "precision": "float32", "threads": 1,
        "batch_size": 1, "conditions": conditions, **changes,
    }  # fmt: skip
    file.with_suffix(".json").write_text(json.dumps(told))


@pytest.fixture
def receipts(tmp_path: Path) -> Path:
    """Nine files, whose latency is 0.1 ms and 1 ns for each multiply-accumulate of the convolution."""
    folder = tmp_path / "receipts"
    folder.mkdir()
    for width in WIDTHS:
        file = folder / f"w{width}.onnx"
        classifier(width, file)
        receipt(file, 0.1 + width * 27 * 32 * 32 * 1e-6)
    return folder


@pytest.fixture
def calibrated(receipts: Path) -> Calibration:
    run("devices", "calibrate", "local-cpu", "--receipts", receipts)
    found = calibration_of("local-cpu")
    assert found is not None
    return found


def test_from_receipts_to_a_prediction(calibrated: Calibration, tmp_path: Path) -> None:
    """A width between those of the receipts follows the law by which they were made."""
    (form,) = calibrated.forms
    assert form.key == ("onnxruntime", "float32", 1)
    assert len(form.models) == len(WIDTHS)
    classifier(36, tmp_path / "own.onnx")
    predicted = edgevit.estimate(tmp_path / "own.onnx", "local-cpu")
    assert predicted.latency_ms == pytest.approx(0.1 + 36 * 27 * 1024e-6, rel=0.1)
    assert predicted.low_90_ms < predicted.latency_ms < predicted.high_90_ms
    assert (predicted.label, predicted.runtime, predicted.threads) == ("predicted", "onnxruntime", 1)
    assert predicted.is_coverage_known
    said = run("estimate", tmp_path / "own.onnx", "--target", "local-cpu")
    assert "local-cpu, ONNX Runtime, 1 thread, float32, batch 1" in said
    assert "calibrated on 9 models in ONNX Runtime 1.24.4; each left out, the median error is" in " ".join(said.split())
    assert json.loads(run("estimate", tmp_path / "own.onnx", "--board", "local-cpu", "--json"))["board"] == "local-cpu"


def test_the_errors_of_left_out_models_are_shown_in_80_columns(receipts: Path) -> None:
    shown = run("devices", "calibrate", "local-cpu", "--receipts", receipts)
    assert max(map(len, shown.splitlines()[:-1])) <= 80
    assert "Median error" in shown
    assert all(f"w{width}" in shown for width in WIDTHS)


def test_a_calibration_replaces_its_own_form_alone(calibrated: Calibration, receipts: Path) -> None:
    for file in receipts.glob("*.onnx"):
        receipt(file, 5.0, threads=2)
    run("devices", "calibrate", "local-cpu", "--receipts", receipts)
    both = calibration_of("local-cpu")
    assert both is not None
    assert [form.threads for form in both.forms] == [2, 1]
    assert both.form("float32").threads == 2
    assert both.form("float32", threads=1) == calibrated.forms[0]


def test_the_projects_calibration_wins(calibrated: Calibration) -> None:
    own = Calibration(target="local-cpu", forms=(calibrated.forms[0].model_copy(update={"threads": 7}),))
    write_calibration(own, project_file().parent / "calibrations" / "local-cpu.json")
    found = calibration_of("local-cpu")
    assert found is not None
    assert found.forms[0].threads == 7


def test_a_removed_target_leaves_no_calibration(receipts: Path) -> None:
    """Another machine of the same name would be predicted by it."""
    run("devices", "add", "pi", "ssh://me@pi.local")
    for file in receipts.glob("*.onnx"):
        receipt(file, 5.0, target="pi")
    run("devices", "calibrate", "pi", "--receipts", receipts)
    assert calibration_of("pi") is not None
    run("devices", "remove", "pi")
    assert calibration_of("pi") is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"latency_ms": {"label": "replayed"}}, "replayed by a stand-in"),
        ({"latency_ms": {"invalid": ["other programs ran"]}}, "the latency is invalid"),
        ({"latency_ms": {"boundary": "end_to_end"}}, "not of the model alone"),
        ({"target": "orin"}, "of another target"),
        ({"batch_size": 4}, "of a batch"),
        ({"conditions": {"file_sha256": {"model.onnx": "0" * 64}}}, "of another file"),
    ],
)
def test_receipts_that_do_not_calibrate(changes: dict[str, Any], says: str, receipts: Path) -> None:
    receipt(receipts / "w8.onnx", 1.0, **changes)
    with pytest.raises(EdgevitError, match=says) as caught:
        calibrate_device.forms_of_receipts("local-cpu", receipts)
    assert "w8.json" in str(caught.value)


def test_too_few_receipts(receipts: Path) -> None:
    for width in WIDTHS[:2]:
        (receipts / f"w{width}.onnx").unlink()
    with pytest.raises(TargetError, match="too few models"):
        calibrate_device.forms_of_receipts("local-cpu", receipts)
    with pytest.raises(ArtifactError, match="no receipts in this folder"):
        calibrate_device.forms_of_receipts("local-cpu", receipts / "..")


def test_what_a_calibrated_target_refuses(calibrated: Calibration) -> None:
    floats, int8 = onnx_file(float_onnx()), onnx_file(int8_onnx())
    with pytest.raises(TargetError, match="not calibrated for this") as caught:
        edgevit.estimate(int8, "local-cpu")
    assert "float32 in onnxruntime with threads: 1" in str(caught.value)
    with pytest.raises(RecipeError, match="no Q/DQ pairs"):
        edgevit.estimate(floats, "local-cpu", precision="int8")
    with pytest.raises(RecipeError, match="a calibrated target does not take this"):
        edgevit.estimate(floats, "local-cpu", power_mode="MAXN")
    with pytest.raises(TargetError, match="not calibrated for this"):
        edgevit.estimate(floats, "local-cpu", threads=2)
    batch = edgevit.estimate(floats, "local-cpu", batch_size=8)
    assert not batch.is_coverage_known


def test_select_predicts_students_in_float32_on_a_calibrated_target(calibrated: Calibration) -> None:
    candidate = Candidate(model="test_vit", image_size=32, macs=1, expected_ms=1.0)
    timing = predictor(3, "local-cpu", Context())(candidate)
    assert timing.form == "float32, predicted"
    assert timing.size_bytes == 4 * timing.params
    assert timing.p50_low_ms < timing.p50_ms < timing.p50_high_ms
    onnx = edgevit.export(edgevit.load("test_vit", classes=["a", "b", "c"], image_size=32))
    assert timing.p50_ms == pytest.approx(edgevit.estimate(onnx, "local-cpu").latency_ms)


def test_a_target_without_a_calibration_is_told_how_to_get_one() -> None:
    with pytest.raises(RecipeError, match="not calibrated") as caught:
        edgevit.estimate(onnx_file(float_onnx()), "local-cpu")
    assert "edgevit devices calibrate local-cpu" in str(caught.value)
    with pytest.raises(RecipeError, match="a board of the table does not take this"):
        edgevit.estimate(onnx_file(float_onnx()), "orin-nano-8gb", threads=2)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-40],
        lambda text: text.replace('"node": ', '"node": -'),
        lambda text: text.replace('"node"', '"knot"'),
        lambda text: text.replace('"target": "local-cpu"', '"target": "pi"'),
        lambda text: text + " " * 2**20,
    ],
)
def test_a_damaged_calibration_is_refused(damage: Any, calibrated: Calibration) -> None:
    own = user_file()
    assert own is not None
    file = own.parent / "calibrations" / "local-cpu.json"
    file.write_text(damage(file.read_text()))
    with pytest.raises(ArtifactError, match="the calibration cannot be read") as caught:
        edgevit.estimate(onnx_file(float_onnx()), "local-cpu")
    assert "edgevit devices calibrate local-cpu" in str(caught.value)


def test_models_are_spread_over_the_sizes_of_the_catalogue() -> None:
    names = [entry.name for entry in edgevit.models.catalogue.read()]
    chosen = calibrate_device.spread_models(8)
    assert len(set(chosen)) == 8
    assert (chosen[0], chosen[-1]) == (names[0], names[-1])
    assert calibrate_device.spread_models(len(names)) == names


@pytest.mark.slow
def test_models_of_the_catalogue_are_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is measured in float32 and INT8. A machine that is too busy leaves models out, and says so."""
    from edgevit.profiling import MeasurePlan

    monkeypatch.setattr(calibrate_device, "PLAN", MeasurePlan(warmup_s=0.05, duration_s=0.1, min_runs=3))
    monkeypatch.setattr(calibrate_device, "RETRY_S", 0.0)
    measured = calibrate_device.measured_models(
        "local-cpu", "onnxruntime", 1, ("float32", "int8"), ["mobilevit_xxs"], Context()
    )
    assert set(measured) == {"float32", "int8"}
    for rows in measured.values():
        for row in rows:
            assert row.name == "mobilevit_xxs at 256 px"
            assert row.p50_ms > 0
