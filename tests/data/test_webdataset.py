"""Tar shards by position: against webdataset's and timm's readers, and everything that can be wrong with a shard."""

import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from edgevit.artifacts import Preprocess
from edgevit.configs import Augmentation, WebDataset
from edgevit.data import Dataset, ViewDataset, dataset_artifacts, open_dataset
from edgevit.errors import DataError, RecipeError

Files = list[tuple[str, bytes]]
wds_leaves_files_open = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def random_image(seed: str, kind: str = "png") -> bytes:
    pixels = np.random.default_rng(list(seed.encode())).integers(0, 256, (12, 10, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def samples(keys: Iterable[str], classes: int = 3) -> Files:
    """For each key an image, and a .cls with a number."""
    return [
        file
        for index, key in enumerate(keys)
        for file in ((f"{key}.png", random_image(key)), (f"{key}.cls", b"%d" % (index % classes)))
    ]


def write_shard(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def config(path: Path | str, **options: Any) -> WebDataset:
    return WebDataset(source="webdataset", path=str(path), **options)


def opened(path: Path | str, role: str = "web", base: Path = Path(), **options: Any) -> Dataset:
    return open_dataset(dataset_artifacts({"web": config(path, **options)}, base, [role])[role])


def digest(path: Path, role: str = "web", cache: Path | None = None) -> str:
    return dataset_artifacts({"web": config(path)}, path, [role], cache)[role].digest


def notes(path: Path, role: str = "web", **options: Any) -> str:
    artifacts = dataset_artifacts({"web": config(path, **options)}, path, [role])
    return "\n".join(artifacts[role].manifest.provenance["notes"])


def contents(data: Dataset) -> set[tuple[int, bytes]]:
    assert data.labels is not None
    return {(int(label), data.image(index).tobytes()) for index, label in enumerate(data.labels)}


# against other readers


@pytest.fixture
def written_by_webdataset(tmp_path: Path) -> Path:
    import webdataset

    with webdataset.ShardWriter(str(tmp_path / "tiny-train-%04d.tar"), maxcount=7, verbose=0) as writer:
        for index in range(20):
            pixels = np.random.default_rng(index).integers(0, 256, (9, 8, 3), np.uint8)
            writer.write({"__key__": f"photos/{index:05d}", "png": pixels, "cls": index % 4})
    return tmp_path


@wds_leaves_files_open
def test_agrees_with_the_webdataset_package(written_by_webdataset: Path):
    import webdataset

    shards = str(written_by_webdataset / "tiny-train-{0000..0002}.tar")
    theirs = {
        (one["__key__"], one["cls"], one["png"].tobytes())
        for one in webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8")
    }
    data = opened(written_by_webdataset, "web.train")
    ours = {
        (sample_id.removeprefix("train/"), int(label), data.image(index).tobytes())
        for index, (sample_id, label) in enumerate(zip(data.sample_ids, data.labels, strict=True))
    }
    assert len(ours) == 20
    assert ours == theirs


@wds_leaves_files_open
def test_agrees_with_timms_reader(written_by_webdataset: Path):
    from timm.data import create_dataset

    shards = "tiny-train-{0000..0002}.tar"
    theirs = create_dataset("wds/", root=str(written_by_webdataset), split=f"{shards}|20", is_training=False)
    data = opened(shards, "web.train", written_by_webdataset)
    assert data.classes == ("0", "1", "2", "3")
    assert contents(data) == {(label, np.asarray(image).tobytes()) for image, label in theirs}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_and_long_names(tmp_path: Path, format: int):
    key = "/".join(["a" * 60] * 3)
    with tarfile.open(tmp_path / "x.tar", "w", format=format) as archive:
        for name, content in samples([f"{key}/1", f"{key}/2"]):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    data = opened(tmp_path)
    assert data.sample_ids == (f"{key}/1", f"{key}/2")
    assert data.image(1).tobytes() == np.asarray(Image.open(io.BytesIO(random_image(f"{key}/2")))).tobytes()


def test_what_tar_made_of_a_folder_is_the_same(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "web").mkdir()
    for name, content in samples("abc"):
        (tmp_path / "photos" / name).write_bytes(content)
    with tarfile.open(tmp_path / "web/0.tar", "w") as archive:
        archive.add(tmp_path / "photos", arcname=".")
    assert opened(tmp_path / "web").sample_ids == ("a", "b", "c")
    assert notes(tmp_path / "web") == ""


# samples and labels


def test_a_key_ends_at_the_first_dot_and_every_kind_of_image_counts(tmp_path: Path):
    files = [
        ("d.1/a.JPG", random_image("a", "jpeg")),
        ("d.1/a.cls", b"0\n"),
        ("d.1/b.webp", random_image("b", "webp")),
        ("d.1/b.seg.png", random_image("mask")),
        ("d.1/b.cls", b" 1"),
        ("d.1/c.ppm", random_image("c", "ppm")),
        ("d.1/c.json", b'{"label": 2, "caption": "c"}'),
        ("d.1/._c.png", b"\0"),
        ("notes.txt", b""),
    ]
    write_shard(tmp_path / "0.tar", files)
    data = opened(tmp_path)
    assert data.sample_ids == ("d.1/a", "d.1/b", "d.1/c")
    assert data.labels.tolist() == [0, 1, 2]


def test_names_as_labels_are_sorted_and_numbers_follow_classes_txt(tmp_path: Path):
    named = [
        ("1.png", random_image("1")),
        ("1.cls", b"owl"),
        ("2.png", random_image("2")),
        ("2.json", b'{"class": "cat"}'),
    ]
    write_shard(tmp_path / "named/0.tar", named)
    data = opened(tmp_path / "named")
    assert (data.classes, data.labels.tolist()) == (("cat", "owl"), [1, 0])
    (tmp_path / "named/classes.txt").write_text("owl\nfox\ncat\n")
    data = opened(tmp_path / "named")
    assert (data.classes, data.labels.tolist()) == (("owl", "fox", "cat"), [0, 2])
    (tmp_path / "named/classes.txt").write_text("owls\ncat\n")
    with pytest.raises(DataError, match=r"no class is called 'owl'(.|\n)*Did you mean 'owls'"):
        opened(tmp_path / "named")
    write_shard(tmp_path / "numbered/train/0.tar", samples("abc"))
    (tmp_path / "numbered/classes.txt").write_text("ant\nbee\nfly\ngnat\n")
    assert opened(tmp_path / "numbered").classes == ("ant", "bee", "fly", "gnat")
    (tmp_path / "numbered/classes.txt").write_text("ant\nbee\n")
    with pytest.raises(DataError, match=r"not indices of classes(.|\n)*got: 0 to 2(.|\n)*expected: 0 to 1"):
        opened(tmp_path / "numbered")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.cls", b"-1", "not indices of classes"),
        ("a.cls", b"99999999", "not indices of classes"),
        ("a.cls", b"", "not one line of text"),
        ("a.cls", b"two\nlines", "not one line of text"),
        ("a.cls", b"\xff", "not text"),
        ("a.cls", b"x" * 2**21, "too long"),
        ("a.json", b'{"label": [1, 2]}', "neither a number nor a name"),
        ("a.json", b'{"label": "\\ud800"}', "not one line of text"),
        ("a.json", b'{"label"', "not JSON"),
        ("a.json", b"[" * 100_000, "not JSON"),
        ("a.json", b'{"caption": "a"}', r"1 of 3 images have no label(.|\n)*got: a"),
        ("a.txt", b"0", r"1 of 3 images have no label"),
        ("a.jpg", random_image("again", "jpeg"), "two images"),
    ],
)
def test_labels_that_make_no_sense(tmp_path: Path, name: str, content: bytes, message: str):
    write_shard(tmp_path / "0.tar", [("a.png", random_image("a")), (name, content), *samples("bc")])
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_without_labels_where_asked(tmp_path: Path):
    write_shard(
        tmp_path / "train-0.tar", [("a.png", random_image("a")), ("b.png", random_image("b")), ("b.cls", b"\xff")]
    )
    write_shard(tmp_path / "test-0.tar", [("c.png", random_image("c"))])
    data = opened(tmp_path, "web.train", labelled=False)
    assert (data.labels, data.classes, data.sample_ids) == (None, (), ("train/a", "train/b"))
    (tmp_path / "train-0.tar").unlink()
    with pytest.raises(DataError, match="labelled: false"):
        opened(tmp_path)


# shards and splits


@pytest.mark.parametrize(
    "names",
    [
        ("train-0000.tar", "train-0001.tar", "val-0000.tar", "test-0000.tar"),
        ("imagenet-train-0.tar", "imagenet-train-1.tar", "imagenet-validation-0.tar", "imagenet_test.tar"),
        ("train/0.tar", "train/1.tar", "valid/0.tar", "test/0.tar"),
    ],
)
def test_the_path_of_a_shard_names_its_split(tmp_path: Path, names: tuple[str, ...]):
    for number, name in enumerate(names):
        write_shard(tmp_path / "test data" / name, samples([f"{number}{letter}" for letter in "abc"]))
    for role, ids in (("train", "0a 0b 0c 1a 1b 1c"), ("val", "2a 2b 2c"), ("test", "3a 3b 3c")):
        expected = tuple(f"{role}/{key}" for key in ids.split())
        assert opened(tmp_path / "test data", f"web.{role}").sample_ids == expected


def test_shards_that_name_no_split_are_divided_by_fractions(tmp_path: Path):
    write_shard(tmp_path / "0.tar", samples(map(str, range(60))))
    roles = {role: opened(tmp_path, f"web.{role}", splits={"test": 0.3}) for role in ("train", "val", "test")}
    assert sum(map(len, roles.values())) == 60
    assert 8 < len(roles["test"]) < 30
    write_shard(tmp_path / "train-1.tar", samples("abc"))
    with pytest.raises(DataError, match=r"some do not(.|\n)*got: 0\.tar"):
        opened(tmp_path)


def test_braces_and_stars_name_shards(tmp_path: Path):
    for number in range(8, 12):
        write_shard(tmp_path / f"s[1]/train-{number:03d}.tar", samples([f"{number}{letter}" for letter in "abc"]))
    base = tmp_path / "s[1]"
    assert len(opened("train-{008..010}.tar", "web.train", base)) == 9
    assert len(opened("train-{009,011}.tar", "web.train", base)) == 6
    assert len(opened("train-*.tar", "web.train", base)) == 12
    assert len(opened("train-008.tar", "web.train", base)) == 3
    assert len(opened("*/train-*.tar", "web.train", tmp_path)) == 12
    with pytest.raises(DataError, match=r"train-012\.tar: there is no such folder or shard"):
        opened("train-{008..012}.tar", "web.train", base)
    with pytest.raises(DataError, match="more than 100000 shards"):
        opened("train-{0..99999999}.tar", "web.train", base)
    with pytest.raises(RecipeError, match="no role 'test'"):
        opened(base, "web.test")


def test_re_sharding_changes_neither_order_nor_fingerprint(tmp_path: Path):
    files = samples([f"{index:02d}" for index in range(10)])
    write_shard(tmp_path / "one/train-0.tar", files)
    pairs = [files[index : index + 2] for index in range(0, 20, 2)]
    for number, some in enumerate((pairs[7:], pairs[3::-1], pairs[4:7])):
        write_shard(tmp_path / f"three/train-{number}.tar", [file for pair in some for file in reversed(pair)])
    assert opened(tmp_path / "one").sample_ids == opened(tmp_path / "three").sample_ids
    assert digest(tmp_path / "one") == digest(tmp_path / "three")


def test_keys_that_shards_share_are_told_apart(tmp_path: Path):
    write_shard(tmp_path / "train-0.tar", [("0.png", random_image("x")), ("0.cls", b"0"), *samples("ab")])
    write_shard(tmp_path / "train-1.tar", [("0.png", random_image("y")), ("0.cls", b"1")])
    write_shard(tmp_path / "val-0.tar", [("0.png", random_image("z")), ("0.cls", b"2")])
    data = opened(tmp_path)
    assert data.sample_ids == ("train-0.tar/0", "train-1.tar/0", "train/a", "train/b", "val/0")
    assert data.labels.tolist() == [0, 1, 0, 1, 2]
    assert "2 samples have keys that occur in several shards" in notes(tmp_path)


# fingerprints


def test_the_fingerprint_follows_the_bytes_of_images_and_labels(tmp_path: Path):
    shard, files = tmp_path / "0.tar", samples("abcd")
    seen: list[Any] = []
    for changed in (
        files,
        [("a.png", random_image("other")), *files[1:]],
        [files[0], ("a.cls", b"2"), *files[2:]],
        [*files, ("notes.txt", b"x")],
    ):
        write_shard(shard, changed)
        os.utime(shard, ns=(len(seen), len(seen)))
        seen.append(digest(tmp_path, cache=tmp_path / "states.json"))
    assert len(set(seen)) == 3
    assert seen[0] == seen[3]


def test_an_images_hash_is_remembered_while_its_shard_is_unchanged(tmp_path: Path):
    shard, cache = write_shard(tmp_path / "web/0.tar", samples("abcd")), tmp_path / "states.json"
    before = digest(tmp_path / "web", cache=cache)
    assert len(json.loads(cache.read_text())["files"]) == 4
    known = cache.stat().st_mtime_ns
    assert digest(tmp_path / "web", cache=cache) == before
    assert cache.stat().st_mtime_ns == known
    status = shard.stat()
    blob = shard.read_bytes().replace(random_image("a"), random_image("A"))
    shard.write_bytes(blob)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert digest(tmp_path / "web", cache=cache) != before


def test_a_damaged_image_is_skipped_or_refused(tmp_path: Path):
    files = samples("abcd")
    files[2] = ("b.png", files[2][1][:40])
    write_shard(tmp_path / "0.tar", files)
    assert opened(tmp_path).sample_ids == ("a", "c", "d")
    assert "1 images cannot be read and are skipped: b" in notes(tmp_path)
    with pytest.raises(DataError, match="on_bad_image: skip"):
        opened(tmp_path, on_bad_image="refuse")


# bad shards


@pytest.mark.parametrize("kept", ["header", "image", "member", "end"])
def test_a_truncated_shard_is_named(tmp_path: Path, kept: str):
    write_shard(tmp_path / "0.tar", samples("ab"))
    shard = write_shard(tmp_path / "1.tar", samples("cd"))
    with tarfile.open(shard) as archive:
        last = archive.getmembers()[-2]
        ends = {
            "header": last.offset + 100,
            "image": last.offset_data + 10,
            "member": last.offset,
            "end": archive.offset,
        }
    os.truncate(shard, ends[kept])
    with pytest.raises(DataError, match=r"1\.tar: the shard is truncated or damaged"):
        opened(tmp_path)


def test_damage_in_the_middle_of_a_shard_loses_no_sample_silently(tmp_path: Path):
    shard = write_shard(tmp_path / "0.tar", samples("abcd"))
    with tarfile.open(shard) as archive:
        header = archive.getmembers()[4].offset
    content = bytearray(shard.read_bytes())
    content[header : header + 512] = b"\x55" * 512
    shard.write_bytes(content)
    with pytest.raises(DataError, match="truncated or damaged"):
        opened(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"\x55" * 20_000])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"0\.tar: the shard is truncated or damaged"):
        opened(tmp_path)


