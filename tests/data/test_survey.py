"""Folders as people have them: what a survey finds, what it leaves out, and the data set that it gives to a recipe."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.companions import MASKS, THUMBNAILS
from edgevit.data.preprocess import OTHER_TYPES, SYSTEM_FOLDERS
from edgevit.data.sources.image_folder import BY_PATTERNS
from edgevit.data.survey import FolderSurvey, survey_folder
from edgevit.errors import DataError
from edgevit.progress import SilentProgress

from .conftest import MakeImages, write_image

Paste = Callable[[str, int], list[Path]]


@pytest.fixture
def paste(shared_data: Path, tmp_path: Path) -> Paste:
    """Writes `count` small photos, all different, into a folder of tmp_path/photos."""
    files: Iterator[Path] = iter(sorted((shared_data / "imagenet_samples").glob("*.jpg")))

    def write(folder: str, count: int) -> list[Path]:
        target = tmp_path / "photos" / folder
        target.mkdir(parents=True, exist_ok=True)
        written = []
        for number in range(count):
            image = Image.open(next(files)).convert("RGB")
            image.thumbnail((96, 96))
            written.append(target / f"{number:03d}.jpg")
            image.save(written[-1])
        return written

    return write


def survey(root: Path, **options: object) -> FolderSurvey:
    return survey_folder(root, progress=SilentProgress(), **options)  # type: ignore[arg-type]


def write_mask(file: Path, side: int = 96) -> None:
    mask = np.zeros((side, side), np.uint8)
    mask[20:40, 30:50] = 255
    Image.fromarray(mask).save(file)


def left_out(surveyed: FolderSurvey, category: str) -> tuple[str, ...]:
    return next((entry.names for entry in surveyed.left_out if entry.category == category), ())


def test_defect_photos_with_masks_beside_them(paste: Paste, tmp_path: Path):
    root = tmp_path / "photos"
    for name in ("MT_Blowhole", "MT_Break"):
        for photo in paste(f"{name}/Imgs", 4):
            write_mask(photo.with_suffix(".png"))
    (root / "README.md").write_text("x")
    (root / "MT_Break/Thumbs.db").write_text("x")
    shutil.copytree(root / "MT_Break/Imgs", root / "@eaDir")
    surveyed = survey(root)
    assert (surveyed.config.classes, surveyed.classes, surveyed.images) == ("top", ("MT_Blowhole", "MT_Break"), 8)
    assert left_out(surveyed, MASKS) == tuple(
        f"{name}/Imgs/{number:03d}.png" for name in surveyed.classes for number in range(4)
    )
    assert left_out(surveyed, SYSTEM_FOLDERS) == ("@eaDir",)
    assert left_out(surveyed, OTHER_TYPES) == ("MT_Break/Thumbs.db", "README.md")
    assert (surveyed.is_few_shot, "test" in surveyed.counts, min(surveyed.counts["train"].values())) == (True, False, 4)
    assert any("8 masks of other images are passed over" in note for note in surveyed.notes)
    support = dataset_artifacts({"photos": surveyed.config}, Path(), ["photos.support"])["photos.support"]
    assert all(id.endswith(".jpg") for id in open_dataset(support).sample_ids)


@pytest.mark.parametrize(
    ("photo", "mask"),
    [
        ("cat/{}.jpg", "cat/{}_mask.png"),
        ("cat/{}.jpg", "cat/{}-seg.jpg"),
        ("cat/images/{}.jpg", "cat/masks/{}.png"),
        ("images/cat/{}.jpg", "masks/cat/{}_mask.png"),
        ("train/cat/{}.jpg", "train/cat/ground_truth/{}.png"),
    ],
)
def test_masks_by_their_ending_or_their_folder(paste: Paste, tmp_path: Path, photo: str, mask: str):
    root = tmp_path / "photos"
    paste(str(Path(photo.replace("cat", "dog")).parent), 3)
    for file in paste(str(Path(photo).parent), 3):
        target = root / mask.format(file.stem)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_mask(target)
    surveyed = survey(root)
    assert surveyed.classes == ("cat", "dog")
    assert surveyed.counts["train"] == {"cat": 3, "dog": 3}


def test_photos_of_one_name_in_two_formats_are_no_masks(paste: Paste, tmp_path: Path):
    paste("cat", 3), paste("dog", 3)
    for photo in paste("cat", 3):
        Image.open(photo).save(photo.with_suffix(".png"))
    assert left_out(survey(tmp_path / "photos"), MASKS) == ()


def test_of_drawings_in_two_formats_one_file_is_kept(tmp_path: Path):
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(2):
            write_mask(root / name / f"{number}.png")
            Image.open(root / name / f"{number}.png").save(root / name / f"{number}.jpg", quality=100)
    surveyed = survey(root)
    assert surveyed.counts["train"] == {"cat": 2, "dog": 2}
    assert all(name.endswith(".png") for name in left_out(surveyed, MASKS))


def test_masks_can_be_kept_and_patterns_leave_out(paste: Paste, tmp_path: Path):
    for name in ("cat", "dog"):
        for photo in paste(name, 3):
            write_mask(photo.with_name(f"{photo.stem}_mask.png"))
    surveyed = survey(tmp_path / "photos", exclude=["*_mask.png", "dog/000.*"])
    assert (len(left_out(surveyed, BY_PATTERNS)), left_out(surveyed, MASKS)) == (7, ())
    assert surveyed.counts["train"] == {"cat": 3, "dog": 2}
    kept = surveyed.config.model_copy(update={"masks": "keep", "exclude": ()})
    assert len(open_dataset(dataset_artifacts({"p": kept}, Path(), ["p"])["p"])) == 12
    only = survey(tmp_path / "photos", include=["**/00[12].jpg"])
    assert only.counts["train"] == {"cat": 2, "dog": 2}


def test_pattern_that_matches_no_image_is_named(paste: Paste, tmp_path: Path):
    paste("cat", 3), paste("dog", 3), paste("unlabelled/roof", 2)
    notes = survey(
        tmp_path / "photos", exclude=["*/cat/*", "dog/001.*", "roof/000.*"], include=["**/00[12].*", "*.gif"]
    ).notes
    idle = [note for note in notes if "matches no image" in note]
    assert [note.partition(";")[0] for note in idle] == [
        "include: '*.gif' matches no image",
        "exclude: '*/cat/*' matches no image",
    ]


def test_pattern_that_matches_only_what_is_passed_over_anyway_is_right(paste: Paste, tmp_path: Path):
    for photo in (*paste("cat", 3), *paste("dog", 3)):
        write_mask(photo.with_name(f"{photo.stem}_mask.png"))
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "sheet.png")
    notes = survey(tmp_path / "photos", exclude=["sheet.png"], include=["*.jpg", "*_mask.png"]).notes
    assert not [note for note in notes if "matches no image" in note]


def test_thumbnails_beside_their_photos_are_left_out(paste: Paste, tmp_path: Path):
    paste("background", 3)
    for photo in paste("screw", 3):
        shutil.copy(photo, photo.with_name(f"{photo.stem}_thumb.jpg"))
    surveyed = survey(tmp_path / "photos")
    assert surveyed.classes == ("background", "screw")
    assert left_out(surveyed, THUMBNAILS) == tuple(f"screw/{number:03d}_thumb.jpg" for number in range(3))


@pytest.mark.parametrize(
    ("folders", "start", "level", "classes"),
    [
        (("data/all/cat", "data/all/dog"), "data/all", "top", ("cat", "dog")),
        (("fruit/apple", "fruit/pear", "other/milk"), ".", "leaf", ("apple", "milk", "pear")),
        (("cat/session 1", "cat/session 2", "dog/session 1", "dog/session 2"), ".", "top", ("cat", "dog")),
        (("cat", "dog", "dog/puppies"), ".", "top", ("cat", "dog")),
        (("set/train/cat", "set/train/dog", "set/test/cat", "set/test/dog"), "set", "top", ("cat", "dog")),
        (("photos/cat", "photos/dog", "unlabelled"), "photos", "top", ("cat", "dog")),
        (("cat/2020", "cat/2021", "dog/2020"), ".", "top", ("cat", "dog")),
        (("train/cat/a", "train/cat/b", "test/cat/a", "train/dog/c"), ".", "leaf", ("a", "b", "c")),
        (("train/a/Imgs", "train/b/Imgs", "test/a/Imgs", "test/b/Imgs"), ".", "top", ("a", "b")),
    ],
)
def test_the_level_of_the_classes(
    make_images: MakeImages, folders: tuple[str, ...], start: str, level: str, classes: tuple[str, ...]
):
    root = make_images(dict.fromkeys(folders, 2))
    surveyed = survey(root)
    assert Path(surveyed.config.path) == (root / start)
    assert (surveyed.config.classes, surveyed.classes) == (level, classes)


def test_few_images_are_all_used_and_the_pool_is_what_has_no_label(make_images: MakeImages):
    surveyed = survey(make_images({"cat": 5, "dog": 8, "unlabelled/monday": 6}))
    assert surveyed.counts == {"train": {"cat": 5, "dog": 8}}
    assert (surveyed.unlabelled_images, surveyed.has_pool) == (6, True)
    roles = dataset_artifacts({"photos": surveyed.config}, Path(), ["photos.support", "photos.pool", "photos.train"])
    assert [len(open_dataset(artifact)) for artifact in roles.values()] == [13, 6, 13]


def test_enough_images_are_divided(make_images: MakeImages):
    surveyed = survey(make_images({"cat": 40, "dog": 40}))
    assert surveyed.config.few_shot is None
    assert set(surveyed.counts) == {"train", "val", "test"}
    assert all(min(counts.values()) > 0 for counts in surveyed.counts.values())


def test_a_folder_of_unlabelled_images_elsewhere(make_images: MakeImages, tmp_path: Path):
    root = make_images({"cat": 3, "dog": 3})
    (tmp_path / "loose").mkdir()
    for name in ("a", "b"):
        write_image(tmp_path / f"loose/{name}.png", name)
    surveyed = survey(root, unlabelled=tmp_path / "loose")
    pool = open_dataset(dataset_artifacts({"p": surveyed.config}, Path(), ["p.pool"])["p.pool"])
    assert pool.sample_ids == ("../loose/a.png", "../loose/b.png")
    assert pool.image(0).shape == (12, 10, 3)


def test_sizes_balance_damage_and_copies(paste: Paste, tmp_path: Path):
    photos = [*paste("train/cat", 8), *paste("train/dog", 2)]
    paste("test/cat", 1), paste("test/dog", 1)
    root = tmp_path / "photos"
    shutil.copy(photos[0], root / "test/cat/copy.jpg")
    shutil.copy(photos[1], root / "train/cat/copy.jpg")
    Image.open(photos[8]).save(root / "test/dog/again.jpg", quality=60)
    (root / "train/dog/bad.jpg").write_bytes(b"no image")
    surveyed = survey(root)
    duplicates = surveyed.duplicates
    assert (duplicates.exact_across, duplicates.exact_within) == (1, 1)
    assert (duplicates.near_across, duplicates.near_within, duplicates.compared) == (1, 0, 15)
    assert surveyed.imbalance == 4.5
    assert max(surveyed.median_size) == 96
    assert surveyed.unreadable == (
        "train/dog/bad.jpg (cannot be read as an image: no known format, or damaged at its beginning)",
    )
    said = "\n".join(surveyed.notes)
    assert "unbalanced: 'cat' has 9 training images, 'dog' has 2" in said
    assert "2 images of val or test are copies of training images or look nearly like one" in said


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train/good": 3, "test/good": 1, "test/broken": 2}, r"no training image that can be read(.|\n)*got: broken"),
        ({"cat": 3}, "at least two classes"),
        ({}, "no images in class folders|no such folder"),
    ],
)
def test_folders_that_cannot_be_trained_on(make_images: MakeImages, counts: dict[str, int], message: str):
    with pytest.raises(DataError, match=message):
        survey(make_images({".": 0, **counts}))


def test_a_pool_beside_the_folder_of_classes(make_images: MakeImages):
    root = make_images({"photos/cat": 3, "photos/dog": 3, "unlabelled/monday": 4})
    surveyed = survey(root)
    assert (surveyed.unlabelled, surveyed.unlabelled_images) == (root / "unlabelled", 4)
    pool = open_dataset(dataset_artifacts({"p": surveyed.config}, Path(), ["p.pool"])["p.pool"])
    assert len(pool) == 4


@pytest.mark.parametrize(
    ("folders", "note"),
    [
        (
            ("data/cat", "data/dog", "docs"),
            "the classes are the outer folders (data, docs), not those in them (cat, dog)",
        ),
        (("a/2024-01-03", "a/20240109", "b/3.2.2024"), "the classes are the outer folders (a, b), not those in them"),
        (("a/x", "a/y", "b/z"), "the classes are the inner folders (x, y, z), not the outer ones (a, b)"),
    ],
)
def test_the_level_of_the_classes_is_noted(make_images: MakeImages, folders: tuple[str, ...], note: str):
    assert any(note in line for line in survey(make_images(dict.fromkeys(folders, 2))).notes)


def test_an_empty_class_folder_is_noted(make_images: MakeImages):
    surveyed = survey(make_images({"cat": 2, "dog": 2, "bird": 0}))
    assert surveyed.classes == ("cat", "dog")
    assert "folders without an image are no classes: bird" in surveyed.notes


def test_images_that_cannot_be_read_do_not_count(make_images: MakeImages):
    root = make_images({"cat": 3, "dog": 3})
    (root / "dog/000.png").write_bytes(b"no image")
    assert survey(root).counts == {"train": {"cat": 3, "dog": 2}}
    for file in (root / "dog").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"that can be read(.|\n)*got: dog"):
        survey(root)


def test_where_not_all_are_looked_at_val_and_test_come_first(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch):
    root = make_images({"train/cat": 8, "train/dog": 8, "test/cat": 2, "test/dog": 2})
    shutil.copy(root / "test/cat/000.png", root / "test/cat/copy.png")
    monkeypatch.setattr("edgevit.data.survey.MOST_EXAMINED", 10)
    surveyed = survey(root)
    assert surveyed.duplicates.exact_within == 1  # both are in test, which is looked at whole
    assert any(note.startswith("of the 10 looked at, at least 1 images are copies") for note in surveyed.notes)
