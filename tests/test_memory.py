"""Freed memory is kept for the next tensors, and given back afterwards."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgevit import memory
from edgevit.artifacts import IOSpec
from edgevit.context import Context
from edgevit.evaluation import classify
from edgevit.inference.over_dataset import outputs_of
from edgevit.progress import SilentProgress
from edgevit.runtimes.base import SessionOptions
from edgevit.runtimes.torch.session import TorchSession
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.loop.batches import TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.objectives import label_objective

from .learning import blobs, tiny_vit, train_config

SIZE = 128 << 20  # bytes of a block, and of a tensor
FEWEST_FAULTS = SIZE // (4 << 20)  # of one in new memory: pages have 2 MiB at most

# What the programs below start with. Each runs in a process of its own, because glibc adapts to earlier blocks.
BLOCKS = f"""
import ctypes, os, platform, resource, sys, threading
from pathlib import Path
from edgevit.memory import freed_memory_kept

SIZE, FEWEST_FAULTS = {SIZE}, {FEWEST_FAULTS}
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]


def is_new():
    "Whether the system has to give the pages of a block. It is freed afterwards."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(SIZE)
    libc.memset(block, 1, SIZE)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before >= FEWEST_FAULTS


def resident():
    "Bytes of this process that are in memory."
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


"""


def ended(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The end of the program after BLOCKS, with these variables, and without the user's own."""
    own = {name: value for name, value in os.environ.items() if name not in (*memory.SET_BY_USER, "LD_PRELOAD")}
    command = [sys.executable, "-c", BLOCKS + program]
    return subprocess.run(command, capture_output=True, text=True, env=own | variables)


def runs(program: str, **variables: str) -> None:
    """Run the program. Its assertions have to hold."""
    done = ended(program, **variables)
    assert not done.returncode, done.stderr


@pytest.fixture(autouse=True)
def counted_pages() -> None:
    if memory._glibc() is None:
        pytest.skip("this process has no glibc, or the user has set what it keeps")
    if not pages_are_counted():
        pytest.skip("the system does not count pages, or has very large ones")


@cache
def pages_are_counted() -> bool:
    return ended("sys.exit(not is_new())").returncode == 0


def test_a_block_takes_the_place_of_a_freed_one() -> None:
    runs("""
assert is_new() and is_new()
with freed_memory_kept():
    is_new()
    assert not any(is_new() for _ in range(5))
assert is_new() and is_new()
with freed_memory_kept():
    is_new()
    assert not is_new()
""")


def test_memory_is_given_back_at_the_end() -> None:
    runs("""
before = resident()
with freed_memory_kept():
    is_new()
    assert resident() - before > SIZE // 2
assert resident() - before < SIZE // 2
""")


def test_the_last_of_several_contexts_ends_it() -> None:
    runs("""
def use():
    with freed_memory_kept():
        pass

with freed_memory_kept():
    is_new()
    use()
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    try:
        with freed_memory_kept():
            raise ValueError
    except ValueError:
        pass
    assert not is_new()
assert is_new()
""")


def test_a_forked_process_keeps_nothing() -> None:
    runs("""
with freed_memory_kept():
    child = os.fork()
    if not child:
        os._exit(not (is_new() and is_new()))
    assert os.waitpid(child, 0)[1] == 0
    is_new()
    assert not is_new()
""")


def test_without_glibc_nothing_changes() -> None:
    runs("""
platform.libc_ver = lambda: ("", "")
with freed_memory_kept():
    assert is_new() and is_new()
""")


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_settings_of_the_user_are_respected(name: str) -> None:
    value = "glibc.malloc.trim_threshold=131072" if name == "GLIBC_TUNABLES" else "131072"
    runs(
        """
with freed_memory_kept():
    assert is_new() and is_new()
""",
        **{name: value},
    )


class Measured(nn.Module):
    """A model which makes a large tensor in each pass, and notes the pages that the system gives for it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.faults = model, list[int]()

    @property
    def mostly_reuses(self) -> bool:
        """Whether most tensors took the place of a freed one. Other blocks may take such a place, too."""
        return statistics.median(self.faults) < FEWEST_FAULTS

    def forward(self, images: Tensor) -> Tensor:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        torch.zeros(SIZE, dtype=torch.uint8)
        self.faults.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
        answer: Tensor = self.model(images)
        return answer


def test_outputs_of_a_data_set_keep_memory() -> None:
    built = tiny_vit()
    model = Measured(built.module.eval())
    outputs_of(model, blobs(), built.preprocess, torch.device("cpu"), batch_size=2)
    assert len(model.faults) == 12
    assert model.mostly_reuses


def test_the_evaluation_of_a_checkpoint_keeps_memory() -> None:
    built = tiny_vit()
    model = Measured(built.module.eval())
    session = TorchSession(model, IOSpec.for_classifier(built.preprocess, ("a", "b", "c")), "cpu", SessionOptions())
    classify(session, blobs(), 2, SilentProgress())
    assert len(model.faults) == 12
    assert model.mostly_reuses


def test_a_training_keeps_memory(tmp_path: Path) -> None:
    built = tiny_vit()
    model = Measured(built.module)
    learner = ClassifierLearner(model, label_objective(3), built.preprocess)
    fit(learner, [TrainingStream(blobs())], train_config(epochs=4), Context(work=tmp_path, workers=0), out=tmp_path)
    assert len(model.faults) >= 12
    assert model.mostly_reuses
