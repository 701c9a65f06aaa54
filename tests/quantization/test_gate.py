"""The gate by accuracy: answers of quantized forms against float's, on images of which the right answers are known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgevit.actions.single_stage import single_stages
from edgevit.artifacts import Artifact, IOSpec, Preprocess
from edgevit.configs import Quantize
from edgevit.configs.stages import MIN_SQNR_DB, TOP1_DROP
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.data.dataset import ArrayImages, Dataset
from edgevit.errors import DataError, ParityError, RecipeError, listed
from edgevit.evaluation.accuracy import Share
from edgevit.evaluation.paired import paired_drop
from edgevit.graphs.files import write_onnx
from edgevit.model_file import OnnxruntimeOptions
from edgevit.profiling import Comparison, Interval, MeasurePlan, loop
from edgevit.progress import SilentProgress
from edgevit.quantization import CalibratedModel, calibrated, images_beside
from edgevit.quantization.candidates import Candidate, Trial, TrialRunner
from edgevit.quantization.gate import AnswerChange, Closeness, Validation
from edgevit.quantization.sensitivity import Sensitivity, SensitivityAnalysis
from edgevit.recipe import load_recipe
from edgevit.runtimes.base import HostSession, SessionOptions, input_batches
from edgevit.runtimes.sessions import file_session
from edgevit.stages.quantize import _advice
from edgevit.targets import base as targets
from edgevit.targets.local import LocalCpu
from tests.quantization.test_sensitivity import SUFFERS, chain
from tests.said import Said
from tests.small_models import float_onnx, int8_onnx, workbench

SPEC = IOSpec.for_classifier(Preprocess(height=4, width=4), tuple(f"class {index}" for index in range(32)))
PIXELS = np.random.default_rng(3).integers(0, 256, (400, 4, 4, 3), dtype=np.uint8)
BATCHES = [batch for batch, _ in input_batches(SPEC, iter(PIXELS), 50)]

GATE_RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "quantization_gate.json"


def change(lost: int, gained: int, n: int, limit: float = 0.01) -> AnswerChange:
    """The change from float, which misses `gained` of n images, to a form that gets these and misses `lost` others."""
    expected, got = np.ones(n, bool), np.ones(n, bool)
    expected[:gained], got[gained : gained + lost] = False, False
    return AnswerChange(Share((lost + gained) / n, 0, 1), n, paired_drop(expected, got), limit)


@pytest.mark.parametrize(
    ("lost", "gained", "n", "is_refused", "leaves_doubt"),
    [
        (60, 20, 2000, True, False),  # 2.0 points (1.1 to 2.9)
        (20, 60, 2000, False, False),
        (24, 10, 2000, False, True),  # 0.7 points (0.1 to 1.3): beyond chance, and within the limit
        (0, 0, 2000, False, False),
        (0, 0, 50, False, True),  # up to 5 points
        (3, 0, 50, False, True),  # 6 points, which may be chance
        (25, 0, 50, True, False),
    ],
)
def test_a_form_is_refused_only_beyond_chance_and_above_the_limit(
    lost: int, gained: int, n: int, is_refused: bool, leaves_doubt: bool
) -> None:
    of_form = change(lost, gained, n)
    assert (of_form.is_refused, of_form.leaves_doubt) == (is_refused, leaves_doubt)
    assert ("a loss above 1 point is not ruled out" in of_form.sentence()) == leaves_doubt


def test_without_labels_no_form_is_refused() -> None:
    every_answer = AnswerChange(Share(1.0, 0.9, 1.0), 400, None, 0.01)
    assert not every_answer.is_refused
    assert "so up to 100.0 points of top-1 may be lost" in every_answer.sentence()
    assert "top1_drop" not in every_answer.as_json()


def test_no_points_are_not_minus_nought_points() -> None:
    assert change(0, 1, 2500).sentence().startswith("0.0 points of top-1 lost (−0.")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> HostSession:
    folder = tmp_path_factory.mktemp("chain")
    write_onnx(chain(), folder / "chain.onnx", SPEC)
    return file_session(folder / "chain.onnx", SPEC, OnnxruntimeOptions(), 1)


@pytest.fixture(scope="module")
def ready() -> CalibratedModel:
    return calibrated(chain(), lambda: iter(BATCHES), "minmax", "onnxruntime", 1, "chain")


def answers_of(session: HostSession) -> NDArray[np.int64]:
    scores = np.concatenate([output["logits"] for output in session.infer_each(BATCHES)])
    return np.asarray(scores.argmax(-1), np.int64)


def images(reference: HostSession, labelled: bool = True) -> Dataset:
    """Images of which the float model gets every answer right; or the images without labels."""
    ids, labels = tuple(map(str, range(len(PIXELS)))), answers_of(reference)
    return Dataset("val", SPEC.classes, ids, labels if labelled else None, ArrayImages(PIXELS), np.arange(len(PIXELS)))


def test_a_layer_that_costs_answers_goes_back_to_float(reference: HostSession, ready: CalibratedModel) -> None:
    """The SQNR gate is open: only lost answers decide."""
    validation = Validation(images(reference), reference, 0.05, 0, SilentProgress())
    analysis = SensitivityAnalysis(reference, BATCHES[:2], 1, validation=validation)
    whole = analysis.closeness(ready, -1000)
    assert whole.change is not None
    assert whole.change.drop is not None
    assert whole.change.drop.value == whole.change.changed.value > 0.2  # float is always right
    assert whole.refused_by == ["max_top1_drop"]
    mixed = analysis.within(ready, whole, analysis.sensitivities(ready, SilentProgress()))
    assert mixed is not None
    assert f"product{SUFFERS}" in mixed.kept_float
    of_mixed = analysis.closeness(mixed, -1000)
    assert of_mixed.refused_by == []
    assert of_mixed.change is not None
    assert of_mixed.change.changed.value < 0.1


CHANGES = {0: change(12, 0, 100), 1: change(20, 10, 100), 2: change(15, 10, 100), 3: change(1, 0, 100)}


class Scripted(SensitivityAnalysis):
    """Each number of float layers has its change of answers; the SQNR passes."""

    def closeness(self, model: CalibratedModel, floor_db: float) -> Closeness:
        return Closeness(30, floor_db, CHANGES[len(model.kept_float)])


@pytest.mark.parametrize(
    ("whole", "kept"),
    [
        (Closeness(30, 10, CHANGES[0]), 3),  # 10 and 5 points that may be chance are no way out of 12 points
        (Closeness(9.9, 10), 1),  # no answers were compared before, so this is no search by them
    ],
)
def test_a_loss_that_was_refused_is_not_excused_by_chance(
    whole: Closeness, kept: int, reference: HostSession, ready: CalibratedModel
) -> None:
    assert whole.refused_by
    assert not any(CHANGES[count].is_refused for count in (1, 2, 3))
    layers = [Sensitivity(f"product{index}", "MatMul", 60.0) for index in range(6)]
    mixed = Scripted(reference, BATCHES[:1], 1).within(ready, whole, layers)
    assert mixed is not None
    assert len(mixed.kept_float) == kept


def test_equal_files_are_compared_once(reference: HostSession, ready: CalibratedModel, tmp_path: Path) -> None:
    quantized = ready.quantized()
    write_onnx(quantized.model, tmp_path / "int8.onnx", SPEC, quantized.options)
    shutil.copyfile(tmp_path / "int8.onnx", tmp_path / "copy.onnx")
    write_onnx(chain(), tmp_path / "float.onnx", SPEC)
    session = file_session(tmp_path / "int8.onnx", SPEC, quantized.options, 1)
    validation = Validation(images(reference), reference, 0.05, 0, SilentProgress())
    first = validation.change_of_file(tmp_path / "int8.onnx", session)
    assert first == validation.change(session)
    assert validation.change_of_file(tmp_path / "copy.onnx", session) is first
    assert validation.change_of_file(tmp_path / "float.onnx", reference).changed.value == 0


TWO_SUFFER = (2, 4)


def test_the_stage_keeps_as_many_layers_float_as_lost_answers_ask_for(tmp_path: Path) -> None:
    """Two of six layers suffer. The SQNR gate is open."""
    write_onnx(chain(TWO_SUFFER), tmp_path / "chain.onnx", SPEC)
    answers = answers_of(file_session(tmp_path / "chain.onnx", SPEC, OnnxruntimeOptions(), 1))
    for index, (pixels, answer) in enumerate(zip(PIXELS, answers, strict=True)):
        folder = tmp_path / ("calibration" if index < 100 else f"validation/class {answer}")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    said = Said()
    with single_stages(Context(progress=said)) as stages:
        config = Quantize(
            stage="quantize", id="int8", model="model", calibration="calibration", calibration_images=36,
            validation="validation", max_top1_drop=0.1, min_sqnr_db=-1000, placement="all",
        )  # fmt: skip
        made = stages.make(
            config,
            model=stages.model(tmp_path / "chain.onnx"),
            calibration=stages.unlabelled_images(tmp_path / "calibration"),
            validation=stages.support_images(tmp_path / "validation"),
        )
        assert made.metrics["kept_float"] == 2
        assert made.metrics["top1_drop"]["n"] == 300
        assert made.metrics["top1_drop"]["value"] <= 0.1
    (line,) = [line for line in said.lines if "layers stay float" in line]
    assert line.startswith("    2 of 6 layers stay float: with all layers in int8 ")
    assert "points of top-1 lost" in line
    assert line.endswith("and max_top1_drop is 10 points")


class FastTarget(LocalCpu):
    """Every form is measured to be three times as fast as the float model."""

    def race(self, models: Sequence[Artifact], options: SessionOptions, plan: MeasurePlan) -> tuple[Comparison, ...]:
        raced = super().race(models, options, plan)
        return tuple(replace(compared, ratio=3.0, interval=Interval(2.9, 3.1)) for compared in raced)


def test_a_fast_form_that_loses_answers_does_not_ship(
    reference: HostSession, ready: CalibratedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "CHOICE", replace(targets.CHOICE, duration_s=0.02))
    monkeypatch.setattr(loop, "STARTS", 6)
    lossy, close = ready.quantized(), replace(ready, kept_float=frozenset([f"product{SUFFERS}"])).quantized()
    write_onnx(lossy.model, tmp_path / "lossy.onnx", SPEC, lossy.options)
    write_onnx(close.model, tmp_path / "close.onnx", SPEC, close.options)
    write_onnx(chain(), tmp_path / "float.onnx", SPEC)
    floating = Candidate("float32", tmp_path / "float.onnx", OnnxruntimeOptions(), "float32")
    forms = [
        Candidate(name, tmp_path / f"{name}.onnx", lossy.options, "int8", floor_db=-1000.0)
        for name in ("lossy", "close")
    ]
    validation = Validation(images(reference), reference, 0.1, 0, SilentProgress())
    runner = TrialRunner(reference, BATCHES[:2], listed, FastTarget(), 1, 1, validation=validation)
    best, trials = runner.best_of(forms, SilentProgress(), Trial(floating))
    assert [trial.refused_by for trial in trials] == [["max_top1_drop"], []]
    assert [trial.speedup for trial in trials] == [None, 3.0]
    assert best is trials[1]


@pytest.mark.parametrize(
    ("floor_db", "labelled", "refused_by"),
    [
        (-1000.0, True, ["max_top1_drop"]),
        (1000.0, True, ["min_sqnr_db", "max_top1_drop"]),
        (1000.0, False, ["min_sqnr_db"]),
        (-1000.0, False, []),
    ],
)
def test_a_trial_says_which_gate_refuses(
    floor_db: float,
    labelled: bool,
    refused_by: list[str],
    reference: HostSession,
    ready: CalibratedModel,
    tmp_path: Path,
) -> None:
    quantized = ready.quantized()
    write_onnx(quantized.model, tmp_path / "int8.onnx", SPEC, quantized.options)
    form = Candidate("int8 all", tmp_path / "int8.onnx", quantized.options, "int8", floor_db=floor_db)
    validation = Validation(images(reference, labelled), reference, 0.05, 0, SilentProgress())
    runner = TrialRunner(reference, BATCHES[:2], listed, LocalCpu(), 1, 1, validation=validation)
    trial = runner.compared(form)
    assert trial.refused_by == refused_by
    assert trial.as_json().get("refused_by", []) == refused_by
    assert all(gate in trial.sentence() for gate in refused_by)
    assert ("points of top-1 lost" in trial.sentence()) == labelled
    assert trial.as_json()["changed_answers"]["n"] == 400
    if refused_by:
        with pytest.raises(ParityError):
            trial.passed()


def test_scores_that_are_not_finite_are_no_answer(reference: HostSession) -> None:
    class Broken:
        spec = SPEC

        def outputs(self, pixels: Any, batch_size: int) -> Any:
            for outputs in reference.outputs(pixels, batch_size):
                yield {"logits": np.full_like(outputs["logits"], np.nan)}

    validation = Validation(images(reference), reference, 0.05, 0, SilentProgress())
    broken: Any = Broken()
    of_broken = validation.change(broken)
    assert of_broken.changed.value == 1
    assert of_broken.is_refused


def test_the_stage_records_the_loss_that_evaluations_show() -> None:
    said = Said()
    fields = {"model": float_onnx().id, "calibration": "digits.pool", "calibration_images": 32, "min_sqnr_db": 0}
    gate = {"validation": "digits.support", "max_top1_drop": 0.9}
    made = workbench().run("quantize", "gated", Context(progress=said), **gate, **fields)
    correct = [
        workbench().run("evaluate", f"of-{name}", model=name, data="digits.support").metrics["top1"]["value"]
        for name in (float_onnx().id, "gated")
    ]
    assert made.metrics["top1_drop"]["value"] == pytest.approx(correct[0] - correct[1], abs=1e-12)
    assert (made.metrics["top1_drop"]["n"], made.metrics["top1_drop"]["limit"]) == (50, 0.9)
    assert made.metrics["sqnr_db"] == pytest.approx(int8_onnx().metrics["sqnr_db"], abs=0.5)
    assert any("points of top-1 lost" in line for line in said.lines)
    unlabelled = workbench().run("quantize", "ungated", validation="digits.pool", **fields)
    assert "top1_drop" not in unlabelled.metrics
    assert unlabelled.metrics["changed_answers"]["n"] == 851 - 32 - 64  # beside the calibration and the SQNR
    with pytest.raises(DataError, match="measured on labelled images"):
        workbench().run("quantize", "unlabelled", validation="digits.pool", max_top1_drop=0.5, **fields)


def test_where_all_images_calibrate_they_validate_too_and_a_note_says_so() -> None:
    said = Said()
    made = workbench().run(
        "quantize", "all-used", Context(progress=said), model=float_onnx().id, calibration="few.pool",
        calibration_images=151, validation="few.pool", min_sqnr_db=0,
    )  # fmt: skip
    assert made.metrics["changed_answers"]["n"] == 151
    assert any("every image of few.pool is used for the ranges" in line for line in said.lines)


def test_images_beside_others_are_told_by_their_content() -> None:
    pool, support = (open_dataset(workbench().made[name]) for name in ("digits.pool", "digits.support"))
    used = pool.subset(np.arange(10))
    assert images_beside(pool, used).sample_ids == pool.sample_ids[10:]
    assert images_beside(support, used).sample_ids == support.sample_ids
    assert len(images_beside(used, pool)) == 0


@pytest.mark.parametrize(
    ("calibrator", "refused_by", "says"),
    [
        ("trained", ["max_top1_drop"], "raise max_top1_drop"),
        ("trained", ["min_sqnr_db"], "lower min_sqnr_db"),
        ("minmax", ["max_top1_drop"], "bias_correction"),
    ],
)
def test_the_advice_is_for_the_gate_that_refuses(calibrator: str, refused_by: list[str], says: str) -> None:
    config = {
        "stage": "quantize",
        "id": "int8",
        "model": "onnx",
        "calibration": "photos.pool",
        "calibrator": calibrator,
    }
    assert says in _advice(Quantize.model_validate(config), [], refused_by)


RECIPE = """
name: gate
{budget}
datasets: {{digits: {{source: digits, few_shot: {{shots: 5}}}}}}
stages:
  - {{stage: train, id: model, model: test_vit, image_size: 32, data: digits.train, epochs: 1}}
  - {{stage: pseudo_label, id: guessed, teacher: model, data: digits.pool}}
  - {{stage: export, id: onnx, model: model}}
  - {{stage: quantize, id: int8, model: onnx, calibration: digits.pool, {options}}}
