"""Printing of findings about a machine: a table, then the command that mends each gap."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgevit.cli.output import command_as_called, echo
from edgevit.terminal import printable_line

if TYPE_CHECKING:
    from edgevit.findings import Finding

WIDTH = 80  # columns


def print_findings(findings: Sequence[Finding]) -> None:
    """Print each finding, and below them what is to be done. Long findings are wrapped, commands are not."""
    states, names = (max(map(len, column)) for column in zip(*_rows(findings), strict=True))
    indent = states + names + 4
    for (state, name), found in zip(_rows(findings), ("found", *(one.found for one in findings)), strict=True):
        lines = textwrap.wrap(printable_line(found), WIDTH - indent) or [""]
        echo(f"{state:<{states}}  {name:<{names}}  {lines[0]}".rstrip())
        for line in lines[1:]:
            echo(" " * indent + line)
    for finding in findings:
        if finding.mend:
            echo(f"{finding.name}: {command_as_called(finding.mend)}")


def _rows(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    return [("", "what"), *((finding.state, finding.name) for finding in findings)]
