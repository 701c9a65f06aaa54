"""A target by the name `board`, as the recipe `jetson` expects it. Nobody answers there."""

from __future__ import annotations

from pathlib import Path

import pytest


def name_a_board(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a board in the targets.yaml of a user whose settings lie in a folder."""
    file = folder / "edgevit" / "targets.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("board: {host: ssh://me@board.local, runtime: tensorrt}\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
