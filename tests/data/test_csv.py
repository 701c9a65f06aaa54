"""Lists of paths and labels in CSV files: columns, separators, splits, and everything that can be wrong with them."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgevit.configs import Csv
from edgevit.data import Dataset, dataset_artifacts, open_dataset
from edgevit.data.roles import read_source
from edgevit.errors import DataError

from .conftest import MakeImages


@pytest.fixture
def folder(make_images: MakeImages) -> Path:
    return make_images({"img": 6, "more": 2})


def opened(folder: Path, text: str | bytes, role: str = "list", **options: Any) -> Dataset:
    (folder / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    config = Csv(source="csv", path="list.csv", **options)
    return open_dataset(dataset_artifacts({"list": config}, folder, [role])[role])


LABELS = ["cat", "dog", "cat", "dog", "background", "dog"]
EXPECTED = {f"img/{number:03d}.png": label for number, label in enumerate(LABELS)}


def labels_by_id(data: Dataset) -> dict[str, str]:
    assert data.labels is not None
    return {id: data.classes[label] for id, label in zip(data.sample_ids, data.labels.tolist(), strict=True)}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("header", [None, ("image", "label"), ("file_name", "Class"), ("Image Path", "category")])
def test_columns_by_their_usual_names_or_without_a_header(folder: Path, separator: str, header: tuple[str, str] | None):
    rows = [*([header] if header else []), *EXPECTED.items()]
    text = "\r\n".join(separator.join(row) for row in rows)
    assert labels_by_id(opened(folder, "\ufeff" + text + "\n\n")) == EXPECTED


@pytest.mark.parametrize("header", ["filename,x,y,species", "filename,bbox,y,diagnosis"])
def test_coordinates_are_no_classes_and_guessed_columns_are_noted(folder: Path, header: str):
    text = f"{header}\nimg/000.png,1,2,cat\nimg/001.png,3,4,dog\n"
    assert labels_by_id(opened(folder, text)) == {"img/000.png": "cat", "img/001.png": "dog"}
    label = header.rpartition(",")[2]
    (note,) = read_source("list", Csv(source="csv", path="list.csv"), folder).notes
    assert f"'filename' has the paths and '{label}' the labels" in note
    named = Csv(source="csv", path="list.csv", image_column="filename", label_column=label)
    assert read_source("list", named, folder).notes == ()


def test_columns_that_are_named_in_any_order_with_quotes(folder: Path):
    text = "y_true,comment,where\n" + "".join(f'{label},"a, b",./{id}\n' for id, label in EXPECTED.items())
    assert labels_by_id(opened(folder, text, image_column="where", label_column="y_true")) == EXPECTED


def test_paths_start_from_the_folder_of_images_and_may_lack_the_suffix(folder: Path):
    text = "id,label\n000,a\n001,b\n002.png,a\n"
    data = opened(folder, text, images="img")
    assert data.sample_ids == ("000.png", "001.png", "002.png")
    assert data.image(0).shape == (10, 12, 3) or data.image(0).shape == (12, 10, 3)


def test_splits_of_the_file_and_rows_without_labels(folder: Path):
    splits = ["train", "Training", "val", "test", "train", "train"]
    rows = [f"{id},{label},{split}" for (id, label), split in zip(EXPECTED.items(), splits, strict=True)]
    text = "\n".join(["path,label,split", *rows, "more/000.png,,", "more/001.png,,"])
    assert opened(folder, text, "list.test").sample_ids == ("img/003.png",)
    assert len(opened(folder, text, "list.train")) == 4
    assert len(opened(folder, text)) == 6
    pool = opened(folder, text, "list.pool")
    assert (pool.sample_ids, pool.labels) == (("more/000.png", "more/001.png"), None)
    with_few = opened(folder, text, "list.support", few_shot={"shots": "all"})
    assert Counter(labels_by_id(with_few).values()) == {"cat": 1, "dog": 2, "background": 1}


def test_a_row_twice_counts_once(folder: Path):
    rows = [f"{id},{label}" for id, label in EXPECTED.items()]
    assert labels_by_id(opened(folder, "\n".join(rows + rows[:2]))) == EXPECTED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this file is empty"),
        ("image,label\n", "no row has a label"),
        ("img/000.png,a\nimg/001.png\n", r"list\.csv:2: this row has too few cells"),
        ("image,label\nimg/000.png,a\nimg/9.png,b\n", r"list\.csv:3: there is no such image"),
        ("img/000.png,a\n../list.csv,b\n", r"list\.csv:2: this path leads out of the folder"),
        ("img/000.png,a\n/etc/passwd,b\n", r"list\.csv:2: this path leads out of the folder"),
        ("img/000.png,a\n,b\n", r"list\.csv:2: this row has no path"),
        ("img/000.png,a\n.,b\n", r"list\.csv:2: this path is a folder"),
        ("img/000.png,a\nimg,b\n", r"list\.csv:2: this path is a folder"),
        ("filename,x,y\nimg/000.png,3,4\n", "no column of labels is found"),
        (
            "img/000.png,a\nimg/000.png,b\n",
            r"list\.csv:2: 'img/000\.png' has two labels(.|\n)*'a' in line 1, 'b' in line 2",
        ),
        (f"img/000.png,a\nimg/{'x' * 5000}.png,b\n", r"list\.csv:2: there is no such image"),
        ("a,b\nx,y\n", r"no column of paths is found(.|\n)*got: a, b(.|\n)*image_column"),
        ("image,b\nx,y\n", "no column of labels is found"),
        ("img/000.png\n", "no column of labels is found"),
        (
            "path,label,split\nimg/000.png,a,train\nimg/001.png,b,holdout\n",
            r"list\.csv:3: this is no split(.|\n)*'holdout'",
        ),
        (b"image,label\nimg/000.png,caf\xe9\n", r"list\.csv:2: this file is not UTF-8"),
        ('img/000.png,a\nimg/001.png,"b\n', r"list\.csv:2: this line cannot be read"),
        ("img/000.png,a\0\n", "control characters|cannot be read"),
        ("img/000.png,a\nimg/001.png,a\n", "at least two classes"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(folder: Path, text: str | bytes, message: str):
    with pytest.raises(DataError, match=message):
        opened(folder, text)


def test_a_wrong_column_name_is_answered_with_the_nearest(folder: Path):
    with pytest.raises(DataError, match=r"no column 'lable'(.|\n)*Did you mean 'label'"):
        opened(folder, "image,label\nimg/000.png,a\n", label_column="lable")


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "secret.png").write_bytes((folder / "img/000.png").read_bytes())
    (folder / "img/link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="leads out of the folder"):
        opened(folder, "img/000.png,a\nimg/link.png,b\n")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80) | st.text(alphabet='ab/.,;"\n\timagelsp', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(folder: Path, content: bytes):
    with suppress(DataError):
        opened(folder, content)
