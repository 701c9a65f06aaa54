import shutil
from pathlib import Path

import pytest

from edgevit.errors import ArtifactError
from edgevit.report.comparison import points_of
from edgevit.report.lineage import learned_from
from edgevit.report.variants import lineup
from tests.report.measured_run import ALL, quickstart


def test_every_model_behind_the_measurements_is_a_variant_in_order(tmp_path: Path):
    models = lineup(quickstart(tmp_path).of(*ALL))
    ids = [variant.id for variant in models.variants]
    assert ids == ["teacher", "adapted", "student", "tuned", "onnx", "int8", "engine"]
    parents = {variant.id: variant.parent_id for variant in models.variants}
    assert parents == {
        "teacher": None, "adapted": "teacher", "student": "adapted", "tuned": "student",
        "onnx": "tuned", "int8": "onnx", "engine": "int8",
    }  # fmt: skip


def test_parts_of_the_answer(tmp_path: Path):
    models = lineup(quickstart(tmp_path).of(*ALL))
    assert models.deployed.id == "engine"
    assert models.float_student
    assert models.float_student.id == "tuned"
    assert models.teacher
    assert models.teacher.id == "adapted"


@pytest.mark.parametrize("is_selected", [False, True])
def test_what_was_trained_to_be_rounded_is_compared_with_what_it_was_before(tmp_path: Path, is_selected: bool):
    run = quickstart(tmp_path)
    fields = {"init": "tuned", "streams": [{"data": "digits.pool"}], "calibration": "digits.pool"}
    run.checkpoint("rounded", "qat", 310_000, {"params": 1_340_000, "macs": 9_800_000}, epochs=5, **fields)  # type: ignore[arg-type]
    if is_selected:  # the stage `select` passes the model on, and did not train it
        run.selected("best", ["tuned", "rounded"], "rounded")
    model = "best" if is_selected else "rounded"
    run.onnx("rounded_onnx", "export", 318_000, {"precision": "float32"}, model=model)
    trained = {"model": "rounded_onnx", "calibration": "digits.pool", "calibrator": "trained"}
    run.onnx("rounded_int8", "quantize", 96_000, {"precision": "int8"}, **trained)
    run.evaluation("rounded_float_accuracy", model, 0.94)
    run.evaluation("rounded_accuracy", "rounded_int8", 0.9425)
    models = lineup(run.of("float_accuracy", "rounded_float_accuracy", "rounded_accuracy", "teacher_accuracy"))
    assert models.deployed.id == "rounded_int8"
    assert [word for word, _ in models.baselines()] == ["teacher", "float student"]
    assert [variant.id for _, variant in models.baselines()] == ["adapted", "tuned"]


def test_one_measurement_is_enough_to_find_the_whole_line(tmp_path: Path):
    models = lineup(quickstart(tmp_path).of("accuracy"))
    assert models.deployed.id == "engine"
    assert models.deployed.timing is None
    assert models.teacher
    assert models.teacher.accuracy is None


def test_a_model_with_both_measurements_is_deployed_before_a_more_derived_one_with_one(tmp_path: Path):
    run = quickstart(tmp_path)
    assert lineup(run.of("float_accuracy", "float_latency", "accuracy")).deployed.id == "tuned"


def test_a_model_timed_twice_is_two_variants(tmp_path: Path):
    run = quickstart(tmp_path)
    run.latency("latency_4", "engine", 0.3, threads=4)
    models = lineup([*run.of(*ALL), run.made["latency_4"]])
    engines = [variant for variant in models.variants if variant.model.id == "engine"]
    threads = {variant.id: variant.timing and variant.timing.threads for variant in engines}
    assert threads == {"engine@latency": 1, "engine@latency_4": 4}


def test_a_file_that_is_evaluated_here_and_timed_there_is_one_variant(tmp_path: Path):
    run = quickstart(tmp_path)
    run.latency("there", "int8", 5.0, target="board")
    run.evaluation("here", "int8", 0.9)
    models = lineup(run.of("float_accuracy", "here", "there"))
    assert models.deployed.id == "int8"
    assert models.deployed.timing is not None
    assert models.deployed.timing.target == "board"
    assert models.deployed.evaluation is run.made["here"]
    accuracy = next(point for point in points_of(models) if point["title"] == "Accuracy")
    assert accuracy["conditions"].endswith("The accuracy was measured on local-cpu, the latency on board.")


