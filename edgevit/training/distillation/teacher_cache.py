"""A cache of teacher logits on disk, one record per view."""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgevit.artifacts import Json, sha256_of
from edgevit.configs import TeacherCache
from edgevit.errors import ArtifactError
from edgevit.training.distillation.teachers import Teacher, TeacherOutput
from edgevit.training.distributed import processes
from edgevit.training.loop.batches import Batch

FORMAT = 2  # checksums depend on the folder
CHECK_BYTES = 8
CHECKED_STEPS = 20  # with `check`, one in this many steps is computed again
TOLERANCE = {"float32": 1e-4, "float16": 1e-2}  # of probabilities, between two computations of the same view


class CachedTeacher:
    """A teacher with a disk cache of its logits. The key of a row is the batch's step and the row's place in the batch.

    The folder's name is a hash of all that decides batches and logits (`facts`: teacher, streams, augmentation, seed,
    batch size, versions), so a cache of another teacher or of other views is never read. Each row has a record of fixed
    size with a checksum, written in place: a half-written or damaged record counts as absent.

    Args:
        make_teacher: opens the teacher; called at the first missing record.
        folder: the folder of all caches.
        facts: all that decides the logits.
        config: the format of a record.
        num_classes: columns of the logits.
        batch_size: rows of a whole batch.
        check: compute a sample of the cached logits again, and compare.
        together: if one rank needs the teacher, all ranks call it; sharded weights need this.
    """

    def __init__(
        self,
        make_teacher: Callable[[], Teacher],
        folder: Path,
        facts: Json,
        config: TeacherCache,
        num_classes: int,
        batch_size: int,
        check: bool = False,
        together: bool = False,
    ) -> None:
        self._make_teacher, self._check, self._together = make_teacher, check, together
        self._teacher: Teacher | None = None
        self._records = _Records(config, num_classes)
        self._batch_size = batch_size
        facts = {"format": FORMAT, **facts, **config.model_dump(), "classes": num_classes}
        key = sha256_of(facts)[:40]
        self.folder, self._key = folder / key, key.encode()
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
        (self.folder / "facts.json").write_text(text, encoding="utf-8")
        self._file = os.open(self.folder / "records", os.O_RDWR | os.O_CREAT, 0o644)
        weakref.finalize(self, os.close, self._file)
        self.found, self.computed, self.checked = 0, 0, 0

    def __call__(self, batch: Batch) -> TeacherOutput:
        kept = self._read(batch)
        if self._together and processes.summed([float(kept is None)], batch.labels.device) != [0.0]:
            kept = None
        if kept is None:
            self.computed += 1
            return TeacherOutput(self._write(batch, self._live(batch)).to(batch.labels.device))
        self.found += 1
        if self._check and (self.found == 1 or batch.step % CHECKED_STEPS == 0):
            self._compare(batch, kept)
        return TeacherOutput(kept.to(batch.labels.device))

    def summary(self) -> str:
        """One line on cached and computed batches."""
        checked = f", {self.checked} of them computed again and equal" if self._check else ""
        size_mib = (self.folder / "records").stat().st_blocks * 512 / 2**20
        return f"teacher cache: {self.found} batches found{checked}, {self.computed} computed; {size_mib:.1f} MiB"

    def _live(self, batch: Batch) -> Tensor:
        self._teacher = self._teacher or self._make_teacher()
        logits = self._teacher(batch).logits
        assert logits is not None
        return logits.float().cpu()

    def _read(self, batch: Batch) -> Tensor | None:
        size = self._records.size
        block = os.pread(self._file, size * self._batch_size, size * self._batch_size * batch.step)
        rows = []
        for row in batch.rows.tolist():
            record = block[size * row : size * (row + 1)]
            content = record[CHECK_BYTES:]
            if len(record) < size or record[:CHECK_BYTES] != self._checksum(content, batch.step, row):
                return None
            rows.append(content)
        return self._records.decoded(b"".join(rows))

    def _write(self, batch: Batch, logits: Tensor) -> Tensor:
        """Write these logits; returns them as they will be read, so that all students learn from equal logits."""
        contents = self._records.encoded(logits)
        for row, content in zip(batch.rows.tolist(), contents, strict=True):
            place = self._records.size * (self._batch_size * batch.step + row)
            os.pwrite(self._file, self._checksum(content, batch.step, row) + content, place)
        return self._records.decoded(b"".join(contents))

    def _compare(self, batch: Batch, kept: Tensor) -> None:
        again = self._records.decoded(b"".join(self._records.encoded(self._live(batch))))
        difference = float((again.softmax(-1) - kept.softmax(-1)).abs().max())
        self.checked += 1
        if not difference <= TOLERANCE[self._records.config.dtype]:
            raise ArtifactError(
                f"the teacher cache does not hold what the teacher says: a probability differs by {difference:.3g}",
                where=self.folder,
                got=f"step {batch.step}",
                next="remove this folder; the logits will be computed again",
            )

    def _checksum(self, content: bytes, step: int, row: int) -> bytes:
        """The checksum of a record. It depends on the record's place and on the cache."""
        place = step.to_bytes(8, "big") + row.to_bytes(8, "big")
        return hashlib.blake2b(content, digest_size=CHECK_BYTES, salt=place, key=self._key).digest()


class _Records:
    """Encodes logits (rows, classes) as bytes, and decodes them.

    Without top_k a record holds the logits. With top_k it holds class indices and log-probabilities of the top k; the
    decoded values are log-probabilities, with the remaining probability spread evenly over the other classes
    (Wu et al. 2022, TinyViT).
    """

    def __init__(self, config: TeacherCache, num_classes: int) -> None:
        self.config, self._classes = config, num_classes
        self._k = None if config.top_k is None or config.top_k >= num_classes else config.top_k
        values = np.dtype(config.dtype).itemsize
        self.size = CHECK_BYTES + (num_classes * values if self._k is None else self._k * (values + 4))

    def encoded(self, logits: Tensor) -> list[bytes]:
        if self._k is None:
            return [row.tobytes() for row in logits.numpy().astype(self.config.dtype)]
        top = logits.log_softmax(-1).topk(self._k, dim=-1)
        values, indices = top.values.numpy().astype(self.config.dtype), top.indices.numpy().astype(np.uint32)
        return [index.tobytes() + value.tobytes() for index, value in zip(indices, values, strict=True)]

    def decoded(self, content: bytes) -> Tensor:
        if self._k is None:
            return torch.from_numpy(self._array(content, self.config.dtype, self._classes).astype(np.float32))
        rows = np.frombuffer(content, np.uint8).reshape(-1, self.size - CHECK_BYTES)
        indices = self._array(rows[:, : 4 * self._k].tobytes(), "uint32", self._k).astype(np.int64)
        values = self._array(rows[:, 4 * self._k :].tobytes(), self.config.dtype, self._k).astype(np.float32)
        rest = np.clip(1 - np.exp(values).sum(1, keepdims=True), 1e-8, 1) / (self._classes - self._k)
        logits = np.repeat(np.log(rest), self._classes, axis=1)
        np.put_along_axis(logits, indices, values, axis=1)
        return torch.from_numpy(logits)

    @staticmethod
    def _array(content: bytes, dtype: str, columns: int) -> NDArray[np.generic]:
        return np.frombuffer(content, dtype).reshape(-1, columns)
