from pathlib import Path
from typing import Any

import pytest

from edgevit.artifacts import Json
from edgevit.configs import Budget
from edgevit.report.build import report_json
from edgevit.report.variants import lineup
from tests.report.measured_run import ALL, MeasuredRun, quickstart


def report(run: MeasuredRun, *names: str, **budget: float) -> Json:
    return report_json(lineup(run.of(*(names or ALL))), Budget(**budget), "quickstart")


def latency_sentences(report: Json) -> list[str]:
    return next(point["sentences"] for point in report["answer"]["points"] if point["title"] == "Latency")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MeasuredRun:
    return quickstart(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize(
    ("budget", "meets"),
    [
        ({}, None),
        ({"latency_ms": 1.0}, True),
        ({"latency_ms": 0.1}, False),
        ({"size_mib": 1.0}, True),
        ({"size_mib": 0.01}, False),
        ({"top1_drop": 0.01}, True),
        ({"top1_drop": 0.001}, False),
        ({"latency_ms": 1.0, "size_mib": 0.01}, False),
    ],
)
def test_verdict(run: MeasuredRun, budget: dict[str, float], meets: bool | None):
    verdict = report(run, **budget)["verdict"]
    assert verdict["meets_budget"] is meets
    assert len(verdict["reasons"]) == max(1, len(budget))


def test_a_limit_that_was_not_measured_is_not_judged(run: MeasuredRun):
    content = report(run, "accuracy", latency_ms=1.0, size_mib=1.0)
    assert content["verdict"]["meets_budget"] is None
    assert "not measured" in content["verdict"]["reasons"][0]
    assert content["answer"]["verdict"] == "The budget cannot be judged: a measurement is missing."
    assert content["answer"]["tone"] == "unknown"


def test_an_exceeded_limit_decides_even_where_another_is_unknown(run: MeasuredRun):
    assert report(run, "accuracy", latency_ms=1.0, size_mib=0.01)["verdict"]["meets_budget"] is False


def test_a_drop_within_the_limit_says_when_chance_could_hide_more(run: MeasuredRun):
    (reason,) = report(run, top1_drop=0.01)["verdict"]["reasons"]
    assert reason.endswith("The limit lies inside the 95% interval.")


def test_comparisons_hold_the_numbers_of_the_sentences(tmp_path: Path):
    run = quickstart(tmp_path)
    run.onnx("teacher_onnx", "export", 1_500_000, {"precision": "float32"}, model="adapted")
    run.latency("teacher_onnx_latency", "teacher_onnx", 3.1)
    content = report(run, *ALL, "teacher_onnx_latency")
    by_id = {variant["id"]: variant for variant in content["variants"]}
    teacher = content["comparisons"]["teacher"]
    assert teacher["times_smaller"] == by_id["adapted"]["size_bytes"] / by_id["engine"]["size_bytes"]
    assert teacher["id"] == "adapted"
    expected = by_id["teacher_onnx"]["latency_ms"]["p50"] / by_id["engine"]["latency_ms"]["p50"]
    assert teacher["times_faster"] == pytest.approx(expected)
    student = content["comparisons"]["float_student"]
    expected = by_id["tuned"]["top1"]["value"] - by_id["engine"]["top1"]["value"]
    assert student["top1_drop"]["value"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "condition",
    [{"threads": 4}, {"boundary": "end_to_end"}, {"target": "local-gpu"}],
    ids=lambda each: next(iter(each)),
)
def test_latencies_under_different_conditions_are_never_divided(tmp_path: Path, condition: dict[str, Any]):
    run = quickstart(tmp_path)
    run.latency("other", "adapted", 3.0, **condition)
    content = report(run, "teacher_accuracy", "accuracy", "latency", "other")
    assert content["comparisons"]["teacher"]["times_faster"] is None
    assert any("whose conditions differ" in sentence for sentence in latency_sentences(content))


def test_latencies_in_different_runtimes_are_never_divided(run: MeasuredRun):
    content = report(run)
    assert [baseline["times_faster"] for baseline in list(content["comparisons"].values())[:2]] == [None, None]
    for role, sentence in zip(("teacher", "float student"), latency_sentences(content), strict=True):
        assert sentence.startswith(f"Not compared with the {role}, which was timed in another runtime (")
        assert "in PyTorch" in sentence
        assert "faster" not in sentence


def test_the_float_students_latency_may_be_that_of_its_onnx_file(tmp_path: Path):
    run = quickstart(tmp_path)
    run.latency("float_latency", "onnx", 2.0)
    content = report(run, "float_accuracy", "accuracy", "latency", "float_latency")
    by_id = {variant["id"]: variant for variant in content["variants"]}
    speedup = by_id["onnx"]["latency_ms"]["p50"] / by_id["engine"]["latency_ms"]["p50"]
    student = content["comparisons"]["float_student"]
    assert student["id"] == "tuned"
    assert student["times_faster"] == pytest.approx(speedup)
    assert student["top1_drop"] is not None


def test_accuracy_on_other_images_is_not_compared(tmp_path: Path):
    run = quickstart(tmp_path)
    run.dataset("digits.val")
    run.evaluation("float_val", "tuned", 0.99, data="digits.val")
    content = report(run, "float_val", "accuracy", "latency", top1_drop=0.01)
    assert content["verdict"]["meets_budget"] is None
    assert content["comparisons"]["float_student"]["top1_drop"] is None


def test_doubtful_latencies_carry_a_caution(tmp_path: Path):
    run = quickstart(tmp_path)
    run.latency("noisy", "engine", 0.7, duration_s=4, warnings=["the runs scatter by 40% of their mean"])
    assert report(run, "accuracy", "noisy")["cautions"] == ["engine: the runs scatter by 40% of their mean."]


def test_an_engine_that_does_not_tell_its_precision_carries_a_caution(tmp_path: Path):
    run = quickstart(tmp_path)
    rows = [
        {"operator": "MatMul", "asked": "int8", "got": "", "products": 3},
        {"operator": "Conv", "asked": "int8", "got": "int8", "products": 1},
    ]
    metrics = {"precision": "int8", "products": rows, "products_untold": 3}
    run.onnx("untold", "compile", 90_000, metrics, model="onnx")
    run.latency("untold_latency", "untold", 0.6)
    run.latency("untold_large_batch", "untold", 2.6, batch_size=8)
    said = "untold: the engine does not tell the precision of 3 of 4 products."
    assert report(run, "accuracy", "latency", "untold_latency", "untold_large_batch")["cautions"] == [said]


def test_the_scatter_of_builds_is_said(tmp_path: Path):
    run = quickstart(tmp_path)
    build = {"p50_ms": [3.7, 3.1, 3.4], "kept": 2, "label": "replayed", "failed": ["build 4 failed: why"]}
    build["invalid"] = [[], [], ["the machine throttled"]]
    run.onnx("lucky", "compile", 90_000, {"precision": "int8", "build": build}, model="onnx")
    run.latency("lucky_latency", "lucky", 0.6)
    (said,) = report(run, "accuracy", "latency", "lucky_latency")["cautions"]
    assert said.startswith("lucky: 3 builds gave medians of 3.10 ms to 3.70 ms (replayed)")
    assert "the engine is build 2, the first right one, since replayed times choose nothing" in said
    assert said.endswith("; the machine was disturbed in 1 of these timings; build 4 failed: why.")


def test_a_deployed_float_file_is_not_timed_against_itself(tmp_path: Path):
    run = quickstart(tmp_path)
    run.evaluation("onnx_accuracy", "onnx", 0.94)
    run.latency("onnx_latency", "onnx", 0.5)
    content = report(run, "float_accuracy", "float_latency", "onnx_accuracy", "onnx_latency")
    assert content["deployed"] == "onnx"
    assert content["comparisons"]["float_student"]["times_faster"] is None
    (sentence,) = [each for each in latency_sentences(content) if "float student" in each]
    assert "in another runtime (2.0" in sentence, "the checkpoint in PyTorch, not the file itself"
    alone = report(run, "float_accuracy", "onnx_accuracy", "onnx_latency")
    assert alone["comparisons"]["float_student"]["times_faster"] is None


@pytest.mark.parametrize("has_both", [False, True])
def test_accuracies_are_compared_within_one_protocol(tmp_path: Path, has_both: bool):
    run = quickstart(tmp_path)
    how = {"folds": 5, "method": "ridge", "copies_left_out": 0}
    labels = [index % 10 for index in range(400)]
    run.predicted("folds", "tuned", labels, labels, cross_validation=how)
    run.predicted("engine_folds", "engine", labels, labels, cross_validation=how)
    run.predicted("standard", "tuned", labels, labels)
    names = ["folds", "standard"] if has_both else ["standard"]
    compared = report(run, *names, "engine_folds")["comparisons"]["float_student"]["top1_drop"]
    assert (compared is not None) is has_both
