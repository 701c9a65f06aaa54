"""Saved Hugging Face data sets, against the `datasets` package itself."""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from edgevit.artifacts import Preprocess
from edgevit.configs import Augmentation, HuggingFace
from edgevit.data import Dataset, ViewDataset, dataset_artifacts, open_dataset
from edgevit.errors import DataError, MissingDependency, RecipeError

hf = pytest.importorskip("datasets")
hf.disable_progress_bars()


def random_image(seed: str) -> Image.Image:
    return Image.fromarray(np.random.default_rng(list(seed.encode())).integers(0, 256, (12, 10, 3), np.uint8))


def table(
    seeds: str, labels: list[Any] | None = None, label: Any = None, image: str = "image", to: str = "label"
) -> Any:
    """A Dataset with an image for each letter, of the classes cat, ant, owl in turn."""
    features = {image: hf.Image(), to: label or hf.ClassLabel(names=["cat", "ant", "owl"])}
    columns = {image: [random_image(seed) for seed in seeds], to: labels or [index % 3 for index in range(len(seeds))]}
    return hf.Dataset.from_dict(columns, features=hf.Features(features))


def saved(folder: Path, content: Any) -> Path:
    content.save_to_disk(str(folder / "set"))
    return folder / "set"


def config(path: Path, **options: Any) -> HuggingFace:
    return HuggingFace(source="huggingface", path=str(path), **options)


def opened(path: Path, role: str = "hub", **options: Any) -> Dataset:
    return open_dataset(dataset_artifacts({"hub": config(path, **options)}, path.parent, [role])[role])


def digest(path: Path, role: str = "hub", cache: Path | None = None) -> str:
    return dataset_artifacts({"hub": config(path)}, path.parent, [role], cache)[role].digest


def notes(path: Path, **options: Any) -> str:
    artifacts = dataset_artifacts({"hub": config(path, **options)}, path.parent, ["hub"])
    return "\n".join(artifacts["hub"].manifest.provenance["notes"])


def test_agrees_with_the_datasets_package(tmp_path: Path):
    whole = hf.DatasetDict({"train": table("abcdefg"), "validation": table("hij"), "test": table("klmn")})
    root = saved(tmp_path, whole)
    loaded = hf.load_from_disk(str(root))
    for role, split, count in (("train", "train", 7), ("val", "validation", 3), ("test", "test", 4)):
        data = opened(root, f"hub.{role}")
        assert data.classes == ("cat", "ant", "owl")
        assert data.sample_ids == tuple(f"{role}/{row:07d}" for row in range(count))
        for index, row in enumerate(loaded[split]):
            assert data.labels[index] == row["label"]
            np.testing.assert_array_equal(data.image(index), np.asarray(row["image"].convert("RGB")))


def test_several_files_and_selected_rows(tmp_path: Path):
    rows = table("abcdefghij").select([9, 0, 4, 7, 2])
    rows.save_to_disk(str(tmp_path / "set"), num_shards=3)
    data = opened(tmp_path / "set")
    assert len(list((tmp_path / "set").glob("*.arrow"))) == 3
    assert data.labels.tolist() == [0, 0, 1, 1, 2]
    for index, seed in enumerate("jaehc"):
        np.testing.assert_array_equal(data.image(index), np.asarray(random_image(seed)))


def test_a_single_dataset_is_divided_by_fractions(tmp_path: Path):
    root = saved(tmp_path, table("abcdefghijklmnopqrstuvwxyz"))
    roles = [opened(root, f"hub.{role}", splits={"val": 0.2, "test": 0.3}) for role in ("train", "val", "test")]
    assert sum(map(len, roles)) == 26
    assert set.union(*(set(role.sample_ids) for role in roles)) == {f"{row:07d}" for row in range(26)}


