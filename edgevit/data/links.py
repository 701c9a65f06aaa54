"""Symbolic links in a data set's folder. Files outside of the folder are not part of the data set."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from edgevit.errors import DataError


def leads_out(path: Path, root: Path) -> bool:
    """Whether `path`, with symbolic links resolved, is outside of the folder `root`."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def refuse_links_out(files: Iterable[Path], root: Path) -> None:
    """Raise DataError for the first file that, with symbolic links resolved, is outside of the folder `root`."""
    for file in files:
        if leads_out(file, root):
            raise DataError(
                "this path leads out of the data set's folder",
                where=file,
                got=os.path.realpath(file),
                next="replace the link by the file itself, or give the folder of the file as the data set's path",
            )
