"""The training loop: it learns, repeats itself to the bit, survives kills, and stops where numbers end."""

from __future__ import annotations

import io
import json
import math
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgevit.context import Context
from edgevit.data.dataset import Dataset
from edgevit.errors import DataError, RecipeError, TrainingError
from edgevit.inference.over_dataset import accuracy
from edgevit.models import create_model
from edgevit.progress import progress_for
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.loop.batches import Batch, TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.loop.training_state import TrainingState
from edgevit.training.loop.validation import VAL_TOP1, top1_on
from edgevit.training.objectives import Outputs, label_objective
from tests.learning import Killed, blobs, killed_in, tiny_token_vit, tiny_vit, train_config


def trained(
    folder: Path, val: Dataset | None = None, workers: int = 0, model: nn.Module | None = None, **changes: Any
) -> tuple[nn.Module, float | None]:
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = tiny_vit().preprocess
    after, validated = fit(
        ClassifierLearner(model or tiny_vit(drop_rate=0.1).module, label_objective(3), preprocess),
        [TrainingStream(blobs())],
        train_config(**changes),
        Context(work=folder, workers=workers),
        out=folder,
        validate=None if val is None else top1_on(val, preprocess, "cpu", 6),
        save_every_s=0.0,
    )
    return after, validated.get(VAL_TOP1)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_weights(left: nn.Module, right: nn.Module) -> None:
    for (key, one), other in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        assert torch.equal(one, other), key


@pytest.mark.parametrize(("precision", "fused"), [("bfloat16", False), ("float32", True)])
def test_attention_in_bfloat16_on_a_cpu_trains_by_plain_products(tmp_path: Path, precision: str, fused: bool) -> None:
    model = tiny_vit().module
    attention = model.blocks[0].attn
    seen = set()
    attention.register_forward_pre_hook(lambda module, _: seen.add((module.training, module.fused_attn)))
    after, _ = trained(tmp_path, model=model, precision=precision, epochs=1)
    assert (True, fused) in seen
    assert (True, not fused) not in seen
    assert after.blocks[0].attn.fused_attn


def test_gradient_checkpointing_keeps_less_and_trains_to_the_same_bits(tmp_path: Path) -> None:
    kept = {True: 0, False: 0}
    weights = []
    for again in kept:

        def counted(tensor: Tensor, again: bool = again) -> Tensor:
            kept[again] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(counted, lambda tensor: tensor):
            model, _ = trained(
                tmp_path / str(again), model=tiny_vit(depth=4, proj_drop_rate=0.1).module, grad_checkpointing=again
            )
        weights.append(model)
        assert not any(getattr(module, "grad_checkpointing", False) for module in model.modules())
    assert_same_weights(*weights)
    assert kept[True] < kept[False] / 2


def test_gradient_checkpointing_of_a_model_without_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"(?s)grad_checkpointing: true, PoolingVisionTransformer.*accumulation"):
        trained(tmp_path, model=create_model("pit_ti_224", 3, 32).module, grad_checkpointing=True)


def test_it_learns(tmp_path: Path) -> None:
    val = blobs("blobs.val", seed=9)
    model, top1 = trained(tmp_path, val, epochs=12)
    assert top1 is not None
    assert top1 > 0.9
    assert top1 == accuracy(model, val, tiny_vit().preprocess, torch.device("cpu"))
    assert not model.training


def test_the_accuracy_of_answers_that_are_no_numbers_is_none() -> None:
    built = tiny_vit()
    nn.init.constant_(built.module.head.bias, math.nan)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="no numbers"):
        accuracy(built.module, blobs(), built.preprocess, torch.device("cpu"))


def test_both_heads_of_a_token_student_learn(tmp_path: Path) -> None:
    before = tiny_token_vit().module.state_dict()
    after = trained(tmp_path, model=tiny_token_vit().module)[0].state_dict()
    assert not torch.equal(before["model.head.weight"], after["model.head.weight"])
    assert not torch.equal(before["model.head_dist.weight"], after["model.head_dist.weight"])


@pytest.mark.parametrize("workers", [0, 2])
def test_same_seed_gives_the_same_bits_whatever_the_workers(tmp_path: Path, workers: int) -> None:
    first, _ = trained(tmp_path / "first")
    second, _ = trained(tmp_path / "second", workers=workers)
    other, _ = trained(tmp_path / "other", seed=1)
    assert_same_weights(first, second)
    assert not torch.equal(first.state_dict()["head.weight"], other.state_dict()["head.weight"])