def test_the_last_latency_of_a_file_is_that_of_the_deployed_model(tmp_path: Path):
    run = quickstart(tmp_path)
    for name, target in (("near", "local-cpu"), ("there", "board")):
        run.latency(name, "int8", 5.0, target=target)
    run.evaluation("here", "int8", 0.9)
    for order in (("near", "there"), ("there", "near")):
        timing = lineup(run.of("here", *order)).deployed.timing
        assert timing is not None
        assert timing.target == run.made[order[-1]].metrics["target"]


def test_accuracy_from_another_target_is_not_put_beside_the_latency_of_a_checkpoint(tmp_path: Path):
    run = quickstart(tmp_path)
    run.latency("gpu_latency", "tuned", 0.5, target="local-gpu")
    models = lineup(run.of("float_accuracy", "gpu_latency"))
    tuned = {
        variant.id: (variant.target, bool(variant.accuracy), bool(variant.timing))
        for variant in models.variants
        if variant.model.id == "tuned"
    }
    assert tuned == {"tuned": ("local-gpu", False, True), "tuned@float_accuracy": ("local-cpu", True, False)}


def test_a_model_that_is_gone_from_the_store_is_named(tmp_path: Path):
    run = quickstart(tmp_path)
    shutil.rmtree(run.made["engine"].path)
    with pytest.raises(ArtifactError, match="no longer in the store") as caught:
        lineup(run.of("latency"))
    assert "engine" in str(caught.value)


def test_models_stand_apart_by_the_data_that_they_and_their_teachers_learned_from(tmp_path: Path):
    run = quickstart(tmp_path)
    run.dataset("elsewhere.train")
    options = {"teacher": "adapted", "model": "deit_tiny", "val": "digits.test"}
    run.checkpoint("other", "distill", 300_000, {}, streams=[{"data": "elsewhere.train"}], **options)  # type: ignore[arg-type]
    run.checkpoint("only-named", "load", 300_000, {}, model="deit_tiny", classes_of="digits.test")
    run.evaluation("other_accuracy", "other", 0.9)
    run.evaluation("named_accuracy", "only-named", 0.1)
    groups = {
        tuple(group["data"]): group["models"]
        for group in learned_from(lineup(run.of("teacher_accuracy", "accuracy", "other_accuracy", "named_accuracy")))
    }
    target = ("digits.pool", "digits.support", "glyphs.train")
    assert groups.pop(("glyphs.train",)) == ["teacher"]
    assert groups.pop(target) == ["adapted", "student", "tuned", "onnx", "int8", "engine"]
    assert groups.pop(("digits.pool", "digits.support", "elsewhere.train", "glyphs.train")) == ["other"]
    assert not groups, "names of classes teach nothing, and validation neither"


@pytest.mark.parametrize("measured", [("onnx-teacher",), ("onnx-teacher", "adapted")])
def test_a_teacher_is_compared_by_its_onnx_file_where_that_alone_was_measured(
    tmp_path: Path, measured: tuple[str, ...]
):
    run = quickstart(tmp_path)
    run.onnx("onnx-teacher", "export", 1_500_000, {"precision": "float32"}, model="adapted")
    for model in measured:
        run.evaluation(f"of-{model}", model, 0.96)
    models = lineup(run.of("accuracy", "latency", *(f"of-{model}" for model in measured)))
    assert models.teacher is not None
    assert models.teacher.model.id == measured[-1]
    assert models.teacher.evaluation is not None


def test_of_several_teachers_the_first_is_compared(tmp_path: Path):
    run = quickstart(tmp_path)
    taught = {"teachers": [{"model": "adapted"}, {"model": "student"}], "model": "deit_tiny"}
    run.checkpoint("ensemble", "distill", 300_000, {}, streams=[{"data": "digits.pool"}], **taught)  # type: ignore[arg-type]
    run.onnx("ensemble-onnx", "export", 500_000, {"precision": "float32"}, model="ensemble")
    run.evaluation("of-ensemble", "ensemble-onnx", 0.9)
    run.latency("its-latency", "ensemble-onnx", 0.5)
    models = lineup(run.of("of-ensemble", "its-latency"))
    assert models.teacher is not None
    assert models.teacher.model.id == "adapted"
    assert {variant.model.id: variant.parent_id for variant in models.variants}["ensemble"] == "adapted"
