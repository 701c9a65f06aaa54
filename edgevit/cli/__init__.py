"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import io
import os
import shlex
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from edgevit.cli import (
    checks,
    devices,
    environment,
    estimating,
    inspection,
    learning_rate,
    making,
    measuring,
    recipes,
    selecting,
    shipping,
)
from edgevit.cli.commands import Command, CommandGroup, help_of
from edgevit.cli.machine import check_working_folder, explained
from edgevit.cli.output import command_as_called
from edgevit.errors import EdgevitError
from edgevit.terminal import printable
from edgevit.version import __version__

INTERRUPTED = 130  # typer's status after Ctrl-C
EXIT_STATUSES = {
    0: "The command is done.",
    1: "A check, a parity gate, a budget or a comparison was not met.",
    2: "The input can be corrected. The error says how.",
    70: "edgevit has a bug. The traceback is shown.",
    INTERRUPTED: "The command was stopped with Ctrl-C.",
}
PANELS = {
    "Recipes": (
        recipes.run,
        recipes.why,
        learning_rate.lr_find,
        recipes.init,
        selecting.select,
        recipes.report,
        recipes.schema,
    ),
    "Files": (
        shipping.predict,
        making.export,
        making.describe,
        making.quantize,
        making.compile,
        checks.check,
        inspection.inspect,
        measuring.evaluate,
        measuring.profile,
        measuring.compare,
        estimating.estimate,
        shipping.bundle,
        shipping.enroll,
    ),
    "This machine": (environment.doctor, environment.models),
}
COMMANDS = (
    *(command.__name__.replace("_", "-") for commands in PANELS.values() for command in commands),
    "devices",
)

app = typer.Typer(
    name="edgevit",
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, compress and deploy small image classifiers within a latency budget, with a report.",
    epilog="Start: edgevit run quickstart. Your own photos: edgevit init FOLDER.",
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"edgevit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.", metavar="")
    ] = False,
) -> None:
    check_working_folder()


for title, commands in PANELS.items():
    for command in commands:
        app.command(cls=Command, rich_help_panel=title, help=help_of(command))(command)
app.add_typer(devices.devices, rich_help_panel="Targets")


def main() -> None:
    """Entry point. Exit status: 0 done; 1 a check or budget was not met; 2 the user can fix it; 70 a bug of edgevit."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):  # a character that the terminal's encoding lacks is shown by its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(_status_of_command())
    except EdgevitError as error:
        _fail(error)
    except Exception as error:  # noqa: BLE001 - an error without an explanation is a bug
        explanation = explained(error)
        if explanation is None:
            traceback.print_exc()
            sys.exit(70)
        _fail(explanation)


def _open_closed_streams() -> None:
    """Give a stream that the shell has closed (`>&-`) the null device, and with it the stream's own descriptor."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open until the process ends


def _status_of_command() -> str | int | None:
    """Run the command of the command line. It ends in silence if the reader of stdout (`| head`) has gone."""
    status: str | int | None = 0
    try:
        app()
    except SystemExit as ended:
        status = ended.code
    if status == INTERRUPTED:
        _print_interrupted()
    if type(sys.stdout).__name__ == "PacifyFlushWrapper":  # typer met the closed pipe
        return 0
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _print_interrupted() -> None:
    if sys.argv[1:2] == ["run"]:
        command = command_as_called(f"edgevit {shlex.join(sys.argv[1:])}")
        print(f"stopped; the same command continues from here\nnext: {printable(command)}", file=sys.stderr)
    else:
        print("stopped; nothing was written", file=sys.stderr)


def _fail(error: EdgevitError) -> NoReturn:
    """Print an error and end. The next command names the program as the user called it."""
    lines = [command_as_called(line) if line.startswith("  next: ") else line for line in str(error).splitlines()]
    print(printable("\n".join(["error: " + lines[0], *lines[1:]])), file=sys.stderr)
    sys.exit(error.exit_code)