def test_random_state_of_the_caller_plays_no_part(tmp_path: Path) -> None:
    first, _ = trained(tmp_path / "first")
    torch.manual_seed(99)
    second, _ = trained(tmp_path / "second")
    assert_same_weights(first, second)


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9}, {"precision": "float16", "clip_grad_norm": 1.0}], ids=str)
@pytest.mark.parametrize("killed_at", [5, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 7))])
def test_run_that_was_broken_off_ends_as_an_unbroken_one(
    tmp_path: Path, killed_at: int, changes: dict[str, Any]
) -> None:
    val = blobs("blobs.val", 2, seed=9)
    changes = {"epochs": 3, **changes}
    unbroken, _ = trained(tmp_path / "unbroken", val, **changes)
    broken = tmp_path / "broken"
    broken.mkdir()
    with pytest.raises(Killed):
        fit(
            ClassifierLearner(
                tiny_vit(drop_rate=0.1).module, killed_in(killed_at, label_objective(3)), tiny_vit().preprocess
            ),
            [TrainingStream(blobs())],
            train_config(**changes),
            Context(work=broken),
            out=broken,
            validate=top1_on(val, tiny_vit().preprocess, "cpu", 6),
            save_every_s=0.0,
        )
    resumed, _ = trained(broken, val, **changes)
    assert_same_weights(unbroken, resumed)
    clock = {"images_per_s", "waiting"}
    assert [{key: row[key] for key in row.keys() - clock} for row in rows(broken)] == [
        {key: row[key] for key in row.keys() - clock} for row in rows(tmp_path / "unbroken")
    ]


KILLABLE = """
import sys, time
from pathlib import Path
from edgevit.context import Context
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.loop.batches import TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.objectives import label_objective
from tests.learning import blobs, tiny_vit, train_config

def slow(outputs, batch):
    time.sleep(0.02)
    return label_objective(3)(outputs, batch)

folder = Path(sys.argv[1])
print("starts", flush=True)
learner = ClassifierLearner(tiny_vit(drop_rate=0.1).module, slow, tiny_vit().preprocess)
fit(learner, [TrainingStream(blobs())], train_config(epochs=30), Context(work=folder), out=folder, save_every_s=0.0)
"""