"""


def stage_of(folder: Path, options: str, budget: str = "budget: {top1_drop: 0.03}") -> Quantize:
    file = folder / "gate.yaml"
    file.write_text(RECIPE.format(options=options, budget=budget))
    stage = load_recipe(file).stages[-1]
    assert isinstance(stage, Quantize)
    return stage


def test_the_limit_is_that_of_the_budget_unless_the_stage_has_one(tmp_path: Path) -> None:
    assert stage_of(tmp_path, "validation: digits.val").largest_top1_drop == 0.03
    assert stage_of(tmp_path, "validation: digits.val, max_top1_drop: 0.02").largest_top1_drop == 0.02
    assert stage_of(tmp_path, "validation: digits.val", "").largest_top1_drop == 0.01
    assert stage_of(tmp_path, "validation: digits.pool").max_top1_drop is None  # nor without labels
    assert stage_of(tmp_path, "min_sqnr_db: 10").max_top1_drop is None  # without images, no limit enters the key


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("validation: digits.test", "only evaluate and attention may read test images"),
        ("validation: digits", "includes its test images"),
        ("validation: guessed", "needs ground-truth labels"),
        ("max_top1_drop: 0.02", "give them as 'validation'"),
        ("validation: digits.pool, max_top1_drop: 0.02", "on labelled images, and 'digits.pool' has none"),
        ("validation: digits.val, max_top1_drop: 1.0", "max_top1_drop"),
    ],
)
def test_wrong_validation_is_refused_before_the_run(options: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=says.replace("(", r"\(")):
        stage_of(tmp_path, options)


def test_the_default_of_the_sqnr_gate_parts_the_forms_that_were_measured() -> None:
    """Above it, none loses more than a point of top-1; below it, each does. The words of the option name it."""
    measured = json.loads(GATE_RESULTS.read_text())["rows"]
    forms = [form for of_model in measured.values() for form in of_model]
    assert {form["sqnr_db"] >= MIN_SQNR_DB for form in forms} == {True, False}
    for form in forms:
        assert (form["sqnr_db"] >= MIN_SQNR_DB) == (form["truth"]["value"] <= TOP1_DROP), form
    fields = {"stage": "quantize", "id": "int8", "model": "onnx", "calibration": "digits.pool"}
    assert Quantize.model_validate(fields).floor_db == MIN_SQNR_DB
    assert f"{MIN_SQNR_DB:g} by default" in str(Quantize.model_fields["min_sqnr_db"].description)
