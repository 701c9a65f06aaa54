"""Prototypes against edgevit's own head and against loops; the file against every kind of damage."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.bundling import prototypes
from edgevit.bundling.prototypes import (
    FORMAT_VERSION,
    UNTESTED,
    ClassesError,
    Rates,
    SupportSet,
    head_of,
    left_out,
    rates,
    read_support,
    write_support,
)
from edgevit.fewshot.heads import nearest_centroid

counts = st.lists(st.integers(1, 6), min_size=2, max_size=5)


def random_support(counts: list[int], seed: int = 0, spread: float = 1.0, width: int = 7) -> SupportSet:
    """Clusters far from the origin; a label's images lie apart from each other in the order."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = 5 + generator.normal(0, 2, (len(counts), width))
    embeddings = centres[labels] + generator.normal(0, spread, (len(labels), width))
    classes = tuple(f"class {i}" for i in range(len(counts)))
    return SupportSet.as_bundled(classes, embeddings.astype(np.float32), labels, "0" * 64, learned=False)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other) or 1))


def left_out_by_hand(support: SupportSet) -> tuple[list[int], list[float]]:
    """The nearest class of each image and how near it is, by loops, the centre being that of the other images."""
    features = support.embeddings.astype(np.float64)
    nearest, best = [], []
    for index in range(len(features)):
        offsets = features - np.delete(features, index, axis=0).mean(0)
        directions = [offset / (np.linalg.norm(offset) or 1) for offset in offsets]
        direction = directions[index]
        cosines = []
        for label in range(len(support.classes)):
            members = [i for i in range(len(directions)) if support.labels[i] == label and i != index]
            cosines.append(cosine(direction, np.mean([directions[i] for i in members], axis=0)) if members else None)
        tested = cosines[support.labels[index]] is not None
        known = [-2.0 if one is None else one for one in cosines]
        nearest.append(int(np.argmax(known)) if tested else UNTESTED)
        if tested:
            best.append(max(known))
    return nearest, best


@settings(max_examples=40)
@given(counts, st.integers(0, 1000), st.floats(0.1, 5))
def test_head_is_edgevits_nearest_centroid_at_a_scale_of_its_own(counts, seed, spread):
    support = random_support(counts, seed, spread)
    features = support.embeddings.astype(np.float64)
    reference = nearest_centroid(features, support.labels, len(counts), features.mean(0))
    queries = np.random.default_rng(seed + 1).normal(5, 3, (20, 7)).astype(np.float32)
    logits, expected = head_of(support).logits(queries), reference.logits(queries)  # type: ignore[arg-type]
    np.testing.assert_allclose(logits / np.abs(logits).max(), expected / np.abs(expected).max(), rtol=1e-9, atol=1e-9)


@settings(max_examples=40)
@given(counts, st.integers(0, 1000), st.floats(0.1, 5))
def test_left_out_is_what_loops_give(counts, seed, spread):
    support = random_support(counts, seed, spread)
    nearest, best = left_out_by_hand(support)
    checked, head = left_out(support), head_of(support)
    assert checked.nearest.tolist() == nearest
    tested = [i for i, label in enumerate(nearest) if label != UNTESTED]
    if not tested:
        assert rates(support) == Rates(None, None, None)
        assert head.threshold is None
        return
    shares = [[nearest[i] == label for i in tested if support.labels[i] == label] for label in range(len(counts))]
    assert rates(support).accuracy.value == pytest.approx(np.mean([np.mean(one) for one in shares if one]))
    weights = np.array([1 / len(shares[support.labels[i]]) for i in tested]) / sum(map(bool, shares))
    assert weights[np.array(best) >= head.threshold - 1e-12].sum() >= 0.95 - 1e-9
    assert weights[np.array(best) > head.threshold + 1e-12].sum() < 0.95
    for label, name in enumerate(support.classes):
        expected = [nearest[i] for i in tested if support.labels[i] == label and nearest[i] != label]
        assert sum(checked.nearer_to(name).values()) == len(expected)


def test_cosines_are_those_of_directions_from_the_centre():
    support = random_support([3, 4])
    head, query = head_of(support), np.full((1, 7), 4, np.float32)
    features = support.embeddings.astype(np.float64)
    directions = [(one - features.mean(0)) / np.linalg.norm(one - features.mean(0)) for one in features]
    for label in range(2):
        centroid = np.mean([directions[i] for i in np.flatnonzero(support.labels == label)], axis=0)
        assert head.cosines(query)[0, label] == pytest.approx(cosine(query[0] - features.mean(0), centroid))