@pytest.mark.slow
def test_kill_9_leaves_a_state_to_go_on_from(tmp_path: Path) -> None:
    unbroken, _ = trained(tmp_path / "unbroken", epochs=30)
    killed = tmp_path / "killed"
    killed.mkdir()
    process = subprocess.Popen([sys.executable, "-c", KILLABLE, str(killed)], cwd=Path(__file__).parents[3])
    while not (killed / "last.pt").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < (TrainingState(Context(work=killed)).saved_step() or 0) < 120
    resumed, _ = trained(killed, epochs=30)
    assert_same_weights(unbroken, resumed)


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """A write beyond the limit fails, as on a full disk. Python ignores SIGXFSZ."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_is_an_error_of_the_system_and_leaves_no_half_state(tmp_path: Path) -> None:
    with files_of_at_most(8192), pytest.raises(OSError, match="File too large"):
        trained(tmp_path)
    assert not (tmp_path / "last.pt").exists()


def assert_death_of_a_worker_is_said(folder: Path, dies_at: int, wait_s: float) -> None:
    """A process that loads images is killed in a step: torch notices wherever the training then is."""
    calls, others = 0, set(multiprocessing.active_children())

    def killing(outputs: Outputs, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            worker = [child for child in multiprocessing.active_children() if child not in others][calls % 2]
            os.kill(worker.pid or 0, signal.SIGKILL)
            time.sleep(wait_s)
        return label_objective(3)(outputs, batch)

    folder.mkdir(exist_ok=True)
    with pytest.raises(DataError, match="a process that loads images died") as caught:
        fit(
            ClassifierLearner(tiny_vit().module, killing, tiny_vit().preprocess),
            [TrainingStream(blobs())],
            train_config(epochs=30),
            Context(work=folder, workers=2),
            out=folder,
            save_every_s=0.0,
        )
    torch.set_grad_enabled(True)  # torch may have raised where it was about to be set back
    subprocess.run(
        [sys.executable, "-c", ""], check=True
    )  # torch raises at the exit of any child if it knows a dead one
    deadline = time.monotonic() + 10
    while set(multiprocessing.active_children()) - others and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(multiprocessing.active_children()) <= others, f"kept alive by the frames of {caught.value!r}"
    saved = TrainingState(Context(work=folder)).saved_step()
    assert saved is None or saved >= dies_at - 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch may raise in an `open`
@pytest.mark.parametrize("wait_s", [0.0, 0.5])
def test_death_of_a_worker_is_said_wherever_it_is_noticed(tmp_path: Path, wait_s: float) -> None:
    assert_death_of_a_worker_is_said(tmp_path, 3, wait_s)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch may raise in an `open`
def test_death_of_a_worker_is_said_at_any_time(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    generator = random.Random(0)
    for number in range(60):
        wait_s = generator.choice([0, generator.uniform(0, 0.05)])
        assert_death_of_a_worker_is_said(tmp_path / str(number), generator.randint(1, 20), wait_s)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("damage", ['{"epoch": 1, "st', "{}\n", "\0\0\n", "\n[1]\n"])
def test_damaged_log_is_written_anew_from_the_saved_state(tmp_path: Path, damage: str) -> None:
    trained(tmp_path, epochs=1)
    whole = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(damage + whole)
    trained(tmp_path, epochs=1)
    assert (tmp_path / "metrics.jsonl").read_text() == whole


def test_loss_that_is_no_number_stops_at_once_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    calls = 0

    def poisoned(outputs: Outputs, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        return label_objective(3)(outputs, batch) * (float("nan") if calls == 6 else 1.0)

    with pytest.raises(TrainingError) as caught:
        fit(
            ClassifierLearner(tiny_vit().module, poisoned, tiny_vit().preprocess),
            [TrainingStream(blobs())],
            train_config(epochs=3, schedule="constant", warmup_fraction=0),
            Context(work=tmp_path, stage_id="teacher"),
            out=tmp_path,
            save_every_s=0.0,
        )
    said = str(caught.value)
    assert calls == 6
    assert "step 6 of 12" in said
    assert "0.002" in said
    assert str(tmp_path / "last.pt") in said
    assert "lower learning_rate" in said
    state = TrainingState(Context(work=tmp_path)).load()
    assert state is not None
    assert state["step"] == 5
    assert all(torch.isfinite(value).all() for value in state["learner"].values())


def test_rate_that_is_far_too_high_ends_in_an_error_not_in_a_checkpoint(tmp_path: Path) -> None:
    model = tiny_vit().module
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e20)  # what a rate beyond all that recipes take does in a step
    with pytest.raises(TrainingError, match="diverged"):
        trained(tmp_path, model=model, learning_rate=1e3, optimizer="sgd", epochs=20)


def test_rows_say_where_training_stands(tmp_path: Path) -> None:
    trained(tmp_path, blobs("blobs.val", 2), epochs=3)
    logged = rows(tmp_path)
    assert [row["epoch"] for row in logged if "val_top1" in row] == [1, 2, 3]
    assert logged[-1]["step"] == 12
    assert {"epoch", "step", "loss", "learning_rate", "images_per_s"} <= logged[0].keys()


def test_no_epochs_leave_the_model_as_it_was(tmp_path: Path) -> None:
    model, _ = trained(tmp_path, epochs=0)
    assert_same_weights(model, tiny_vit(drop_rate=0.1).module)


def test_rows_hold_the_rate_that_was_used(tmp_path: Path) -> None:
    trained(tmp_path, epochs=1, schedule="cosine", warmup_fraction=0.0)
    rates = [row["learning_rate"] for row in rows(tmp_path)]
    assert rates == pytest.approx([1e-3 * (1 + math.cos(math.pi * step / 4)) for step in range(4)])


def test_weight_that_broke_in_the_last_step_names_that_step_and_its_rate(tmp_path: Path) -> None:
    model = tiny_vit().module
    calls = 0

    def breaks_the_last(outputs: Outputs, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            outputs.register_hook(lambda gradient: gradient * float("nan"))
        return label_objective(3)(outputs, batch)

    with pytest.raises(TrainingError, match="a weight is not finite") as caught:
        fit(
            ClassifierLearner(model, breaks_the_last, tiny_vit().preprocess),
            [TrainingStream(blobs())],
            train_config(epochs=1, schedule="constant", warmup_fraction=0),
            Context(work=tmp_path),
            out=tmp_path,
        )
    assert "step 4 of 4" in str(caught.value)
    assert caught.value.got == "learning rate 0.002; nothing had been saved yet"
    assert str(tmp_path) not in caught.value.what  # the key of a selection has the reason


def test_moving_average_is_shipped_and_differs_from_the_weights(tmp_path: Path) -> None:
    plain, _ = trained(tmp_path / "plain")
    averaged, _ = trained(tmp_path / "averaged", ema_decay=0.9)
    assert not torch.equal(plain.state_dict()["head.weight"], averaged.state_dict()["head.weight"])


def test_batch_in_parts_gives_the_gradients_of_the_whole(tmp_path: Path) -> None:
    """A model of LayerNorm, labels for every sample, no dropout: the weights agree to rounding."""
    whole, _ = trained(tmp_path / "whole", model=tiny_vit().module, optimizer="sgd", learning_rate=0.1)
    parts, _ = trained(tmp_path / "parts", model=tiny_vit().module, optimizer="sgd", learning_rate=0.1, accumulation=3)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_frozen_batch_norm_keeps_its_statistics(tmp_path: Path) -> None:
    built = create_model("resnet18", 3, 32)
    before = {key: value.clone() for key, value in built.module.state_dict().items()}
    after, _ = fit(
        ClassifierLearner(built.module, label_objective(3), built.preprocess),
        [TrainingStream(blobs())],
        train_config(epochs=1, freeze=5),
        Context(work=tmp_path),
        out=tmp_path,
    )
    changed = {key.split(".")[0] for key, value in after.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"layer3", "layer4", "fc"}


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision_learns(tmp_path: Path, precision: str) -> None:
    val = blobs("blobs.val", seed=9)
    model, top1 = trained(tmp_path / "half", val, epochs=12, precision=precision)
    assert top1 is not None
    assert top1 > 0.9
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    single, _ = trained(tmp_path / "single", val, epochs=12)
    assert not torch.equal(model.state_dict()["head.weight"], single.state_dict()["head.weight"])


def test_layout_in_memory_changes_nothing_but_rounding(tmp_path: Path) -> None:
    one, other = (
        fit(
            ClassifierLearner(create_model("resnet18", 3, 32).module, label_objective(3), tiny_vit().preprocess),
            [TrainingStream(blobs())],
            train_config(epochs=1, optimizer="sgd", learning_rate=1e-3, channels_last=last),
            Context(work=tmp_path / str(last)),
            out=made(tmp_path / str(last)),
        )[0]
        for last in (False, True)
    )
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-3, rtol=1e-2)


def test_loss_that_leaps_up_is_said(tmp_path: Path) -> None:
    calls = 0

    def leaps(outputs: Outputs, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        return label_objective(3)(outputs, batch) * (50 if calls == 5 else 1)

    said = io.StringIO()
    fit(
        ClassifierLearner(tiny_vit().module, leaps, tiny_vit().preprocess),
        [TrainingStream(blobs())],
        train_config(),
        Context(work=tmp_path, progress=progress_for(said)),
        out=tmp_path,
    )
    assert "the loss rose from" in said.getvalue()
    assert "before step 5" in said.getvalue()


class Hungry(nn.Module):
    """A model that asks for a quarter of the machine's memory for each image, and does not touch it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_vit().module
        self.floats = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 // 4

    def forward(self, images: Tensor) -> Tensor:
        images.new_empty((len(images), self.floats))
        logits: Tensor = self.model(images)
        return logits


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, memory that is not touched may be had without limit")
def test_batch_that_memory_does_not_hold_is_answered_with_one_that_fits(tmp_path: Path) -> None:
    hungry = Hungry()
    with pytest.raises(TrainingError, match="the memory does not hold this batch") as caught:
        trained(tmp_path, model=hungry, batch_size=24)
    assert "24 images at once on cpu" in str(caught.value)
    assert re.search(r"set accumulation: \d+, which keeps the batch of 24", str(caught.value))
    assert not (tmp_path / "last.pt").exists()


