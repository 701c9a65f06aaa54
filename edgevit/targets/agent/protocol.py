"""Requests and replies: their limits, errors, and values that are checked before they are used."""

from __future__ import annotations

import base64
import binascii
import errno
import json
import re
from typing import Any, Dict, Mapping, Pattern

Json = Dict[str, Any]

VERSION = 1  # of the protocol
OWN_PYTHON = "edgevit-python"  # as a program in a command: the Python that runs the agent
LONGEST_REQUEST = 2 * 2**20  # bytes of a line
LONGEST_NAME = 1_000  # characters of a path, an argument, a name
LONGEST_TEXT = 2**16  # bytes of a file, of a command's stdout and of its stderr; the rest is cut off
MOST_TEXT = 2**21  # bytes of all files and outputs of one probe; further files and commands are left out
MOST_FILES = 2_000
MOST_COMMANDS = 100
MOST_PACKAGES = 100
MOST_HASHES = 10_000
LONGEST_COMMAND_S = 600
LARGEST_CHUNK = 2**20  # bytes
LARGEST_FILE = 2**40  # bytes
LARGEST_CARRIED = 2**28  # bytes of a file that programs carry from one job to the next
MOST_CARRIED = 10  # such files of a job
MOST_INPUTS = 1_000  # files of a job
MOST_OUTPUTS = 1_000  # files that a job writes; further ones are not listed
MOST_ARGUMENTS = 100
LONGEST_JOB_S = 86_400
LONGEST_WAIT_S = 30  # for the end of a job, in one request
ORPHAN_S = 600  # for jobs to end, after the input has ended
IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HASH = re.compile(r"[0-9a-f]{64}\Z")
NAME = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}"  # of a file in a job's folder
FILE_NAME = re.compile(NAME + r"\Z")
SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character: no path holds it
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}\Z")


class RequestError(Exception):
    """A request that cannot be done.

    Args:
        kind: for the client, such as bad_request or disk_full.
        what: for people.
        more: further values of the reply.
    """

    def __init__(self, kind: str, what: str, **more: Any) -> None:
        super().__init__(what)
        self.content = {"kind": kind, "what": what[:LONGEST_NAME], **more}


def request_from(line: bytes) -> Json:
    """A request with its number and its name. Raises RequestError if the line is none."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise RequestError("bad_request", "the line is no JSON") from None
    if not isinstance(request, dict) or not isinstance(request.get("id"), int):
        raise RequestError("bad_request", "a request is an object with a number `id`")
    text_in(request, "do")
    return request


def text_of(value: Any) -> str:
    """The value, if it is a short text that may be a path."""
    if not isinstance(value, str) or len(value) > LONGEST_NAME or "\0" in value or SURROGATE.search(value):
        raise RequestError("bad_request", f"a text of at most {LONGEST_NAME} characters is expected")
    return value


def hash_of(value: Any) -> str:
    """The value, if it is a SHA-256 in hexadecimal digits. So no name leads out of the folder."""
    if not HASH.match(text_of(value)):
        raise RequestError("bad_request", "a SHA-256 is 64 hexadecimal digits")
    return str(value)


def text_in(request: Json, name: str, default: str | None = None) -> str:
    """A text in a request; the default where it is left out."""
    value = request.get(name)
    return default if value is None and default is not None else text_of(value)


def number_in(request: Json, name: str, most: int) -> int:
    """A whole number from 0 to `most` in a request."""
    value = request.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise RequestError("bad_request", f"`{name}` is a whole number from 0 to {most}")
    return value


def list_in(request: Json, name: str, most: int) -> list[Any]:
    """A list in a request; empty where it is left out."""
    value = request.get(name, [])
    if not isinstance(value, list) or len(value) > most:
        raise RequestError("bad_request", f"`{name}` is a list of at most {most} items")
    return value


def hash_in(request: Any) -> str:
    """The hash in a request, or in an item of one."""
    if not isinstance(request, dict):
        raise RequestError("bad_request", "an object is expected")
    return hash_of(request.get("sha256"))


def chunk_in(request: Json, most: int) -> bytes:
    """The bytes of a chunk, which are at most `most`."""
    data = request.get("data")
    try:
        chunk = base64.b64decode(data if isinstance(data, str) else "!", validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("bad_request", "`data` is base64") from None
    if len(chunk) > min(most, LARGEST_CHUNK):
        raise RequestError("bad_request", "the chunk is too long")
    return chunk


def seconds_in(request: Json, name: str, most: float) -> float:
    """A time above 0 and at most `most` in a request."""
    value = request.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise RequestError("bad_request", f"`{name}` is a number of seconds above 0 and at most {most}")
    return value


def arguments_in(request: Json) -> list[str]:
    """The program and its arguments in a request."""
    arguments = [text_of(argument) for argument in list_in(request, "arguments", MOST_ARGUMENTS)]
    if not arguments or not arguments[0]:
        raise RequestError("bad_request", "`arguments` begins with a program")
    return arguments


def packages_of(variables: Mapping[str, str]) -> set[str]:
    """The names of the packages that environment variables lead to."""
    return set(re.findall("[0-9a-f]{64}", " ".join(variables.values())))


def texts_in(request: Json, name: str, most: int, keys: Pattern[str]) -> dict[str, str]:
    """An object of texts in a request; empty where it is left out."""
    value = request.get(name, {})
    if not isinstance(value, dict) or len(value) > most:
        raise RequestError("bad_request", f"`{name}` is an object of at most {most} entries")
    for key in value:
        if not keys.match(key):
            raise RequestError("bad_request", f"{key[:LONGEST_NAME]!r} is no name in `{name}`")
    return {key: text_of(text) for key, text in value.items()}
