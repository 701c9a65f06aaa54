"""The generated reference has every stage, data source, objective, option, command and public module."""

from __future__ import annotations

import importlib.util
import re

import pytest
from pydantic import BaseModel
from typer.models import CommandInfo

import edgevit
from docs.generate.api import PARTS, api_pages, public_names
from docs.generate.commands import command_page, commands, commands_page, parameters, synopsis
from docs.generate.markdown import plain, sentence, table
from docs.generate.options import CHOSEN_BY, SHARED, inner_records, option_pages
from docs.generate.pages import generated_pages
from docs.generate.words import as_recipe, default_in_words, type_in_words, unit_of
from edgevit.cli import EXIT_STATUSES
from edgevit.configs import DATASETS, OBJECTIVES, STAGES, Distill, Evaluate, Load, Prune, Quantize, Stage
from edgevit.errors import CheckFailed, EdgevitError
from edgevit.recipe import Recipe

PAGES = option_pages()
RECORDS: list[type[BaseModel]] = [Recipe, *STAGES.values(), *DATASETS.values(), *OBJECTIVES.values(), *inner_records()]
OPTIONS = {
    f"{record.__name__}.{name}": info
    for record in dict.fromkeys(RECORDS)
    for name, info in record.model_fields.items()
    if name not in CHOSEN_BY
}


def headings(page: str) -> list[str]:
    return re.findall(r"^#{2,3} `(\w+)`$", page, re.MULTILINE)


def link(records: object) -> str:
    return "a record"


def test_every_option_is_described_in_sentences() -> None:
    assert len(OPTIONS) > 300
    said = {name: info.description or "" for name, info in OPTIONS.items()}
    assert [name for name, text in said.items() if not (text[:1].isupper() and text.endswith("."))] == []


def test_a_unit_in_the_name_of_an_option_is_said() -> None:
    units = {name: unit_of(name, info) for name, info in OPTIONS.items()}
    assert [name for name, unit in units.items() if unit not in type_in_words(name, OPTIONS[name], link)] == []
    named = [name for name in OPTIONS if re.search(r"_(ms|mib|db|s|degrees)$", name)]
    assert len(named) >= 6
    assert [name for name in named if not units[name] or units[name] not in (OPTIONS[name].description or "")] == []


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_a_page_with_every_option(name: str) -> None:
    config: type[Stage] = STAGES[name]
    page = PAGES[f"reference/stages/{name}.md"]
    shared = [headings(PAGES[f"reference/{SHARED[base]}.md"]) for base in SHARED if issubclass(config, base)]
    shown = [*headings(page), *(option for options in shared for option in options)]
    assert set(config.model_fields) - CHOSEN_BY <= set(shown)
    assert f"[`{name}`]({name}.md)" in PAGES["reference/stages/index.md"]
    assert page.count("### `id`") == 1


def test_every_data_source_objective_and_group_is_shown_with_its_options() -> None:
    for page, records in (("data", DATASETS), ("objectives", OBJECTIVES)):
        text = PAGES[f"reference/{page}.md"]
        for name, record in records.items():
            section = re.split(r"^## ", text, flags=re.MULTILINE)
            (own,) = [part for part in section if f"`{name}`" in part.splitlines()[0]]
            assert set(record.model_fields) - CHOSEN_BY == set(re.findall(r"^### `(\w+)`$", own, re.MULTILINE))
    groups = {record.__name__ for record in inner_records()}
    assert groups >= {"Budget", "FewShotDraw", "Splits", "Augmentation", "Stream", "TeacherCache", "WeightedTeacher"}
    for record in inner_records():  # type: ignore[assignment]
        assert set(record.model_fields) - CHOSEN_BY <= set(headings(PAGES["reference/records.md"]))


def test_a_default_that_a_stage_changes_stands_on_its_own_page() -> None:
    qat = PAGES["reference/stages/qat.md"]
    assert "### `learning_rate`" in qat
    assert "default `0.0001`" in qat
    assert "../training.md#learning_rate)" not in qat
    assert "../training.md#epochs)" in qat
    assert "default `0.0005`" in PAGES["reference/training.md"]


