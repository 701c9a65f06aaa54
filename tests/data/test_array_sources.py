"""Digits, CIFAR and .npz: against their own readers, and files that are not what they should be."""

import contextlib
import io
import pickle
import re
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from edgevit.configs import Cifar, Digits, Npz
from edgevit.data import Dataset, dataset_artifacts, open_dataset
from edgevit.data.sources import cifar
from edgevit.errors import DataError, RecipeError

HERE = Path()


def opened(config: Cifar | Digits | Npz, role: str) -> Dataset:
    return open_dataset(dataset_artifacts({"data": config}, HERE, [role])[role])


# Digits -------------------------------------------------------------------------------------------------------


def test_digits_are_the_scans_of_scikit_learn_in_a_dark_frame():
    data, scans = opened(Digits(source="digits"), "data"), load_digits()
    assert len(data) == 1797
    np.testing.assert_array_equal(data.labels, scans.target)
    for index in (0, 700, 1796):
        image = data.image(index)
        assert image.shape == (32, 32, 3)
        assert image[0].max() < 40
        shrunk = image[..., 0].reshape(32, 32)[5:29:3, 5:29:3].astype(float)
        assert np.corrcoef(shrunk.ravel(), scans.images[index].ravel())[0, 1] > 0.7


def test_a_sample_is_drawn_by_its_seed_and_in_order():
    train = opened(Digits(source="digits"), "data.train")
    some = train.sample(20, seed=1)
    positions = [train.sample_ids.index(name) for name in some.sample_ids]
    assert positions == sorted(set(positions))
    assert len(positions) == 20
    assert some.labels is not None
    np.testing.assert_array_equal(some.labels, train.labels[positions])
    assert train.sample(20, seed=1).sample_ids == some.sample_ids != train.sample(20, seed=2).sample_ids
    assert train.sample(10**6, seed=1).sample_ids == train.sample_ids


def test_half_of_each_digit_is_for_the_test():
    train, test = opened(Digits(source="digits"), "data.train"), opened(Digits(source="digits"), "data.test")
    in_train, in_test = Counter(train.labels.tolist()), Counter(test.labels.tolist())
    assert all(0 <= in_train[digit] - in_test[digit] <= 1 for digit in range(10))


# .npz ---------------------------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 7, 5, 3), np.uint8)
LABELS = np.arange(60) % 3


def npz(tmp_path: Path, **arrays: Any) -> Npz:
    np.savez(tmp_path / "data.npz", **arrays)
    return Npz(source="npz", path=str(tmp_path / "data.npz"))


def test_arrays_with_splits_of_their_own(tmp_path: Path):
    config = npz(
        tmp_path,
        train_images=PIXELS,
        train_labels=LABELS,
        test_images=PIXELS[:6],
        test_labels=LABELS[:6],
        classes=np.array(["ant", "bee", "cow"]),
    )
    train, test = opened(config, "data.train"), opened(config, "data.test")
    assert (len(train), len(test), train.classes) == (60, 6, ("ant", "bee", "cow"))
    np.testing.assert_array_equal(train.image(59), PIXELS[59])
    np.testing.assert_array_equal(test.labels, LABELS[:6])
    with pytest.raises(RecipeError, match="expected: train, test"):
        opened(config, "data.val")


@pytest.mark.parametrize("channels", ["none", "one"])
def test_arrays_of_grey_images_are_split_by_fractions(tmp_path: Path, channels: str):
    grey = PIXELS[..., 0] if channels == "none" else PIXELS[..., :1]
    config = npz(tmp_path, images=grey, labels=LABELS)
    parts = [opened(config, f"data.{role}") for role in ("train", "val", "test")]
    assert sum(map(len, parts)) == 60
    whole = opened(config, "data")
    np.testing.assert_array_equal(whole.image(3), np.stack([PIXELS[3, ..., 0]] * 3, axis=2))


