"""The calibration of a target of one's own: from receipts to a prediction, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgevit
from edgevit.actions import calibrate_device
from edgevit.actions.estimate_latency import check_board
from edgevit.actions.select_student import predictor
from edgevit.artifacts import IOSpec, Preprocess, sha256_of_file
from edgevit.context import Context
from edgevit.errors import ArtifactError, EdgevitError, RecipeError, TargetError
from edgevit.graphs.files import onnx_file, write_onnx
from edgevit.latency_model.calibration import Calibration, calibration_file, calibration_of, write_calibration
from edgevit.latency_model.unit_costs import UNITS, MeasuredUnits, fitted_int8_costs
from edgevit.model_file import options_for
from edgevit.models.bodies import is_body
from edgevit.selection.candidates import Candidate
from edgevit.targets.named import project_file, user_file
from tests.small_models import float_onnx, int8_onnx
from tests.test_files import run

EMPTY = Calibration(target="local-cpu")
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
    conditions = {
        "file_sha256": {"model.onnx": sha256_of_file(file)},
        "versions": {"onnxruntime": onnxruntime.__version__},
    }
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
    version = onnxruntime.__version__
    assert f"calibrated on 9 models in ONNX Runtime {version}; each left out, the median error is" in " ".join(
        said.split()
    )
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


def test_a_calibration_is_of_the_machine_that_the_name_means(receipts: Path) -> None:
    """A project that names another pi knows nothing of yours, and its own one takes no form of yours."""
    run("devices", "add", "pi", "ssh://me@pi.local")
    for file in receipts.glob("*.onnx"):
        receipt(file, 5.0, target="pi")
    run("devices", "calibrate", "pi", "--receipts", receipts)
    run("devices", "add", "--project", "pi", "ssh://me@other.local")
    assert calibration_of("pi") is None
    with pytest.raises(RecipeError, match="not calibrated"):
        edgevit.estimate(onnx_file(float_onnx()), "pi")
    for file in receipts.glob("*.onnx"):
        receipt(file, 9.0, target="pi", threads=2)
    run("devices", "calibrate", "pi", "--receipts", receipts)
    found = calibration_of("pi")
    assert found is not None
    assert [form.threads for form in found.forms] == [2]


def test_a_project_brings_no_calibration_of_this_machine(calibrated: Calibration) -> None:
    foreign = Calibration(target="local-cpu", forms=(calibrated.forms[0].model_copy(update={"threads": 7}),))
    write_calibration(foreign, project_file().parent / "calibrations" / "local-cpu.json")
    assert calibration_of("local-cpu") == calibrated


def test_a_removed_target_leaves_no_calibration(receipts: Path) -> None:
    """Another machine of the same name would be predicted by it."""
    run("devices", "add", "pi", "ssh://me@pi.local")
    for file in receipts.glob("*.onnx"):
        receipt(file, 5.0, target="pi")
    run("devices", "calibrate", "pi", "--receipts", receipts)
    assert calibration_of("pi") is not None
    run("devices", "remove", "pi")
    run("devices", "add", "pi", "ssh://me@other.local")
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
        ({"conditions": {}}, "does not tell the hash of its file"),
        ({"conditions": {"file_sha256": ["0" * 64]}}, "file_sha256: Input should be a valid dictionary"),
        ({"conditions": {"versions": ["1.24.4"]}}, "versions: Input should be a valid dictionary"),
        ({"runtime": None}, "runtime: Input should be"),
        ({"runtime": "foo"}, "runtime: Input should be 'onnxruntime' or 'openvino'"),
        ({"precision": 5}, "precision: Input should be"),
        ({"threads": "two"}, "threads: Input should be a valid integer"),
        ({"latency_ms": {"p50": 1e10, "p50_low": 1e10, "p50_high": 1e10}}, "p50_ms: Input should be less than"),
    ],
)
def test_receipts_that_do_not_calibrate(changes: dict[str, Any], says: str, receipts: Path) -> None:
    receipt(receipts / "w8.onnx", 1.0, **changes)
    with pytest.raises(EdgevitError, match=says) as caught:
        calibrate_device.forms_of_receipts(receipts, EMPTY, print)
    assert "w8.json" in str(caught.value)


def test_too_few_receipts(receipts: Path) -> None:
    for width in WIDTHS[:2]:
        (receipts / f"w{width}.onnx").unlink()
    with pytest.raises(TargetError, match="too few models") as caught:
        calibrate_device.forms_of_receipts(receipts, EMPTY, print)
    assert "7 in float32 in onnxruntime with threads: 1" in str(caught.value)
    with pytest.raises(ArtifactError, match="no receipts in this folder"):
        calibrate_device.forms_of_receipts(receipts / "..", EMPTY, print)


def test_a_form_with_too_few_receipts_does_not_cost_the_others(receipts: Path) -> None:
    receipt(receipts / "w8.onnx", 1.0, threads=2)
    said: list[str] = []
    (form,) = calibrate_device.forms_of_receipts(receipts, EMPTY, said.append)
    assert (form.key, len(form.models)) == (("onnxruntime", "float32", 1), 8)
    assert said == [
        "left out: too few models were measured to fit a prediction: 1 in float32 in onnxruntime with threads: 2, "
        "expected at least 8"
    ]


def measured_with(failing: set[str], monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """The names of the measured models, of m0 to m15, where some end with a TargetError; and what is said."""

    def measured(name: str, *_: object) -> Iterator[tuple[str, MeasuredUnits]]:
        if name in failing:
            raise TargetError("the connection was lost")
        yield "float32", MeasuredUnits(name, np.ones(len(UNITS)), 1.0)

    said: list[str] = []
    context = Context()
    monkeypatch.setattr(calibrate_device, "_measured", measured)
    monkeypatch.setattr(type(context.progress), "say", lambda _, line: said.append(line))
    names = [f"m{place}" for place in range(16)]
    measured_rows = calibrate_device.measured_models("local-cpu", "onnxruntime", 1, ["float32"], names, context)
    return [row.name for row in measured_rows["float32"]], said


def test_a_target_that_is_gone_does_not_cost_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two failures in a row end it; one alone leaves its model out. With too few models, or none, the error remains."""
    kept, said = measured_with({"m3", *(f"m{place}" for place in range(11, 16))}, monkeypatch)
    assert kept == ["m0", "m1", "m2", *(f"m{place}" for place in range(4, 11))]
    assert said[-1] == "the target is gone: 13 of 16 models were tried"
    for failing in ({"m5", "m6"}, {"m0"}):
        with pytest.raises(TargetError, match="connection was lost"):
            measured_with(failing, monkeypatch)