class Twice(nn.Module):
    """A layer that is used twice, and goes by two names or by one."""

    def __init__(self, two_names: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)
        if two_names:
            self.again = self.layer

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(self.layer(images.mean((2, 3))))
        return logits


def test_the_average_of_a_shared_parameter_moves_as_that_of_any_other(tmp_path: Path) -> None:
    one, two = (
        trained(tmp_path / str(names), model=Twice(names), ema_decay=0.9, learning_rate=0.1)[0]
        for names in (False, True)
    )
    assert torch.equal(one.state_dict()["layer.weight"], two.state_dict()["again.weight"])


class OneChannelNorm(nn.Module):
    """Normalises a vector an image, as hybrids do before their classifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(3), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(images.mean((2, 3))))
        return logits


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 1), (4, 4), (3, 2)])
def test_one_image_at_a_time_through_batch_norm_is_answered(tmp_path: Path, batch_size: int, accumulation: int) -> None:
    with pytest.raises(TrainingError, match="batch normalization needs two images at once"):
        trained(tmp_path, model=OneChannelNorm(), batch_size=batch_size, accumulation=accumulation)


class Unsized:
    """Torch's compiled modules have a `__len__` that raises."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.calls = model, 0

    def __call__(self, images: Tensor) -> Any:
        self.calls += 1
        return self.model(images)

    def __len__(self) -> int:
        raise TypeError("it has no length")


def test_the_compiled_model_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[Unsized]()

    def compiled(model: nn.Module) -> Unsized:
        made.append(Unsized(model))
        return made[0]

    monkeypatch.setattr(torch, "compile", compiled)
    trained(tmp_path, compile=True, epochs=1)
    assert made[0].calls


@pytest.mark.slow
def test_compiled_model_learns_the_same(tmp_path: Path) -> None:
    plain, _ = trained(tmp_path / "plain", model=tiny_vit().module, optimizer="sgd", learning_rate=0.1)
    compiled, _ = trained(tmp_path / "c", model=tiny_vit().module, optimizer="sgd", learning_rate=0.1, compile=True)
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder
