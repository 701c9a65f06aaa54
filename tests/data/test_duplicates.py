"""Images that occur twice: refused where they would make a support or a result wrong, counted elsewhere."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgevit.artifacts import LEARNED_TOO
from edgevit.configs import Digits, FewShotDraw, ImageFolder
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.duplicates import Uses
from edgevit.data.hashes import StoredFile
from edgevit.errors import DataError

from .conftest import MakeImages

ROLES = ("photos.support", "photos.pool", "photos.test")
USES = Uses(
    tested=frozenset({"photos.test"}),
    learned=frozenset({"photos.support", "photos.pool"}),
    supports=frozenset({"photos.support"}),
)


def notes(root: Path, names: tuple[str, ...] = ROLES, uses: Uses = USES, shots: int = 2, **options: Any) -> list[str]:
    photos = ImageFolder(source="image_folder", path=str(root), few_shot=FewShotDraw(shots=shots), **options)
    other = ImageFolder(source="image_folder", path=str(root.parent / "other"), **options)
    made = dataset_artifacts({"photos": photos, "other": other}, Path(), names, uses=uses)
    return [note for artifact in made.values() for note in artifact.manifest.provenance["notes"]]


def test_without_duplicates_nothing_is_said(make_images: MakeImages):
    assert notes(make_images({"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2})) == []


def test_an_image_of_the_support_that_is_tested_is_refused_and_both_are_named(make_images: MakeImages):
    root = make_images({"train/a": 2, "train/b": 2, "test/a": 2, "test/b": 2})
    shutil.copy(root / "train/b/001.png", root / "test/b/copy.png")
    uses = replace(USES, learned=USES.supports)
    with pytest.raises(DataError, match=r"photos.test: images .* are also in the support 'photos.support'") as caught:
        notes(root, ("photos.support", "photos.test"), uses)
    assert caught.value.got == "1: test/b/copy.png is train/b/001.png"


def test_a_support_in_a_folder_of_its_own_is_one_too(make_images: MakeImages):
    root = make_images({"test/a": 2, "test/b": 2, "train/a": 1, "train/b": 1, "../other/a": 3, "../other/b": 3})
    shutil.copy(root / "../other/a/000.png", root / "test/a/copy.png")
    uses = Uses(frozenset({"photos.test"}), frozenset({"other"}), frozenset({"other"}))
    with pytest.raises(DataError, match="are also in the support 'other'"):
        notes(root, ("photos.test", "other"), uses)


def test_equal_images_are_counted_once_for_each_that_is_tested(make_images: MakeImages):
    root = make_images({"test/a": 2, "test/b": 2, "train/a": 1, "train/b": 1, "../other/a": 3, "../other/b": 3})
    for copy in ("other/a/001.png", "other/a/002.png", f"{root.name}/test/a/000.png", f"{root.name}/test/a/001.png"):
        shutil.copy(root / "../other/a/000.png", root.parent / copy)
    uses = Uses(frozenset({"photos.test"}), frozenset({"other"}), frozenset({"other"}))
    with pytest.raises(DataError) as caught:
        notes(root, ("photos.test", "other"), uses)
    assert str(caught.value.got).startswith("2: test/a/000.png is a/000.png")


def test_an_image_of_the_pool_that_is_tested_is_counted(make_images: MakeImages):
    root = make_images({"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 2})
    pool = set(pool_ids(root))
    for number, sample_id in enumerate(sorted(pool)[:3]):
        shutil.copy(root / sample_id, root / f"test/a/copy{number}.png")
    (note,) = notes(root)
    assert note == (
        "photos.test: 3 of the 7 images that accuracy is measured on are also in photos.pool, "
        "which models learn from without labels"
    )


def pool_ids(root: Path) -> tuple[str, ...]:
    photos = ImageFolder(source="image_folder", path=str(root), few_shot=FewShotDraw(shots=2))
    return open_dataset(dataset_artifacts({"photos": photos}, Path(), ["photos.pool"])["photos.pool"]).sample_ids


def test_a_large_labelled_set_is_counted_and_not_refused(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch):
    root = make_images({"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2})
    shutil.copy(root / "train/b/001.png", root / "test/b/copy.png")
    uses = Uses(frozenset({"photos.test"}), frozenset({"photos.train"}))
    (note,) = notes(root, ("photos.train", "photos.test"), uses)
    assert note.endswith("are also in photos.train, which models learn from")
    as_support = Uses(uses.tested, uses.learned, frozenset({"photos.train"}))
    with pytest.raises(DataError, match="in the support"):
        notes(root, ("photos.train", "photos.test"), as_support)
    monkeypatch.setattr("edgevit.data.duplicates.LARGEST_SUPPORT", 7)
    assert notes(root, ("photos.train", "photos.test"), as_support) == [note]


def test_measuring_on_the_support_itself_is_the_users_will_and_is_said():
    digits = {"digits": Digits(source="digits", few_shot=FewShotDraw(shots=5))}
    uses = Uses(frozenset({"digits.train"}), frozenset({"digits.support"}), frozenset({"digits.support"}))
    made = dataset_artifacts(digits, Path(), ["digits.support", "digits.train"], uses=uses)
    assert made["digits.train"].manifest.provenance["notes"] == [
        "digits.train: 50 of the 901 images that accuracy is measured on are also in digits.support, "
        "which models learn from"
    ]


def through_another_data_set(root: Path, uses: Uses, **options: Any) -> dict[str, Any]:
    """The artifacts of photos.test and of `again`, which reads the same folder."""
    photos = {name: ImageFolder(source="image_folder", **{"path": str(root), **more}) for name, more in
              (("photos", {}), ("again", options))}  # fmt: skip
    made = dataset_artifacts(photos, Path(), [*uses.tested, *uses.learned], uses=uses)
    return {name: one.manifest.provenance for name, one in made.items()}


def test_test_images_that_another_data_set_reads_again_with_labels_are_refused(make_images: MakeImages):
    root = make_images({"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2})
    uses = Uses(frozenset({"photos.test"}), frozenset({"again"}))
    with pytest.raises(DataError, match=r"photos\.test: images .* are also in the data set 'again'") as caught:
        through_another_data_set(root, uses)
    assert "4: test/a/000.png is test/a/000.png" in str(caught.value.got)
    shutil.copy(root / "test/a/000.png", root / "train/a/copy.png")  # the file itself counts, not its copy alone
    link = root.parent / "link"
    link.symlink_to(root)
    with pytest.raises(DataError, match="are also in the data set 'again'"):
        through_another_data_set(root, uses, path=str(link))


def test_without_labels_they_are_counted_for_the_accuracy_that_they_concern(make_images: MakeImages):
    root = make_images({"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2})
    uses = Uses(frozenset({"photos.test"}), frozenset({"again", "photos.train"}))
    made = through_another_data_set(root, uses, classes="none")
    (overlap,) = made["photos.test"][LEARNED_TOO]
    assert {**overlap, "digest": ""} == {"data": "again", "labelled": False, "images": 4, "of": 4, "digest": ""}
    assert made["photos.test"]["notes"] == [
        "photos.test: 4 of the 4 images that accuracy is measured on are also in again, "
        "which models learn from without labels"
    ]


def test_images_that_are_tested_and_learned_under_one_name_are_counted(make_images: MakeImages):
    root = make_images({"train/a": 4, "train/b": 4})
    one = frozenset({"photos.train"})
    made = through_another_data_set(root, Uses(one, one))
    assert [overlap["images"] for overlap in made["photos.train"][LEARNED_TOO]] == [8]
    assert made["photos.train"]["notes"] == []  # the recipe says it


def test_an_image_under_two_classes_is_counted_and_in_a_support_refused(make_images: MakeImages):
    root = make_images({"train/a": 2, "train/b": 2})
    shutil.copy(root / "train/a/000.png", root / "train/b/000.png")
    said = "train/a/000.png (a) and train/b/000.png (b)"
    assert notes(root, ("photos.train",)) == [f"photos.train: 1 image is under two classes: {said}"]
    with pytest.raises(DataError, match=r"photos.support: the support has the same image under two") as caught:
        notes(root, ("photos.support",))
    assert caught.value.got == f"1: {said}"


def test_an_image_that_a_support_holds_twice_is_said(make_images: MakeImages):
    root = make_images({"train/a": 2, "train/b": 2})
    shutil.copy(root / "train/a/000.png", root / "train/a/001.png")
    assert notes(root, ("photos.train",)) == []
    (note,) = notes(root, ("photos.support",))
    assert note.startswith("photos.support: 1 image is there twice, and counts twice: train/a/00")


def test_an_unequal_support_is_said_once(make_images: MakeImages):
    root = make_images({"bolt": 1, "gear": 4, "nut": 2})
    options = {"names": ("photos",), "shots": 1, "splits": {"val": 0, "test": 0}}
    assert notes(root, uses=Uses(supports=frozenset({"photos"})), **options) == [  # type: ignore[arg-type]
        "photos: classes have from 1 ('bolt') to 4 ('gear') images"
    ]
    assert notes(root, uses=Uses(), **options) == []  # type: ignore[arg-type]


def test_no_image_is_read_for_it(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch):
    root = make_images({"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2})
    read: list[str] = []
    original = StoredFile.read

    def counted(image: StoredFile) -> bytes:
        read.append(image.key)
        return original(image)

    monkeypatch.setattr(StoredFile, "read", counted)
    notes(root)
    assert len(read) == len(set(read)) == 12