def test_a_member_of_negative_size_does_not_go_round_in_circles(tmp_path: Path):
    with (tmp_path / "0.tar").open("wb") as file:
        for name in ("a.txt", "b.txt"):
            file.write(tarfile.TarInfo(name).tobuf())
        member = tarfile.TarInfo("c.txt")
        member.size = -1024  # the next header would be that of b.txt
        file.write(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DataError, match="truncated or damaged"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("name", "beginning", "command"),
    [
        ("train-0.tar.gz", b"", r"gunzip '.*it'\"'\"'s/train-0\.tar\.gz'"),
        ("train-0.tgz", b"", "gunzip"),
        ("train-0.tar.zst", b"", "zstd -d"),
        ("train-0.tar", gzip.compress(b"x" * 2000, mtime=0), "gunzip"),
        ("train-0.tar", b"\x28\xb5\x2f\xfd" + b"x" * 2000, "zstd -d"),
    ],
)
def test_compressed_shards_are_refused_with_the_command_that_unpacks_them(
    tmp_path: Path, name: str, beginning: bytes, command: str
):
    folder = tmp_path / "it's"
    folder.mkdir()
    (folder / name).write_bytes(beginning)
    with pytest.raises(DataError, match=rf"compressed shard(.|\n)*next: {command}"):
        opened(folder)