def test_columns_go_by_usual_names_or_those_given(tmp_path: Path):
    root = saved(tmp_path, table("abc", image="img", to="fine_label"))
    assert opened(root).labels.tolist() == [0, 1, 2]
    root = saved(tmp_path / "other", table("abc", image="photo", to="kind"))
    assert opened(root, image_column="photo", label_column="kind").labels.tolist() == [0, 1, 2]
    assert opened(root, image_column="photo", labelled=False).labels is None
    with pytest.raises(DataError, match=r"no column 'image'(.|\n)*got: photo, kind(.|\n)*image_column"):
        opened(root)
    with pytest.raises(DataError, match=r"no column 'label'(.|\n)*label_column \(or set labelled: false\)"):
        opened(root, image_column="photo")
    with pytest.raises(DataError, match=r"no column 'kint'(.|\n)*Did you mean 'kind'"):
        opened(root, image_column="photo", label_column="kint")
    with pytest.raises(DataError, match=r"does not hold images(.|\n)*expected: the feature Image"):
        opened(root, image_column="kind", label_column="kind")


@pytest.mark.parametrize(
    ("feature", "labels", "classes"),
    [("int64", [2, 0, 3], ("0", "1", "2", "3")), ("string", ["owl", "cat", "owl"], ("cat", "owl"))],
)
def test_labels_without_class_names(tmp_path: Path, feature: str, labels: list[Any], classes: tuple[str, ...]):
    data = opened(saved(tmp_path, table("abc", labels, hf.Value(feature))))
    assert data.classes == classes
    assert [classes[label] for label in data.labels] == [str(label) for label in labels]


@pytest.mark.parametrize(
    ("feature", "labels", "message"),
    [
        (hf.Value("int64"), [0, None, 1], "neither a number nor a name(.|\n)*None in row 1"),
        (hf.Value("float32"), [0.0, 1.0, 2.0], "neither a number nor a name"),
        (hf.Value("bool"), [True, False, True], "neither a number nor a name"),
        (hf.List(hf.Value("int64")), [[0], [1], [2]], "neither a number nor a name"),
        (hf.Value("int64"), [0, -1, 1], "not indices of classes"),
    ],
)
def test_labels_that_make_no_sense(tmp_path: Path, feature: Any, labels: list[Any], message: str):
    with pytest.raises(DataError, match=message):
        opened(saved(tmp_path, table("abc", labels, feature)))


def test_splits_with_hidden_labels_or_other_names_are_passed_over(tmp_path: Path):
    root = saved(
        tmp_path,
        hf.DatasetDict({"train": table("abc"), "test": table("def", [-1, -1, -1]), "extra": table("ghi")}),
    )
    said = notes(root)
    assert "the split 'test' is passed over: its labels are hidden (-1)" in said
    assert "the split 'extra' is passed over" in said
    with pytest.raises(RecipeError, match=r"no role 'test'(.|\n)*expected: train"):
        opened(root, "hub.test")
    assert len(opened(root, "hub.test", labelled=False)) == 3


def test_splits_have_to_agree(tmp_path: Path):
    other = table("def", label=hf.ClassLabel(names=["cat", "owl", "ant"]))
    with pytest.raises(DataError, match="differ in their classes"):
        opened(saved(tmp_path, hf.DatasetDict({"train": table("abc"), "test": other})))
    twice = hf.DatasetDict({"val": table("abc"), "validation": table("def")})
    with pytest.raises(DataError, match=r"two splits serve as val(.|\n)*got: val, validation"):
        opened(saved(tmp_path / "twice", twice))


def test_a_saved_format_changes_nothing(tmp_path: Path):
    data = opened(saved(tmp_path, table("abc").with_format("numpy", columns=["label"])))
    np.testing.assert_array_equal(data.image(1), np.asarray(random_image("b")))


def test_the_fingerprint_follows_images_and_labels_and_nothing_else(tmp_path: Path):
    tables = [table("abcd"), table("abcx"), table("abcd", [0, 1, 2, 1]), table("abcd").add_column("x", [1, 2, 3, 4])]
    digests = [digest(saved(tmp_path / str(number), one)) for number, one in enumerate(tables)]
    assert len(set(digests)) == 3
    assert digests[0] == digests[3]
    table("abcd").save_to_disk(str(tmp_path / "files"), num_shards=2)
    assert digest(tmp_path / "files") == digests[0]


