"""The reference of commands, read from the functions of the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

from typer.models import ArgumentInfo, CommandInfo, OptionInfo, ParamMeta
from typer.utils import get_params_from_function

from docs.generate.markdown import code, page, plain, table, toctree
from docs.generate.words import as_recipe
from edgevit.cli import EXIT_STATUSES, app

PLACEHOLDERS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}
EXAMPLE = "Example: "


class Parameter(NamedTuple):
    """An argument or an option of a command."""

    flag: str  # empty for an argument
    placeholder: str  # empty for a flag that takes no value
    help: str
    default: Any  # ... where it must be given

    @property
    def is_required(self) -> bool:
        return self.default is ...

    @property
    def usage(self) -> str:
        """`--out PATH`, or `MODEL`."""
        return f"{self.flag} {self.placeholder}".strip()


def command_pages() -> dict[str, str]:
    """Every page of the reference of commands, by its path below docs/."""
    pages = {
        f"reference/commands/{_file(name)}.md": command_page(name, command) for name, command in commands().items()
    }
    return {"reference/commands/index.md": commands_page(), **pages}


def commands() -> dict[str, CommandInfo]:
    """The commands by their names, in the order of `edgevit --help`; those of a group follow, such as `devices add`."""
    own = {_callback(command).__name__.replace("_", "-"): command for command in app.registered_commands}
    grouped = {
        f"{group.info.name} {command.name}": command
        for group in (registered.typer_instance for registered in app.registered_groups)
        if group is not None
        for command in group.registered_commands
    }
    return {**own, **grouped}


def commands_page() -> str:
    """All commands, and what their exit statuses mean."""
    rows = [
        (f"[{code(name)}]({_file(name)}.md)", str(command.rich_help_panel), plain(_paragraphs(command)[0]))
        for name, command in commands().items()
    ]
    return page(
        "Commands",
        "`edgevit COMMAND --help` shows the same text. With `--json`, a command writes its answer for programs.",
        table(("command", "group", "what it does"), rows),
        _exit_statuses(),
        toctree(map(_file, commands()), "hidden"),
    )


def command_page(name: str, command: CommandInfo) -> str:
    """One command: its synopsis, what it does, an example, its arguments and its options."""
    given = parameters(command)
    arguments, options = ([one for one in given if bool(one.flag) is wanted] for wanted in (False, True))
    paragraphs = _paragraphs(command)
    example = [text.removeprefix(EXAMPLE) for text in paragraphs if text.startswith(EXAMPLE)]
    return page(
        f"`edgevit {name}`",
        *(plain(text) for text in paragraphs if not text.startswith(EXAMPLE)),
        _block(synopsis(name, given)),
        "## Example" if example else "",
        *map(_block, example),
        "## Arguments" if arguments else "",
        *map(_entry, arguments),
        "## Options",
        *map(_entry, options),
        "Exit statuses are the same [for all commands](#exit-status).",
        target=f"command-{_file(name)}",
    )


def synopsis(name: str, given: list[Parameter]) -> str:
    """`edgevit compile --out PATH [OPTIONS] MODEL`."""
    required = [one.usage for one in given if one.flag and one.is_required]
    arguments = [one.usage if one.is_required else f"[{one.usage}]" for one in given if not one.flag]
    return " ".join(["edgevit", name, *required, "[OPTIONS]", *arguments])


def parameters(command: CommandInfo) -> list[Parameter]:
    """The arguments and options of a command, in the order of its function; former names of options are hidden."""
    given = get_params_from_function(_callback(command)).values()
    taken = [one for one in given if isinstance(one.default, OptionInfo | ArgumentInfo)]  # no typer.Context
    return [_parameter(one) for one in taken if not getattr(one.default, "hidden", False)]


def _parameter(given: ParamMeta) -> Parameter:
    info = given.default
    assert isinstance(info, OptionInfo | ArgumentInfo)
    flag = (info.param_decls or [f"--{given.name}"])[0] if isinstance(info, OptionInfo) else ""
    placeholder = info.metavar or _placeholder(given.annotation, "" if flag else given.name)
    return Parameter(flag, placeholder, info.help or "", info.default)


def _placeholder(annotation: Any, name: str) -> str:
    if get_origin(annotation) in (Union, UnionType, list):
        return _placeholder(get_args(annotation)[0], name)
    if get_origin(annotation) is tuple:
        return " ".join(_placeholder(one, name) for one in get_args(annotation))
    return "" if annotation is bool else name.upper() or PLACEHOLDERS[annotation]


def _entry(given: Parameter) -> str:
    """An argument or an option in a list of definitions, with its default."""
    if given.is_required:
        return f"{code(given.usage)} (required)\n: {plain(given.help)}"
    default = "" if given.default in (None, False, []) else f" (default {code(as_recipe(given.default))})"
    return f"{code(given.usage)}{default}\n: {plain(given.help)}"


def _exit_statuses() -> str:
    rows = [(str(status), meaning) for status, meaning in EXIT_STATUSES.items()]
    return f"(exit-status)=\n## Exit status\n\n{table(('status', 'meaning'), rows)}"


def _paragraphs(command: CommandInfo) -> list[str]:
    return [" ".join(text.split()) for text in inspect.cleandoc(_callback(command).__doc__ or "").split("\n\n")]


def _file(name: str) -> str:
    """The name of a command's page, without its ending."""
    return name.replace(" ", "-")


def _callback(command: CommandInfo) -> Callable[..., Any]:
    assert command.callback is not None
    return command.callback


def _block(command: str) -> str:
    return f"```sh\n{command}\n```"