def test_links_and_devices_are_passed_over_and_nothing_is_unpacked(tmp_path: Path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(random_image("secret"))
    (tmp_path / "web").mkdir()
    with tarfile.open(tmp_path / "web/0.tar", "w") as archive:
        for name, content in [*samples("ab"), ("../c.png", random_image("c")), ("../c.cls", b"1")]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE)
        for name, kind in zip(("w.png", "x.png", "y.png", "z.png"), kinds, strict=True):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(secret)
            archive.addfile(member)
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert opened(tmp_path / "web").sample_ids == ("../c", "a", "b")
    assert "4 links, devices and sparse files are passed over" in notes(tmp_path / "web")
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["0.tar", "secret.png", "web"]


def test_names_that_are_no_text_are_passed_over(tmp_path: Path):
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in [*samples("ab"), ("\udcff.png", random_image("c"))]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert opened(tmp_path).sample_ids == ("a", "b")
    assert "1 images whose names are not UTF-8" in notes(tmp_path)


def test_an_image_beyond_all_bounds_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edgevit.data.hashes.LARGEST_FILE", 5000)
    big = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(big).save(out, "png")
    write_shard(tmp_path / "0.tar", [*samples("ab"), ("c.png", out.getvalue()), ("c.cls", b"0")])
    assert opened(tmp_path).sample_ids == ("a", "b")
    assert "bytes are more than 5000" in notes(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [([], "no shards here"), (["a/b.png"], "no shards here")],
)
def test_a_folder_without_shards(tmp_path: Path, files: list[str], message: str):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        opened(tmp_path)
    with pytest.raises(DataError, match="no such folder or shard"):
        opened(tmp_path / "absent")