def test_labels_may_be_any_numbers_or_names(tmp_path: Path):
    numbers = opened(npz(tmp_path, images=PIXELS, labels=LABELS * 10 - 5), "data")
    assert numbers.classes == ("-5", "5", "15")
    names = opened(npz(tmp_path, images=PIXELS, labels=np.array(["cow", "ant", "bee"])[LABELS]), "data")
    assert names.classes == ("ant", "bee", "cow")
    assert names.labels[:3].tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": PIXELS.astype(float)}, r"images has a wrong type or shape(.|\n)*float64"),
        ({"images": PIXELS[..., :2]}, "images has a wrong type or shape"),
        ({"labels": LABELS[:-1]}, r"labels has a wrong type or shape(.|\n)*\(59,\)"),
        ({"labels": LABELS.astype(float)}, "labels has a wrong type or shape"),
        ({"classes": np.array(["ant", "bee"])}, r"not indices into 'classes'(.|\n)*0 to 2(.|\n)*expected: 0 to 1"),
        ({"labels": LABELS * 0}, "at least two classes"),
        ({"images": np.array([None] * 60)}, "cannot be read as .npz"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, change: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        opened(npz(tmp_path, **({"images": PIXELS, "labels": LABELS} | change)), "data")


def test_other_names_in_the_file_are_listed(tmp_path: Path):
    with pytest.raises(DataError, match=r"got: x, y(.|\n)*expected: images and labels"):
        opened(npz(tmp_path, x=PIXELS, y=LABELS), "data")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", pickle.dumps([1])])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz: this"):
        opened(Npz(source="npz", path=str(tmp_path / "data.npz")), "data")


def with_every_entry(flags: int = 0, method: int = 0) -> Callable[[bytes], bytes]:
    """Sets these fields in the directory of a zip file and before each of its members."""

    def change(content: bytes) -> bytes:
        fields = struct.pack("<HH", flags, method)
        content = re.sub(rb"(PK\x01\x02....)....", lambda found: found[1] + fields, content, flags=re.DOTALL)
        return re.sub(rb"(PK\x03\x04..)....", lambda found: found[1] + fields, content, flags=re.DOTALL)

    return change


def with_shape(shape: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(b"(60, 12, 12, 3)", shape)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_every_entry(flags=1), "is encrypted"),
        (with_every_entry(method=99), "compression"),
        (with_shape(b"(6000000000000)"), ""),
        (with_shape(b"((((((((((((((("), ""),
        (with_shape(b"(60,-12,12,-3 )"), ""),
        (lambda content: content.replace(b"'fortran_order'", b"'fortran_0rder'"), ""),
    ],
)
def test_a_hostile_npz_is_refused(tmp_path: Path, change: Callable[[bytes], bytes], message: str):
    config = npz(tmp_path, images=np.zeros((60, 12, 12, 3), np.uint8), labels=LABELS)
    content = (tmp_path / "data.npz").read_bytes()
    assert change(content) != content
    (tmp_path / "data.npz").write_bytes(change(content))
    with pytest.raises(DataError, match=rf"data\.npz: this file cannot be read as .npz: (.|\n)*{message}"):
        opened(config, "data")


@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=100, derandomize=True)
def test_flipped_bytes_of_an_npz_are_read_or_refused_and_never_escape(flips: list[tuple[float, int]]):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=np.zeros((6, 4, 4), np.uint8), labels=np.arange(6) % 2)
    content = bytearray(buffer.getvalue())
    for place, value in flips:
        content[int(place * len(content))] = value
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data.npz").write_bytes(content)
        with contextlib.suppress(DataError):
            opened(Npz(source="npz", path=str(Path(folder) / "data.npz")), "data")


def test_arrays_larger_than_half_of_the_memory_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pixels = np.zeros((60, 100, 100, 3), np.uint8)
    file = tmp_path / "data.npz"
    np.savez_compressed(file, images=pixels, labels=LABELS)
    assert file.stat().st_size < 10_000
    monkeypatch.setattr("edgevit.data.sources.npz._memory_bytes", lambda: 2 * pixels.nbytes)
    with pytest.raises(DataError, match=r"too large for this machine's memory(.|\n)*at most 0\.0 GiB(.|\n)*one by one"):
        opened(Npz(source="npz", path=str(file)), "data")


