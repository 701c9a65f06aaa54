"""The files of an open project agree with the code: CONTRIBUTING, AGENTS, CITATION, workflows, classifiers."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
from ruamel.yaml import YAML

from edgevit import __version__
from edgevit.cli import app

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = ("AGENTS.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md")
TEN_THINGS = (
    "a loss", "a few-shot head", "a runtime", "a section of the report", "a rule of a dialect", "a data source",
    "a command", "an option of a recipe", "the text of an error", "a benchmark",
)  # fmt: skip
TOPS = ("edgevit", "tests", "benchmarks", "recipes", "docs", ".github")
GROUPED: Any = typer.main.get_command(app)
COMMANDS = {
    name: command
    for top, one in GROUPED.commands.items()
    for name, command in (
        {f"{top} {low}": below for low, below in getattr(one, "commands", {}).items()} or {top: one}
    ).items()
}
MINORS = ("3.11", "3.12", "3.13")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def yaml_of(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


def targets_of_make() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))


def paths_in(page: str) -> set[str]:
    """Paths of the repository that stand between backticks; NAME in one stands for any name."""
    tops = "|".join(map(re.escape, TOPS))
    return set(re.findall(rf"`((?:{tops})/[^`\s]*)`", page))


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_somewhere(name: str) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text_of(name))]
    local = [link for link in links if link and not link.startswith("https://")]
    assert links
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_every_path_that_contributing_names_is_there() -> None:
    paths = paths_in(text_of("CONTRIBUTING.md"))
    assert len(paths) > 40
    assert [path for path in sorted(paths) if not list(ROOT.glob(path.replace("NAME", "*")))] == []


def test_the_packages_that_contributing_lists_are_those_there_are() -> None:
    listed = re.findall(r"^\| `edgevit/(\w+)/` \|", text_of("CONTRIBUTING.md"), re.MULTILINE)
    folders = [path.name for path in (ROOT / "edgevit").iterdir() if path.is_dir() and not path.name.startswith("__")]
    assert sorted(listed) == sorted(folders)


def test_contributing_says_where_to_change_each_of_ten_things() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", text_of("CONTRIBUTING.md"), re.MULTILINE)
    where = {thing: places for thing, places, _ in rows}
    assert tuple(thing for thing in where if thing in TEN_THINGS) == TEN_THINGS
    assert [thing for thing in TEN_THINGS if not paths_in(where[thing])] == []


def test_every_command_that_contributing_and_the_workflow_name_is_a_target_of_make() -> None:
    workflows = "".join(file.read_text(encoding="utf-8") for file in (ROOT / ".github" / "workflows").iterdir())
    named = set(re.findall(r"(?:`|run: |^)make ([a-z-]+)", text_of("CONTRIBUTING.md") + workflows, re.MULTILINE))
    assert named >= {"test", "lint", "coverage", "dist"}
    assert named <= targets_of_make()


def test_citation() -> None:
    citation = yaml_of(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    assert citation.keys() >= {"message", "title", "authors", "type"}
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]


def test_workflow() -> None:
    workflow = yaml_of(ROOT / ".github" / "workflows" / "ci.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["jobs"].keys() == {"lint", "tests", "package"}
    matrix = workflow["jobs"]["tests"]["strategy"]["matrix"]
    assert tuple(matrix["python"]) == MINORS
    assert matrix["os"] == ["ubuntu-latest", "macos-latest"]
    for job in workflow["jobs"].values():
        assert all(step.keys() & {"uses", "run"} for step in job["steps"])


@pytest.mark.parametrize("file", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").iterdir()), ids=lambda file: file.stem)
def test_issue_templates(file: Path) -> None:
    form = yaml_of(file)
    if file.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert form.keys() >= {"name", "description", "body"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) >= 3
    assert all(field["attributes"]["label"] for field in fields)


def test_pre_commit_runs_programs_of_the_environment() -> None:
    (repository,) = yaml_of(ROOT / ".pre-commit-config.yaml")["repos"]
    programs = {hook["entry"].split()[0] for hook in repository["hooks"]}
    assert programs == {f".venv/bin/{name}" for name in ("ruff", "lint-imports", "mypy")}
    assert all(hook["language"] == "system" for hook in repository["hooks"])


def test_classifiers_say_the_pythons_that_are_allowed() -> None:
    prefix = "Programming Language :: Python :: 3."
    classified = [one.removeprefix(prefix) for one in PROJECT["classifiers"] if one.startswith(prefix)]
    assert tuple(f"3.{minor}" for minor in classified) == MINORS
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


def test_every_url_is_of_one_project() -> None:
    assert PROJECT["urls"].keys() == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith(PROJECT["urls"]["Homepage"]) for url in PROJECT["urls"].values())


def test_every_command_answers_in_json_but_those_that_agents_names() -> None:
    without = {name for name, command in COMMANDS.items() if not any("--json" in one.opts for one in command.params)}
    assert without == {"init", "schema"}
    assert "Only `init` and `schema` have no `--json`" in text_of("AGENTS.md")


def test_agents_names_commands_and_options_that_exist() -> None:
    page = text_of("AGENTS.md")
    code = "".join(re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    named = {*re.findall(r"`edgevit ([a-z-]+)", page), *re.findall(r"^edgevit ([a-z-]+)", code, re.MULTILINE)}
    assert named >= {"run", "init", "schema", "quantize"}
    assert named <= GROUPED.commands.keys()
    options = {option for command in COMMANDS.values() for one in command.params for option in one.opts}
    assert set(re.findall(r"(--[a-z][a-z-]*)", page)) <= options | {"--help"}
