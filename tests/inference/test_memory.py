"""Freed memory is kept for the next tensors, and given back afterwards."""

from __future__ import annotations

import resource
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgevit.context import Context
from edgevit.inference import memory
from edgevit.inference.memory import freed_memory_kept
from edgevit.inference.over_dataset import outputs_of
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.loop.batches import TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.objectives import label_objective

from ..learning import blobs, tiny_vit, train_config

MIB = 1 << 20
TENSOR = 128 * MIB  # bytes; glibc keeps up to 32 MiB without being asked
FEWEST_FAULTS = TENSOR // (2 * MIB)  # of a tensor in new memory: the largest pages have 2 MiB

glibc = pytest.mark.skipif(memory._glibc() is None, reason="this C library is not glibc")


def faults() -> int:
    """Pages that the system has given to this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def faults_of_a_tensor() -> int:
    """The pages that the system gives for a large tensor. It is freed afterwards."""
    before = faults()
    torch.zeros(TENSOR, dtype=torch.uint8)
    return faults() - before


def resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@glibc
def test_a_tensor_takes_the_place_of_a_freed_one() -> None:
    assert faults_of_a_tensor() >= FEWEST_FAULTS
    with freed_memory_kept():
        faults_of_a_tensor()
        assert max(faults_of_a_tensor() for _ in range(5)) < FEWEST_FAULTS // 2
    assert faults_of_a_tensor() >= FEWEST_FAULTS


@glibc
def test_memory_is_given_back_at_the_end() -> None:
    with freed_memory_kept():
        before = resident()
        faults_of_a_tensor()
        assert resident() - before > TENSOR // 2
    assert resident() - before < TENSOR // 2


@glibc
def test_the_last_of_several_contexts_ends_it() -> None:
    def use() -> None:
        with freed_memory_kept():
            pass

    with freed_memory_kept():
        faults_of_a_tensor()
        use()
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        with pytest.raises(ZeroDivisionError), freed_memory_kept():
            _ = 1 / 0
        assert faults_of_a_tensor() < FEWEST_FAULTS // 2
    assert faults_of_a_tensor() >= FEWEST_FAULTS


class Measured(nn.Module):
    """A model which makes a large tensor in each pass, and notes the pages that the system gives for it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.faults = model, list[int]()

    def forward(self, images: Tensor) -> Tensor:
        self.faults.append(faults_of_a_tensor())
        answer: Tensor = self.model(images)
        return answer


@glibc
def test_outputs_of_a_data_set_keep_memory() -> None:
    built = tiny_vit()
    model = Measured(built.module.eval())
    outputs_of(model, blobs(), built.preprocess, torch.device("cpu"), batch_size=4)
    assert len(model.faults) == 6
    assert max(model.faults[1:]) < FEWEST_FAULTS // 2


@glibc
def test_a_training_keeps_memory(tmp_path: Path) -> None:
    built = tiny_vit()
    model = Measured(built.module)
    learner = ClassifierLearner(model, label_objective(3), built.preprocess)
    fit(learner, [TrainingStream(blobs())], train_config(epochs=2), Context(work=tmp_path, workers=0), out=tmp_path)
    assert len(model.faults) >= 6
    assert max(model.faults[1:]) < FEWEST_FAULTS // 2
    assert faults_of_a_tensor() >= FEWEST_FAULTS


def test_without_glibc_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    memory._glibc.cache_clear()
    try:
        with freed_memory_kept():
            assert faults_of_a_tensor() >= FEWEST_FAULTS
            assert faults_of_a_tensor() >= FEWEST_FAULTS
    finally:
        memory._glibc.cache_clear()
