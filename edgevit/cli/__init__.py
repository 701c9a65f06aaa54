"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import io
import os
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from edgevit.cli import checks, environment, inspection, learning_rate, making, measuring, recipes, shipping
from edgevit.cli.machine import check_working_folder, explained
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

app = typer.Typer(
    name="edgevit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From images and a latency budget to a compact vision transformer on the device, with a report.",
    epilog="Start here: edgevit run quickstart · your own photos: edgevit init FOLDER",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgevit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    check_working_folder()


for title, commands in (
    ("Recipes", (recipes.run, recipes.why, learning_rate.lr_find, recipes.init, recipes.report, recipes.schema)),
    (
        "Files",
        (
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
            shipping.bundle,
            shipping.enroll,
        ),
    ),
    ("This machine", (environment.doctor, environment.models)),
):
    for command in commands:  # in their help, edgevit[extra] is no markup
        app.command(rich_help_panel=title, help=(command.__doc__ or "").replace("[", r"\["))(command)


def main() -> None:
    """Entry point. Exit status: 0 done; 1 a check or budget was not met; 2 the user can mend it; 70 a bug of ours."""
    # OpenMP threads that spin for long while they wait starve each other where other work shares the cores: training
    # was seen to run 3 to 15 times slower. Not spinning at all costs a third on idle cores; this little costs nothing
    # in either case. libgomp reads it when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):  # a character that the terminal's encoding lacks is shown by its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(_status_of_command())
    except EdgevitError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001 - what is not explained is a bug of ours
        said = explained(error)
        if said is None:
            traceback.print_exc()
            sys.exit(70)
        _fail(str(said), said.exit_code)


def _open_closed_streams() -> None:
    """Give a stream that the shell has closed (`>&-`) the null device, and with it the stream's own descriptor."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open until the process ends


def _status_of_command() -> str | int | None:
    """Run the command of the command line. It ends without a word where the reader of stdout (`| head`) has gone."""
    status: str | int | None = 0
    try:
        app()
    except SystemExit as ended:
        status = ended.code
    if status == INTERRUPTED:
        goes_on = sys.argv[1:2] == ["run"]
        said = "the same command goes on from here" if goes_on else "nothing was written"
        print(f"stopped; {said}", file=sys.stderr)
    if type(sys.stdout).__name__ == "PacifyFlushWrapper":  # typer met the closed pipe
        return 0
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _fail(message: str, status: int) -> NoReturn:
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(status)
