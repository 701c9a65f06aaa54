"""Text for people: control characters, or those that cannot be encoded, are escaped; differences are in points."""

from __future__ import annotations

import re

# Control characters (with ESC and the C1 set), changes of the direction of writing, line separators, the byte order
# mark, and halves of surrogate pairs, which stand for bytes of file names that are not UTF-8.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    """Text of several lines with control characters escaped as in JSON: `\\u001b` for ESC. JSON stays valid."""
    return "\n".join(map(printable_line, text.split("\n")))


def printable_line(value: object) -> str:
    """A value as one line of text. Line ends in it are escaped too."""
    return _CONTROLS.sub(lambda control: f"\\u{ord(control[0]):04x}", str(value))


def points(fraction: float) -> str:
    """A difference of accuracies: 0.4 points, −1.2."""
    return f"{100 * fraction:.1f}".replace("-0.0", "0.0").replace("-", "−")
