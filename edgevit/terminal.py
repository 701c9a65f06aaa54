"""Text that may stand on a terminal: characters that would steer it, or that no encoding has, are written out."""

from __future__ import annotations

import re

# Control characters (among them ESC and the C1 set), changes of the direction of writing, separators of lines, the byte
# order mark, and halves of surrogate pairs, which stand for bytes of file names that are no UTF-8.
_STEERS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    """Text of several lines; `\\u001b` stands for ESC, as in JSON, so that JSON stays what it is."""
    return "\n".join(map(printable_line, text.split("\n")))


def printable_line(value: object) -> str:
    """A name or another value as text of one line: an end of a line in it is written out too."""
    return _STEERS.sub(lambda steering: f"\\u{ord(steering[0]):04x}", str(value))
