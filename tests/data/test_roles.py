"""Roles, few-shot draws and fingerprints, on digits and small folders."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.artifacts import Artifact, Manifest
from edgevit.configs import Digits, FewShotDraw, ImageFolder, Splits
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.splits import lowest_of_each_class, split_by_hash
from edgevit.errors import ArtifactError, DataError, RecipeError

from .conftest import MakeImages, write_image

HERE = Path()


def digits(draw: int = 0, shots: int = 5) -> dict[str, Digits]:
    return {"digits": Digits(source="digits", few_shot=FewShotDraw(shots=shots, draw=draw))}


def digest(root: Path, role: str, cache: Path | None = None, **options: Any) -> str:
    photos = {"photos": ImageFolder(source="image_folder", path=str(root), **options)}
    return dataset_artifacts(photos, HERE, [role], cache=cache)[role].digest


def test_support_pool_and_test_share_no_sample_and_make_up_the_whole():
    names = ["digits", "digits.train", "digits.support", "digits.pool", "digits.test"]
    whole, train, support, pool, test = map(open_dataset, dataset_artifacts(digits(), HERE, names).values())
    assert Counter(support.labels.tolist()) == dict.fromkeys(range(10), 5)
    assert pool.labels is None
    assert set(support.sample_ids) | set(pool.sample_ids) == set(train.sample_ids)
    assert not set(support.sample_ids) & set(pool.sample_ids)
    assert not set(train.sample_ids) & set(test.sample_ids)
    assert set(train.sample_ids) | set(test.sample_ids) == set(whole.sample_ids)
    assert len(support) + len(pool) + len(test) == len(whole) == 1797


def test_a_draw_changes_the_support_and_never_the_test_half():
    def ids(draw: int, role: str) -> tuple[str, ...]:
        return open_dataset(dataset_artifacts(digits(draw), HERE, [role])[role]).sample_ids

    assert ids(0, "digits.support") == ids(0, "digits.support")
    assert ids(0, "digits.test") == ids(1, "digits.test")
    draws = [frozenset(ids(draw, "digits.support")) for draw in range(5)]
    assert len(set(draws)) == 5


def test_only_the_roles_that_are_asked_for_are_made(tmp_path: Path):
    datasets = digits() | {"gone": ImageFolder(source="image_folder", path=str(tmp_path / "gone"))}
    assert set(dataset_artifacts(datasets, HERE, ["digits.test", "digits.test"])) == {"digits.test"}


def test_manifest_says_what_a_reader_needs():
    artifact = dataset_artifacts(digits(), HERE, ["digits.support"])["digits.support"]
    assert (artifact.kind, artifact.id) == ("dataset", "digits.support")
    assert artifact.manifest.config["role"] == "support"
    assert artifact.manifest.config["dataset"]["few_shot"] == {"shots": 5, "draw": 0}
    assert artifact.metrics == {"images": 50, "classes": 10, "unreadable": 0}
    assert Manifest.model_validate_json(artifact.manifest.model_dump_json()) == artifact.manifest


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit.test", "no data set 'digit'(.|\n)*Did you mean 'digits'"),
        ("digits.suport", "no role 'suport'(.|\n)*expected: train, test, support, pool(.|\n)*Did you mean 'support'"),
        ("digits.val", "no role 'val'"),
        ("digits.test.x", "no role 'test.x'"),
    ],
)
def test_a_name_that_does_not_exist_is_answered_with_those_that_do(name: str, message: str):
    with pytest.raises(RecipeError, match=message):
        dataset_artifacts(digits(), HERE, [name])


def test_support_without_few_shot_says_what_to_add():
    with pytest.raises(RecipeError, match=r"no role 'support'(.|\n)*few_shot: \{shots: 5\}"):
        dataset_artifacts({"digits": Digits(source="digits")}, HERE, ["digits.support"])


def test_too_few_images_for_the_support_names_the_classes():
    with pytest.raises(DataError, match=r"too few training images(.|\n)*0 has 89(.|\n)*at least 500 of each"):
        dataset_artifacts(digits(shots=500), HERE, ["digits.support"])


def test_an_empty_pool_is_refused(make_images: MakeImages):
    root = make_images({"train/a": 2, "train/b": 2})
    with pytest.raises(DataError, match="the role has no images"):
        digest(root, "photos.pool", few_shot={"shots": 2})


def test_all_labels_are_the_support_and_the_pool_is_what_has_none(make_images: MakeImages):
    root = make_images({"train/a": 5, "train/b": 8, "test/a": 1, "test/b": 1, "unlabeled/c": 4, "unlabeled": 1})
    photos = {"photos": ImageFolder(source="image_folder", path=str(root), few_shot=FewShotDraw(shots="all"))}
    made = dataset_artifacts(photos, HERE, [f"photos{role}" for role in ("", ".train", ".support", ".pool")])
    whole, train, support, pool = map(open_dataset, made.values())
    assert (len(whole), len(train), len(support), len(pool)) == (15, 13, 13, 5)
    assert made["photos.support"].digest == made["photos.train"].digest
    assert pool.labels is None
    assert whole.classes == ("a", "b")
    assert "photos: 5 images have no labels and are the role pool" in made["photos"].manifest.provenance["notes"]
    hidden = {"photos": photos["photos"].model_copy(update={"few_shot": FewShotDraw(shots=3)})}
    made = dataset_artifacts(hidden, HERE, ["photos.support", "photos.pool"])
    assert [len(open_dataset(one)) for one in made.values()] == [6, 7 + 5]
    chosen = {"photos": photos["photos"].model_copy(update={"few_shot": None})}
    assert len(open_dataset(dataset_artifacts(chosen, HERE, ["photos.pool"])["photos.pool"])) == 5


def test_a_pool_that_is_not_there_says_where_it_would_lie(make_images: MakeImages):
    root = make_images({"train/a": 2, "train/b": 2})
    with pytest.raises(RecipeError, match=r"no role 'pool'(.|\n)*expected: train, support\n(.|\n)*folder 'unlabelled'"):
        digest(root, "photos.pool", few_shot={"shots": "all"})
    make_images({"unlabelled": 2, "pool": 2})
    with pytest.raises(DataError, match=r"two folders hold images without labels(.|\n)*got: pool, unlabelled"):
        digest(root, "photos.train")


def test_included_classes_keep_the_unlabelled_images(make_images: MakeImages):
    root = make_images({"a": 3, "b": 3, "c": 3, "Unlabelled": 4})
    photos = {"photos": ImageFolder(source="image_folder", path=str(root), include_classes=("a", "c"))}
    pool = open_dataset(dataset_artifacts(photos, HERE, ["photos.pool"])["photos.pool"])
    assert pool.sample_ids == tuple(f"Unlabelled/{number:03d}.png" for number in range(4))
    assert pool.image(0).shape == (12, 10, 3)


def test_only_a_dataset_can_be_opened_as_one():
    manifest = Manifest(kind="onnx", id="int8", key="k", digest="d", stage="quantize", stage_version=1, config={})
    with pytest.raises(ArtifactError, match="int8: this is a onnx"):
        open_dataset(Artifact(HERE, manifest))


# Fingerprints -------------------------------------------------------------------------------------------------


def test_a_fingerprint_depends_on_its_own_role_only(make_images: MakeImages):
    root = make_images({"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
    train, test = digest(root, "photos.train"), digest(root, "photos.test")
    write_image(root / "test/a/new.png", "new")
    assert digest(root, "photos.train") == train
    assert digest(root, "photos.test") != test


@pytest.mark.parametrize("change", ["content", "name", "label", "class name", "other class"])
def test_every_change_of_content_changes_the_fingerprint(make_images: MakeImages, change: str):
    root = make_images({"train/a": 3, "train/b": 3})
    before = digest(root, "photos.train")
    if change == "content":
        write_image(root / "train/a/000.png", "other")
    elif change == "name":
        (root / "train/a/000.png").rename(root / "train/a/zzz.png")
    elif change == "label":
        (root / "train/a/000.png").rename(root / "train/b/zzz.png")
    elif change == "class name":
        (root / "train/a").rename(root / "train/aa")
    else:
        make_images({"test/c": 1})
    assert digest(root, "photos.train") != before


def test_a_fingerprint_ignores_where_the_folder_lies_and_when_it_was_written(make_images: MakeImages, tmp_path: Path):
    root = make_images({"train/a": 2, "train/b": 2})
    before = digest(root, "photos.train")
    root.rename(tmp_path / "moved")
    for file in (tmp_path / "moved").rglob("*.png"):
        file.touch()
    assert digest(tmp_path / "moved", "photos.train") == before


def test_the_pool_hides_labels_from_its_fingerprint_but_not_its_samples():
    draws = [dataset_artifacts(digits(draw), HERE, ["digits.pool"])["digits.pool"].digest for draw in (0, 1)]
    assert draws[0] != draws[1]


def test_hashes_are_remembered_until_a_file_changes(make_images: MakeImages, tmp_path: Path):
    root, cache = make_images({"train/a": 2, "train/b": 2}), tmp_path / "work" / "states.json"
    before = digest(root, "photos.train", cache)
    entries = json.loads(cache.read_text())["files"]
    assert sorted(entries) == sorted(str(file) for file in root.rglob("*.png"))

    entry = entries[str(root / "train/a/000.png")]
    entry[1] = "0" * 64
    cache.write_text(json.dumps({"version": 2, "files": entries}))
    assert digest(root, "photos.train", cache) != before, "the remembered hash was not used"

    (root / "train/a/000.png").touch()
    assert digest(root, "photos.train", cache) == before, "a file with another mtime was not read again"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"version": 0, "files": {"x": 1}}'])
def test_a_damaged_cache_is_made_again(make_images: MakeImages, tmp_path: Path, content: str):
    root, cache = make_images({"train/a": 2, "train/b": 2}), tmp_path / "states.json"
    cache.write_text(content)
    assert digest(root, "photos.train", cache) == digest(root, "photos.train")
    assert len(json.loads(cache.read_text())["files"]) == 4


def test_reading_data_sets_imports_no_torch():
    code = (
        "import sys; from pathlib import Path; from edgevit.configs import Digits, Glyphs\n"
        "from edgevit.data import dataset_artifacts, open_dataset\n"
        "data = {'digits': Digits(source='digits'), 'glyphs': Glyphs(source='glyphs', samples_per_class=1)}\n"
        "made = dataset_artifacts(data, Path(), ['digits', 'glyphs.train'])\n"
        "print(open_dataset(made['glyphs.train']).image(0).shape, 'torch' in sys.modules, 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(32, 32, 3) False False"


# Draws --------------------------------------------------------------------------------------------------------

IDS = st.lists(st.text(max_size=8), unique=True, min_size=1, max_size=60)


@given(ids=IDS, added=IDS, seed=st.integers(0, 2**31 - 1))
def test_splits_do_not_depend_on_order_or_on_other_samples(ids: list[str], added: list[str], seed: int):
    splits = Splits(val=0.3, test=0.3, seed=seed)
    alone = dict(zip(ids, split_by_hash(ids, splits), strict=True))
    together = list(dict.fromkeys([*added, *reversed(ids)]))
    after = dict(zip(together, split_by_hash(together, splits), strict=True))
    assert {name: after[name] for name in ids} == alone


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6), seed=st.integers(0, 2**31 - 1), data=st.data())
def test_every_class_is_in_every_split_where_it_is_large_enough(sizes: list[int], seed: int, data: st.DataObject):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    ids = [f"{label}/{number}" for number, label in enumerate(labels.tolist())]
    order = np.array(data.draw(st.permutations(range(len(ids)))))
    splits = Splits(val=0.1, test=0.2, seed=seed)
    chosen = np.array(split_by_hash(ids, splits, labels))
    for label, size in enumerate(sizes):
        needed = {"train", "test", "val"} if size > 2 else {"train", "test"} if size == 2 else {"train"}
        assert needed <= set(chosen[labels == label])
    again = split_by_hash([ids[index] for index in order], splits, labels[order])
    assert list(again) == chosen[order].tolist()
    by_hash = np.array(split_by_hash(ids, splits))
    for label in range(len(sizes)):
        if len(set(by_hash[labels == label])) == 3:
            np.testing.assert_array_equal(chosen[labels == label], by_hash[labels == label])


def test_a_split_of_no_share_gets_no_image():
    labels = np.zeros(6, np.int64)
    assert set(split_by_hash([str(i) for i in range(6)], Splits(val=0, test=0.01), labels)) == {"train", "test"}
    assert set(split_by_hash([str(i) for i in range(6)], Splits(val=0, test=0), labels)) == {"train"}


@given(ids=IDS, count=st.integers(1, 5), data=st.data())
def test_the_support_has_so_many_of_each_class_and_depends_on_no_order(ids: list[str], count: int, data: st.DataObject):
    labels = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(ids), max_size=len(ids))), np.int64)
    chosen = lowest_of_each_class(ids, labels, count, "draw 0")
    for label, available in Counter(labels.tolist()).items():
        assert (labels[chosen] == label).sum() == min(count, available)
    order = data.draw(st.permutations(range(len(ids))))
    shuffled = lowest_of_each_class([ids[i] for i in order], labels[order], count, "draw 0")
    assert {ids[order[i]] for i in shuffled} == {ids[i] for i in chosen}
