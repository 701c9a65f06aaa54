"""Folders of images: layouts, splits, and everything that can be wrong with them."""

import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import ImageFolder as TorchvisionFolder

from edgevit.configs import ImageFolder
from edgevit.data import Dataset, dataset_artifacts, open_dataset, read_image
from edgevit.data.sources.image_folder import folder_of_tests
from edgevit.errors import DataError, RecipeError

from .conftest import MakeImages, write_image


def config(root: Path, **options: Any) -> ImageFolder:
    return ImageFolder(source="image_folder", path=str(root), **options)


def opened(root: Path, role: str = "photos", **options: Any) -> Dataset:
    artifacts = dataset_artifacts({"photos": config(root, **options)}, root, [role])
    return open_dataset(artifacts[role])


def notes(root: Path, role: str, **options: Any) -> str:
    artifacts = dataset_artifacts({"photos": config(root, **options)}, root, [role])
    return "\n".join(artifacts[role].manifest.provenance["notes"])


def test_agrees_with_torchvision(make_images: MakeImages):
    root = make_images({"train/cat": 3, "train/dog/puppies": 2, "train/dog": 1, "train/eel": 2})
    theirs, ours = TorchvisionFolder(str(root / "train")), opened(root, "photos.train")
    assert list(ours.classes) == theirs.classes
    by_id = {Path(path).relative_to(root).as_posix(): label for path, label in theirs.samples}
    assert dict(zip(ours.sample_ids, ours.labels.tolist(), strict=True)) == by_id
    index = ours.sample_ids.index("train/dog/puppies/001.png")
    np.testing.assert_array_equal(ours.image(index), read_image(root / "train/dog/puppies/001.png"))


def test_leaf_folders_name_the_class_and_equal_names_are_one_class(make_images: MakeImages):
    root = make_images({"train/fruit/apple/gala": 2, "train/fruit/pear": 1, "train/sale/pear": 1})
    data = opened(root, "photos.train", classes="leaf")
    assert data.classes == ("gala", "pear")
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert notes(root, "photos.train", classes="leaf") == "photos: class 'pear' is in 2 folders, taken as one"


def test_the_top_folder_names_the_class_of_what_is_nested_below(make_images: MakeImages):
    data = opened(make_images({"fruit/apple": 1, "fruit/pear": 1, "fish": 1}), "photos")
    assert data.classes == ("fish", "fruit")
    assert data.labels.tolist() == [0, 1, 1]


def test_classes_are_the_union_of_all_splits_and_gaps_are_said(make_images: MakeImages):
    root = make_images({"train/a": 2, "train/b": 2, "val/b": 1, "test/a": 1, "test/b": 1, "test/c": 1})
    val = opened(root, "photos.val")
    assert val.classes == ("a", "b", "c")
    assert val.labels.tolist() == [1]
    assert notes(root, "photos.val") == "photos.val: 2 of 3 classes have no image here: a, c"
    assert "1 of 3 classes have no image here: c" in notes(root, "photos.train")
    assert notes(root, "photos.test") == ""


@pytest.mark.parametrize(
    "names",
    [("train", "val", "test"), ("Train", "Val", "Test"), ("training", "validation", "test"), ("train", "valid")],
)
def test_splits_go_by_their_usual_names(make_images: MakeImages, names: tuple[str, ...]):
    root = make_images({**{f"{name}/{one}": 1 for name in names for one in "ab"}, "annotations/c": 1, ".cache/d": 1})
    for role in ("train", "val", "test")[: len(names)]:
        assert opened(root, f"photos.{role}").labels.tolist() == [0, 1]
    assert opened(root, "photos.train").classes == ("a", "b")
    assert notes(root, "photos.train") == (
        "photos: 2 files and folders beside the split folders are passed over: .cache, annotations"
    )


def test_the_folder_of_test_images_goes_by_its_name_and_its_class_folders(make_images: MakeImages):
    root = make_images({"Train/a": 1, "Test/a": 1, "plain/test": 1, "plain/b": 1})
    assert folder_of_tests(root) == root / "Test"
    assert folder_of_tests(root / "plain") == root / "plain"


def test_a_class_may_be_called_train(make_images: MakeImages):
    assert opened(make_images({"train": 2, "plane": 2, "test": 1}), "photos").classes == ("plane", "test", "train")