def test_other_arrays_are_not_read_and_are_named(tmp_path: Path):
    config = npz(tmp_path, images=PIXELS, labels=LABELS, masks=np.array([None]))
    made = dataset_artifacts({"data": config}, HERE, ["data"])["data"]
    assert made.manifest.provenance["notes"] == ["data: 1 arrays with other names are passed over: masks"]


def test_a_single_array_or_no_file_is_refused(tmp_path: Path):
    np.save(tmp_path / "data.npy", PIXELS)
    with pytest.raises(DataError, match="a single array"):
        opened(Npz(source="npz", path=str(tmp_path / "data.npy")), "data")
    with pytest.raises(DataError, match="no such file"):
        opened(Npz(source="npz", path=str(tmp_path / "gone.npz")), "data")


# CIFAR --------------------------------------------------------------------------------------------------------


def official(shared_data: Path, name: str, out: Path) -> Path:
    subprocess.run([sys.executable, shared_data / "cifar_io.py", name, out], check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def cifar10(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return official(shared_data, "cifar10", tmp_path_factory.mktemp("cifar"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torchvision")  # how torchvision unpickles with numpy 2
def test_cifar10_agrees_with_torchvision(cifar10: Path):
    config = Cifar(source="cifar10", path=str(cifar10), val_fraction=0.1)
    made = dataset_artifacts({"cifar": config}, HERE, ["cifar.test", "cifar.train", "cifar.val"])
    test, theirs = open_dataset(made["cifar.test"]), CIFAR10(str(cifar10), train=False)
    assert (len(test), test.sample_ids[-1]) == (10_000, "test/09999")
    assert made["cifar.train"].metrics["images"] + made["cifar.val"].metrics["images"] == 50_000
    assert made["cifar.val"].metrics["images"] == pytest.approx(5000, abs=300)
    assert test.classes == tuple(theirs.classes)
    np.testing.assert_array_equal(test.labels, theirs.targets)
    for index in (0, 4321, 9999):
        np.testing.assert_array_equal(test.image(index), theirs.data[index])


def test_an_altered_cifar_file_is_refused_before_it_is_unpickled(cifar10: Path, tmp_path: Path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "batches.meta").write_bytes((cifar10 / folder.name / "batches.meta").read_bytes())
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": 1}))
    with pytest.raises(DataError, match=r"data_batch_1: this is not the official file(.|\n)*c99cafc152244af753f735de"):
        opened(Cifar(source="cifar10", path=str(tmp_path)), "data")
    with pytest.raises(DataError, match=r"meta: the official file is missing"):
        opened(Cifar(source="cifar100", path=str(tmp_path)), "data")


def test_cifar100_has_its_hundred_fine_classes(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(cifar._FILES, "cifar100", {"test": "test"})  # the shared copy's training half is incomplete
    data = opened(Cifar(source="cifar100", path=str(official(shared_data, "cifar100", tmp_path))), "data.test")
    meta = np.load(shared_data / "cifar100" / "meta.npz")
    assert data.classes == tuple(meta["class_names"].tolist())
    np.testing.assert_array_equal(data.labels, meta["test_labels"])
    first = np.asarray(Image.open(sorted((shared_data / "cifar100").glob("test.*.webp"))[0]).convert("RGB"))
    np.testing.assert_array_equal(data.image(7), first.reshape(-1, 32, 32, 3)[7])


def test_the_unpickler_builds_arrays_and_nothing_else(tmp_path: Path):
    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    with pytest.raises(pickle.UnpicklingError, match="is not allowed in a data file"):
        cifar._ArraysOnly(io.BytesIO(pickle.dumps(Malicious()))).load()
    assert not (tmp_path / "executed").exists()
