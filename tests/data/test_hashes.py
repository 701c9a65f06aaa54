"""When an image's hash may be remembered, and when it has to be taken again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgevit.configs import ImageFolder
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.hashes import ImageStates, StoredFile, stamp_of
from edgevit.errors import DataError

from .conftest import MakeImages, write_image

AN_HOUR = (1_700_000_000, 1_700_000_000)


def digest(root: Path, cache: Path) -> str:
    config = ImageFolder.model_validate({"source": "image_folder", "path": str(root)})
    return dataset_artifacts({"photos": config}, root, ["photos"], cache)["photos"].digest


def exchanged(one: Path, other: Path) -> None:
    between = one.with_suffix(".between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def rewritten(one: Path, other: Path) -> None:
    """In place, so that the inode stays."""
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])


@pytest.mark.parametrize("swap", [exchanged, rewritten])
def test_images_of_equal_size_and_time_that_are_swapped_are_seen(
    tmp_path: Path, swap: Callable[[Path, Path], None]
) -> None:
    root, one, other = tmp_path / "photos", tmp_path / "photos/a/0.bmp", tmp_path / "photos/b/0.bmp"
    for file in (one, other):
        file.parent.mkdir(parents=True)
        write_image(file, str(file.parent.name))
        os.utime(file, AN_HOUR)
    before = digest(root, tmp_path / "states.json")
    swap(one, other)
    for file in (one, other):
        os.utime(file, AN_HOUR)
    assert one.stat().st_size == other.stat().st_size
    assert digest(root, tmp_path / "states.json") == digest(root, tmp_path / "none.json") != before
    swap(one, other)
    assert digest(root, tmp_path / "states.json") == before


@dataclass
class Failing:
    """A file that cannot be read at first."""

    file: Path
    errors: list[OSError] = field(default_factory=lambda: [PermissionError(13, "Permission denied")])

    @property
    def key(self) -> str:
        return str(self.file)

    def stamp(self) -> str:
        return stamp_of(self.file)

    def read(self) -> bytes:
        if self.errors:
            raise self.errors.pop()
        return self.file.read_bytes()


def test_an_image_that_cannot_be_read_now_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", "a")
    image, cache = Failing(tmp_path / "a.png"), tmp_path / "states.json"
    states = ImageStates(cache)
    assert [states.of([image])[0].problem for _ in range(2)] == ["Permission denied"] * 2  # for the whole of a run
    states.save()
    assert ImageStates(cache).of([image]) == ImageStates().of([StoredFile(tmp_path / "a.png")])


def test_an_image_that_is_written_while_it_is_hashed_is_hashed_again(tmp_path: Path) -> None:
    file, cache = tmp_path / "a.png", tmp_path / "states.json"
    write_image(file, "a")

    @dataclass(frozen=True)
    class Growing(StoredFile):
        def read(self) -> bytes:
            content = super().read()
            write_image(self.file, "b")
            return content

    states = ImageStates(cache)
    states.of([Growing(file)])
    states.save()
    assert not cache.exists()


def test_a_broken_image_is_a_fact_and_is_not_decoded_twice(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    states = ImageStates(tmp_path / "states.json")
    (state,) = states.of([StoredFile(tmp_path / "a.png")])
    states.save()
    ((stamp, sha256, problem),) = json.loads((tmp_path / "states.json").read_text())["files"].values()
    assert (stamp, sha256, problem) == (stamp_of(tmp_path / "a.png"), state.sha256, state.problem)
    assert "no known format" in problem


@pytest.mark.parametrize(
    "files", [{"x": 1}, {"x": [1]}, {"x": ["1 2", "00"]}, [1], None, {"x": [1, 2, 3, 4]}, {"x": [[1], {}, None]}]
)
def test_a_file_of_another_form_counts_as_none(tmp_path: Path, files: object) -> None:
    write_image(tmp_path / "a.png", "a")
    cache = tmp_path / "states.json"
    cache.write_text(json.dumps({"version": 2, "files": files}))
    assert ImageStates(cache).of([StoredFile(tmp_path / "a.png")]) == ImageStates().of([StoredFile(tmp_path / "a.png")])


def test_an_image_that_changes_during_a_run_is_never_read(make_images: MakeImages) -> None:
    root = make_images({"a": 2, "b": 2})
    config = ImageFolder.model_validate({"source": "image_folder", "path": str(root)})
    artifact = dataset_artifacts({"photos": config}, root, ["photos"])["photos"]
    data, file = open_dataset(artifact), root / "a/001.png"
    image, content = data.image(1), file.read_bytes()
    write_image(file, "another")
    with pytest.raises(DataError, match=r"a/001\.png: the image was changed while it was in use"):
        data.image(1)
    file.write_bytes(content)
    assert (data.image(1) == image).all()
    assert (data.subset([1, 0]).image(0) == image).all()  # type: ignore[arg-type]
    assert dataset_artifacts({"photos": config}, root, ["photos"])["photos"].digest == artifact.digest


def test_labels_that_change_during_a_run_are_noticed(tmp_path: Path) -> None:
    import numpy as np

    from edgevit.configs import Npz

    def write(labels: list[int]) -> None:
        np.savez(tmp_path / "a.npz", images=np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4), labels=labels)

    write([0, 1, 1])
    config = Npz.model_validate({"source": "npz", "path": str(tmp_path / "a.npz")})
    artifact = dataset_artifacts({"data": config}, tmp_path, ["data"])["data"]
    write([0, 1, 0])
    with pytest.raises(DataError, match="their labels changed, while they were in use"):
        open_dataset(artifact)


def test_hashes_are_not_written_through_a_link(make_images: MakeImages, tmp_path: Path) -> None:
    victim, cache = tmp_path / "victim", tmp_path / "hashes.json"
    victim.write_text("kept")
    (tmp_path / f"hashes.json.{os.getpid()}").symlink_to(victim)
    digest(make_images({"a": 2, "b": 2}), cache)
    assert victim.read_text() == "kept"
    assert not cache.is_symlink()
    assert json.loads(cache.read_text())["files"]
