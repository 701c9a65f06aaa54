"""Pages of results say what the JSON files say, and so do the numbers that other pages cite."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.cifar10_exercise import STEPS
from docs.generate import numbers
from docs.generate.__main__ import main
from docs.generate.citations import CITATION, CitationError, cited_files, filled, found, number, paths_in
from docs.generate.records import RESULTS, ROOT, conditions_in, read_result, result_names, script_of
from docs.generate.results import index_page, result_page
from docs.generate.tables import TABLES, all_figures, tables_of, whole_path
from edgevit.configs import Evaluate, Profile
from edgevit.recipe import load_recipe

NAMES = result_names()


def test_every_result_has_a_page_in_the_index() -> None:
    assert sorted(path.stem for path in RESULTS.glob("*.json")) == NAMES
    assert len(NAMES) >= 22
    assert all(f"({name}.md)" in index_page(NAMES) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_how_and_where_its_numbers_were_measured(name: str) -> None:
    page = result_page(name)
    assert f"python -m benchmarks.{script_of(name).name}" in page
    for _, conditions in conditions_in(read_result(name)):
        assert conditions["made_at"][:10] in page
        assert conditions["target"]["hardware"]["model"] in page
        assert f"| torch | {conditions['packages']['torch']} |" in page or len(tables_of(name)) > 1


@pytest.mark.parametrize("name", NAMES)
def test_tables_have_rows_as_wide_as_their_heads(name: str) -> None:
    tables = tables_of(name)
    assert tables
    assert len({one.key for one in tables}) == len(tables)
    for one in tables:
        assert one.rows, one.key
        assert {len(row) for row in one.rows} == {len(one.header)}, one.key
        assert all(isinstance(cell, str) for row in one.rows for cell in row)


def test_no_table_is_of_a_result_that_is_not_there() -> None:
    assert set(TABLES) <= set(NAMES)


def test_a_result_without_tables_of_its_own_shows_all_its_numbers() -> None:
    result = {
        "conditions": {"python": 3},
        "a": {"value": 0.5, "low": 0.25, "high": 0.75},
        "b": [{"c": 2}, {"d": 0.125}],
    }
    assert all_figures(result).rows == (
        ("a", "0.5000 (0.2500 to 0.7500)"),
        ("b > 0 > c", "2.000"),
        ("b > 1 > d", "0.1250"),
    )


def test_the_quickstarts_table_against_the_file() -> None:
    result = json.loads((RESULTS / "quickstart.json").read_text(encoding="utf-8"))
    pixels, *models = tables_of("quickstart")[0].rows
    mean = sum(draw["nearest_centroid_on_pixels"] for draw in result["draws"]) / len(result["draws"])
    assert pixels[2].startswith(f"{100 * mean:.1f} (")
    for (_, _, top1, _, latency), name in zip(models, result["draws"][0]["p50_ms"], strict=True):
        assert top1.startswith(f"{100 * result['mean_top1'][name.replace('latency', 'accuracy')]:.1f} (")
        p50 = sorted(draw["p50_ms"][name] for draw in result["draws"])[len(result["draws"]) // 2]
        assert float(latency.removesuffix(" ms")) == pytest.approx(p50, rel=5e-3)


def test_the_table_of_a_result_of_the_quickstart_as_it_is_now() -> None:
    stages = [stage.id for stage in load_recipe(Path("quickstart")).stages]
    draw = {
        "stages": {name: {"seconds": 1.0} for name in stages},
        "wall_s": 9.0,
        "peak_rss_mib_so_far": 99.0,
        "top1": {name: 0.9 for name in stages if name.startswith("accuracy/")} | {"accuracy/int8": 0.875},
        "p50_ms": {name: 2.0 for name in stages if name.startswith("latency/")} | {"latency/int8": 0.5},
        "params": {"adapted": 11_181_642, "tuned": 1_220_000},
        "size_bytes": {"teacher_onnx": 2**22, "onnx": 2**21, "int8": 2**20},
        "nearest_centroid_on_pixels": 0.8,
    }
    points = {"median": 7.5, "min": 7.5, "max": 7.5}
    result = {
        "draws": [draw],
        "int8_points_above_nearest_centroid": points,
        "int8_points_below_its_float_model": points,
    }
    assert next(iter(whole_path.quickstart(result))).rows == (
        ("nearest centroid on raw pixels", "–", "80.0 (80.0 to 80.0)", "–", "–"),
        ("adapted teacher, ONNX", "11.18 M", "90.0 (90.0 to 90.0)", "4.00 MiB", "2.00 ms"),
        ("student, ONNX", "1.22 M", "90.0 (90.0 to 90.0)", "2.00 MiB", "2.00 ms"),
        ("student, INT8", "1.22 M", "87.5 (87.5 to 87.5)", "1.00 MiB", "0.500 ms"),
    )


def test_the_table_of_a_result_of_the_photos_as_it_is_now() -> None:
    top1, hurt = {"value": 0.5, "low": 0.25, "high": 0.75}, {"value": 0.25, "low": 0.125, "high": 0.5}
    stages = [stage.id for stage in load_recipe(Path("photos")).stages]
    figures = {"accuracy": {"top1": top1}, "shifted": {"corrupted_top1": hurt}, "latency": {"latency_ms": {"p50": 2.0}}}
    measured = {name: figures.get(name.partition("/")[0], {"size_bytes": 2**20}) for name in stages}
    result = {"measured": measured, "seconds": {}, "total_s": 1.0, "peak_rss_mib": 1.0}
    cells = ("50.0 (25.0 to 75.0)", "25.0 (12.5 to 50.0)", "1.00 MiB", "2.00 ms")
    assert next(iter(whole_path.photos(result))).rows == tuple(
        (title, *cells) for title in ("adapted teacher, ONNX", "student, ONNX", "student, INT8")
    )


def test_the_models_of_the_exercise_are_those_that_its_recipe_evaluates() -> None:
    recipe = load_recipe(Path("cifar10-10way-5shot"))
    evaluated = [stage.id.removeprefix("accuracy/") for stage in recipe.stages if isinstance(stage, Evaluate)]
    top1 = {name: {"value": 0.5} for name in evaluated}
    p50_ms = {stage.id: 2.0 for stage in recipe.stages if isinstance(stage, Profile)}
    draw = {"top1": dict.fromkeys(evaluated, 0.5), "size_bytes": {}}
    draws = [{"draw": 1, "p50_ms": p50_ms, **draw}, {"draw": 2, "p50_ms": {}, **draw}]
    models, steps = whole_path.cifar10_exercise(
        {"draws": draws, "top1": top1, "steps": {f"{a} - {b}": {"value": 0.0} for a, b in STEPS}}
    )
    assert len(models.rows) == len(evaluated)
    assert [row[-1] for row in models.rows].count("2.00 ms") == len(p50_ms)
    assert len(steps.rows) == len(STEPS)


def test_the_best_few_shot_methods_are_the_highest_of_each_side() -> None:
    found = read_result("omniglot_episodes")["settings"]["5-way 1-shot"]["methods"]
    theirs = max(one["value"] for name, one in found.items() if name.startswith("EasyFSL") and not one["transductive"])
    row = tables_of("omniglot_episodes")[0].rows[0]
    assert row[0] == "5-way 1-shot"
    assert row[2].startswith(f"{100 * theirs:.2f} ")


@pytest.mark.parametrize("path", cited_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_pages_cite_is_what_was_measured(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert filled(text) == text, "make figures"
    assert text.count("<!-- number:") + text.count("<!-- table:") == len(CITATION.findall(text))


def test_a_number_is_cited_by_its_path() -> None:
    top1 = read_result("quickstart")["mean_top1"]["accuracy/student"]
    assert number("quickstart > mean_top1 > accuracy/student as percent") == f"{100 * top1:.1f}%"
    assert number("quickstart > mean_top1 > accuracy/student as percent:2") == f"{100 * top1:.2f}%"
    draws = [draw["wall_s"] for draw in read_result("quickstart")["draws"]]
    assert number("quickstart > draws > * > wall_s as max number:0") == f"{max(draws):,.0f}"
    assert number("quickstart > draws > * > wall_s as count number:0") == str(len(draws))
    speed = read_result("overhead")["pipeline_over_by_hand"]
    expected = f"{speed['median']:.3f} ({speed['min']:.3f} to {speed['max']:.3f})"
    assert number("overhead > pipeline_over_by_hand as number:3") == expected
    row = "compression_peers > models > conv > rows > olive static, onnxruntime"
    assert found(row)["method"] == "static"


def test_a_citation_is_filled_in_once_and_for_all() -> None:
    text = "It reaches <!-- number: quickstart > mean_top1 > accuracy/student as percent -->1%<!-- end --> here.\n"
    once = filled(text)
    assert re.search(r"-->\d\d\.\d%<!-- end --> here\.", once)
    assert filled(once) == once
    table = filled("<!-- table: overhead -->\n<!-- end -->")
    assert "\n\n| figure | value | n |\n" in table
    assert filled(table) == table


@pytest.mark.parametrize(
    ("citation", "said"),
    [
        ("nowhere > a as percent", "there is no result 'nowhere'; one of calibration_images"),
        ("quickstart > top1 as percent", "no 'top1' there; one of conditions"),
        ("quickstart > mean_top1 > accuracy/student", "no format at the end"),
        ("quickstart > mean_top1 > accuracy/student as percents", "no 'percents'; one of mean"),
        ("quickstart > mean_top1 as percent", "this is no number, but dict"),
    ],
)
def test_a_citation_of_nothing_is_an_error(citation: str, said: str) -> None:
    with pytest.raises(CitationError, match=re.escape(said)):
        number(citation)


def test_a_table_that_is_not_there_is_an_error() -> None:
    with pytest.raises(CitationError, match="no table 'b'; one of figures"):
        filled("<!-- table: overhead > b --><!-- end -->")


@pytest.mark.parametrize("name", ["quickstart", "overhead", "stage_costs_photos"])
def test_every_path_that_is_listed_can_be_cited(name: str) -> None:
    paths = [path for path, _ in paths_in(name)]
    assert len(paths) > 3
    assert all(number(f"{path} as number") for path in paths)


def test_formats_of_numbers() -> None:
    assert [numbers.significant(3)(value) for value in (0.0967, 0.6955, 7.97, 42.71, 1658)] == [
        "0.0967", "0.696", "7.97", "42.7", "1,658",
    ]  # fmt: skip
    assert numbers.significant(3)(0) == "0.00"
    assert numbers.fixed(1, 100, "%")(-0.0234) == "−2.3%"
    assert numbers.fixed(1, 100, signed=True)(-0.0002) == "+0.0"
    assert numbers.points(0.101) == "+10.1"
    assert numbers.mebibytes(2**21) == "2.00 MiB"
    assert numbers.ranged({"value": 1.5, "low": None, "high": None}, numbers.ratio) == "1.50"
    assert numbers.ranged({"median": 0.683, "min": 0.637, "max": 0.725}, numbers.percent) == "68.3% (63.7 to 72.5)"
    assert numbers.plus_minus({"value": 0.679, "low": 0.674, "high": 0.684}, numbers.percents) == "67.9 ± 0.5"


def test_commands_of_writers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paths", "overhead"]) == 0
    assert "overhead > pipeline_over_by_hand" in capsys.readouterr().out
    assert main(["tables", "overhead"]) == 0
    assert "overhead > figures" in capsys.readouterr().out
    assert main(["paths", "nowhere"]) == 2
    assert "Results: calibration_images" in capsys.readouterr().err
