"""Adapted checkpoints: an ordinary model with a new classifier that answers as the head did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgevit.configs import Augmentation, Fewshot
from edgevit.context import Context
from edgevit.data.dataset import Dataset
from edgevit.data.transforms import normalize
from edgevit.errors import DataError, RecipeError
from edgevit.fewshot.adapt import Task, task_features, with_fitted_head
from edgevit.fewshot.choice import default_method
from edgevit.fewshot.features import features_of, with_linear_head
from edgevit.fewshot.finetuning import finetune
from edgevit.fewshot.heads import LinearHead
from edgevit.inference.frozen_model import FrozenModel
from edgevit.inference.over_dataset import accuracy, outputs_of
from edgevit.models import create_model, open_checkpoint
from edgevit.models.creation import BuiltModel
from edgevit.models.distillation_token import DistillationToken
from edgevit.models.embedding import classifiers
from tests.learning import blobs, published_checkpoint, tiny_token_vit, tiny_vit
from tests.said import Said

CPU = torch.device("cpu")
GENTLE = Augmentation(scale=(0.9, 1.0), horizontal_flip=0)


def config(**changes: Any) -> Fewshot:
    fields = {"stage": "fewshot", "id": "adapted", "model": "m", "support": "s", "augmentation": GENTLE}
    return Fewshot.model_validate({**fields, **changes})


def checkpoint(folder: Path, classes: tuple[str, ...] = ("a", "b", "c"), token: bool = False) -> BuiltModel:
    built = tiny_token_vit(len(classes)) if token else tiny_vit(len(classes))
    return open_checkpoint(published_checkpoint(folder, built, classes))


def adapted_to(start: BuiltModel, task: Task, method: str, settings: Fewshot) -> BuiltModel:
    return with_fitted_head(start, task_features(start, task, settings, Context()), method, settings)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "levit_128s", "repvit_m0_9", "resnet18"]
)
def test_new_classifier_answers_as_the_head_on_the_features(name: str) -> None:
    built = create_model(name, 5, 64, distillation_token="distilled" in name)
    canvases = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = normalize(canvases, built.preprocess)
    width = classifiers(built.module)[0].in_features
    rng = np.random.default_rng(0)
    head = LinearHead(rng.standard_normal((3, width)), rng.standard_normal(3))
    entered: list[torch.Tensor] = []
    with torch.no_grad():
        for linear in classifiers(built.module):
            linear.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        built.module(images)
        expected = head.logits(torch.stack(entered).mean(0).double().numpy())
        adapted = with_linear_head(built, head)
        got = adapted.module(images)
    assert adapted.description.num_classes == 3
    assert not adapted.description.changes
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-3, rtol=1e-4)


def test_features_without_augmentation_are_timms(tmp_path: Path) -> None:
    built = tiny_vit()
    dataset = blobs(per_class=2)
    still = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), horizontal_flip=0)
    canvases = torch.from_numpy(np.stack([dataset.image(index) for index in range(6)]))
    images = normalize(canvases, built.preprocess)
    with torch.no_grad():
        expected = built.module.forward_head(built.module.forward_features(images), pre_logits=True)
    got = features_of(FrozenModel(built.module, built.preprocess, CPU), dataset, still)
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("method", ["nearest_centroid", "logistic_regression", "label_propagation"])
@pytest.mark.parametrize("token", [False, True])
def test_each_method_learns_new_classes_from_a_few_images(tmp_path: Path, method: str, token: bool) -> None:
    start = checkpoint(tmp_path, ("x", "y"), token)
    before = start.module.state_dict()["model.pos_embed" if token else "pos_embed"].clone()
    support, pool, test = blobs("s", 3), blobs("p", 10, seed=1, labelled=False), blobs("t", 20, seed=2)
    adapted = adapted_to(start, Task(support, pool), method, config())
    assert accuracy(adapted.module, test, adapted.preprocess, CPU) > 0.65  # of a random network's features
    assert torch.equal(adapted.module.state_dict()["pos_embed"], before)


def test_adaptation_repeats_itself_to_the_bit(tmp_path: Path) -> None:
    support, pool = blobs("s", 3), blobs("p", 10, seed=1, labelled=False)
    start = checkpoint(tmp_path)
    first, second = (adapted_to(start, Task(support, pool), "label_propagation", config()) for _ in range(2))
    for one, other in zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_method_follows_from_the_pool() -> None:
    assert default_method(has_pool=False) == "logistic_regression"
    assert default_method(has_pool=True) == "label_propagation"


def predictions(model: torch.nn.Module, dataset: Dataset) -> torch.Tensor:
    return outputs_of(model, dataset, tiny_vit().preprocess, CPU).log_softmax(-1)


@pytest.mark.parametrize("token", [False, True])
def test_finetuning_learns_new_classes(tmp_path: Path, token: bool) -> None:
    start = checkpoint(tmp_path, ("x", "y"), token)
    settings = config(method="finetune", epochs=30, batch_size=9, learning_rate=1e-3)
    context = Context(work=tmp_path / "work")
    tuned = finetune(start, Task(blobs("s", 3)), settings, context, tmp_path).built
    assert accuracy(tuned.module, blobs("t", 20, seed=2), tuned.preprocess, CPU) > 0.8  # chance is a third
    assert (tmp_path / "metrics.jsonl").is_file()


def test_pool_holds_the_model_to_what_it_said_of_it(tmp_path: Path) -> None:
    support, pool = blobs("s", 1, seed=5), blobs("p", 20, seed=1, labelled=False)
    moved = []
    for number, (with_pool, batch_size) in enumerate(((pool, 12), (None, 6))):
        start = checkpoint(tmp_path)
        before = predictions(start.module, pool)
        work = Context(work=tmp_path / f"work{number}")
        settings = config(method="finetune", epochs=200, batch_size=batch_size, learning_rate=1e-3)
        after = predictions(finetune(start, Task(support, with_pool), settings, work, tmp_path).built.module, pool)
        moved.append(float((before.exp() * (before - after)).sum(-1).mean()))
    assert moved[0] < moved[1] / 2


def test_token_student_keeps_both_heads_through_finetuning(tmp_path: Path) -> None:
    start = checkpoint(tmp_path, token=True)
    pool = blobs("p", 4, labelled=False)
    tuned = finetune(
        start,
        Task(blobs("s", 2), pool),
        config(method="finetune", epochs=1, batch_size=6),
        Context(work=tmp_path),
        tmp_path,
    ).built
    assert tuned.description.change(DistillationToken)


@pytest.mark.parametrize(
    ("support", "said"),
    [
        (blobs("s", labelled=False), "needs labels"),
        (blobs("s", classes=1), "at least two classes"),
        (blobs("s", per_class=0), "no support image"),
    ],
)
def test_support_that_defines_no_classes_is_refused(tmp_path: Path, support: Dataset, said: str) -> None:
    with pytest.raises(DataError, match=said):
        adapted_to(checkpoint(tmp_path), Task(support), "nearest_centroid", config())


def test_propagation_without_a_pool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs unlabelled images"):
        adapted_to(checkpoint(tmp_path), Task(blobs("s")), "label_propagation", config())


def test_seed_draws_other_views(tmp_path: Path) -> None:
    built = tiny_vit()
    first, again, other = (
        features_of(FrozenModel(built.module, built.preprocess, CPU), blobs(), GENTLE, 2, seed) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_new_head_keeps_the_stochastic_depth_of_finetuning(tmp_path: Path) -> None:
    start = open_checkpoint(published_checkpoint(tmp_path, tiny_vit(2, depth=2), ("x", "y")))
    settings = config(method="finetune", drop_path_rate=0.5)
    adapted = adapted_to(start, Task(blobs("s", 3)), "nearest_centroid", settings)
    images = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.equal(adapted.module(images), adapted.module.train()(images))


def test_views_of_the_pool_are_an_option_and_the_work_is_said(tmp_path: Path) -> None:
    start, support, pool = checkpoint(tmp_path), blobs("support", 2), blobs("pool", 80)
    progress = Said()
    context = Context(progress=progress)
    plain = task_features(start, Task(support, pool), config(random_views=8, pool_views=0), Context())
    model = FrozenModel(start.module, start.preprocess, CPU)
    assert plain.pool is not None
    np.testing.assert_allclose(plain.pool, model.embeddings(pool).numpy(), atol=1e-5)
    viewed = task_features(start, Task(support, pool), config(random_views=8), context)
    np.testing.assert_allclose(viewed.support, plain.support, atol=1e-5)
    assert viewed.pool is not None
    assert not np.allclose(viewed.pool, plain.pool, atol=1e-3)
    said = "\n".join(progress.lines)
    assert f"{9 * (len(support) + len(pool)):,} passes for features" in said
    assert f"pool_views: 0 would take {9 * len(support) + len(pool):,}" in said
