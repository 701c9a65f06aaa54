"""The headline: a doubt about the accuracy comes first, in words and in color, whatever the latency."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgevit.artifacts import LEARNED_TOO, Json
from edgevit.configs import Budget
from edgevit.errors import ArtifactError
from edgevit.report import summary
from edgevit.report.build import report_json, write_report
from edgevit.report.text.report import markdown
from edgevit.report.variants import lineup
from tests.report.measured_run import ALL, MeasuredRun, quickstart

OVERLAP = {"data": "digits.pool", "labelled": False, "images": 8, "of": 400}
LABELS = [index % 10 for index in range(400)]


def nearly_right(labels: Sequence[int], wrong_every: int = 20) -> list[int]:
    return [(label + 1) % 10 if index % wrong_every == 0 else label for index, label in enumerate(labels)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MeasuredRun:
    return quickstart(tmp_path_factory.mktemp("run"))


def report_on(run: MeasuredRun, labels: Sequence[int], predicted: Sequence[int], budget: Budget, **more: Any) -> Json:
    """The report on an engine with these predictions."""
    name = f"seen{len(run.made)}"
    run.predicted(name, "engine", labels, predicted, **more)
    return report_json(lineup(run.of(name, "latency")), budget, "quickstart")


def assert_first(report: Json, headline: str, tone: str) -> None:
    """The headline comes first in the terminal and in report.md, and no yes stands there."""
    assert (report["answer"]["headline"], report["answer"]["tone"]) == (headline, tone)
    assert summary(report).startswith(headline)
    assert markdown(report).splitlines()[2].startswith(f"**{headline[:20]}")
    assert "Yes, it meets" not in summary(report) + markdown(report)


@pytest.mark.parametrize(("budget", "meets"), [({}, True), ({"top1": 0.1}, False), ({"recall": 0.0}, False)])
def test_a_model_that_is_worse_than_a_constant_guess(run: MeasuredRun, budget: dict[str, float], meets: bool):
    """56% where always answering the commonest class gives 68%."""
    labels = [0] * 136 + [1] * 64
    predicted = [0] * 100 + [1] * 36 + [1] * 12 + [0] * 52
    report = report_on(run, labels, predicted, Budget(latency_ms=10, **budget))
    assert_first(report, "Worse than always answering '0'.", "no")
    assert report["verdict"]["meets_budget"] is meets
    said = " ".join(summary(report).split())
    assert "right for 56.0% of the 200 test images. Always answering '0' is right for 68.0%." in said
    limits = "The measured values are within the limits of the budget."
    assert (limits in said) is meets
    assert ("No, it does not meet the budget." in said) is not meets


def test_a_class_that_is_never_recognized(run: MeasuredRun):
    predicted = [1 if label == 0 else label for label in LABELS]
    report = report_on(run, LABELS, predicted, Budget(latency_ms=10))
    assert_first(report, "The class '0' is never recognized.", "no")
    assert report["verdict"]["doubts"][0]["sentence"] == "Right predictions: '0' (0 of 40 images)."
    assert [row["recall"] for row in report["classes"]] == [0.0] + [1.0] * 9


def test_classes_that_are_recognized_less_often_than_by_a_guess(run: MeasuredRun):
    labels = [index % 4 for index in range(400)]
    predicted = [1 if label == 0 and index > 0 else 3 if label == 2 else label for index, label in enumerate(labels)]
    report = report_on(run, labels, predicted, Budget(latency_ms=10))
    assert_first(report, "2 classes are recognized less often than by a random guess.", "no")
    sentence = "Right predictions: '2' (0 of 100 images), '0' (1 of 100 images)."
    assert report["verdict"]["doubts"][0]["sentence"] == sentence


@pytest.mark.parametrize(("floor", "meets"), [(0.9, True), (0.94, None)])
def test_test_images_that_were_learned_from(run: MeasuredRun, floor: float, meets: bool | None):
    """8 of 400 images: 95% are right, and at worst 93%."""
    more = {LEARNED_TOO: [OVERLAP]}
    report = report_on(run, LABELS, nearly_right(LABELS), Budget(latency_ms=10, top1=floor), **more)
    assert_first(report, "The model learned from test images.", "doubtful")
    assert report["verdict"]["meets_budget"] is meets
    assert report["verdict"]["doubts"][0]["sentence"] == (
        "8 of the 400 test images are also in digits.pool, without labels. "
        "Top-1 is 95.0%, and 93.0% if these images are counted as wrong."
    )
    assert report["cautions"] == [], "it is said once"


def test_few_learned_images_that_decide_nothing_are_a_caution(run: MeasuredRun):
    more = {LEARNED_TOO: [{**OVERLAP, "images": 1}]}
    report = report_on(run, LABELS, nearly_right(LABELS), Budget(top1=0.9), **more)
    assert report["answer"]["headline"] == "Yes, it meets the budget."
    assert report["verdict"]["doubts"] == []
    assert "learned from 1 of the 400 test images" in report["cautions"][0]
    assert report["cautions"][0].endswith("They change the accuracy by 0.25 points at most.")


def test_a_cross_validation_of_another_head_is_named_and_judges_no_floor(run: MeasuredRun):
    how = {"folds": 5, "method": "ridge", "copies_left_out": 2}
    report = report_on(run, LABELS, nearly_right(LABELS), Budget(top1=0.9), cross_validation=how)
    assert report["verdict"]["meets_budget"] is None
    (reason,) = report["verdict"]["reasons"]
    assert "by 5-fold cross-validation of a head (ridge)" in reason
    assert reason.endswith("Not judged, because this is not the head of the deployed model.")
    accuracy = next(point for point in report["answer"]["points"] if point["title"] == "Accuracy")
    assert accuracy["conditions"].startswith("Top-1 by 5-fold cross-validation of a head (ridge) on 400 images of")
    assert "2 copies of images were left out." in report["cautions"][0]


@pytest.mark.parametrize(("method", "meets"), [("nearest_centroid", True), ("ridge", None)])
def test_a_cross_validation_of_the_deployed_head_judges_a_floor(tmp_path: Path, method: str, meets: bool | None):
    run, name = quickstart(tmp_path), "fitted"
    how = {"folds": 5, "method": method, "copies_left_out": 0}
    fitted = {"method": "nearest_centroid"}
    run.checkpoint(name, "fewshot", 9, fitted, model="teacher", support="digits.support")
    run.onnx(f"{name}_onnx", "export", 100, {"precision": "float32"}, model=name)
    run.predicted(f"{name}_folds", f"{name}_onnx", LABELS, nearly_right(LABELS), cross_validation=how)
    report = report_json(lineup(run.of(f"{name}_folds")), Budget(top1=0.9), "quickstart")
    assert report["verdict"]["meets_budget"] is meets


def test_every_doubt_has_its_own_tone(run: MeasuredRun, tmp_path: Path):
    name = "never_and_learned"
    predicted = [1 if label == 0 else label for label in LABELS]
    learned: dict[str, Any] = {LEARNED_TOO: [OVERLAP]}
    run.predicted(name, "engine", LABELS, predicted, **learned)
    report = write_report(run.of(name), Budget(), "quickstart", tmp_path)
    assert [doubt["tone"] for doubt in report["verdict"]["doubts"]] == ["no", "doubtful"]
    assert re.findall(r'class="doubt (\w+)"', (tmp_path / "report.html").read_text()) == ["no", "doubtful"]


def test_too_few_test_images(run: MeasuredRun):
    labels = LABELS[:40]
    report = report_on(run, labels, nearly_right(labels, 4), Budget(latency_ms=10, top1=0.5))
    headline = "Too few test images: the accuracy may be anywhere from 60% to 86%."
    assert_first(report, headline, "doubtful")
    assert report["verdict"]["meets_budget"] is True


def test_several_doubts_are_all_said_the_gravest_first(run: MeasuredRun):
    report = report_on(run, [0] * 20, [1] * 20, Budget(), **{LEARNED_TOO: [OVERLAP]})
    kinds = [doubt["kind"] for doubt in report["verdict"]["doubts"]]
    assert kinds == ["constant_guess", "missed_classes", "learned_from"]
    places = [summary(report).index(doubt["headline"]) for doubt in report["verdict"]["doubts"]]
    assert places == sorted(places)


def test_a_good_model_has_its_yes_and_every_number(run: MeasuredRun):
    budget = Budget(latency_ms=10, top1=0.9, balanced_accuracy=0.9, recall=0.5)
    report = report_on(run, LABELS, nearly_right(LABELS), budget)
    assert report["answer"]["headline"] == report["answer"]["verdict"] == "Yes, it meets the budget."
    assert report["answer"]["tone"] == "yes"
    assert report["verdict"]["doubts"] == []
    accuracy = next(point for point in report["answer"]["points"] if point["title"] == "Accuracy")
    assert accuracy["sentences"][0].startswith("85.0 points above always answering '0' (10.0%): 95% interval")
    classes = next(point for point in report["answer"]["points"] if point["title"] == "Balanced accuracy")
    assert (classes["value"], classes["conditions"][:26]) == ("95.0%", "Mean recall of 10 classes,")
    assert classes["sentences"][0].startswith("Lowest recall: '0', 50.0% (20 of 40 images")
    reasons = report["verdict"]["reasons"]
    assert reasons[1] == "Top-1: 95.0% (95% interval 92.4–96.7%), at least the 90.0% asked for."
    assert reasons[3].startswith("Recall: 50.0% of the images of '0', the lowest (95% interval")
    assert reasons[3].endswith("asked for. The limit lies inside the 95% interval.")
    table = markdown(report).split("## Every class")[1]
    assert table.index("| 0 ") < table.index("| 1 "), "the lowest recall comes first"
    assert max(map(len, markdown(report).splitlines())) <= 80


def test_the_color_of_the_page_is_that_of_the_headline(run: MeasuredRun, tmp_path: Path):
    run.predicted("never", "engine", LABELS, [1 if label == 0 else label for label in LABELS])
    write_report(run.of("never", "latency"), Budget(latency_ms=10), "quickstart", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r'<h1 class="(\w+)">(.*)</h1>', page) == [("no", "The class &#39;0&#39; is never recognized.")]
    assert page.index("never recognized") < page.index("The measured values are within the limits of the budget.")
    assert "Yes, it meets" not in page


def test_the_nearest_centroid_stands_beside_the_accuracy(run: MeasuredRun):
    run.checkpoint("centroid", "fewshot", 9, {"method": "nearest_centroid"}, model="teacher", support="digits.support")
    run.evaluation("centroid_accuracy", "centroid", 0.9)
    report = report_json(lineup(run.of(*ALL, "centroid_accuracy")), Budget(), "quickstart")
    assert (report["nearest_centroid"], report["deployed"]) == ("centroid", "engine")
    accuracy = next(point for point in report["answer"]["points"] if point["title"] == "Accuracy")
    sentence = next(each for each in accuracy["sentences"] if "nearest centroid" in each)
    assert sentence.startswith("Gains 3.8 points against the nearest centroid on the features of teacher (90.0%)")
    top1 = {row["id"]: row["top1"]["value"] for row in report["variants"] if row["top1"]}
    drop = report["comparisons"]["nearest_centroid"]["top1_drop"]
    assert drop["value"] == pytest.approx(top1["centroid"] - top1["engine"])


def test_the_report_takes_the_deployed_model_that_the_recipe_names(run: MeasuredRun):
    assert lineup(run.of(*ALL)).deployed.id == "engine"
    assert lineup(run.of(*ALL), run.made["tuned"]).deployed.id == "tuned"
    run.onnx("other", "export", 100, {"precision": "float32"}, model="teacher")
    with pytest.raises(ArtifactError, match="the deployed model 'other' was not measured"):
        lineup(run.of(*ALL), run.made["other"])


@pytest.mark.parametrize("order", [("teacher", "student"), ("student", "teacher")])
def test_a_file_of_the_teacher_is_never_taken_for_the_deployed_model(run: MeasuredRun, order: tuple[str, ...]):
    run.onnx("teacher_onnx", "export", 1_500_000, {"precision": "float32"}, model="adapted")
    run.onnx("teacher_engine", "compile", 1_500_000, {"precision": "float32"}, model="teacher_onnx")
    for name, model in (("teacher", "teacher_engine"), ("student", "onnx")):
        run.evaluation(f"{name}_seen", model, 0.9)
        run.latency(f"{name}_timed", model, 2.0)
    measurements = [f"{name}_{kind}" for name in order for kind in ("seen", "timed")]
    assert lineup(run.of(*measurements)).deployed.id == "onnx"
    assert lineup(run.of("teacher_seen", "teacher_timed")).deployed.id == "teacher_engine"