def test_a_runtime_is_refused_before_anything_is_measured() -> None:
    for runtime in ("torch", "tensorrt", "foo"):
        with pytest.raises(RecipeError, match="there is no such runtime") as caught:
            run("devices", "calibrate", "local-cpu", "--runtime", runtime)
        assert "onnxruntime or openvino" in str(caught.value)


def test_int8_learns_from_float32_that_was_calibrated_before(calibrated: Calibration) -> None:
    """On the same machine with the same versions, runtime and threads alone."""
    (form,) = calibrated.forms
    floats = calibrated.floats_beside("onnxruntime", 1, form.info)
    assert [one.name for one in floats] == [model.name for model in form.models]
    models = [MeasuredUnits(f"q{one.name}", one.units, one.p50_ms / 2) for one in floats]
    groups: Any = [("onnxruntime", 1, form.info, {"int8": models})]
    (helped,), (alone,) = (calibrate_device._all_fitted(groups, one, print) for one in (calibrated, EMPTY))
    assert helped.costs_ns == pytest.approx(fitted_int8_costs(models, floats))
    assert alone.costs_ns == pytest.approx(fitted_int8_costs(models, []))
    assert helped.costs_ns["spatial_conv"] != pytest.approx(alone.costs_ns["spatial_conv"], rel=0.01)
    assert not calibrated.floats_beside("onnxruntime", 2, form.info)
    assert not calibrated.floats_beside("onnxruntime", 1, form.info.model_copy(update={"versions": {}}))


