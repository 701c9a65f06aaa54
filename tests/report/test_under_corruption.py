"""Accuracies under corruption have a section of their own, and never stand in for a model's accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgevit.configs import CORRUPTIONS, Budget
from edgevit.report.build import report_json, write_report
from edgevit.report.text.report import markdown
from edgevit.report.variants import lineup
from tests.report.measured_run import ALL, MeasuredRun, quickstart

HURT = ("hurt_engine", "hurt_teacher", "hurt_student")  # not in the order of the models


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MeasuredRun:
    run = quickstart(tmp_path_factory.mktemp("run"))
    run.corrupted("hurt_teacher", "adapted", 0.9)
    run.corrupted("hurt_student", "tuned", 0.8)
    run.corrupted("hurt_engine", "engine", 0.7)
    return run


def report_of(run: MeasuredRun, *names: str) -> dict[str, Any]:
    return report_json(lineup(run.of(*names)), Budget(top1_drop=0.02), "quickstart")


@pytest.mark.parametrize("names", [(*ALL, *HURT), (*HURT, *ALL)])
def test_the_answer_is_that_without_corruption(run: MeasuredRun, names: tuple[str, ...]):
    with_hurt, without = report_of(run, *names), report_of(run, *ALL)
    assert len(with_hurt.pop("corruptions")) == 1
    assert without.pop("corruptions") == []
    assert with_hurt == without


def test_a_model_without_another_accuracy_has_that_of_the_clean_images(run: MeasuredRun):
    models = lineup(run.of("accuracy", "latency", "hurt_student"))
    top1 = {variant.id: variant.accuracy.top1.value for variant in models.variants if variant.accuracy}
    assert top1 == {"tuned": pytest.approx(0.8, abs=0.01), "engine": pytest.approx(0.9375)}


def test_models_stand_side_by_side_from_teacher_to_engine(run: MeasuredRun):
    (group,) = report_of(run, *ALL, *HURT)["corruptions"]
    assert [model["id"] for model in group["models"]] == ["adapted", "tuned", "engine"]
    assert group["kinds"] == list(CORRUPTIONS)
    assert (group["data"], group["n"], group["severities"]) == ("digits.test", 400, [1, 2, 3, 4, 5])
    for model, accuracy in zip(group["models"], (0.9, 0.8, 0.7), strict=True):
        assert model["top1"]["value"] == pytest.approx(accuracy)
        assert model["by_kind"]["blur"]["value"] == pytest.approx(0.7 * accuracy, abs=0.002)
        assert model["by_kind"]["fog"]["value"] == pytest.approx(0.4 * accuracy, abs=0.002)
        assert model["mean"]["value"] == run.made[model["evaluation"]].metrics["corrupted_top1"]["value"]


@pytest.mark.parametrize(
    "options", [{"kinds": ["fog"]}, {"severities": [5]}, {"seed": 1}, {"max_images": 100, "images": 100}]
)
def test_other_images_have_a_table_of_their_own(tmp_path: Path, options: dict[str, Any]):
    run = quickstart(tmp_path)
    run.corrupted("hurt_engine", "engine", 0.7)
    run.corrupted("hurt_student", "tuned", 0.7, **options)
    groups = report_of(run, *ALL, "hurt_engine", "hurt_student")["corruptions"]
    assert [[model["id"] for model in group["models"]] for group in groups] == [["tuned"], ["engine"]]


def test_two_evaluations_of_one_model_are_told_apart(run: MeasuredRun, tmp_path: Path):
    run = quickstart(tmp_path)
    run.corrupted("one", "engine", 0.7)
    run.corrupted("other", "engine", 0.6, max_images=999)
    (group,) = report_of(run, *ALL, "one", "other")["corruptions"]
    assert [model["id"] for model in group["models"]] == ["engine@one", "engine@other"]


def test_report_md_has_the_table_in_80_columns(run: MeasuredRun):
    text = markdown(report_of(run, *ALL, *HURT))
    assert max(map(len, text.splitlines())) <= 80
    section = text.split("## Under corruption")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    assert rows[0] == ["corruption", "adapted", "tuned", "engine"]
    assert [row[0] for row in rows[2:]] == ["none", *CORRUPTIONS, "mean of all kinds"]
    assert rows[2][1:] == ["90.0%", "80.0%", "70.0%"]
    assert "cannot be compared with ImageNet-C" in " ".join(section.split())


def test_many_models_go_on_in_a_further_table(tmp_path: Path):
    run = quickstart(tmp_path)
    names = [f"a_model_with_a_long_name_{index}" for index in range(4)]
    for name in names:
        run.onnx(
            name, "export", 1000, {"precision": "float32"}, model="tuned", opset=(17, 18, 19, 21)[names.index(name)]
        )
        run.corrupted(f"hurt_{name}", name, 0.5)
    section = markdown(report_of(run, *(f"hurt_{name}" for name in names))).split("## Under corruption")[1]
    assert max(map(len, section.splitlines())) <= 80
    assert [section.count(name) for name in names] == [1, 1, 1, 1]
    assert section.count("| mean of all kinds") == 2


def test_the_page_shows_table_and_plot(run: MeasuredRun, tmp_path: Path):
    write_report(run.of(*ALL, *HURT), Budget(), "quickstart", tmp_path)
    html = (tmp_path / "report.html").read_text()
    section = html.split("<h2>Under corruption</h2>")[1].split("</section>")[0]
    assert section.count("<svg") == 2
    assert "var(--accent)" in section
    assert all(f'<th scope="row">{name}</th>' in section for name in ("none", *CORRUPTIONS, "mean of all kinds"))
    assert all(section.count(name) == 3 for name in ("adapted", "tuned", "engine"))  # one column, two legends
    assert json.loads((tmp_path / "report.json").read_text())["corruptions"][0]["n"] == 400
    write_report(run.of(*ALL), Budget(), "quickstart", tmp_path)
    assert "Under corruption" not in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_the_same_measurements_give_the_same_bytes(run: MeasuredRun, tmp_path: Path):
    pages = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write_report(run.of(*ALL, *HURT), Budget(), "quickstart", tmp_path / name)
        pages.append((tmp_path / name / "report.html").read_bytes())
    assert pages[0] == pages[1]
