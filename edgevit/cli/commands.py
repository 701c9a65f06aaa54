"""How the group of commands behaves: `edgevit help`, mistyped commands, and help that fits 80 columns."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand, TyperGroup

from edgevit.cli.program import program
from edgevit.errors import shortened
from edgevit.terminal import printable_line


class Command(TyperCommand):
    """A command whose usage names its arguments without braces, and whose --help takes no value."""

    def get_help_option(self, ctx: Any) -> Any:
        return _as_flag(super().get_help_option(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


class CommandGroup(TyperGroup):
    """The commands. `help` and `help COMMAND` show help; a wrong name is answered with the nearest right one."""

    def get_help_option(self, ctx: Any) -> Any:
        return _as_flag(super().get_help_option(ctx))

    def get_params(self, ctx: Any) -> list[Any]:
        return [_as_flag(option) if getattr(option, "is_flag", False) else option for option in super().get_params(ctx)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[:1] == ["help"]:
            args = [*(command for command in args[1:2] if command != "help"), "--help"]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(self.no_such_command(args[0]))
        return super().resolve_command(ctx, args)

    def no_such_command(self, name: str) -> str:
        """The error for a wrong name."""
        return _no_such_command(name, list(self.commands))


class SubcommandGroup(CommandGroup):
    """The commands below a command, such as `devices`."""

    def no_such_command(self, name: str) -> str:
        wrong = f"There is no command '{shortened(printable_line(name))}' of {self.name}."
        near = difflib.get_close_matches(name, list(self.commands), n=1)
        return f"{wrong} Did you mean '{near[0]}'?" if near else f"{wrong} It has: {', '.join(self.commands)}."


def help_of(command: Callable[..., Any]) -> str:
    """A command's docstring with each paragraph on one line, so that it wraps at any width. Brackets are no markup."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs).replace("[", r"\[")


def _no_such_command(name: str, commands: list[str]) -> str:
    """The error for a wrong name: the nearest command, or the recipe stage of this name."""
    from edgevit.configs import STAGES

    stages = [stage for stage in STAGES if stage not in commands]
    near = difflib.get_close_matches(name.replace("-", "_"), stages, n=1)
    near = difflib.get_close_matches(name, [*commands, *near], n=1) or near
    wrong = f"There is no command '{shortened(printable_line(name))}'."
    if not near:
        return f"{wrong} {program()} help lists all commands."
    if near[0] in commands:
        return f"{wrong} Did you mean '{near[0]}'?"
    return (
        f"{wrong} '{near[0]}' is a stage of a recipe: {program()} run RECIPE runs recipes, "
        f"{program()} init FOLDER writes one."
    )


def _as_flag(option: Any) -> Any:
    if option is not None:
        option.metavar = ""
    return option
