"""Docstrings for Sphinx: they are written as plain text with code in backticks, and Sphinx reads reStructuredText."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

from docs.generate.markdown import OPTION, outside_code

SECTION = re.compile(r"^(Args|Attributes|Examples?|Notes?|Raises|Returns|Yields):$")
MARKUP = re.compile(r"([*|]|_(?!\w))")


def setup(app: Sphinx) -> dict[str, bool]:
    """Change docstrings before napoleon reads their sections, and shorten signatures."""
    app.connect("autodoc-process-docstring", _change, priority=400)
    app.connect("autodoc-process-signature", _shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def as_restructured_text(lines: list[str]) -> list[str]:
    """The docstring with blocks of code marked as such, and without characters that mean something elsewhere."""
    changed: list[str] = []
    in_section = in_block = False
    for index, line in enumerate(lines):
        if SECTION.match(line):
            in_section = True
        begins_block = line.startswith("    ") and not in_section and (index == 0 or not lines[index - 1].strip())
        if begins_block and not in_block and not line.strip().startswith(">>>"):
            changed += ["::", ""]
            in_block = True
        elif line and not line.startswith(" "):
            in_block = False
        changed.append(line if in_block or line.strip().startswith((">>>", "...")) else _escaped(line))
    return changed


def _change(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = as_restructured_text(lines)


def _shorten(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Names without their modules, where a default of a factory keeps Sphinx from reading a signature."""
    if signature is None or "<factory>" not in signature:
        return signature, returned
    return re.sub(r"~[\w.]*\.(?=\w)|~", "", signature).replace("<factory>", "..."), returned


def _escaped(line: str) -> str:
    """Stars, bars and a last underscore outside of code are no markup; `--options` are code."""
    return outside_code(line, lambda prose: OPTION.sub(r"`\g<0>`", MARKUP.sub(r"\\\1", prose)))
