"""Pages of results say what the JSON files say, and so do the numbers that other pages cite."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from docs.generate import numbers
from docs.generate.__main__ import main
from docs.generate.citations import CITATION, CitationError, cited_files, filled, found, number, paths_in
from docs.generate.records import RESULTS, ROOT, conditions_in, read_result, result_names, script_of
from docs.generate.results import index_page, result_page
from docs.generate.tables import TABLES, all_figures, tables_of

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
    rows = {row[0]: row[1:] for row in tables_of("quickstart")[0].rows}
    accuracy, latency = rows["student, INT8, compiled for this machine"]
    assert accuracy.startswith(f"{100 * result['mean_top1']['accuracy/engine']:.1f} (")
    p50 = sorted(draw["p50_ms"]["latency/engine"] for draw in result["draws"])[len(result["draws"]) // 2]
    assert float(latency.removesuffix(" ms")) == pytest.approx(p50, abs=5e-4)


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
    top1 = read_result("quickstart")["mean_top1"]["accuracy/engine"]
    assert number("quickstart > mean_top1 > accuracy/engine as percent") == f"{100 * top1:.1f}%"
    assert number("quickstart > mean_top1 > accuracy/engine as percent:2") == f"{100 * top1:.2f}%"
    draws = [draw["wall_s"] for draw in read_result("quickstart")["draws"]]
    assert number("quickstart > draws > * > wall_s as max number:0") == f"{max(draws):,.0f}"
    assert number("quickstart > draws > * > wall_s as count number:0") == str(len(draws))
    speed = read_result("overhead")["pipeline_over_by_hand"]
    expected = f"{speed['median']:.3f} ({speed['min']:.3f} to {speed['max']:.3f})"
    assert number("overhead > pipeline_over_by_hand as number:3") == expected
    row = "compression_peers > models > coatnet > rows > olive static, onnxruntime"
    assert found(row)["method"] == "static"


def test_a_citation_is_filled_in_once_and_for_all() -> None:
    text = "It reaches <!-- number: quickstart > mean_top1 > accuracy/engine as percent -->1%<!-- end --> here.\n"
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
        ("quickstart > mean_top1 > accuracy/engine", "no format at the end"),
        ("quickstart > mean_top1 > accuracy/engine as percents", "no 'percents'; one of mean"),
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
