"""targets.yaml: the targets that a user has named, and those that are built in."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from edgevit.configs.targets import LOCAL_TARGETS, LONGEST_TARGET_NAME, MOST_TARGETS, TARGET_NAME, SshTarget
from edgevit.disks import config_folder, whole_or_not_at_all
from edgevit.errors import RecipeError, TargetError, did_you_mean, shortened
from edgevit.yaml_reader import Allowance, Block, read_yaml

FILE = "targets.yaml"


@dataclass(frozen=True)
class NamedTarget:
    """A target with its name.

    Attributes:
        config: how it is reached; None of a target on this machine.
        file: the file that names it; None of a target that is built in.
    """

    name: str
    config: SshTarget | None = None
    file: Path | None = None


def targets_by_name(folder: Path | None = None) -> dict[str, NamedTarget]:
    """Every target that can be named: those built in, of the user's file, and of the project's, which wins.

    Args:
        folder: the project's folder, such as that of a recipe; by default the current folder.

    Raises:
        RecipeError: a file is no valid targets.yaml; the error has the line.
    """
    targets = {name: NamedTarget(name) for name in LOCAL_TARGETS}
    for file in filter(None, (user_file(), project_file(folder))):
        targets.update(_targets_in(file))
    return targets


def named_target(name: str, folder: Path | None = None) -> NamedTarget:
    """The target with this name. Raises TargetError with the nearest name if there is none."""
    targets = targets_by_name(folder)
    if name not in targets:
        raise _no_target(name, targets)
    return targets[name]


def add_target(name: str, config: SshTarget, file: Path) -> None:
    """Write a target into a file. What else is in the file stays as it is, comments too.

    Raises RecipeError if the name is taken or is no name.
    """
    taken = _targets_in(file)
    _check_name(name, "NAME")
    if name in taken:
        next_step = f"edgevit devices remove {name}, or choose another name"
        raise RecipeError(f"there is already a target '{name}'", where=file, next=next_step)
    document = _editable(file)
    head = "" if document else _comments(file)
    document[name] = config.model_dump(exclude_defaults=True)
    _write(file, document, head)


def remove_target(name: str, file: Path) -> None:
    """Remove a target from a file. Raises TargetError if the file does not hold it."""
    held = _targets_in(file)
    if name not in held:
        raise _no_target(name, held, file)
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


def _targets_in(file: Path) -> dict[str, NamedTarget]:
    """The targets of a file; none if the file is not there."""
    if not file.exists():
        return {}
    document = read_yaml(file, Allowance())
    if document is None:
        return {}
    if not isinstance(document, Block) or len(document) > MOST_TARGETS:
        expected = f"NAME: {{host: ssh://user@host}}, at most {MOST_TARGETS:,} targets"
        raise RecipeError("this is not a list of targets by name", where=file, expected=expected)
    return {name: _target(name, entry, document.places[name], file) for name, entry in document.items()}


def _target(name: str, entry: Any, place: str, file: Path) -> NamedTarget:
    _check_name(name, place)
    try:
        return NamedTarget(name, SshTarget.model_validate(entry), file)
    except ValidationError as error:
        raise _mistake(name, entry, place, error.errors(include_url=False)[0]) from None


def _mistake(name: str, entry: Any, place: str, problem: Any) -> RecipeError:
    """The first of pydantic's problems, for the reader of the file."""
    keys = list(SshTarget.model_fields)
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
