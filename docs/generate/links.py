"""Links of hand-written pages that lead out of docs/: the site does not hold their ends, so they lead to the project.

Links to single files, such as recipes, stay: Sphinx copies these files.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

from docs.generate.records import ROOT

LINK = re.compile(r"\[([^\]]+)\]\(([^)\s#:]+)\)")


def with_project_links(text: str, home: Path) -> str:
    """The text of a page in the folder `home`, its links to folders and to pages outside of docs/ changed."""
    return LINK.sub(lambda link: f"[{link[1]}]({_target(link[2], home)})", text)


def _target(link: str, home: Path) -> str:
    path = (home / link).resolve()
    is_outside = path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "docs")
    if not is_outside or not (path.is_dir() or path.suffix == ".md"):
        return link
    kind = "tree" if path.is_dir() else "blob"
    return f"{_homepage()}/{kind}/main/{path.relative_to(ROOT).as_posix()}"


@cache
def _homepage() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Homepage"])
