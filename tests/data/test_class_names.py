"""Class names as people give them: kept to the letter, or refused before any work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgevit.actions.single_stage import single_stages
from edgevit.configs import Glyphs, ImageFolder, Load, Npz
from edgevit.context import Context
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.class_names import alike_notes
from edgevit.errors import DataError

from .conftest import MakeImages


def opened(root: Path, classes: str = "top") -> tuple[tuple[str, ...], list[str]]:
    config = ImageFolder.model_validate({"source": "image_folder", "path": str(root), "classes": classes})
    made = dataset_artifacts({"photos": config}, Path(), ["photos"])["photos"]
    return open_dataset(made).classes, made.manifest.provenance["notes"]


@pytest.mark.parametrize(
    "name",
    [
        "🔩 M8",
        "👩\u200d🔧",
        "non\u00a0breaking",
        "Ölfilter",
        " spaced out ",
        "a&b <c>",
        "..hidden-ish".lstrip("."),
        "x" * 255,
        "-rf",
        "%s{0}",
        "שלום",
    ],
)
def test_odd_names_stay_as_they_are(make_images: MakeImages, name: str):
    classes, notes = opened(make_images({name: 2, "plain": 2}))
    assert set(classes) == {name, "plain"}
    assert notes == []


@pytest.mark.parametrize("name", ["two\nlines", "cut\x85here", "page\x0cbreak", "\x1b]0;title\x07", "b\x08", "\u2028"])
def test_a_name_of_several_lines_is_refused_before_any_work(make_images: MakeImages, name: str):
    with pytest.raises(DataError, match=r"data set 'photos': a class name has to be one line"):
        opened(make_images({name: 2, "plain": 2}))


def test_equal_names_are_refused(tmp_path: Path):
    np.savez(
        tmp_path / "a.npz", images=np.zeros((3, 4, 4, 3), np.uint8), labels=range(3), classes=["cat", "dog", "cat"]
    )
    config = Npz.model_validate({"source": "npz", "path": str(tmp_path / "a.npz")})
    with pytest.raises(DataError, match=r"data set 'photos': two classes have the same name(.|\n)*'cat'"):
        dataset_artifacts({"photos": config}, Path(), ["photos"])
    with (
        pytest.raises(DataError, match=r"stage 'load': two classes have the same name"),
        single_stages(Context()) as stages,
    ):
        stages.make(Load(stage="load", id="load", model="mobilevit_xxs", classes=("a", "a")))


def test_folders_with_a_leading_dot_are_no_classes(make_images: MakeImages):
    assert opened(make_images({".ipynb_checkpoints": 2, "a": 2, "b": 2}))[0] == ("a", "b")


def test_a_leaf_is_named_without_the_folders_above(make_images: MakeImages):
    assert opened(make_images({"metal/nut": 2, "food/nut": 1, "food/egg": 2}), "leaf")[0] == ("egg", "nut")


def test_classes_that_differ_in_spelling_alone_are_told(make_images: MakeImages):
    classes, notes = opened(make_images({"Oil Filter": 2, "oil_filter": 2, "gear": 2}))
    assert len(classes) == 3
    assert notes == [
        "photos: classes whose names differ only in spelling count as different: 'Oil Filter' and 'oil_filter'"
    ]


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (("Oil-Filter", "OILFILTER"), True),
        (("Öl", "O\u0308l"), True),  # one character, and a letter with a mark
        (("STRASSE", "Straße"), True),
        (("filter 1", "filter 2"), False),
        (("a", "A"), False),
        (("--", "__"), False),
    ],
)
def test_what_counts_as_the_same_spelling(names: tuple[str, str], alike: bool):
    assert bool(alike_notes(names)) == alike


def test_letters_of_either_case_are_no_duplicates():
    glyphs = Glyphs(source="glyphs", samples_per_class=1)
    assert dataset_artifacts({"g": glyphs}, Path(), ["g.train"])["g.train"].manifest.provenance["notes"] == []
