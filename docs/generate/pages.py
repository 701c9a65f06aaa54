"""All generated pages, and where they are written."""

from __future__ import annotations

from pathlib import Path

from docs.generate.api import api_pages
from docs.generate.commands import command_pages
from docs.generate.options import option_pages
from docs.generate.results import result_pages

FOLDERS = ("reference", "results")  # hold generated pages alone


def generated_pages() -> dict[str, str]:
    """Every generated page, by its path below docs/."""
    return {**option_pages(), **command_pages(), **api_pages(), **result_pages()}


def write_pages(docs: Path) -> None:
    """Write every generated page that has changed, and remove pages that are generated no more."""
    pages = generated_pages()
    for folder in FOLDERS:
        for old in (docs / folder).rglob("*.md"):
            if old.relative_to(docs).as_posix() not in pages:
                old.unlink()
    for name, text in pages.items():
        path = docs / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
