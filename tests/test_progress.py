"""Progress: plain lines where the output is no terminal."""

from __future__ import annotations

import io

from edgevit.progress import PlainProgress, RichProgress, progress_for


def test_plain_lines_carry_rate_and_values() -> None:
    stream = io.StringIO()
    progress = progress_for(stream)
    assert isinstance(progress, PlainProgress)
    with progress.bar("train", 10, "images") as bar:
        bar.advance(10, loss=0.5)
    line = stream.getvalue()
    assert "train: 10/10 images in 0 s" in line
    assert "loss 0.5" in line
    assert "\x1b" not in line


def test_a_line_at_most_every_so_often() -> None:
    stream = io.StringIO()
    with PlainProgress(stream, every_s=3600).bar("train", 1000) as bar:
        for _ in range(1000):
            bar.advance()
    assert stream.getvalue().count("\n") == 1


def test_a_terminal_gets_a_bar(capsys) -> None:  # type: ignore[no-untyped-def]
    progress = RichProgress()
    with progress.bar("train", 2, "images") as bar:
        bar.advance(1, loss=1.0)
        bar.advance(1)
    progress.say("[not markup]")
    assert "[not markup]" in capsys.readouterr().err