def test_hashes_are_remembered_until_the_files_change(tmp_path: Path):
    root, cache = saved(tmp_path, table("abcd")), tmp_path / "states.json"
    before = digest(root, cache=cache)
    assert len(json.loads(cache.read_text())["files"]) == 4
    known = cache.stat().st_mtime_ns
    assert digest(root, cache=cache) == before
    assert cache.stat().st_mtime_ns == known
    table("abcx").save_to_disk(str(root))
    assert digest(root, cache=cache) != before


def test_an_image_that_is_damaged_or_not_there_is_skipped(tmp_path: Path):
    rows = table("abcd").cast_column("image", hf.Image(decode=False)).to_dict()
    rows["image"][1] = {"bytes": rows["image"][1]["bytes"][:50], "path": None}
    rows["image"][2] = None
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["cat", "ant", "owl"])})
    root = saved(tmp_path, hf.Dataset.from_dict(rows, features=features))
    assert opened(root).sample_ids == ("0000000", "0000003")
    assert "2 images cannot be read and are skipped: 0000001 (cannot be read as an image" in notes(root)
    with pytest.raises(DataError, match="on_bad_image: skip"):
        opened(root, on_bad_image="refuse")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("data-00000-of-00001.arrow", b"x" * 2000),
        ("data-00000-of-00001.arrow", None),
        ("state.json", b"{"),
        ("state.json", b"{}"),
        ("state.json", None),
        ("dataset_info.json", b'{"features": {"image": {"_type": "Unheard"}}}'),
    ],
)
def test_what_is_no_saved_data_set(tmp_path: Path, file: str, content: bytes | None):
    root = saved(tmp_path, table("abc"))
    (root / file).unlink()
    if content is not None:
        (root / file).write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be opened as a saved data set(.|\n)*save_to_disk"):
        opened(root)


def test_a_truncated_arrow_file_is_refused(tmp_path: Path):
    root = saved(tmp_path, table("abcdef"))
    file = root / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(DataError, match="cannot be opened as a saved data set"):
        opened(root)


def test_only_a_local_folder_will_do(tmp_path: Path):
    with pytest.raises(DataError, match=r"no such folder(.|\n)*a local folder"):
        opened(tmp_path / "ylecun/mnist")


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependency, match=r"pip install 'edgevit\[huggingface\]'"):
        opened(tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_views_are_the_same_under_any_number_of_workers(tmp_path: Path, workers: int):
    root = saved(tmp_path, hf.DatasetDict({"train": table("abcdefg"), "test": table("hij")}))
    views = ViewDataset(opened(root), Preprocess(height=16, width=16), Augmentation(), seed=3)
    order = [(epoch, 0, index) for epoch in (0, 1) for index in (9, 0, 7, 3, 6, 8)]
    alone, others = (
        torch.cat([canvas for canvas, _, _ in DataLoader(views, batch_size=5, sampler=order, num_workers=number)])
        for number in (0, workers)
    )
    assert torch.equal(alone, others)


def test_pickles_without_its_images(tmp_path: Path):
    data = opened(saved(tmp_path, table("abcdef" * 50)))
    pickled = pickle.dumps(data)
    assert len(pickled) < 300 * 100
    copy = pickle.loads(pickled)  # noqa: S301
    np.testing.assert_array_equal(copy.image(4), data.image(4))


def test_files_that_lead_out_of_the_folder_are_refused(tmp_path: Path):
    root = saved(tmp_path, table("abc"))
    file = root / "data-00000-of-00001.arrow"
    file.rename(tmp_path / "elsewhere.arrow")
    file.symlink_to(tmp_path / "elsewhere.arrow")
    with pytest.raises(DataError, match="leads out of the data set's folder"):
        opened(root)
    file.unlink()
    state = json.loads((root / "state.json").read_text())
    state["_data_files"] = [{"filename": "../elsewhere.arrow"}]
    (root / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="leads out of the data set's folder"):
        opened(root)