def test_splits_without_class_folders_are_no_classes(make_images: MakeImages):
    with pytest.raises(DataError, match=r"no images in class folders(.|\n)*outside of class folders"):
        opened(make_images({"train": 2, "val": 2}), "photos")


def test_two_folders_of_one_split_are_refused(make_images: MakeImages):
    with pytest.raises(DataError, match=r"two folders serve as val(.|\n)*got: val, valid"):
        opened(make_images({"train/a": 1, "val/a": 1, "valid/a": 1}))


def test_fractions_are_kept_for_each_class(make_images: MakeImages):
    root = make_images({"a": 300, "b": 300})
    splits = {"val": 0.1, "test": 0.3}
    for role, fraction in (("train", 0.6), ("val", 0.1), ("test", 0.3)):
        counts = Counter(opened(root, f"photos.{role}", splits=splits).labels.tolist())
        for label in (0, 1):
            assert counts[label] == pytest.approx(300 * fraction, abs=4 * (300 * fraction * (1 - fraction)) ** 0.5)


def test_an_image_stays_in_its_split_when_others_are_added(make_images: MakeImages):
    root = make_images({"a": 40, "b": 40})
    before = {role: set(opened(root, f"photos.{role}").sample_ids) for role in ("train", "val", "test")}
    make_images({"a": 60, "b": 60, "c": 20})
    after = {role: set(opened(root, f"photos.{role}").sample_ids) for role in ("train", "val", "test")}
    assert all(before[role] <= after[role] for role in before)
    assert sum(map(len, after.values())) == 140
    other_seed = set(opened(root, "photos.train", splits={"seed": 1}).sample_ids)
    assert other_seed != after["train"]


