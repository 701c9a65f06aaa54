"""targets.yaml: the targets that a user has named, those that are built in, and groups of targets.

orin: {host: ssh://me@orin.local}
pi: {host: ssh://me@pi.local}
boards: [orin, pi]
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from edgevit.configs.targets import (
    LOCAL_TARGETS,
    LONGEST_TARGET_NAME,
    MOST_TARGETS,
    TARGET_NAME,
    THIS_HOST,
    MachineTarget,
)
from edgevit.disks import cache_folder, config_folder, whole_or_not_at_all
from edgevit.errors import RecipeError, TargetError, did_you_mean, shortened
from edgevit.yaml_reader import Allowance, Block, Items, read_yaml

FILE = "targets.yaml"
USERS_ALONE = ("python", "work_folder")  # of a target on this machine: they decide which programs run here


@dataclass(frozen=True)
class NamedTarget:
    """A target with its name.

    Attributes:
        config: its settings; None of a target that is built in.
        file: the file that names it; None of a target that is built in.
    """

    name: str
    config: MachineTarget | None = None
    file: Path | None = None

    @property
    def machine(self) -> MachineTarget:
        """How its agent is started, and where it keeps files. A built-in target has the Python that runs edgevit."""
        if self.config is not None:
            return self.config
        own, folder = MachineTarget(host=THIS_HOST, python=shlex.quote(sys.executable)), cache_folder()
        return own if folder is None else own.model_copy(update={"work_folder": os.path.abspath(folder)})


@dataclass(frozen=True)
class TargetGroup:
    """The names of several targets under one name, and the file that holds it."""

    name: str
    members: tuple[str, ...]
    file: Path


def targets_by_name(folder: Path | None = None) -> dict[str, NamedTarget]:
    """Every target that can be named: those built in, of the user's file, and of the project's, which wins.

    Args:
        folder: the project's folder, such as that of a recipe; by default the current folder.

    Raises:
        RecipeError: a file is no valid targets.yaml; the error has the line.
    """
    return _targets(_named(folder))


def groups_by_name(folder: Path | None = None) -> dict[str, TargetGroup]:
    """Every group of targets. Its members need not be targets. Raises RecipeError as `targets_by_name` does."""
    return {name: entry for name, entry in _named(folder).items() if isinstance(entry, TargetGroup)}


def each_target(names: Iterable[str], folder: Path | None = None) -> tuple[str, ...]:
    """The names of targets, each once. A group stands for its members.

    Raises:
        TargetError: a name is neither, or a member of the group is no target.
    """
    named, targets = _named(folder), list[str]()
    for name in names:
        entry = named.get(name)
        if entry is None:
            raise _no_target(name, _targets(named))
        targets += _checked_members(entry, named) if isinstance(entry, TargetGroup) else (name,)
    return tuple(dict.fromkeys(targets))


def named_target(name: str, folder: Path | None = None) -> NamedTarget:
    """The target with this name. Raises TargetError with the nearest name if there is none."""
    named = _named(folder)
    entry = named.get(name)
    if isinstance(entry, TargetGroup):
        what, expected = f"'{name}' is a group of targets", f"one of {', '.join(entry.members)}"
        raise TargetError(what, where=entry.file, expected=expected, next=f"edgevit profile --target {name}")
    if entry is None:
        raise _no_target(name, _targets(named))
    return entry


def add_target(name: str, config: MachineTarget, file: Path) -> None:
    """Write a target into a file. What else is in the file stays as it is, comments too.

    Raises RecipeError if the name is taken or is no name, or a project's file may not hold such a target.
    """
    taken = _entries_in(file)
    _check_name(name, "NAME")
    _check_may_be_in(file, name, config, {})
    if name in taken:
        next_step = f"edgevit devices remove {name}, or choose another name"
        raise RecipeError(f"there is already a target '{name}'", where=file, next=next_step)
    document = _editable(file)
    head = "" if document else _comments(file)
    document[name] = config.model_dump(exclude_defaults=True)
    _write(file, document, head)


def remove_target(name: str, file: Path) -> None:
    """Remove a target or a group from a file. Raises TargetError if the file does not hold it, or a group needs it."""
    held = _entries_in(file)
    if name not in held:
        raise _no_target(name, held, file)
    others = [entries for other in _files(None) if other != file and name in (entries := _entries_in(other))]
    for group in () if others else groups_by_name().values():
        if name in group.members:
            next_step = f"edgevit devices remove {group.name}, or take '{name}' out of it"
            raise TargetError(f"'{name}' is in the group '{group.name}'", where=group.file, next=next_step)
    document = _editable(file)
    del document[name]
    _write(file, document, "" if document else _comments(file))


def user_file() -> Path | None:
    """The user's targets.yaml, which need not be there; None if this user has no home."""
    folder = config_folder()
    return None if folder is None else folder / FILE


def project_file(folder: Path | None = None) -> Path:
    """The targets.yaml of a project, which need not be there."""
    return (folder or Path.cwd()) / FILE


def _targets(named: Mapping[str, NamedTarget | TargetGroup]) -> dict[str, NamedTarget]:
    return {name: entry for name, entry in named.items() if isinstance(entry, NamedTarget)}


def _checked_members(group: TargetGroup, named: Mapping[str, NamedTarget | TargetGroup]) -> tuple[str, ...]:
    known = _targets(named)
    for member in group.members:
        if member not in known:
            error = _no_target(member, known)
            what = f"the group '{group.name}' names no target: {shortened(member)}"
            raise TargetError(what, where=group.file, expected=error.expected, next=error.next)
    return group.members


