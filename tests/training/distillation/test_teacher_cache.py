"""The cache gives what the teacher said, and nothing else: not after damage, not of another teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgevit.configs import Augmentation, TeacherCache
from edgevit.errors import ArtifactError
from edgevit.training.distillation.teacher_cache import CachedTeacher
from edgevit.training.distillation.teachers import TeacherOutput
from edgevit.training.loop.batches import Batch, Batches, TrainingStream
from tests.learning import blobs, tiny_vit

CLASSES = 7
BATCHES = Batches([TrainingStream(blobs())], tiny_vit().preprocess, Augmentation(mixup=0.5), 6, 2, 0)


class CountingTeacher:
    """Logits that depend on the pixels, and a count of how often it was asked."""

    def __init__(self, shift: float = 0.0) -> None:
        self.calls, self.shift = 0, shift

    def __call__(self, batch: Batch) -> TeacherOutput:
        self.calls += 1
        return TeacherOutput(self.of(batch))

    def of(self, batch: Batch) -> Tensor:
        means = batch.views[0].float().mean((1, 2, 3))[:, None]
        return torch.sin(means * torch.arange(1, CLASSES + 1)) * 5 + self.shift * torch.arange(CLASSES)


def cached(folder: Path, teacher: CountingTeacher, check: bool = False, **config: Any) -> CachedTeacher:
    facts = {"teacher": "t"}
    return CachedTeacher(lambda: teacher, folder, facts, TeacherCache.model_validate(config), CLASSES, 6, check)


def test_second_pass_asks_no_teacher_and_gives_the_same_bits(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    first = [cached(tmp_path, teacher)(BATCHES[step]).logits for step in range(8)]
    assert teacher.calls == 8

    def never() -> CountingTeacher:
        raise AssertionError("the teacher was opened")

    again = CachedTeacher(never, tmp_path, {"teacher": "t"}, TeacherCache(), CLASSES, 6)
    for step, logits in enumerate(first):
        assert torch.equal(again(BATCHES[step]).logits, logits)
        assert torch.equal(logits, teacher.of(BATCHES[step]))
    assert (again.found, again.computed) == (8, 0)


@pytest.mark.parametrize("config", [{}, {"dtype": "float16"}, {"top_k": 3}, {"top_k": 3, "dtype": "float16"}])
def test_first_student_learns_from_the_same_answers_as_the_next(tmp_path: Path, config: dict[str, Any]) -> None:
    first, second = CountingTeacher(), CountingTeacher()
    one, two = cached(tmp_path, first, **config), cached(tmp_path, second, **config)
    for step in range(4):
        assert torch.equal(one(BATCHES[step]).logits, two(BATCHES[step]).logits)
    assert (first.calls, second.calls) == (4, 0)


def test_top_k_keeps_these_probabilities_and_spreads_the_rest(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    kept = cached(tmp_path, teacher, top_k=2)(BATCHES[0]).logits.softmax(-1)
    true = teacher.of(BATCHES[0]).softmax(-1)
    for ours, theirs in zip(kept, true, strict=True):
        best = theirs.topk(2).indices
        torch.testing.assert_close(ours[best], theirs[best])
        rest = np.setdiff1d(np.arange(CLASSES), best)
        torch.testing.assert_close(ours[rest], ((1 - theirs[best].sum()) / 5).expand(5), atol=1e-6, rtol=1e-4)


@given(st.integers(1, CLASSES), st.integers(0, 3))
def test_as_many_as_there_are_is_the_whole(k: int, step: int) -> None:
    from edgevit.training.distillation.teacher_cache import _Records

    logits = CountingTeacher().of(BATCHES[step])
    records = _Records(TeacherCache(top_k=k), CLASSES)
    back = records.decoded(b"".join(records.encoded(logits)))
    assert torch.equal(back.argmax(-1), logits.argmax(-1))
    torch.testing.assert_close(back.softmax(-1).sum(-1), torch.ones(6), atol=1e-5, rtol=0)
    assert all(len(one) + 8 == records.size for one in records.encoded(logits))


def test_parts_of_a_batch_have_records_of_their_own(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    one = cached(tmp_path, teacher)
    parts = [BATCHES[3].part(number, 2) for number in range(2)]
    written = [one(part).logits for part in parts]
    assert torch.equal(one(BATCHES[3]).logits[::2], written[0])
    assert torch.equal(one(parts[1]).logits, written[1])
    assert teacher.calls == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "zero"])
def test_damaged_record_is_computed_again(tmp_path: Path, damage: str) -> None:
    teacher = CountingTeacher()
    one = cached(tmp_path, teacher)
    expected = [one(BATCHES[step]).logits for step in range(3)]
    file = one.folder / "records"
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    if damage == "flip":
        content[middle] ^= 1
    elif damage == "zero":
        content[middle : middle + 60] = bytes(60)
    else:
        del content[middle:]
    file.write_bytes(content)
    again = cached(tmp_path, teacher)
    for step in range(3):
        assert torch.equal(again(BATCHES[step]).logits, expected[step])
    assert again.computed >= 1


def test_record_in_another_place_is_not_taken(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    one = cached(tmp_path, teacher)
    for step in range(2):
        one(BATCHES[step])
    file = one.folder / "records"
    content = file.read_bytes()
    half = len(content) // 2
    file.write_bytes(content[half:] + content[:half])
    again = cached(tmp_path, teacher)
    assert torch.equal(again(BATCHES[0]).logits, teacher.of(BATCHES[0]))
    assert again.found == 0


def test_cache_of_other_facts_is_another_one(tmp_path: Path) -> None:
    one, other = (CachedTeacher(CountingTeacher, tmp_path, {"teacher": t}, TeacherCache(), CLASSES, 6) for t in "ab")
    one(BATCHES[0])
    other(BATCHES[0])
    assert one.folder != other.folder
    assert other.found == 0
    assert cached(tmp_path, CountingTeacher(), top_k=3).folder != cached(tmp_path, CountingTeacher()).folder


def test_records_of_another_cache_are_not_taken(tmp_path: Path) -> None:
    one, other = (CachedTeacher(CountingTeacher, tmp_path, {"teacher": t}, TeacherCache(), CLASSES, 6) for t in "ab")
    one(BATCHES[0])
    (other.folder / "records").write_bytes((one.folder / "records").read_bytes())
    other(BATCHES[0])
    assert other.found == 0


def test_check_finds_that_the_teacher_says_something_else(tmp_path: Path) -> None:
    cached(tmp_path, CountingTeacher())(BATCHES[0])
    honest = cached(tmp_path, CountingTeacher(), check=True)
    honest(BATCHES[0])
    assert honest.checked == 1
    assert "1 of them computed again and equal" in honest.summary()
    with pytest.raises(ArtifactError, match="does not hold what the teacher says") as caught:
        cached(tmp_path, CountingTeacher(shift=0.1), check=True)(BATCHES[0])
    assert "step 0" in str(caught.value)
