"""Tables of what a newcomer meets: the first commands of several tools, and of edgevit on own photos."""

from __future__ import annotations

from collections.abc import Iterator

from docs.generate.markdown import code
from docs.generate.numbers import fixed, ranged
from docs.generate.records import Json
from docs.generate.tables.cells import Table

_WITHOUT_NETWORK = "stopped: no network here"


def first_commands(result: Json) -> Iterator[Table]:
    tools = result["tools"]
    yield Table(
        "install",
        ("tool", "version", "license", "install", "seconds", "packages", "size"),
        tuple(
            (
                name,
                found["version"],
                found["license"],
                code(found["install"]["command"]),
                fixed(0)(found["install"]["seconds"]),
                str(found["install"]["packages"]),
                fixed(1, 2**-30, " GiB")(found["install"]["bytes"]),
            )
            for name, found in tools.items()
        ),
        "Each tool in an environment of its own. The license is what the package states. Most of each size is PyTorch "
        "with its CUDA libraries, which pip installs on Linux. Seconds include the download.",
    )
    yield Table(
        "commands",
        ("tool", "command", "shown in", "ends with", "seconds", "load before", "lines", "files written"),
        tuple(
            (
                name,
                code(step["command"]),
                step["source"],
                _ending(step),
                fixed(0)(step["seconds"]),
                fixed(1)(step["load_before"]),
                str(step["lines"]),
                _files(step["written"]),
            )
            for name, found in tools.items()
            for step in found["steps"]
        ),
        "A command that stopped for want of a network says nothing about the tool: this machine reaches no hub. The "
        "commands `without a network` start from random weights, so their answers mean nothing. Load is the mean "
        "number of busy processes in the minute before.",
    )


def newcomer(result: Json) -> Iterator[Table]:
    yield Table(
        "commands",
        ("command", "ends with", "seconds", "CPU seconds", "load before", "lines"),
        tuple(
            (
                code(command["command"]),
                _ending({"no_network": False, **command}),
                fixed(1)(command["seconds"]),
                fixed(1)(command["cpu_s"]),
                fixed(1)(command["load_before"]),
                str(command["lines"]),
            )
            for command in result["commands"]
        ),
        "The commands run one after the other in an empty folder with an empty home folder. Load is the mean number of "
        "busy processes in the minute before.",
    )
    yield Table(
        "totals",
        ("images", "commands", "pip install, seconds", "all commands, seconds"),
        (
            (
                str(result["images"]),
                str(result["count"]),
                fixed(0)(result["install"]["seconds"]),
                fixed(0)(result["seconds"]),
            ),
        ),
    )
    yield Table(
        "startup",
        ("what", "CPU seconds: median (least–most)"),
        tuple(
            (code(what), ranged(result[name], fixed(3)))
            for what, name in (("edgevit --help", "help_cpu_s"), ("import edgevit", "import_cpu_s"))
        ),
        "Of 20 runs each. `import edgevit` does not load torch."
        if not result["import_loads_torch"]
        else "Of 20 runs each. `import edgevit` loads torch.",
    )


def _ending(step: Json) -> str:
    if step["no_network"]:
        return _WITHOUT_NETWORK
    return "the time limit" if step["exit_status"] is None else f"exit status {step['exit_status']}"


def _files(written: Json) -> str:
    """`12, 1 in the home folder` without the places where nothing was written."""
    places = {"folder": "", "home": " in the home folder", "photos": " beside the photos"}
    counts = {place: found["files"] for place, found in written.items() if place in places}
    return ", ".join(f"{counts[name]}{words}" for name, words in places.items() if counts.get(name) or not words)