def test_a_shard_that_is_gone_or_replaced_during_a_run_is_noticed(tmp_path: Path):
    shard = write_shard(tmp_path / "0.tar", samples("abc"))
    data = opened(tmp_path)
    write_shard(shard, samples("cba"))
    with pytest.raises(DataError, match=r"0\.tar: c at byte 4608: the image was changed while it was in use"):
        data.image(2)
    shard.unlink()
    with pytest.raises(DataError, match=r"0\.tar: a: cannot be read: No such file"):
        data.image(0)


# in training


def test_views_are_the_same_under_any_number_of_workers(tmp_path: Path):
    write_shard(tmp_path / "train-0.tar", samples([f"{index:02d}" for index in range(7)]))
    write_shard(tmp_path / "train-1.tar", samples([f"{index:02d}" for index in range(7, 12)]))
    views = ViewDataset(opened(tmp_path, "web.train"), Preprocess(height=16, width=16), Augmentation(), seed=3)
    order = [(epoch, 0, index) for epoch in (0, 1) for index in (11, 0, 7, 3, 6, 9)]
    alone, *others = (
        torch.cat([canvas for canvas, _, _ in DataLoader(views, batch_size=5, sampler=order, num_workers=workers)])
        for workers in (0, 1, 2)
    )
    assert all(torch.equal(alone, other) for other in others)


def test_pickles(tmp_path: Path):
    write_shard(tmp_path / "0.tar", samples("abc"))
    data = opened(tmp_path)
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301
    assert contents(copy) == contents(data)


# what lies elsewhere, and what is passed over


def test_shards_and_class_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path):
    outside = write_shard(tmp_path / "elsewhere/0.tar", samples("abc"))
    root = write_shard(tmp_path / "web/1.tar", samples("def")).parent
    (root / "0.tar").symlink_to(outside)
    for path in (root, root / "*.tar"):
        with pytest.raises(
            DataError, match=r"web/0\.tar: this path leads out of the data set's folder(.|\n)*got: .*elsewhere"
        ):
            opened(path)
    assert len(opened(root / "0.tar")) == 3  # the user named this very file
    (root / "0.tar").unlink()
    (root / "2.tar").symlink_to("1.tar")
    (tmp_path / "names").write_text("ant\nbee\nfly\n")
    (root / "classes.txt").symlink_to(tmp_path / "names")
    (root / "2.tar").unlink()
    with pytest.raises(DataError, match="leads out"):
        opened(root)


def test_samples_without_an_image_that_can_be_read_are_named(tmp_path: Path):
    files = [
        *samples("abc"),
        ("d.heic", b"x"),
        ("d.cls", b"0"),
        ("._e.png", b"x"),
        ("f.jfif", random_image("f", "jpeg")),
    ]
    write_shard(tmp_path / "0.tar", [*files, ("f.cls", b"1")])
    (tmp_path / "0_stats.json").write_text("{}")
    assert opened(tmp_path).sample_ids == ("a", "b", "c", "f")
    assert notes(tmp_path) == (
        "web: 1 hidden files and folders are passed over: ._e.png\n"
        "web: 1 keys without an image are passed over: d.heic|cls\n"
        "web: 1 files of other types (.json 1) are passed over: 0_stats.json"
    )


def test_a_pipe_is_no_shard(tmp_path: Path):
    os.mkfifo(tmp_path / "0.tar")
    for path in (tmp_path, tmp_path / "0.tar", tmp_path / "*.tar"):
        with pytest.raises(DataError, match=r"no shards here|no such folder or shard"):
            opened(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{,}/" * 1000, "too many braces"),
        ("{a,/elsewhere/b}.tar", "cannot be an absolute path"),
    ],
)
def test_braces_that_name_nothing_sensible_are_refused(tmp_path: Path, name: str, message: str):
    write_shard(tmp_path / "a.tar", samples("ab"))
    with pytest.raises(DataError, match=message):
        opened(name, base=tmp_path)


def test_class_names_are_read_like_labels_everywhere(tmp_path: Path):
    write_shard(tmp_path / "a.tar", samples("abc"))
    (tmp_path / "classes.txt").write_bytes("\ufeffcafe\u0301 \r\nbar\r\npub\r\n\r\n".encode())
    assert opened(tmp_path).classes == ("caf\u00e9", "bar", "pub")
    (tmp_path / "classes.txt").write_text("bar\nbar\npub\n")
    with pytest.raises(DataError, match="two classes have the same name"):
        opened(tmp_path)
