"""What the README shows runs, and every recipe is valid. Guides have tests of their own: test_guides.py."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from edgevit.recipe import load_recipe
from tests.known_machine import keep_timings
from tests.named_board import name_a_board
from tests.reader_folder import ROOT, make_folder, run

README = (ROOT / "README.md").read_text()
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"), key=lambda file: file.stem)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line and not line.startswith("#")]
QUICK = [line for line in COMMANDS if line.startswith("edgevit init")]
NOT_HERE = {
    "make test": "is what runs this",
    "pip install .": "changes the environment; the tests of the wheel install it in a fresh one",
    "edgevit run photos.yaml": "takes pretrained weights from a hub; checked with --dry-run",
}
SLOW = [line for line in COMMANDS if line not in QUICK and line not in NOT_HERE]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reader, with photos/CLASS/*.png."""
    folder = tmp_path_factory.mktemp("readme")
    make_folder(folder)
    keep_timings(10)
    return folder


def test_the_readme_begins_with_its_two_commands() -> None:
    assert COMMANDS[:2] == ["make quickstart", "make test"]
    assert len(COMMANDS) == 6


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.findall(r"[A-Z]+_TABLE|OVERHEAD", README)


@pytest.mark.slow
@pytest.mark.parametrize("command", QUICK)
def test_quick_commands(command: str, photos: Path) -> None:
    answer = run(command, photos)
    assert answer.returncode == 0, answer.stderr
    recipe = load_recipe(photos / "photos.yaml")
    assert recipe.budget.latency_ms == 10
    dry = run("edgevit run photos.yaml --dry-run", photos)
    assert dry.returncode == 0, dry.stderr
    assert "to run" in dry.stdout


@pytest.mark.slow
def test_long_commands(photos: Path, tmp_path: Path) -> None:
    for command in SLOW:
        if command.startswith("make"):
            answer = run("edgevit run quickstart --runs " + shlex.quote(str(tmp_path)), ROOT)
        else:
            answer = run(command, photos)
        assert answer.returncode == 0, f"{command}\n{answer.stderr}"


def test_every_command_of_the_table_exists() -> None:
    named = set(re.findall(r"`([\w-]+)`", "".join(line for line in README.splitlines() if line.startswith("| `"))))
    answer = run("edgevit --help", ROOT)
    shown = set(re.findall(r"^│ ([a-z][\w-]*) ", answer.stdout, re.MULTILINE))
    assert len(shown) == 23
    assert shown <= named


def test_recipes_are_there() -> None:
    names = {
        "cifar10-10way-5shot",
        "jetson",
        "methods",
        "photos",
        "pretrain",
        "pretrain-methods",
        "pretrain-vit",
        "quickstart",
        "students",
    }
    assert {recipe.stem for recipe in RECIPES} == names
    assert all(f"recipes/{recipe.name}" in README for recipe in RECIPES)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name_a_board(tmp_path, monkeypatch)
    loaded = load_recipe(recipe)
    assert loaded.name == recipe.stem
    stages = {stage.name() for stage in loaded.stages}
    assert stages >= {"evaluate", "report"}
    assert stages & {"distill", "pretrain"}
