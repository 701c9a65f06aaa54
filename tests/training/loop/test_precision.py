"""The precision that `auto` takes: from trial steps of the model itself, kept for a training that goes on."""

from __future__ import annotations

import copy
import io
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgevit.context import Context
from edgevit.models import create_model
from edgevit.progress import PlainProgress
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.loop.batches import TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.loop.precision import faster_precision, precision_of_training, step_seconds
from edgevit.training.objectives import label_objective
from tests.learning import blobs, tiny_token_vit, tiny_vit, train_config

LONG = 10**6
SLOW_S = 0.02


class SlowIn(nn.Module):
    """A classifier whose forward pass is slow in these precisions."""

    def __init__(self, *precisions: str) -> None:
        super().__init__()
        self.head, self.slow = nn.Linear(3, 3), precisions

    def forward(self, images: Tensor) -> Tensor:
        if ("bfloat16" if torch.is_autocast_enabled("cpu") else "float32") in self.slow:
            time.sleep(SLOW_S)
        answers: Tensor = self.head(images.mean((2, 3)))
        return answers


@pytest.fixture
def _has_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType({"avx512_bf16": True}))


def taken(folder: Path, model: nn.Module | None, images: int = LONG, **changes: Any) -> tuple[str, str]:
    """The precision, and what was said."""
    said = io.StringIO()
    config = train_config(**{"precision": "auto", "batch_size": 4, **changes})
    context = Context(work=folder, progress=PlainProgress(said))
    return precision_of_training(config, model, tiny_vit().preprocess, images, context), said.getvalue()


@pytest.mark.usefixtures("_has_bfloat16")
@pytest.mark.parametrize(("slow", "fast"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_auto_takes_what_trains_this_model_faster(tmp_path: Path, slow: str, fast: str) -> None:
    precision, said = taken(tmp_path, SlowIn(slow))
    assert precision == fast
    assert said.startswith(f"    precision auto takes {fast}: a step in bfloat16 is ")


@pytest.mark.parametrize(("speedup", "precision"), [(0.8, "float32"), (1.04, "float32"), (1.05, "bfloat16")])
def test_about_equal_times_take_float32(speedup: float, precision: str) -> None:
    assert faster_precision(speedup) == precision


@pytest.mark.usefixtures("_has_bfloat16")
def test_a_training_that_goes_on_takes_the_same(tmp_path: Path) -> None:
    assert taken(tmp_path, SlowIn("float32"))[0] == "bfloat16"
    assert taken(tmp_path, SlowIn("bfloat16")) == ("bfloat16", "    precision auto takes bfloat16: as before\n")
    (tmp_path / "precision.json").write_bytes(b"\xff")  # damaged: tried again
    assert taken(tmp_path, SlowIn("bfloat16"))[0] == "float32"


def test_a_kept_answer_does_not_bind_another_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "precision.json").write_text('"bfloat16"')
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType({"avx512_bf16": False}))
    assert taken(tmp_path, SlowIn("float32"))[0] == "float32"


@pytest.mark.usefixtures("_has_bfloat16")
@pytest.mark.parametrize(("images", "precision"), [(639, "float32"), (640, "bfloat16")])
def test_a_short_training_tries_nothing(tmp_path: Path, images: int, precision: str) -> None:
    """The trial shows 2 · 4 batches of 4 images, which are a twentieth of 640."""
    assert taken(tmp_path, SlowIn("float32"), images)[0] == precision


def test_a_cpu_without_instructions_tries_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType({"avx512_bf16": False}))
    precision, said = taken(tmp_path, SlowIn("float32"))
    assert (precision, said) == (
        "float32", "    precision auto takes float32: the device has no instructions for bfloat16\n"
    )  # fmt: skip
    assert "many times as long" in taken(tmp_path, None, precision="bfloat16")[1]
    assert taken(tmp_path, None, precision="float32") == ("float32", "")


@pytest.mark.usefixtures("_has_bfloat16")
def test_a_sharded_model_goes_by_the_instructions(tmp_path: Path) -> None:
    assert taken(tmp_path / "long", None)[0] == "bfloat16"
    assert taken(tmp_path / "short", None, images=100)[0] == "float32"
    assert taken(tmp_path, None, precision="bfloat16") == ("bfloat16", "")


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_the_trial_leaves_model_and_random_numbers_as_they_were(name: str) -> None:
    built = tiny_vit(drop_rate=0.1) if name == "vit" else create_model(name, 3, 32)
    built.module.eval()
    before, state = copy.deepcopy(built.module.state_dict()), torch.get_rng_state()
    seconds = step_seconds(built.module, built.preprocess, 2, channels_last=True)
    assert set(seconds) == {"float32", "bfloat16"}
    assert min(seconds.values()) > 0
    assert all(torch.equal(before[key], tensor) for key, tensor in built.module.state_dict().items())
    assert all(parameter.grad is None for parameter in built.module.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert not built.module.training


@pytest.mark.parametrize("frozen", [False, True])
def test_models_of_two_outputs_and_frozen_ones_are_tried(frozen: bool) -> None:
    built = tiny_token_vit()
    built.module.requires_grad_(not frozen)
    assert min(step_seconds(built.module, built.preprocess, 2, channels_last=False).values()) > 0


@pytest.mark.usefixtures("_has_bfloat16")
@pytest.mark.parametrize(("slow", "fast"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_fit_trains_in_the_precision_that_auto_takes(tmp_path: Path, slow: str, fast: str) -> None:
    weights = []
    for name in ("auto", fast):
        torch.manual_seed(0)
        learner = ClassifierLearner(SlowIn(slow), label_objective(3), tiny_vit().preprocess)
        config = train_config(precision=name, epochs=41, learning_rate=0.1)  # 984 images; the trial shows 48
        work = tmp_path / name
        work.mkdir()
        trained, _ = fit(learner, [TrainingStream(blobs())], config, Context(work=work), out=work)
        assert learner.precision == fast
        weights.append(trained.get_submodule("head").state_dict()["weight"])
    assert torch.equal(weights[0], weights[1])