@pytest.mark.parametrize(
    ("record", "name", "words", "default"),
    [
        (Load, "model", "text", "required"),
        (Load, "image_size", "whole number of pixels, at least 1 and at most 8,192", "not set by default"),
        (Load, "pretrained", "`true` or `false`", "default `false`"),
        (Load, "weights", "path of a file", "not set by default"),
        (Prune, "keep_macs", "number, above 0 and at most 1", "not set by default"),
        (Prune, "structures", "list, each item: `heads`, `hidden` or `blocks`", "default `[heads, hidden]`"),
        (Quantize, "min_sqnr_db", "number of decibels, at least -1,000 and at most 1,000", "not set by default"),
        (Quantize, "max_top1_drop", "number, at least 0 and below 1", "not set by default"),
        (Quantize, "model", "id of an earlier stage that makes an ONNX file", "required"),
        (
            Evaluate,
            "model",
            "id of an earlier stage that makes a checkpoint, an ONNX file or a compiled model",
            "required",
        ),
        (
            Distill,
            "objectives",
            "list, each item: a record",
            "default `[{loss: cross_entropy, weight: 0.5}, {loss: hard, weight: 0.5}]`",
        ),
        (Recipe, "datasets", "mapping of names, each value: a record", "required"),
    ],
)
def test_types_and_defaults_in_words(record: type[BaseModel], name: str, words: str, default: str) -> None:
    info = record.model_fields[name]
    assert type_in_words(name, info, link) == words
    assert default_in_words(info) == default


def test_values_as_a_recipe_has_them() -> None:
    assert as_recipe({"a": [True, 0.5, 1e-4, "text", ()]}) == "{a: [true, 0.5, 0.0001, text, []]}"


@pytest.mark.parametrize("name", commands())
def test_a_command_has_a_page_with_every_option(name: str) -> None:
    command: CommandInfo = commands()[name]
    page = command_page(name, command)
    given = parameters(command)
    assert f"[`{name}`]({name.replace(' ', '-')}.md)" in commands_page()
    assert f"edgevit {name} " in synopsis(name, given) + " "
    assert all(f"`{one.usage}`" in page for one in given)
    assert all(one.help for one in given)
    assert "## Example" in page


def test_options_of_a_command_have_their_defaults() -> None:
    page = command_page("quantize", commands()["quantize"])
    assert "`--images INTEGER` (default `256`)" in page
    assert "`--out PATH` (required)" in page
    assert "`--bias-correction`\n" in page
    assert "--normalise" not in command_page("export", commands()["export"])
    assert synopsis("quantize", parameters(commands()["quantize"])) == (
        "edgevit quantize --calibration PATH --out PATH [OPTIONS] MODEL"
    )


def test_exit_statuses_are_all_explained() -> None:
    assert {0, EdgevitError.exit_code, CheckFailed.exit_code, 70, 130} == set(EXIT_STATUSES)
    assert all(f"| {status} | {meaning} |" in commands_page() for status, meaning in EXIT_STATUSES.items())


def test_public_names_and_modules_are_there() -> None:
    pages = api_pages()
    for title, modules in PARTS.items():
        page = pages[f"reference/api/{title.lower().replace(' ', '-')}.md"]
        for module in modules:
            assert importlib.util.find_spec(module) is not None, module
            assert f".. automodule:: {module}\n   :members:" in page
    assert {"load", "run", "export", "quantize", "compare", "profile"} <= set(public_names())
    assert set(public_names()) == {name for name in edgevit.__all__ if name != "__version__"}
    assert all(f":: edgevit.{name}\n" in pages["reference/api/edgevit.md"] for name in public_names())


def test_each_page_has_one_title() -> None:
    for name, text in generated_pages().items():
        without_code = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        assert len(re.findall(r"^# ", without_code, re.MULTILINE)) == 1, name


def test_texts_of_the_code_are_no_markup() -> None:
    assert plain("FOLDER/*.jpg, or *.png with --set A=B") == r"FOLDER/\*.jpg, or \*.png with `--set` A=B"
    assert plain("`a_b --c`, d_e") == r"`a_b --c`, d\_e"
    assert sentence("a text") == "A text."
    assert sentence("Ends well!") == "Ends well!"
    assert table(("a", "b"), [("x|y", "1.5"), ("z", "–")]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1.5 |\n| z | – |"
