"""The program that times engines in turns on a board. Python 3.8 or later, and nothing else.

edgevit starts `python -B turns.py TRTEXEC`, with the words of the command of trtexec, in a folder that holds turns.json
and the files that it names:

    {"engines": [ENGINE, …], "orders": [[1, 0, …], …]}

    ENGINE  {"name": the engine's name, "arguments": the arguments of trtexec for it,
             "times": the file of times that it then writes}

In each start, trtexec runs once for each engine, in the order of that start, and loads it anew. The result is
starts.json: for each start a list of the contents of the files of all engines, in the order of `engines`. If a run of
trtexec fails, the program ends as trtexec did, and before that writes a line to stderr:

    edgevit-turns: failed: NAME
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Sequence

Json = Dict[str, Any]

REQUEST, RESULT = "turns.json", "starts.json"


class Failed(Exception):
    """A run of trtexec has failed, with this exit status; negative for a signal."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def times_of(trtexec: Sequence[str], engine: Json) -> str:
    """The text of the file of times that one run writes. Raises Failed if the run fails."""
    file = Path(engine["times"])
    with contextlib.suppress(FileNotFoundError):
        file.unlink()  # of the start before
    status = subprocess.call([*trtexec, *engine["arguments"]], stdin=subprocess.DEVNULL)
    if status:
        print(f"edgevit-turns: failed: {engine['name']}", file=sys.stderr, flush=True)
        raise Failed(status)
    return file.read_text(encoding="utf-8")


def write_starts(trtexec: Sequence[str], request: Json) -> None:
    """Write the times of all starts into RESULT."""
    with open(RESULT, "w", encoding="utf-8") as file:
        for start, order in enumerate(request["orders"]):
            times = {index: times_of(trtexec, request["engines"][index]) for index in order}
            file.write(f"{',' if start else '['}[{','.join(times[index] for index in sorted(times))}]")
        file.write("]")


def main() -> int:
    """Do the request. Returns the exit status."""
    try:
        write_starts(sys.argv[1:], json.loads(Path(REQUEST).read_text(encoding="utf-8")))
    except Failed as failed:
        if failed.status < 0:
            os.kill(os.getpid(), -failed.status)
        return failed.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
