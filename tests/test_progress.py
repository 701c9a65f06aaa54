"""Progress: plain lines where the output is no terminal."""

from __future__ import annotations

import io

import pytest

from edgevit.progress import ASCII, BLOCKS, PlainProgress, RichProgress, progress_for, sparkline


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


def test_a_terminal_gets_a_bar(capsys) -> None:
    progress = RichProgress()
    with progress.bar("train", 2, "images") as bar:
        bar.advance(1, loss=1.0)
        bar.advance(1)
    progress.say("[not markup]")
    assert "[not markup]" in capsys.readouterr().err


def test_a_sparkline_rises_with_its_values() -> None:
    assert sparkline(range(8), BLOCKS) == BLOCKS
    assert sparkline(range(800), BLOCKS, width=8) == BLOCKS
    assert sparkline([3.0, 1.0, 2.0], "_-#") == "#_-"
    assert sparkline([2.0, 2.0], ASCII) == "__"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_course_of_a_training_is_one_line_that_the_stream_can_show(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    losses = [1234.5678 / (step + 1) for step in range(500)]
    PlainProgress(stream).curves({"loss": losses, "val_top1": [0.11111, 0.98765], "test": [1.0]})
    stream.seek(0)
    (line,) = stream.read().splitlines()
    assert line.startswith("    loss 1.23e+03 ")
    assert line.endswith(" 2.47, val_top1 0.111 ▁█ 0.988" if encoding == "utf-8" else " 2.47, val_top1 0.111 _@ 0.988")
    assert len(line) <= 80


def test_no_course_no_line() -> None:
    stream = io.StringIO()
    PlainProgress(stream).curves({"loss": [1.0], "val_top1": []})
    assert stream.getvalue() == ""
