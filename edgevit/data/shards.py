"""An index of a tar shard: the offset, size and label of each image."""

from __future__ import annotations

import json
import re
import shlex
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from edgevit.data.class_names import is_class_name
from edgevit.data.images import NO_TEXT, is_utf8_name
from edgevit.data.preprocess import HIDDEN, image_suffixes
from edgevit.errors import DataError

_KEY = re.compile(r"(?:\./)?((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)  # webdataset's: up to the file name's first dot
_LONGEST_LABEL = 2**20  # bytes of a .cls or .json file
_KEPT_INDICES = 4096  # shards whose index is kept in memory
_COMPRESSED = {".gz": "gunzip", ".tgz": "gunzip", ".zst": "zstd -d", ".xz": "unxz", ".bz2": "bunzip2"}
LINKS = "links, devices and sparse files"
NO_IMAGE = "keys without an image"
_MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"\xfd7zXZ": ".xz", b"BZh": ".bz2"}


class ImageMember(NamedTuple):
    """An image in the bytes offset to offset + size of a shard, and its label, a number or a name, if there is one."""

    key: str
    offset: int
    size: int
    label: int | str | None


class ShardIndex(NamedTuple):
    """All images of a shard, and the names of the other members, by category."""

    images: tuple[ImageMember, ...]
    passed_over: Mapping[str, Sequence[str]]


@lru_cache(maxsize=_KEPT_INDICES)
def index_of_shard(shard: Path, stamp: str, labelled: bool) -> ShardIndex:
    """Read all headers of a shard and, if `labelled`, its .cls and .json files.

    An index is kept in memory and used again for the same `stamp`, that is, until the file changes.

    Raises:
        DataError: the shard is missing, compressed, truncated or damaged, or a label in it is invalid.
    """
    try:
        with shard.open("rb") as file:
            samples = _Samples(shard, file, labelled)
            for member in _members(shard, file):
                samples.add(member)
    except OSError as error:
        raise DataError(f"the shard cannot be read: {error.strerror or error}", where=shard) from None
    return samples.index()


def refuse_compressed(shard: Path) -> None:
    """Raise DataError if the file has the name of a compressed shard."""
    if shard.suffix == ".tgz" or (shard.suffix in _COMPRESSED and shard.name.endswith(f".tar{shard.suffix}")):
        raise _is_compressed(shard, shard.suffix)


def _members(shard: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The members of a tar file, which has to end in a block of zeros; tarfile itself does not check the end."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            last = -1
            while (member := archive.next()) is not None:
                if archive.offset <= last:
                    raise tarfile.ReadError(f"a member of {member.size} bytes")
                last = archive.offset
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
                yield member
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no member and no end of the archive at byte {archive.offset}")
    except (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        file.seek(0)
        beginning = file.read(6)
        for magic, suffix in _MAGIC.items():
            if beginning.startswith(magic):
                raise _is_compressed(shard, suffix) from None
        raise DataError(
            f"the shard is truncated or damaged: {error or type(error).__name__}",
            where=shard,
            got=f"{shard.stat().st_size} bytes",
            next="download or write the shard again",
        ) from None


def _is_compressed(shard: Path, suffix: str) -> DataError:
    return DataError(
        "a compressed shard cannot be read by position",
        where=shard,
        expected="a plain .tar: images are compressed already",
        next=f"{_COMPRESSED[suffix]} {shlex.quote(str(shard))}",
    )


@dataclass
class _Sample:
    """The files of a shard with the same key."""

    image: tuple[int, int] | None = None  # offset, size
    extensions: list[str] = field(default_factory=list)
    labels: dict[str, int | str | None] = field(default_factory=dict)  # by extension


class _Samples:
    """The samples of a shard, collected member by member."""

    def __init__(self, shard: Path, file: BinaryIO, labelled: bool) -> None:
        self._shard, self._file, self._labelled = shard, file, labelled
        self._by_key: dict[str, _Sample] = {}
        self._passed_over: dict[str, list[str]] = {}

    def add(self, member: tarfile.TarInfo) -> None:
        if member.isdir():
            return
        named = _KEY.fullmatch(member.name)
        is_image = named is not None and f".{named[2].lower()}" in image_suffixes()
        if category := self._passed_over_as(member, named, is_image):
            self._passed_over.setdefault(category, []).append(member.name)
        elif named:
            self._add_to_sample(self._by_key.setdefault(named[1], _Sample()), named[2].lower(), member, is_image)

    def _passed_over_as(self, member: tarfile.TarInfo, named: re.Match[str] | None, is_image: bool) -> str | None:
        if not member.isreg() or member.issparse():
            return LINKS
        if named is None:
            return HIDDEN if Path(member.name).name.startswith(".") else NO_IMAGE
        return NO_TEXT if is_image and not is_utf8_name(named[1]) else None

    def _add_to_sample(self, sample: _Sample, extension: str, member: tarfile.TarInfo, is_image: bool) -> None:
        if is_image:
            self._add_image(sample, member)
        elif self._labelled and extension in ("cls", "json"):
            sample.labels[extension] = self._label(member, extension)
        sample.extensions.append(extension)

    def index(self) -> ShardIndex:
        for key, sample in self._by_key.items():
            if not sample.image:
                self._passed_over.setdefault(NO_IMAGE, []).append(f"{key}.{'|'.join(sample.extensions)}")
        images = (
            ImageMember(key, *sample.image, sample.labels.get("cls", sample.labels.get("json")))
            for key, sample in self._by_key.items()
            if sample.image
        )
        return ShardIndex(tuple(images), self._passed_over)

    def _add_image(self, sample: _Sample, member: tarfile.TarInfo) -> None:
        if sample.image:
            raise DataError("a sample has two images", where=self._shard, got=member.name, expected="one image per key")
        sample.image = member.offset_data, member.size

    def _label(self, member: tarfile.TarInfo, extension: str) -> int | str | None:
        where = f"{self._shard}: {member.name}"
        if member.size > _LONGEST_LABEL:
            raise DataError("this label is too long", where=where, got=f"{member.size} bytes")
        self._file.seek(member.offset_data)
        content = self._file.read(member.size)
        return _label_in_json(content, where) if extension == "json" else _label(_text(content, where), where)


def _label_in_json(content: bytes, where: str) -> int | str | None:
    """The value of "label" or else "class"; None if the JSON has neither."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"this label file is not JSON: {error}", where=where) from None
    label = record.get("label", record.get("class")) if isinstance(record, dict) else None
    if label is None:
        return None
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise DataError("this label is neither a number nor a name", where=where, got=json.dumps(label)[:50])
    return _label(str(label), where)


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise DataError("this label is not text", where=where, expected="a number or a name, in UTF-8") from None


def _label(text: str, where: str) -> int | str:
    name = text.strip()
    if not is_class_name(name):
        got = ascii(name[:50])
        raise DataError("this label is not one line of text", where=where, got=got, expected="a number or a name")
    return int(name) if re.fullmatch(r"-?[0-9]{1,18}", name) else name
