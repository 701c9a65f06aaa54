"""What a few-shot stage found out about its support has a section; a run without one has none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgevit.artifacts import Json
from edgevit.configs import Budget
from edgevit.fewshot.advice import advice
from edgevit.report.build import report_json, write_report
from edgevit.report.text.report import markdown
from edgevit.report.variants import lineup
from tests.fewshot.clusters import clusters
from tests.report.measured_run import ALL, MeasuredRun, quickstart


def found_by_the_stage(per_class: int = 6) -> Json:
    """Advice about a support with a wrong label, a pair of near-duplicates and a strange pool."""
    features, labels = clusters(per_class, spread=0.7, seed=0)
    labels[1] = 2
    features[8] = features[7] + 1e-3
    strange = 10 + 3 * np.eye(8)[[5, 6, 7]].repeat(20, 0)
    names = ("<b>bolt</b>", "gear", "nut", "screw" + "w" * 80)
    given = advice(features, labels, names, [f"train/{index}.jpg" for index in range(len(labels))], strange)
    assert given is not None
    return json.loads(json.dumps(given.as_json()))


def run_with(folder: Path, told: Json, stages: int = 1) -> MeasuredRun:
    run = quickstart(folder)
    model = "tuned"
    for number in range(stages):
        name = f"advised{number}"
        run.checkpoint(name, "fewshot", 10, {}, advice=told, model=model, support="digits.support")
        model = name
    run.evaluation("advised_accuracy", model, 0.9)
    return run


def test_the_section_says_what_was_found(tmp_path: Path):
    told = found_by_the_stage()
    run = run_with(tmp_path, told)
    write_report(run.of(*ALL, "advised_accuracy"), Budget(), "quickstart", tmp_path)
    page, text = ((tmp_path / f"report.{ending}").read_text() for ending in ("html", "md"))
    report = json.loads((tmp_path / "report.json").read_text())
    (advice,) = report["advice"]
    assert (advice["id"], advice["support"], advice["images"]) == ("advised0", "digits.support", 24)
    assert advice["mislabelled"] == told["mislabelled"]
    assert page.count("The support set") == text.count("## The support set") == 1
    for said in (page, text):
        for word in ("train/1.jpg", "train/7.jpg", "The pool differs from the", "60", "10 images of each class"):
            assert word in said, word
    assert "<b>bolt" not in page
    assert "predicted" in page
    assert all(len(line) <= 80 for line in text.split("## The support set")[1].splitlines() if "www" not in line)


def test_the_accuracy_of_the_advice_is_not_taken_for_that_of_the_model(tmp_path: Path):
    run = run_with(tmp_path, found_by_the_stage())
    report = report_json(lineup(run.of(*ALL, "advised_accuracy")), Budget(), "quickstart")
    curve = next(each for each in report["advice"][0]["sentences"] if "nearest centroid" in each)
    assert curve.startswith("A nearest centroid classifier on the features of tuned, with 4 images of each class,")
    assert curve.endswith("of the support images held out. This is not the accuracy of the adapted model.")


def test_a_second_stage_with_the_same_support_and_model_says_nothing_new(tmp_path: Path):
    run = run_with(tmp_path, found_by_the_stage())
    named = {"method": "nearest_centroid"}
    advice = found_by_the_stage()
    run.checkpoint("baseline", "fewshot", 10, named, 0, advice, model="tuned", support="digits.support", **named)
    run.evaluation("baseline_accuracy", "baseline", 0.8)
    report = report_json(lineup(run.of(*ALL, "advised_accuracy", "baseline_accuracy")), Budget(), "quickstart")
    assert [advice["title"] for advice in report["advice"]] == ["The support set"]


def test_two_stages_have_two_sections_under_their_names(tmp_path: Path):
    run = run_with(tmp_path, found_by_the_stage(), stages=2)
    report = report_json(lineup(run.of(*ALL, "advised_accuracy")), Budget(), "quickstart")
    titles = [advice["title"] for advice in report["advice"]]
    assert titles == ["The support set of advised0", "The support set of advised1"]
    assert all(f"## {title}\n" in markdown(report) for title in titles)


@pytest.mark.parametrize(("per_class", "sentences"), [(1, 1), (2, 2)])
def test_of_a_tiny_support_little_is_said(tmp_path: Path, per_class: int, sentences: int):
    features, labels = clusters(per_class)
    told = advice(features, labels, ("a", "b", "c", "d"), [str(index) for index in range(len(labels))])
    assert told is not None
    run = run_with(tmp_path, told.as_json())
    report = report_json(lineup(run.of(*ALL, "advised_accuracy")), Budget(), "quickstart")
    assert len(report["advice"][0]["sentences"]) == sentences
    write_report(run.of(*ALL, "advised_accuracy"), Budget(), "quickstart", tmp_path)


def test_without_advice_there_is_no_section(tmp_path: Path):
    run = quickstart(tmp_path)
    write_report(run.of(*ALL), Budget(), "quickstart", tmp_path)
    assert "The support set" not in (tmp_path / "report.html").read_text() + (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["advice"] == []
