"""The command line, as a new user meets it: help, examples, statuses, no colour, 80 columns."""

from __future__ import annotations

import inspect
import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.models import CommandInfo
from typer.testing import CliRunner

from edgevit import __version__
from edgevit.cli import app, main, making, measuring
from edgevit.cli.options import ConfigDefault
from edgevit.cli.output import command_as_called
from edgevit.configs import STAGES

COMMANDS = [command.callback.__name__.replace("_", "-") for command in app.registered_commands if command.callback]
EDGEVIT = str(Path(sys.executable).with_name("edgevit"))


def run(*arguments: str) -> str:
    answer = CliRunner(env={"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}).invoke(app, arguments)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The error that a command ends with, exit status 2 and no traceback."""
    monkeypatch.setattr(sys, "argv", ["edgevit", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    return error


def test_the_next_command_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    recipe = tmp_path / "some.yaml"
    recipe.write_text("name: some\ndatasets: {}\nstages: [{stage: load, id: model, model: resnet18}]\n")
    setting = "stages.model.model_args={pretrained_cfg_overlay: {interpolation: 'bicubic'}}"
    command = ["why", str(recipe), "--runs", str(tmp_path), "--set", setting]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0, answer.output
    said = answer.stderr.splitlines()[-1].removeprefix("next: ")
    assert shlex.split(said) == ["edgevit", "run", str(recipe), "--set", setting]


def test_the_commands_are_all_there() -> None:
    assert set(COMMANDS) == {
        "run", "why", "lr-find", "init", "select", "doctor", "models", "schema", "predict", "report",
        "export", "describe", "quantize", "compile", "evaluate", "profile", "compare", "estimate", "bundle", "enroll",
        "check", "inspect",
    }  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_in_80_columns(command: str) -> None:
    text = run(command, "--help")
    assert f"Example: edgevit {command}" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "\x1b" not in text


@pytest.mark.parametrize("command", app.registered_commands, ids=COMMANDS)
def test_help_says_what_the_docstring_says(command: CommandInfo) -> None:
    """Word for word: what stands in brackets is no markup."""
    assert command.callback is not None
    said = " ".join(run(command.callback.__name__.replace("_", "-"), "--help").split())
    assert " ".join((command.callback.__doc__ or "").split()) in said


def cpu_seconds(*command: str | Path) -> float:
    """Of the fastest of three runs."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(3))


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    assert cpu_seconds(EDGEVIT, "--help") < 5 * cpu_seconds(sys.executable, "-c", "import rich.console, typer")
    heavy = ("torch", "numpy", "onnx", "pydantic", "timm")
    code = f"import sys, edgevit.cli; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout.strip() == "[]"


def test_checking_a_recipe_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgevit import pipeline; from edgevit.recipe import load_recipe;"
        "from edgevit.context import Context; r = load_recipe(Path(sys.argv[1]));"
        "pipeline.why(r, Path('.'), Path(sys.argv[2]));"
        "print([m for m in ('torch', 'onnxruntime', 'timm') if m in sys.modules])"
    )
    recipe = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
    answer = subprocess.run([sys.executable, "-c", code, recipe, tmp_path], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_version() -> None:
    assert run("--version").strip() == f"edgevit {__version__}"


def test_models_lists_the_catalogue() -> None:
    entries = json.loads(run("models", "--json"))
    assert len(entries) >= 25
    assert all(entry["params"] < 30e6 for entry in entries)
    small = json.loads(run("models", "vit", "--max-params", "3", "--json"))
    assert small
    assert all("vit" in entry["name"] and entry["params"] <= 3e6 for entry in small)
    assert all(len(line) <= 100 for line in run("models").splitlines())


def test_schema_is_json_schema() -> None:
    schema = json.loads(run("schema"))
    assert schema["properties"]["stages"]
    assert schema["$schema"].startswith("https://json-schema.org/")


def test_doctor_tries_what_it_names() -> None:
    findings = {one["name"]: one for one in json.loads(run("doctor", "--json"))}
    for name in ("python", "torch on cpu", "timm", "onnxruntime"):
        assert findings[name]["state"] == "ok", findings[name]
    for one in findings.values():
        assert one["state"] == "ok" or one["mend"]


STAGE_COMMANDS = [making.export, making.quantize, making.compile, measuring.evaluate, measuring.profile]


@pytest.mark.parametrize("command", STAGE_COMMANDS)
def test_options_take_their_defaults_from_the_configs(command: Callable[..., None]) -> None:
    """Only None and False are written out: no other default stands in two places."""
    fields, options = STAGES[command.__name__].model_fields, inspect.signature(command).parameters
    shared = [name for name in options if name in fields and not fields[name].is_required()]
    assert shared
    for name in shared:
        default, of_field = options[name].default, fields[name].default
        if of_field in (None, False):
            assert default is of_field
        else:
            assert isinstance(default, ConfigDefault)
            assert default() == (", ".join(map(str, of_field)) if isinstance(of_field, tuple) else of_field)


def test_help_shows_the_defaults_of_the_configs() -> None:
    shown = " ".join(run("evaluate", "--help").replace("│", " ").split())
    assert "[default: 600]" in shown
    assert "[default: 1, 2, 3, 4, 5]" in shown
    assert "[default: brightness, darkness" in shown


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_flags_show_no_value(command: str | None) -> None:
    assert "<bool>" not in run(*filter(None, [command]), "--help")


def test_help_is_a_command_too() -> None:
    assert run("help") == run("--help") == run("help", "help") == run("help", "--help")
    assert run("help", "quantize") == run("quantize", "--help")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("quantise", "Did you mean 'quantize'?"),
        ("lr_find", "Did you mean 'lr-find'?"),
        ("tran", "'train' is a stage of a recipe: edgevit run RECIPE"),
        ("merge-tokens", "'merge_tokens' is a stage of a recipe"),
        ("xyz", "edgevit help lists all commands"),
        ("\x1b[31m", "There is no command '\\u001b[31m'"),
    ],
)
def test_a_wrong_command_is_answered_with_the_right_one(name: str, says: str) -> None:
    answer = CliRunner(env={"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}).invoke(app, [name])
    assert answer.exit_code == 2
    assert says in " ".join(answer.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("called", "original", "expected"),
    [
        ("edgevit", "python", "edgevit"),
        ("some/where/edgevit", "python", "some/where/edgevit"),
        ("/my tools/edgevit", "python", "'/my tools/edgevit'"),
        ("/lib/edgevit/__main__.py", "python3.12", "python3.12 -m edgevit"),
        ("/usr/bin/pytest", "python", "edgevit"),
    ],
)
def test_printed_commands_name_the_program_as_it_was_called(
    called: str, original: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(sys, "orig_argv", [original])
    assert command_as_called("edgevit init FOLDER writes one") == f"{expected} init FOLDER writes one"
    assert command_as_called("pip install edgevit; edgevit needs it") == "pip install edgevit; edgevit needs it"


def test_a_program_that_the_shell_finds_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edgevit").write_text("#!/bin/sh\n")
    (tmp_path / "edgevit").chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "edgevit")])
    assert command_as_called("edgevit doctor") == f"{tmp_path}/edgevit doctor"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command_as_called("edgevit doctor") == "edgevit doctor"


def test_errors_name_the_program_as_it_was_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bin/edgevit", "run", "none.yaml"])
    with pytest.raises(SystemExit):
        main()
    assert "\n  next: bin/edgevit init FOLDER writes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "none.yaml"], "there is no such recipe"),
        (["predict", "none.onnx", "image.png"], "none.onnx"),
        (["report", "none"], "there is no report here"),
        (["init", "none"], "there is no such folder"),
        (["export", "--model", "resnet81", "--classes", "3", "--out", "m.onnx"], "resnet81"),
        (["evaluate", ".", "--data", "."], "there is no model in this folder"),
        (["run", "none.yaml", "--device", "tpu"], "none.yaml"),
    ],
)
def test_errors_are_plain(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in fails(capsys, monkeypatch, *arguments)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """A real full disk: /dev/full takes no byte."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, which only Linux has")
    with open("/dev/full", "w") as full:
        answer = subprocess.run([EDGEVIT, "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert answer.returncode == 2
    assert "the disk is full" in answer.stderr


def test_output_without_a_terminal_has_no_colour() -> None:
    answer = subprocess.run(
        [EDGEVIT, "--help"], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"}
    )
    assert "\x1b" not in answer.stdout
