"""Links of hand-written pages that lead to a folder of the repository, which the site does not have."""

from __future__ import annotations

import re
from pathlib import Path

LINK = re.compile(r"\[([^\]]+)\]\(([^)\s#:]+)\)")


def without_folders(text: str, home: Path) -> str:
    """The text of a page in the folder `home`; where a link leads to a folder, its words stay alone."""
    return LINK.sub(lambda link: link[1] if (home / link[2]).is_dir() else link[0], text)