def _named(folder: Path | None) -> dict[str, NamedTarget | TargetGroup]:
    """Every target and every group, by name."""
    named: dict[str, NamedTarget | TargetGroup] = {name: NamedTarget(name) for name in LOCAL_TARGETS}
    for file in _files(folder):
        named.update(_entries_in(file))
    return named


def _files(folder: Path | None) -> list[Path]:
    """The files that name targets. The last one wins."""
    return [*filter(None, (user_file(), project_file(folder)))]


def _entries_in(file: Path) -> dict[str, NamedTarget | TargetGroup]:
    """The targets and the groups of a file; none if the file is not there."""
    if not file.exists():
        return {}
    document = read_yaml(file, Allowance())
    if document is None:
        return {}
    if not isinstance(document, Block) or len(document) > MOST_TARGETS:
        expected = f"NAME: {{host: ssh://user@host}}, at most {MOST_TARGETS:,} targets"
        raise RecipeError("this is not a list of targets by name", where=file, expected=expected)
    return {name: _entry(name, entry, document.places[name], file) for name, entry in document.items()}


def _entry(name: str, entry: Any, place: str, file: Path) -> NamedTarget | TargetGroup:
    if not isinstance(entry, Items):
        return _target(name, entry, place, file)
    _check_name(name, place)
    if not entry or not all(isinstance(member, str) for member in entry):
        got, expected = shortened(list(entry)), "a list of names: [orin, pi]"
        raise RecipeError(f"group '{name}' is no list of targets", where=place, got=got, expected=expected)
    return TargetGroup(name, tuple(dict.fromkeys(entry)), file)


def _target(name: str, entry: Any, place: str, file: Path) -> NamedTarget:
    _check_name(name, place)
    try:
        config = MachineTarget.model_validate(entry)
    except ValidationError as error:
        raise _mistake(name, entry, place, error.errors(include_url=False)[0]) from None
    _check_may_be_in(file, name, config, entry.places)
    return NamedTarget(name, config, file)


def _check_may_be_in(file: Path, name: str, config: MachineTarget, places: Mapping[str, str]) -> None:
    """Raise RecipeError if a project's file says which program this machine runs, or takes programs from a folder.

    A project may come from a stranger. The agent runs the programs and packages that lie in its work folder.
    """
    own = user_file()
    chosen = config.model_dump(include=set(USERS_ALONE), exclude_defaults=True)
    if not config.is_here or not chosen or (own is not None and file.resolve() == own.resolve()):
        return
    key, value = next(iter(chosen.items()))
    raise RecipeError(
        f"'{key}' of target '{name}': the targets.yaml of a project does not choose what runs on this machine",
        where=places.get(key, file),
        got=f"host: {THIS_HOST}, {key}: {shortened(value)}",
        expected=f"the target in {own or 'targets.yaml of your config folder'}, or no {key}",
        next=f"edgevit devices add {name} {THIS_HOST} --{key.replace('_', '-')} VALUE, without --project",
    )


def _mistake(name: str, entry: Any, place: str, problem: Any) -> RecipeError:
    """The first of pydantic's problems, for the reader of the file."""
    keys = list(MachineTarget.model_fields)
    if not isinstance(entry, Block):
        return RecipeError(f"target '{name}' is not a mapping", where=place, expected="{host: ssh://user@host}")
    key = str(problem["loc"][0])
    where = entry.places.get(key, place)
    if problem["type"] == "extra_forbidden":
        hint = did_you_mean(key, keys) or f"It has: {', '.join(keys)}."
        return RecipeError(f"'{shortened(key)}' is no key of target '{name}'. {hint}", where=where)
    if problem["type"] == "missing":
        return RecipeError(f"target '{name}' needs the key '{key}'", where=where)
    message = str(problem["msg"]).removeprefix("Value error, ")
    return RecipeError(
        f"'{key}' of target '{name}': {message[0].lower()}{message[1:]}", where=where, got=shortened(problem["input"])
    )


def _check_name(name: str, where: str) -> None:
    if name in LOCAL_TARGETS:
        raise RecipeError(f"'{name}' is built in", where=where, next="choose another name")
    if len(name) > LONGEST_TARGET_NAME or not re.fullmatch(TARGET_NAME, name):
        raise RecipeError(
            "this is no name of a target",
            where=where,
            got=shortened(name),
            expected=f"at most {LONGEST_TARGET_NAME} letters, digits, '.', '_' and '-', a letter or a digit first",
        )


def _no_target(name: str, known: Iterable[str], file: Path | None = None) -> TargetError:
    known = list(known)
    next_step = did_you_mean(name, known) or "edgevit devices list"
    what = f"there is no target '{shortened(name)}'"
    return TargetError(what, where=file, expected=", ".join(known) or None, next=next_step)


def _editable(file: Path) -> Any:
    """The content of a file that was read before, with its comments."""
    if not file.exists():
        return {}
    return _round_trip().load(file.read_text(encoding="utf-8-sig")) or {}


def _comments(file: Path) -> str:
    """The comments of a file without targets, each a line."""
    lines = file.read_text(encoding="utf-8-sig").splitlines(keepends=True) if file.exists() else []
    return "".join(line for line in lines if line.startswith("#"))


def _write(file: Path, document: Any, head: str) -> None:
    text = io.StringIO()
    _round_trip().dump(document, text)
    with whole_or_not_at_all(file.resolve()) as part:  # a link to the file stays a link
        part.write_text(head + (text.getvalue() if document else ""), encoding="utf-8")


def _round_trip() -> YAML:
    yaml = YAML(typ="rt", pure=True)
    yaml.width = 10_000  # long values stay on their line
    return yaml
