"""targets.yaml: which file wins, what is kept as a target comes and goes, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgevit.cli import app
from edgevit.configs import MachineTarget
from edgevit.errors import RecipeError, TargetError
from edgevit.targets.named import (
    add_target,
    each_target,
    groups_by_name,
    named_target,
    project_file,
    remove_target,
    targets_by_name,
    user_file,
)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder, which is the current one, and a folder of settings beside it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


def write(file: Path | None, text: str) -> Path:
    assert file is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_this_machine_is_built_in() -> None:
    assert {name: target.config for name, target in targets_by_name().items()} == {"local-cpu": None, "local-gpu": None}


def test_the_projects_file_wins(folders: Path) -> None:
    write(user_file(), "orin: {host: ssh://home}\nthor: {host: ssh://thor}\n")
    project = write(project_file(), "orin: {host: 'ssh://me@office:2222', python: python3.10}\n")
    targets = targets_by_name()
    assert list(targets) == ["local-cpu", "local-gpu", "orin", "thor"]
    assert targets["orin"].config == MachineTarget(host="ssh://me@office:2222", python="python3.10")
    assert targets["orin"].file == project
    assert named_target("orin", folders).config == MachineTarget(host="ssh://home")  # another project


def test_where_the_users_file_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert user_file() == tmp_path / "config" / "edgevit" / "targets.yaml"
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CONFIG_HOME", unset)
        assert user_file() == tmp_path / ".config" / "edgevit" / "targets.yaml"


def test_a_target_comes_and_goes_and_the_rest_stays() -> None:
    text = "# my boards\nthor: # on the shelf\n  host: ssh://thor\n  power_mode: 70W\n"
    file = write(project_file(), text)
    config = MachineTarget(host="ssh://me@orin", runtime="tensorrt", python="'/my python/bin' -s")
    add_target("orin", config, file)
    assert file.read_text().startswith(text)
    assert "work_folder" not in file.read_text()  # a default stays in one place
    assert named_target("orin").config == config
    remove_target("orin", file)
    assert file.read_text() == text
    remove_target("thor", file)
    assert file.read_text() == "# my boards\n"
    add_target("orin", config, file)
    assert named_target("orin").config == config
    assert file.read_text().startswith("# my boards\n")


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "dotfiles" / "targets.yaml", "")
    project_file().symlink_to(elsewhere)
    add_target("orin", MachineTarget(host="ssh://orin"), project_file())
    assert project_file().is_symlink()
    assert elsewhere.read_text() == "orin:\n  host: ssh://orin\n"


def test_a_name_is_taken_once() -> None:
    add_target("orin", MachineTarget(host="ssh://a"), project_file())
    with pytest.raises(RecipeError, match="already a target 'orin'"):
        add_target("orin", MachineTarget(host="ssh://b"), project_file())
    assert named_target("orin").config == MachineTarget(host="ssh://a")


@pytest.mark.parametrize("name", ["local-cpu", "local-gpu", "", "-x", "a b", "ä", "x" * 65, "a/b", "../a", "a\n"])
def test_a_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(RecipeError):
        add_target(name, MachineTarget(host="ssh://a"), project_file())
    assert not project_file().exists()
    write(project_file(), f"{name!r}: {{host: ssh://a}}\n".replace("\\n", "\n"))
    if name != "a\n":
        with pytest.raises(RecipeError, match=r"targets\.yaml:1"):
            targets_by_name()


def test_an_unknown_name_gets_the_nearest() -> None:
    add_target("orin-nano", MachineTarget(host="ssh://a"), project_file())
    with pytest.raises(TargetError, match="there is no target 'orin-nan'") as caught:
        named_target("orin-nan")
    assert caught.value.next == "Did you mean 'orin-nano'?"
    with pytest.raises(TargetError) as caught:
        named_target("xyz")
    assert caught.value.next == "edgevit devices list"
    with pytest.raises(TargetError) as caught:
        remove_target("orin", project_file())
    assert caught.value.next == "Did you mean 'orin-nano'?"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("orin: {host: ssh://a}\norin: {host: ssh://b}", 2, "duplicate key"),
        ("orin:\n  host: ssh://a\n  pyton: x", 3, "'pyton' is no key of target 'orin'. Did you mean 'python'?"),
        ("orin:\n  python: python3", 1, "target 'orin' needs the key 'host'"),
        ("orin:\n  host: orin.local", 2, "'host' of target 'orin': an address is ssh://"),
        ("orin:\n  host: ssh://me:secret@a", 2, "holds no password"),
        ("orin:\n  host: ssh://a\n  clocks: max", 3, "'clocks' of target 'orin'"),
        ("orin:\n  host: 7", 2, "'host' of target 'orin'"),
        ("orin: ssh://orin", 1, "target 'orin' is not a mapping"),
        ("orin:", 1, "target 'orin' is not a mapping"),
        ("1: {host: ssh://a}", 1, "a key should be text"),
        ("- orin", None, "not a list of targets by name"),
        ("orin: {host: !!python/object x}", 1, "tag is not supported"),
        ("orin: [", None, "not valid YAML"),
    ],
)
def test_a_mistake_in_a_file_is_said_with_its_line(text: str, line: int | None, says: str) -> None:
    file = write(project_file(), text)
    with pytest.raises(RecipeError) as caught:
        targets_by_name()
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{file}:{line}: " if line else str(file))


def test_a_file_that_is_no_text_or_too_large(tmp_path: Path) -> None:
    for content in (b"\xff\xfe", b"#" * 2_000_000):
        project_file().write_bytes(content)
        with pytest.raises(RecipeError):
            targets_by_name()
    project_file().write_bytes(b"")
    assert len(targets_by_name()) == 2
    assert os.listdir(project_file().parent) == ["targets.yaml"]


def test_a_group_stands_for_its_targets() -> None:
    write(user_file(), "orin: {host: ssh://orin}\nboards: [orin]\nlab: [orin]\n")
    file = write(project_file(), "pi: {host: ssh://pi}\nboards: [pi, orin, pi]\nall: [local-cpu, pi]\n")
    assert {name: group.members for name, group in groups_by_name().items()} == {
        "boards": ("pi", "orin"), "lab": ("orin",), "all": ("local-cpu", "pi")
    }  # fmt: skip
    assert each_target(["orin", "all", "boards"]) == ("orin", "local-cpu", "pi")
    assert set(targets_by_name()) == {"local-cpu", "local-gpu", "orin", "pi"}
    with pytest.raises(TargetError, match=r"'boards' is a group of targets(.|\n)*one of pi, orin"):
        named_target("boards")
    with pytest.raises(TargetError, match="there is no target 'borads'"):
        each_target(["borads"])
    with pytest.raises(TargetError, match="'pi' is in the group 'boards'"):
        remove_target("pi", file)
    remove_target("boards", file)
    remove_target("all", file)
    remove_target("pi", file)
    assert each_target(["boards"]) == ("orin",)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ("oron", r"names no target: oron(.|\n)*did you mean 'orin'"),
        ("other", "names no target: other"),
    ],
)
def test_a_member_that_is_no_target_stops_those_who_name_the_group(members: str, message: str) -> None:
    text = f"orin: {{host: ssh://orin}}\nboards: [orin, {members}]\nother: [orin]\n"
    write(project_file(), text)
    assert each_target(["orin", "other"]) == ("orin",)
    with pytest.raises(TargetError, match=f"(?i){message}"):
        each_target(["boards"])


def test_a_target_of_both_files_may_leave_one() -> None:
    user = write(user_file(), "orin: {host: ssh://orin}\nlab: [orin]\n")
    project = write(project_file(), "orin: {host: ssh://other}\n")
    remove_target("orin", project)
    with pytest.raises(TargetError, match="'orin' is in the group 'lab'"):
        remove_target("orin", user)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("boards: []", "group 'boards' is no list of targets"),
        ("boards: [orin, [pi]]", "group 'boards' is no list of targets"),
        ("local-cpu: [orin]", "built in"),
    ],
)
def test_what_is_no_group_is_refused(text: str, message: str) -> None:
    write(project_file(), f"orin: {{host: ssh://orin}}\n{text}\n")
    with pytest.raises(RecipeError, match=f"(?i){message}"):
        each_target(["orin"])


@pytest.mark.parametrize(
    ("key", "value"), [("python", "/bin/sh -c 'touch ran'"), ("work_folder", "/tmp/of-a-stranger")]
)
def test_a_projects_file_does_not_choose_what_runs_here(
    key: str, value: str, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, home = folders / "project", folders / "config" / "edgevit" / "targets.yaml"
    write(project / "targets.yaml", f'pc: {{host: local, {key}: "{value}"}}\n')
    assert isinstance(CliRunner().invoke(app, ["devices", "check", "pc"]).exception, RecipeError)
    assert not (project / "ran").exists()
    with pytest.raises(RecipeError, match=f"'{key}' of target 'pc'") as caught:
        named_target("pc")
    assert (str(caught.value.where), value in str(caught.value.got)) == (f"{project / 'targets.yaml'}:1", True)
    assert str(home) in str(caught.value.expected)
    home.parent.mkdir(parents=True)
    (project / "targets.yaml").rename(home)
    assert getattr(named_target("pc").machine, key) == value
    monkeypatch.chdir(home.parent)  # now the user's file is that of the current folder, too
    assert getattr(named_target("pc").machine, key) == value


def test_a_target_of_this_machine_is_not_written_into_a_projects_file(folders: Path) -> None:
    add = ["devices", "add", "pc", "local", "--project"]
    refused = CliRunner().invoke(app, [*add, "--python", "python3.12"])
    assert isinstance(refused.exception, RecipeError)
    assert not (folders / "project" / "targets.yaml").exists()
    assert CliRunner().invoke(app, [*add, "--tensorrt", "trtexec"]).exit_code == 0
    assert named_target("pc").machine.is_here
