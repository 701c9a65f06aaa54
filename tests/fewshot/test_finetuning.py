"""Fine-tuning of a part of the weights: what is named changes, nothing else, and a break leaves no trace."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.configs import Fewshot
from edgevit.context import Context
from edgevit.data.dataset import Dataset
from edgevit.errors import RecipeError
from edgevit.fewshot.adapt import Task
from edgevit.fewshot.crossvalidation import score
from edgevit.fewshot.finetuning import finetune, finetuning_setup, freeze_untuned
from edgevit.inference.over_dataset import accuracy, outputs_of
from edgevit.models import BuiltModel, create_model, open_checkpoint
from edgevit.models.lora import merge_lora
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.loop.fit import fit
from edgevit.training.loop.setup import TrainingSetup
from edgevit.training.loop.training_state import TrainingState
from tests.fewshot.test_adapt import CPU, checkpoint, config
from tests.learning import Killed, blobs, killed_in, published_checkpoint

SETTINGS: dict[str, Any] = {"method": "finetune", "epochs": 4, "batch_size": 6, "learning_rate": 2e-3}
PARTS = ("norm", "bias", "lora")


def settings(tune: str, **changes: Any) -> Fewshot:
    return config(**{**SETTINGS, "tune": tune, **changes})


def small_convnet(folder: Path, classes: tuple[str, ...] = ("a", "b", "c")) -> BuiltModel:
    """With batch normalization, depthwise convolutions among its layers."""
    built = create_model("repvit_m0_9", len(classes), 32, {"embed_dim": (8, 16, 24, 32), "depth": (1, 1, 1, 1)})
    return open_checkpoint(published_checkpoint(folder, built, classes))


def changed(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    after = model.state_dict()
    assert after.keys() == before.keys()
    return {key for key in before if not torch.equal(before[key], after[key])}


def tuned(start: BuiltModel, settings: Fewshot, folder: Path) -> BuiltModel:
    folder.mkdir(exist_ok=True)
    return finetune(start, Task(blobs("s", 3)), settings, Context(work=folder / "work", workers=0), folder).built


@pytest.mark.parametrize("ema_decay", [None, 0.5])
@pytest.mark.parametrize(
    ("tune", "expected"),
    [
        ("norm", {"blocks.0.norm1.weight", "blocks.0.norm2.bias", "norm.weight", "norm.bias"}),
        ("bias", {"patch_embed.proj.bias", "blocks.0.norm1.bias", "blocks.0.attn.qkv.bias", "blocks.0.mlp.fc1.bias"}),
        ("lora", {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc2.weight"}),
    ],
)
def test_only_what_is_named_and_the_classifier_change(
    tmp_path: Path, tune: str, expected: set[str], ema_decay: float | None
) -> None:
    start = checkpoint(tmp_path)
    before = copy.deepcopy(start.module.state_dict())
    got = changed(before, tuned(start, settings(tune, ema_decay=ema_decay), tmp_path).module)
    assert got >= expected | {"head.weight", "head.bias"}
    words = {"norm": "norm", "bias": "bias", "lora": "weight"}
    assert all(words[tune] in key for key in got if not key.startswith("head."))
    if tune == "lora":
        assert not any("norm" in key for key in got)


def likelihood(model: BuiltModel, dataset: Dataset) -> float:
    assert dataset.labels is not None
    logits = outputs_of(model.module, dataset, model.preprocess, CPU).numpy().astype(np.float64)
    return score(logits, dataset.labels).log_likelihood


@pytest.mark.parametrize("tune", ["norm", *(pytest.param(part, marks=pytest.mark.slow) for part in ("bias", "lora"))])
@pytest.mark.parametrize("token", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_part_is_enough_to_learn_more_than_the_head_did(tmp_path: Path, tune: str, token: bool) -> None:
    seen = {
        rate: likelihood(
            tuned(
                checkpoint(tmp_path, ("x", "y"), token),
                settings(tune, epochs=100, batch_size=9, learning_rate=rate),
                tmp_path / str(rate),
            ),
            blobs("s", 3),
        )
        for rate in (0, 2e-3)
    }
    assert seen[0.002] > 0.8 * seen[0]


def test_low_rank_changes_learn_new_classes(tmp_path: Path) -> None:
    model = tuned(checkpoint(tmp_path, ("x", "y"), token=True), settings("lora", epochs=30, batch_size=9), tmp_path)
    assert accuracy(model.module, blobs("t", 20, seed=2), model.preprocess, CPU) > 0.7  # chance is a third


@pytest.mark.parametrize(("tune", "statistics_move"), [("norm", True), ("bias", False), ("lora", False)])
def test_running_statistics_move_only_where_all_of_the_normalization_is_trained(
    tmp_path: Path, tune: str, statistics_move: bool
) -> None:
    start = small_convnet(tmp_path)
    before = copy.deepcopy(start.module.state_dict())
    got = changed(before, tuned(start, settings(tune, epochs=1), tmp_path).module)
    assert any("running" in key for key in got) == statistics_move
    depthwise = {name for name, one in start.module.named_modules() if isinstance(one, nn.Conv2d) and one.groups > 1}
    assert depthwise
    assert not got & {f"{name}.weight" for name in depthwise}


@pytest.mark.parametrize("tune", ["all", *PARTS])
@pytest.mark.parametrize("changes", [{"epochs": 0}, {"learning_rate": 0}], ids=str)
def test_no_training_changes_nothing(tmp_path: Path, tune: str, changes: dict[str, Any]) -> None:
    for start in (checkpoint(tmp_path), small_convnet(tmp_path)):
        before = copy.deepcopy(start.module.state_dict())
        assert not changed(before, tuned(start, settings(tune, **changes), tmp_path).module)


@pytest.mark.parametrize("rank", [1, 3])
def test_weights_change_by_at_most_the_rank(tmp_path: Path, rank: int) -> None:
    start = checkpoint(tmp_path)
    before = copy.deepcopy(start.module.state_dict())
    after = tuned(start, settings("lora", lora_rank=rank, learning_rate=2e-2), tmp_path).module.state_dict()
    for name in ("blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "patch_embed.proj.weight"):
        change = (after[name].double() - before[name].double()).flatten(1)
        assert 1 <= int(torch.linalg.matrix_rank(change, atol=1e-5)) <= rank


def test_weight_decay_and_layer_decay_take_lora(tmp_path: Path) -> None:
    start = checkpoint(tmp_path)
    before = copy.deepcopy(start.module.state_dict())
    got = changed(before, tuned(start, settings("lora", weight_decay=0.1, layer_decay=0.7), tmp_path).module)
    assert "blocks.0.attn.qkv.weight" in got
    assert "pos_embed" not in got


def test_pool_teaches_with_the_model_as_it_was(tmp_path: Path) -> None:
    pool = blobs("p", 6, seed=1, labelled=False)
    setup = finetuning_setup(checkpoint(tmp_path), Task(blobs("s", 3), pool), settings("lora"), Context(workers=0))
    assert [stream.labelled for stream in setup.streams] == [True, False]
    setup.train(settings("lora"), Context(work=tmp_path / "work", workers=0), tmp_path)
    assert (tmp_path / "metrics.jsonl").is_file()


def test_a_model_without_normalization_is_refused() -> None:
    with pytest.raises(RecipeError, match="no normalization layer"):
        freeze_untuned(create_model("nf_regnet_b0", 3, 64).module, settings("norm"))


def trained(setup: TrainingSetup, folder: Path, killed_at: int = 0) -> nn.Module:
    """As `finetune` trains, with a save after every step."""
    assert isinstance(setup.learner, ClassifierLearner)
    setup.learner.objective = killed_in(killed_at, setup.learner.objective)
    model, _ = fit(
        setup.learner,
        setup.streams,
        settings("lora", epochs=10, ema_decay=0.9),
        Context(work=folder, workers=0),
        out=folder,
        save_every_s=0.0,
    )
    merge_lora(model)
    return model


def setup_of(folder: Path) -> TrainingSetup:
    folder.mkdir(exist_ok=True)
    return finetuning_setup(
        small_convnet(folder, ("x", "y")), Task(blobs("s", 3)), settings("lora"), Context(workers=0)
    )


@pytest.mark.slow
def test_a_training_that_was_broken_off_ends_with_the_bits_of_an_unbroken_one(tmp_path: Path) -> None:
    """That `kill -9` leaves such a state is tested with the training loop."""
    unbroken = trained(setup_of(tmp_path / "unbroken"), tmp_path / "unbroken").state_dict()
    broken = tmp_path / "broken"
    with pytest.raises(Killed):
        trained(setup_of(broken), broken, killed_at=8)
    assert TrainingState(Context(work=broken)).saved_step() == 7
    resumed = trained(setup_of(broken), broken).state_dict()
    assert unbroken.keys() == resumed.keys()
    for key in unbroken:
        assert torch.equal(unbroken[key], resumed[key]), key


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": None, "tune": "norm"}, "'tune' goes with method: finetune"),
        ({"method": None, "learning_rates": (0, 1e-3)}, "'learning_rates' goes with method: finetune"),
        ({"method": None, "lora_rank": 2}, "'lora_rank' goes with method: finetune"),
        ({"lora_rank": 2}, "goes with tune: lora, not with tune: all"),
        ({"lora_rank": 0, "tune": "lora"}, "at least 1"),
        ({"tune": "bias", "freeze": "backbone"}, "give one of them"),
        ({"learning_rates": ()}, "at least 1 item"),
        ({"learning_rates": (1e-3, -1.0)}, "at least 0"),
        ({"learning_rates": (1e-3, 0, 0.001)}, "has a value twice: 0.001, 0.0, 0.001"),
        ({"test_time_views": ("flip", "flip")}, "a view is named twice: flip, flip"),
        ({"test_time_views": ("rotate",)}, "'flip' or 'zoom'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(**{"method": "finetune", **changes})


def test_views_go_with_every_method() -> None:
    assert config(test_time_views=("flip",)).test_time_views == ("flip",)