def test_forms_that_were_calibrated_meanwhile_are_kept(
    calibrated: Calibration, receipts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process calibrates another number of threads while this one measures."""
    forms_of_receipts = calibrate_device.forms_of_receipts

    def with_another(*arguments: Any) -> Any:
        other = calibrated.forms[0].model_copy(update={"threads": 4})
        write_calibration(calibrated.with_forms([other]), calibration_file("local-cpu"))
        return forms_of_receipts(*arguments)

    monkeypatch.setattr(calibrate_device, "forms_of_receipts", with_another)
    run("devices", "calibrate", "local-cpu", "--receipts", receipts)
    found = calibration_of("local-cpu")
    assert found is not None
    assert {form.threads for form in found.forms} == {1, 4}


def test_what_a_calibrated_target_refuses(calibrated: Calibration) -> None:
    floats, int8 = onnx_file(float_onnx()), onnx_file(int8_onnx())
    with pytest.raises(TargetError, match="not calibrated for this") as caught:
        edgevit.estimate(int8, "local-cpu")
    assert "float32 in onnxruntime with threads: 1" in str(caught.value)
    for asked in ("int8", "INT8", "fp16"):
        with pytest.raises(RecipeError, match="the file is in another precision"):
            edgevit.estimate(floats, "local-cpu", precision=asked)
    with pytest.raises(RecipeError, match="no latency is predicted in this precision"):
        edgevit.estimate(floats, "local-cpu", precision="banana")
    assert edgevit.estimate(floats, "local-cpu", precision="fp32").precision == "float32"
    halves = edgevit.export(edgevit.load("test_vit", classes=["a", "b", "c"], image_size=32), precision="float16")
    with pytest.raises(TargetError, match="not calibrated for this") as caught:
        edgevit.estimate(halves, "local-cpu")
    assert "edgevit devices calibrate local-cpu --receipts FOLDER" in str(caught.value)
    with pytest.raises(RecipeError, match="a calibrated target does not take this"):
        edgevit.estimate(floats, "local-cpu", power_mode="MAXN")
    with pytest.raises(TargetError, match="not calibrated for this"):
        edgevit.estimate(floats, "local-cpu", threads=2)
    batch = edgevit.estimate(floats, "local-cpu", batch_size=8)
    assert not batch.is_coverage_known


def test_select_predicts_students_in_float32_on_a_calibrated_target(calibrated: Calibration) -> None:
    candidate = Candidate(model="test_vit", image_size=32, macs=1, expected_ms=1.0)
    timing = predictor(3, "local-cpu", Context())(candidate)
    assert timing.form == "float32, ONNX Runtime, 1 thread, predicted"
    assert timing.is_nominal  # the classifiers have no attention
    assert timing.size_bytes == 4 * timing.params
    assert timing.p50_low_ms < timing.p50_ms < timing.p50_high_ms
    onnx = edgevit.export(edgevit.load("test_vit", classes=["a", "b", "c"], image_size=32))
    assert timing.p50_ms == pytest.approx(edgevit.estimate(onnx, "local-cpu").latency_ms)


def test_select_asks_for_what_it_ships(calibrated: Calibration) -> None:
    """The latest form is of OpenVINO with 4 threads, and init deploys in ONNX Runtime with one."""
    (form,) = calibrated.forms
    other = form.model_copy(update={"runtime": "openvino", "threads": 4, "costs_ns": {u: 9.0 for u in UNITS}})
    file = calibration_file("local-cpu")
    write_calibration(calibrated.with_forms([other]), file)
    candidate = Candidate(model="test_vit", image_size=32, macs=1, expected_ms=1.0)
    assert predictor(3, "local-cpu", Context())(candidate).form == "float32, ONNX Runtime, 1 thread, predicted"
    write_calibration(Calibration(target="local-cpu", forms=(other,)), file)
    with pytest.raises(TargetError, match="not calibrated for this"):
        check_board("local-cpu", None, "--board", "onnxruntime", 1)


def test_what_a_calibration_has_not_seen_makes_the_interval_nominal_and_wider(
    calibrated: Calibration, tmp_path: Path
) -> None:
    """The classifiers have neither attention nor norms; 512 channels take 8 times as long as the largest of them."""
    unseen = edgevit.estimate(onnx_file(float_onnx()), "local-cpu")
    assert not unseen.is_coverage_known
    assert unseen.high_90_ms / unseen.latency_ms > 1.2 > calibrated.forms[0].factor(0.9)
    note = next(note for note in unseen.notes if "little or nothing of what takes" in note)
    assert "product" in note
    classifier(512, tmp_path / "large.onnx")
    large = edgevit.estimate(tmp_path / "large.onnx", "local-cpu")
    assert not large.is_coverage_known
    assert any("this far beyond" in note for note in large.notes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"versions": {"onnxruntime": "1.0.0"}}, "onnxruntime 1.0.0 then, "),
        ({"cpu": {"model": "i486"}}, "model i486 then"),
    ],
)
def test_a_machine_that_has_changed_since_makes_the_interval_nominal(
    changes: dict[str, Any], says: str, receipts: Path, tmp_path: Path
) -> None:
    for file in receipts.glob("*.onnx"):
        told = json.loads(file.with_suffix(".json").read_text())
        file.with_suffix(".json").write_text(json.dumps({**told, "conditions": {**told["conditions"], **changes}}))
    run("devices", "calibrate", "local-cpu", "--receipts", receipts)
    classifier(36, tmp_path / "own.onnx")
    predicted = edgevit.estimate(tmp_path / "own.onnx", "local-cpu")
    assert not predicted.is_coverage_known
    assert says in " ".join(predicted.notes)


def test_a_gpu_is_not_calibrated() -> None:
    with pytest.raises(TargetError, match="those of a CPU"):
        run("devices", "calibrate", "local-gpu")
    with pytest.raises(RecipeError, match="no latency is predicted for this machine's GPU"):
        edgevit.estimate(onnx_file(float_onnx()), "local-gpu")


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
        lambda text: text.replace('"runtime": "onnxruntime"', '"runtime": "foo"'),
        lambda text: text.replace('"threads": 1', '"threads": 0'),
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
    names = [entry.name for entry in edgevit.models.catalogue.read() if not is_body(entry.name)]
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