@settings(max_examples=30)
@given(counts, st.integers(1, 6), st.text(min_size=1).filter(lambda name: not name.endswith("\0")))
def test_adding_and_removing_a_class_leaves_the_same_content(tmp_path_factory, counts, images, name):
    support, folder = random_support(counts), tmp_path_factory.mktemp("classes")
    new = np.random.default_rng(1).normal(size=(images, 7)).astype(np.float32)
    write_support(support, folder / "before")
    if name in support.classes:
        return
    write_support(support.with_images(name, new), folder / "file")
    added = read_support(folder / "file")
    assert added.classes == (*support.classes, name)
    assert np.array_equal(added.images_of(name), new)
    assert added.sha256 != support.sha256
    write_support(added.without(name), folder / "file")
    assert (folder / "file").read_bytes() == (folder / "before").read_bytes()


def test_removing_a_class_in_the_middle_keeps_the_others():
    support = random_support([2, 3, 4])
    rest = support.without("class 1")
    assert rest.classes == ("class 0", "class 2")
    for name in rest.classes:
        assert np.array_equal(rest.images_of(name), support.images_of(name))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_support(random_support([3, 2]), tmp_path / "classes.npz")
    return tmp_path / "classes.npz"


def test_damaged_bytes_are_refused_or_change_nothing(file: Path):
    whole, expected = file.read_bytes(), read_support(file).sha256
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        if generator.random() < 0.3:
            del damaged[generator.integers(len(whole)) :]
        else:
            damaged[generator.integers(len(whole))] ^= 1 << generator.integers(8)
        file.write_bytes(damaged)
        try:
            assert read_support(file).sha256 == expected
        except ClassesError:
            refused += 1
    assert refused > 200


def arrays(**changes: Any) -> dict[str, Any]:
    support = random_support([3, 2])
    fields = {"format_version": FORMAT_VERSION, "learned": False, "classes": np.array(support.classes)}
    fields |= {name: getattr(support, name) for name in prototypes.ARRAYS}
    fields |= {"model": np.array(support.model), "sha256": np.array(support.sha256)}
    return {**fields, **changes}


class Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was loaded",))


def pickled() -> np.ndarray:
    return np.array([Runs(), Runs()], dtype=object)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format_version": 1}, "another format"),
        ({"labels": np.array([0, 0, 0, 1, 0])}, "was altered"),
        ({"model": np.array("1" * 64)}, "was altered"),
        ({"labels": np.array([0, 0, 0, 1, 2])}, "a label no class"),
        ({"labels": np.zeros(5, np.int64)}, "a class has no image"),
        ({"labels": np.zeros(4, np.int64)}, "labels"),
        ({"classes": np.array(["a", "a"])}, "same name"),
        ({"classes": np.array(["a"])}, "there are 1, and two are needed"),
        ({"classes": pickled()}, "cannot be read"),
        ({"embeddings": np.full((5, 7), np.nan, np.float32)}, "NaN"),
        ({"embeddings": np.zeros(5, np.float32)}, "embeddings"),
    ],
)
def test_wrong_content_is_refused(file: Path, changes: dict[str, Any], said: str):
    np.savez(file, **arrays(**changes))
    with pytest.raises(ClassesError, match=said):
        read_support(file)


def test_compressed_content_is_refused_before_it_is_unpacked(file: Path):
    np.savez_compressed(file, **arrays(embeddings=np.zeros((200_000, 64), np.float32)))
    with pytest.raises(ClassesError, match="compressed"):
        read_support(file)


def test_other_files_are_refused(file: Path):
    file.write_bytes(pickle.dumps(Runs()))
    with pytest.raises(ClassesError, match="cannot be read"):
        read_support(file)
    buffer = io.BytesIO()
    np.savez(buffer, classes=np.array(["a", "b"]))
    file.write_bytes(buffer.getvalue())
    with pytest.raises(ClassesError, match="cannot be read"):
        read_support(file)
    file.unlink()
    with pytest.raises(ClassesError, match="missing"):
        read_support(file)


def test_size_is_bounded_both_ways(file: Path, monkeypatch: pytest.MonkeyPatch):
    support = read_support(file)
    before = file.read_bytes()
    monkeypatch.setattr(prototypes, "LARGEST_FILE", len(before) - 1)
    with pytest.raises(ClassesError, match="too large"):
        read_support(file)
    with pytest.raises(ClassesError, match="too many images") as caught:
        write_support(support, file)
    assert "5 images in 7 dimensions" in str(caught.value)
    assert file.read_bytes() == before
