"""infer.py --watch: the images of a folder are labelled as they come, until the program is stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgevit.bundling import write_bundle
from tests.bundling.small_model import small_model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    (out := folder / "bundle").mkdir()
    write_bundle(small_model(folder / "model"), out)
    program = out / "infer.py"
    slow, quick = "LOOK_SECONDS = 0.5", "LOOK_SECONDS = 0.05"
    assert slow in program.read_text()
    program.write_text(program.read_text().replace(slow, quick))
    return out


def image(file: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


@contextmanager
def watching(bundle: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-B", str(bundle / "infer.py"), "--json", "--watch", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def next_answer(running: subprocess.Popen[str]) -> dict[str, Any]:
    assert running.stdout is not None
    answer: dict[str, Any] = json.loads(running.stdout.readline())
    return answer


def test_images_are_labelled_as_they_come(bundle: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "incoming").mkdir()
    first = image(folder / "first.png", 1)
    command = [sys.executable, "-B", str(bundle / "infer.py"), "--json", str(first)]
    alone = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    with watching(bundle, folder) as running:
        assert next_answer(running) == alone  # it was there before
        (folder / "broken.png").write_bytes(b"\x89PNG, and no more")
        assert running.stderr is not None
        assert "broken.png: cannot be read as an image" in running.stderr.readline()
        second = image(folder / "second.png", 2)
        assert next_answer(running)["image"] == str(second)
        image(first, 3)  # changed: it is labelled again; the others are not
        assert next_answer(running)["image"] == str(first)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=30) == 0
        assert running.stdout is not None
        assert (running.stdout.read(), running.stderr.read()) == ("", "")


def test_a_folder_that_is_not_there_or_goes_away_ends_it(bundle: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "incoming").mkdir()
    with watching(bundle, folder) as running:
        image(folder / "first.png", 1)
        next_answer(running)
        (folder / "first.png").unlink()
        folder.rmdir()
        assert running.wait(timeout=30) == 2
        assert running.stderr is not None
        assert "expected: a folder of images" in running.stderr.read()
