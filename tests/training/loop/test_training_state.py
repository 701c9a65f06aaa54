"""The saved state of a training: what is damaged, or of another training, is never gone on from."""

from __future__ import annotations

import io
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from edgevit.context import Context
from edgevit.errors import ArtifactError
from edgevit.progress import PlainProgress
from edgevit.sealed_files import write_sealed
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.loop.batches import TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.loop.training_state import LAST, PREVIOUS, TrainingState
from edgevit.training.objectives import label_objective
from tests.learning import Killed, blobs, killed_in, tiny_vit, train_config

FLIPS = 60
STEPS = 8


class Training:
    """Eight steps of a small model in a work folder; a state is saved after each."""

    def __init__(self, work: Path, training: str = "one") -> None:
        self.said = io.StringIO()
        self.context = Context(work=work, training=training, progress=PlainProgress(self.said))

    def run(self, killed_after: int = STEPS, seed: int = 0) -> dict[str, torch.Tensor]:
        trained, _ = fit(
            ClassifierLearner(
                tiny_vit(drop_rate=0.1).module,
                killed_in(killed_after + 1, label_objective(3)),
                tiny_vit().preprocess,
            ),
            [TrainingStream(blobs())],
            train_config(ema_decay=0.9, seed=seed),
            self.context,
            out=self.context.work,
            save_every_s=0.0,
        )
        return trained.state_dict()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return Training(tmp_path_factory.mktemp("unbroken")).run()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a training that was killed in its sixth step leaves, by the files' names."""
    work = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed):
        Training(work).run(killed_after=5)
    return {file.name: file.read_bytes() for file in work.iterdir()}


def laid_out(folder: Path, files: dict[str, bytes]) -> Training:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return Training(folder)


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


class Runs:
    """An object whose unpickling makes a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._file),)


def flip(content: bytes, place: int) -> bytes:
    flipped = bytearray(content)
    flipped[place // 8 % len(content)] ^= 1 << place % 8
    return bytes(flipped)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "one byte less": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"no state\n" * 50,
    "the hash": lambda content: flip(content, 8 * 30),
    "the step": lambda content: flip(content, 8 * 100),
    "a weight": lambda content: flip(content, 4 * len(content)),
}


def test_the_state_and_the_one_before_it_are_kept(killed: dict[str, bytes], tmp_path: Path) -> None:
    assert killed.keys() == {LAST, PREVIOUS, "metrics.jsonl"}
    training = laid_out(tmp_path, killed)
    assert TrainingState(training.context).saved_step() == 5
    (tmp_path / LAST).unlink()
    assert TrainingState(training.context).saved_step() == 4


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_not_gone_on_from(damage: str, killed: dict[str, bytes], tmp_path: Path) -> None:
    training = laid_out(tmp_path, {**killed, LAST: DAMAGE[damage](killed[LAST])})
    state = TrainingState(training.context).load()
    assert state is not None
    assert state["step"] == 4
    assert "last.pt is missing or damaged: the training goes on from the state before it" in training.said.getvalue()


def test_a_flipped_bit_anywhere_is_noticed(killed: dict[str, bytes], tmp_path: Path) -> None:
    """In the header, in the last bytes, and in places that are drawn."""
    bits = 8 * len(killed[LAST])
    places = [*range(0, 8 * 110, 37), *range(bits - 8 * 40, bits, 41), *random.Random(0).sample(range(bits), FLIPS)]
    training = laid_out(tmp_path, killed)
    (tmp_path / PREVIOUS).unlink()
    for place in places:
        (tmp_path / LAST).write_bytes(flip(killed[LAST], place))
        assert TrainingState(training.context).load() is None, place


@pytest.mark.parametrize(
    ("broken", "goes_on"), [((LAST,), "after step 4"), ((LAST, PREVIOUS), "its beginning")], ids=["last", "both"]
)
def test_the_end_is_that_of_an_unbroken_training(
    broken: tuple[str, ...],
    goes_on: str,
    killed: dict[str, bytes],
    unbroken: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    training = laid_out(tmp_path, {**killed, **{name: DAMAGE["a weight"](killed[name]) for name in broken}})
    assert_equal(training.run(), unbroken)
    assert goes_on in training.said.getvalue()


def test_a_damaged_state_never_replaces_the_good_one_before_it(killed: dict[str, bytes], tmp_path: Path) -> None:
    training = laid_out(tmp_path, {**killed, LAST: bytes(100)})
    with pytest.raises(Killed):
        training.run(killed_after=1)
    assert TrainingState(training.context).saved_step() == 5
    (tmp_path / LAST).write_bytes(b"")
    assert TrainingState(training.context).saved_step() == 4


@pytest.mark.parametrize("sealed", [False, True])
def test_a_state_that_would_run_code_is_not_opened(sealed: bool, killed: dict[str, bytes], tmp_path: Path) -> None:
    training, trap = laid_out(tmp_path, killed), tmp_path / "trap"
    content = pickle.dumps(Runs(trap))
    if sealed:  # by an attacker who knows the format
        write_sealed(tmp_path / LAST, "training one", (5).to_bytes(8, "big"), content)
    else:
        (tmp_path / LAST).write_bytes(content)
    state = TrainingState(training.context).load()
    assert state is not None
    assert state["step"] == 4
    assert not trap.exists()


def test_the_state_of_another_training_is_not_taken(
    killed: dict[str, bytes], unbroken: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Two work folders that changed places."""
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(Killed):
        Training(other, "another").run(killed_after=5, seed=1)
    training = laid_out(tmp_path, {file.name: file.read_bytes() for file in other.iterdir()})
    assert_equal(training.run(), unbroken)


def test_a_state_of_another_model_ends_in_an_error_that_says_so(tmp_path: Path) -> None:
    """As after an update that renamed a layer."""
    training = Training(tmp_path)
    kept = nn.Linear(2, 2).state_dict()
    TrainingState(training.context).save(3, {"step": 3, "model": kept, "optimizer": {}, "rows": []})
    with pytest.raises(ArtifactError, match="the saved state does not fit this training"):
        training.run()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_whatever_bits_are_flipped_the_end_is_the_same(
    seed: int, killed: dict[str, bytes], unbroken: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    generator = random.Random(seed)
    damaged = dict(killed)
    for name in generator.sample(sorted(killed), generator.randint(1, len(killed))):
        for _ in range(generator.randint(1, 3)):
            damaged[name] = flip(damaged[name], generator.randrange(8 * len(killed[name])))
    assert_equal(laid_out(tmp_path, damaged).run(), unbroken)