def test_an_unreadable_image_is_named_counted_and_skipped(make_images: MakeImages):
    root = make_images({"train/a": 3, "train/b": 3})
    whole = (root / "train/a/001.png").read_bytes()
    (root / "train/a/001.png").write_bytes(whole[: len(whole) // 2])
    (root / "train/b/000.png").write_text("no image")
    data = opened(root, "photos.train")
    assert data.sample_ids == ("train/a/000.png", "train/a/002.png", "train/b/001.png", "train/b/002.png")
    said = notes(root, "photos.train")
    assert "2 images cannot be read and are skipped" in said
    assert "train/a/001.png" in said
    assert "train/b/000.png" in said


def test_an_unreadable_image_is_refused_where_asked(make_images: MakeImages):
    root = make_images({"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})
    (root / "train/a/001.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"train/a/001\.png(.|\n)*on_bad_image: skip"):
        opened(root, "photos.train", on_bad_image="refuse")
    assert len(opened(root, "photos.test", on_bad_image="refuse")) == 2


def test_support_is_drawn_from_readable_images(make_images: MakeImages):
    root = make_images({"train/a": 4, "train/b": 4})
    (root / "train/a/000.png").write_bytes(b"")
    support = opened(root, "photos.support", few_shot={"shots": 3})
    assert support.labels.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(DataError, match=r"too few(.|\n)*a has 3(.|\n)*at least 4"):
        opened(root, "photos.support", few_shot={"shots": 4})


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "there is no such folder"),
        ({"a": 0, "b": 0}, "no images in class folders"),
        ({".": 3}, "no images in class folders(.|\n)*3 images outside of class folders(.|\n)*set classes: none"),
        ({"a": 5}, "at least two classes(.|\n)*got: one folder, 'a', with all 5 images\n(.|\n)*set classes: none"),
        ({"a": 5, ".": 2}, "one folder, 'a', with all 5 images; 2 images outside of class folders are passed"),
        ({"train/a": 5, "test/a": 5}, "at least two classes(.|\n)*one folder, 'a', with all 10(.|\n)*classes: none"),
        (
            {"all/pear": 2, "all/apple": 2},
            r"one folder, 'all'(.|\n)*classes: leaf if .* are the classes \(apple, pear\)",
        ),
        ({"train/all/b": 2, "train/all/a": 2}, r"one folder, 'all'(.|\n)*classes: leaf if .* are the classes \(a, b\)"),
    ],
)
def test_folders_that_hold_no_classification_task(make_images: MakeImages, counts: dict[str, int], message: str):
    with pytest.raises(DataError, match=message):
        opened(make_images(counts))


@pytest.mark.parametrize("folders", [["pool/apple", "pool/pear"], ["pool/train/apple", "pool/train/pear"]])
def test_unlabelled_folders_that_bear_the_names_of_classes_are_said_once(make_images: MakeImages, folders: list[str]):
    root = make_images({"photos/apple": 3, "photos/pear": 3, "photos/plum": 3, **dict.fromkeys(folders, 2)})
    datasets = {
        "photos": config(root / "photos", splits={"val": 0, "test": 0}),
        "loose": config(root / "pool", classes="none", splits={"val": 0, "test": 0}),
    }
    artifacts = dataset_artifacts(datasets, root, ["loose.train", "loose", "photos"])
    said = {note for artifact in artifacts.values() for note in artifact.manifest.provenance["notes"]}
    assert said == {"loose: its folders have the names of classes of photos (apple, pear); they are not used as labels"}
    alone = dataset_artifacts(datasets, root, ["loose.train"])["loose.train"]
    assert alone.manifest.provenance["notes"] == []
    assert alone.digest == artifacts["loose.train"].digest
    assert open_dataset(alone).labels is None


def test_unlabelled_folders_of_other_names_need_no_word(make_images: MakeImages):
    root = make_images({"photos/apple": 3, "photos/pear": 3, "pool/camera 1": 2, "pool/pear": 2})
    datasets = {"photos": config(root / "photos"), "loose": config(root / "pool", classes="none")}
    assert all(
        artifact.manifest.provenance["notes"] == []
        for artifact in dataset_artifacts(datasets, root, ["loose", "photos"]).values()
    )


def test_a_class_that_is_named_like_no_class_is_said(make_images: MakeImages):
    root = make_images({"apple": 3, "pear": 3, "Unsorted": 3})
    assert notes(root, "photos") == (
        "photos: the folder 'Unsorted' is taken as a class; if its images have no labels, call it 'unlabelled' or set "
        "unlabelled: FOLDER"
    )
    assert notes(root, "photos", include_classes=["apple", "pear"]) == ""


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "photos").write_text("")
    with pytest.raises(DataError, match="this is a file"):
        opened(tmp_path / "photos")


def test_classes_can_be_chosen_and_a_misspelt_one_is_named(make_images: MakeImages):
    root = make_images({"train/a": 1, "train/berry": 2, "train/cherry": 1})
    data = opened(root, "photos.train", include_classes=["cherry", "berry"])
    assert data.classes == ("berry", "cherry")
    assert data.labels.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(data.image(2), read_image(root / "train/cherry/000.png"))
    with pytest.raises(DataError, match=r"no class 'bery'(.|\n)*Did you mean 'berry'"):
        opened(root, include_classes=["bery", "a"])


@pytest.mark.parametrize("counts", [{".": 3}, {"a": 2, "b/c": 1}, {"train/a": 1, "train": 1, "test/b": 1}])
def test_without_labels_every_image_counts(make_images: MakeImages, counts: dict[str, int]):
    root = make_images(counts)
    data = opened(root, classes="none")
    assert data.labels is None
    assert data.classes == ()
    assert len(data) == 3
    with pytest.raises(DataError, match="no class 'a'"):
        opened(root, classes="none", include_classes=["a"])
    with pytest.raises(RecipeError, match="no role 'support'"):
        opened(root, "photos.support", classes="none", few_shot={"shots": 1})


def test_a_folder_without_any_image_is_refused_without_labels_too(make_images: MakeImages):
    with pytest.raises(DataError, match=r"there are no images here(.|\n)*expected: NAME, with .*\.bmp"):
        opened(make_images({"a": 0}), classes="none")


def test_links_are_followed_only_inside_the_folder(make_images: MakeImages, tmp_path: Path):
    root = make_images({"train/a": 1, "train/b": 1})
    write_image(tmp_path / "outside.png", "outside")
    (tmp_path / "elsewhere").mkdir()
    write_image(tmp_path / "elsewhere/x.png", "x")
    (root / "train/a/inside.png").symlink_to(root / "train/b/000.png")
    (root / "train/a/leads_out.png").symlink_to(tmp_path / "outside.png")
    (root / "train/c").symlink_to(tmp_path / "elsewhere")
    (root / "train/a/loop").symlink_to(root)
    data = opened(root, "photos.train")
    assert data.sample_ids == ("train/a/000.png", "train/a/inside.png", "train/b/000.png")
    assert "photos: 1 links that lead out of the folder are passed over" in notes(root, "photos.train")
    assert "photos: 2 links to folders are passed over" in notes(root, "photos.train")


def test_other_files_and_hidden_ones_are_left_alone(make_images: MakeImages):
    root = make_images({"train/a": 1, "train/b": 1, "train/.thumbnails": 1, ".git/c": 1})
    (root / "train/a/notes.txt").write_text("x")
    (root / "train/a/._000.png").write_bytes(b"\0")
    assert opened(root, "photos.train").sample_ids == ("train/a/000.png", "train/b/000.png")


def test_a_name_that_is_no_text_is_said(make_images: MakeImages):
    root = make_images({"train/a": 1, "train/b": 1})
    (Path(str(root) + "/train/a/\udcff.png")).write_bytes(b"")
    assert "1 images whose names are not UTF-8 are passed over" in notes(root, "photos.train")


def test_without_a_split_the_roles_there_are_are_named(make_images: MakeImages):
    root = make_images({"train/a": 1, "train/b": 1, "test/a": 1})
    with pytest.raises(RecipeError, match=r"no role 'val'(.|\n)*expected: train, test"):
        opened(root, "photos.val")


def test_removing_an_image_during_a_run_is_noticed(make_images: MakeImages):
    root = make_images({"train/a": 3, "train/b": 3})
    artifact = dataset_artifacts({"photos": config(root)}, root, ["photos.train"])["photos.train"]
    (root / "train/a/000.png").unlink()
    write_image(root / "train/a/new.png", "new")
    with pytest.raises(DataError, match="added or removed"):
        open_dataset(artifact)


def test_grocery_photos_nest_two_or_three_levels(shared_data: Path, tmp_path: Path):
    grocery = {"grocery": config(Path("grocery"), classes="leaf")}
    artifacts = dataset_artifacts(grocery, shared_data, ["grocery.val"], cache=tmp_path / "states.json")
    val = open_dataset(artifacts["grocery.val"])
    assert (len(val), len(val.classes), len(np.unique(val.labels))) == (296, 81, 60)
    assert "21 of 81 classes have no image here" in artifacts["grocery.val"].manifest.provenance["notes"][-1]
    assert val.image(0).shape[2] == 3


def test_every_type_of_image_makes_its_class(make_images: MakeImages):
    root = make_images({"train/cat": 1, "train/dog": 1, "train/owl": 1, "train/fox": 1})
    for folder, suffix in (("dog", ".jfif"), ("owl", ".avif"), ("fox", ".HEIC")):
        (root / f"train/{folder}/000.png").rename(root / f"train/{folder}/0{suffix}")
    assert opened(root, "photos.train").classes == ("cat", "dog", "owl")
    assert "1 files of other types (.heic 1) are passed over: train/fox/0.HEIC" in notes(root, "photos.train")


def test_a_class_whose_name_was_composed_otherwise_is_one_class(make_images: MakeImages):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    root = make_images({f"train/{composed}": 2, f"test/{decomposed}": 1, "train/cafz": 1, f"train/{decomposed}": 1})
    for role, labels in (("photos.train", [1, 1, 1, 0]), ("photos.test", [1])):
        data = opened(root, role, include_classes=[decomposed, "cafz"])
        assert data.classes == ("cafz", composed)
        assert sorted(data.labels) == sorted(labels)


def test_pipes_and_links_to_themselves_are_skipped_like_other_unreadable_images(make_images: MakeImages):
    root = make_images({"train/a": 1, "train/b": 1})
    os.mkfifo(root / "train/a/pipe.png")
    (root / "train/a/self.png").symlink_to("self.png")
    assert opened(root, "photos.train").sample_ids == ("train/a/000.png", "train/b/000.png")
    said = notes(root, "photos.train")
    assert "train/a/pipe.png (is a folder, a pipe or a device, not a file)" in said
    assert "train/a/self.png (Too many levels of symbolic links)" in said


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_refused(make_images: MakeImages):
    root = make_images({"train/a": 1, "train/b": 1})
    (root / "train/b").chmod(0)
    try:
        with pytest.raises(DataError, match=r"train/b: the folder cannot be listed: Permission denied"):
            opened(root)
    finally:
        (root / "train/b").chmod(0o755)
