"""Symbolic links in a data set's folder: what lies outside of the folder is no part of the data set."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from edgevit.errors import DataError


def leads_out(path: Path, root: Path) -> bool:
    """Whether `path`, its links followed, lies outside of the folder `root`."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def refuse_links_out(files: Iterable[Path], root: Path) -> None:
    """Raise DataError for the first of these files that lies, its links followed, outside of the folder `root`."""
    for file in files:
        if leads_out(file, root):
            raise DataError(
                "this file leads out of the data set's folder",
                where=file,
                got=os.path.realpath(file),
                next="put the file itself here, or name the folder that it lies in as the data set's path",
            )
