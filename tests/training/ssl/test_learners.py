"""Learners of pre-training: they learn, resume to equal bits, and stop where their outputs collapse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from edgevit.configs import Jigsaw, Pirl, Pretrain, ViewSpec
from edgevit.context import Context
from edgevit.data.dataset import ArrayImages, Dataset
from edgevit.errors import RecipeError, TrainingError
from edgevit.models import create_model
from edgevit.models.creation import BuiltModel
from edgevit.training.loop.batches import Batch, TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.loop.metrics_log import METRICS
from edgevit.training.ssl.byol import ByolLearner
from edgevit.training.ssl.dino import DinoLearner
from edgevit.training.ssl.heads import PrototypeHead
from edgevit.training.ssl.learners import learner_for
from edgevit.training.ssl.mae import MaeLearner
from edgevit.training.ssl.moco import MocoLearner
from edgevit.training.ssl.moving_teacher import WithMovingTeacher
from edgevit.training.ssl.self_supervised import SelfSupervised
from edgevit.training.ssl.view_sizes import check_takes, let_size_vary
from tests.learning import Killed, blobs, tiny_vit

SMALL: dict[str, dict[str, Any]] = {
    "dino": {"prototypes": 16, "hidden": 16, "bottleneck": 8},
    "simclr": {"dimensions": 8},
    "mae": {"decoder_width": 32, "decoder_depth": 1},
    "byol": {"hidden": 16, "dimensions": 8},
    "moco": {"queue": 12, "dimensions": 8},
    "esvit": {"prototypes": 16, "hidden": 16, "bottleneck": 8},
    "pirl": {"dimensions": 8, "negatives": 10, "grid": 2},
    "fcmae": {"decoder_width": 32},
    "sit": {"dimensions": 8},
    "rotation": {},
    "jigsaw": {"grid": 2, "permutations": 6, "hidden": 8},
}

STILL: dict[str, Any] = {"augmentation": {"horizontal_flip": 0, "color_jitter": 0, "hue": 0, "grayscale": 0, "blur": 0}}


def config_of(method: str, options: dict[str, Any] | None = None, **changes: Any) -> Pretrain:
    fields = {
        "stage": "pretrain",
        "id": "body",
        "model": "vit_tiny_patch16_224",
        "data": "blobs.train",
        "method": {"type": method, **SMALL[method], **(options or {})},
        "epochs": 2,
        "batch_size": 6,
        "learning_rate": 2e-3,
    }
    return Pretrain.model_validate({**fields, **changes})


def start_for(config: Pretrain) -> BuiltModel:
    """A small backbone that the method takes, prepared for its tiles."""
    start = tiny_resnet(64) if config.method.type == "fcmae" else tiny_vit(patch_size=4, drop_path_rate=0.1)
    if isinstance(config.method, (Jigsaw, Pirl)):
        let_size_vary(start.module, True)
    return start


def tiny_resnet(size: int = 32, **args: Any) -> BuiltModel:
    """A network with batch normalization."""
    layers = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 16), "stem_width": 8}
    return create_model("resnet10t", 3, size, {**layers, **args}, seed=0)


def patterns() -> Dataset:
    """24 images (16×16) of smooth patterns that have nothing in common."""
    coarse = np.random.default_rng(0).integers(0, 256, (24, 4, 4), dtype=np.uint8)
    pixels = np.stack([np.asarray(Image.fromarray(one).resize((16, 16), Image.Resampling.BICUBIC)) for one in coarse])
    return replace(blobs(), images=ArrayImages(pixels), labels=None)


def trained(
    folder: Path,
    config: Pretrain,
    start: BuiltModel | None = None,
    killed_at: int = 0,
    steps: list[int] | None = None,
) -> tuple[SelfSupervised, nn.Module]:
    folder.mkdir(exist_ok=True)
    learner = learner_for(config, start or start_for(config), len(blobs()))
    if steps is not None:
        note = steps.append
        learner.register_forward_pre_hook(lambda module, batch: note(batch[0].step))
    if killed_at:
        calls = iter(range(1, 1000))

        def kill(module: nn.Module, batch: tuple[Batch]) -> None:
            if next(calls) == killed_at:
                raise Killed

        learner.register_forward_pre_hook(kill)
    context = Context(work=folder, workers=0, stage_id="body")
    streams = [TrainingStream(blobs(), labelled=False)]
    model, _ = fit(learner, streams, config, context, out=folder, views=config.views, save_every_s=0.0)
    return learner, model


@pytest.mark.parametrize("method", SMALL)
def test_pretraining_that_was_broken_off_ends_as_an_unbroken_one(tmp_path: Path, method: str) -> None:
    config = config_of(method)
    unbroken, _ = trained(tmp_path / "unbroken", config)
    with pytest.raises(Killed):
        trained(tmp_path / "broken", config, killed_at=6)
    steps: list[int] = []
    resumed, model = trained(tmp_path / "broken", config, steps=steps)
    assert steps == [5, 6, 7]  # saved after each row, of one step
    assert not model.training
    for (name, one), other in zip(unbroken.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize(
    ("method", "epochs"), [("simclr", 15), ("mae", 15), ("pirl", 15), ("fcmae", 60), ("sit", 60), ("rotation", 60)]
)
def test_the_loss_falls(tmp_path: Path, method: str, epochs: int) -> None:
    losses = losses_on(
        patterns(), config_of(method, epochs=epochs, batch_size=12, learning_rate=5e-3, **STILL), tmp_path
    )
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_jigsaw_learns_where_a_tile_belongs(tmp_path: Path) -> None:
    """The images grow brighter away from their centers, so each tile shows its place."""
    place = np.hypot(*np.mgrid[-7.5:8:1, -7.5:8:1])
    brightness = np.random.default_rng(0).uniform(8, 20, (24, 1, 1, 1))
    pixels = np.broadcast_to(brightness * place[..., None], (24, 16, 16, 3)).astype(np.uint8)
    cones = replace(blobs(), images=ArrayImages(pixels), labels=None)
    losses = losses_on(cones, config_of("jigsaw", epochs=30, batch_size=12, learning_rate=5e-3, **STILL), tmp_path)
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])


def losses_on(data: Dataset, config: Pretrain, folder: Path) -> list[float]:
    """The loss of each row of a training with hardly any crop."""
    learner = learner_for(config, start_for(config), len(data))
    views = [ViewSpec(count=view.count, scale=(0.9, 1.0)) for view in config.views]
    streams = [TrainingStream(data, labelled=False)]
    fit(learner, streams, config, Context(work=folder, workers=0), out=folder, views=views)
    return [json.loads(line)["loss"] for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("start", [tiny_vit(patch_size=4), tiny_resnet()], ids=["vit", "resnet"])
def test_the_teacher_is_the_moving_average_of_the_student(tmp_path: Path, start: BuiltModel) -> None:
    before = {name: value.clone() for name, value in start.module.state_dict().items()}
    config = config_of("moco", {"momentum": 0.75}, epochs=1, batch_size=24)
    learner, _ = trained(tmp_path, config, start)
    assert isinstance(learner, MocoLearner)
    student = learner.model.state_dict()
    for name, value in learner.teacher.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * student[name])
    assert not any(parameter.requires_grad for parameter in learner.teacher.parameters())


@pytest.mark.parametrize("method", ["dino", "esvit", "byol", "moco"])
def test_the_result_is_the_network_that_the_paper_keeps(tmp_path: Path, method: str) -> None:
    """DINO and EsViT keep the teacher; BYOL the online encoder, MoCo the encoder of queries."""
    learner, model = trained(tmp_path, config_of(method, epochs=1))
    assert isinstance(learner, WithMovingTeacher)
    assert model is (learner.teacher if method in ("dino", "esvit") else learner.model)


@pytest.mark.parametrize(
    "start", [tiny_resnet(drop_rate=0.5), tiny_vit(patch_drop_rate=0.5, drop_path_rate=0.5)], ids=["resnet", "vit"]
)
def test_the_teacher_has_no_dropout(start: BuiltModel) -> None:
    learner = learner_for(config_of("byol"), start, 24).train()
    assert isinstance(learner, ByolLearner)
    size = start.preprocess.height
    views = [torch.randint(0, 256, (4, size, size, 3), dtype=torch.uint8)]
    torch.testing.assert_close(learner.of_teacher(views)[0], learner.of_teacher(views)[0])


def test_a_frozen_layer_keeps_the_statistics_of_the_teacher_too(tmp_path: Path) -> None:
    start = tiny_resnet()
    before = {name: value.clone() for name, value in start.module.state_dict().items()}
    learner, _ = trained(tmp_path, config_of("dino", epochs=1, freeze=1), start)
    assert isinstance(learner, DinoLearner)
    moved = {
        name for name, value in learner.teacher.state_dict().items()
        if name.endswith("running_mean") and not torch.equal(value, before[name])
    }  # fmt: skip
    assert moved
    assert not any(name.split(".")[-2] == "bn1" and "layer" not in name for name in moved)


def test_the_center_is_the_moving_mean_of_the_teachers_outputs(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    config = config_of("dino", {"center_momentum": 0.5}, epochs=1, batch_size=12)
    learner = learner_for(config, tiny_vit(patch_size=4), 24)
    assert isinstance(learner, DinoLearner)
    learner.teacher_head.register_forward_hook(lambda *call: seen.append(call[2].mean(0)))
    streams = [TrainingStream(blobs(), labelled=False)]
    fit(learner, streams, config, Context(work=tmp_path, workers=0), out=tmp_path, views=config.views)
    first, second = torch.stack(seen).view(2, 2, -1).mean(1)  # two steps of two views
    torch.testing.assert_close(learner.center, 0.5 * (0.5 * first) + 0.5 * second)


def test_the_queue_holds_the_newest_keys_first(tmp_path: Path) -> None:
    learner, _ = trained(tmp_path, config_of("moco", epochs=1, batch_size=8))  # 3 batches; the queue holds 1.5
    assert isinstance(learner, MocoLearner)
    assert learner.queue.shape == (12, 8)
    torch.testing.assert_close(learner.queue.norm(dim=1), torch.ones(12))
    assert torch.equal(learner.queue[:8], learner._keys)
    assert sorted(learner.queued_samples[:8].tolist() + learner.queued_samples[8:].tolist()) == sorted(
        set(learner.queued_samples.tolist())
    )
    assert torch.equal(learner.queued_samples[:8], learner._samples)


def test_maes_encoder_sees_no_masked_pixel() -> None:
    learner = learner_for(config_of("mae"), tiny_vit(patch_size=4), 24)
    assert isinstance(learner, MaeLearner)
    assert learner.visible == 4
    learner.eval()
    images = torch.randn(2, 3, 16, 16)
    visible = torch.tensor([[0, 3, 5, 9], [1, 2, 14, 15]])
    prefix, tokens = learner._encoded(images, visible)
    other = torch.randn(2, 3, 16, 16)
    for sample, places in enumerate(visible.tolist()):
        for row, column in (divmod(place, 4) for place in places):
            part = (sample, slice(None), slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
            other[part] = images[part]
    for one, two in zip((prefix, tokens), learner._encoded(other, visible), strict=True):
        torch.testing.assert_close(one, two)
    everything = torch.cat(learner._encoded(images, torch.arange(16).expand(2, -1)), 1)
    torch.testing.assert_close(everything, learner.encoder.forward_features(images))


def test_mae_needs_a_plain_vit() -> None:
    with pytest.raises(RecipeError, match=r"(?s)patches of a plain ViT.*ResNet.*dino or simclr"):
        learner_for(config_of("mae"), create_model("resnet18", 1, 32), 24)
    hybrid = create_model("vit_tiny_r_s16_p8_224", 1, 64, {"depth": 1})
    with pytest.raises(RecipeError, match=r"(?s)got: VisionTransformer with HybridEmbed.*dino or simclr"):
        learner_for(config_of("mae"), hybrid, 24)


def test_the_decoder_takes_normalized_tokens_also_of_a_vit_with_average_pooling() -> None:
    learner = learner_for(config_of("mae"), tiny_vit(patch_size=4, global_pool="avg"), 24)
    assert isinstance(learner, MaeLearner)
    _, tokens = learner.eval()._encoded(torch.randn(2, 3, 16, 16), torch.tensor([[0, 3], [1, 2]]))
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.var(-1, correction=0), torch.ones(2, 2), atol=1e-2, rtol=0)


def test_smaller_views_pass_through_a_vit_and_leave_it_as_it_was(tmp_path: Path) -> None:
    start = tiny_vit(patch_size=4)
    image = torch.randn(1, 3, 16, 16)
    before = start.module(image)
    let_size_vary(start.module, True)
    torch.testing.assert_close(start.module(image), before)
    views = [{"count": 2, "scale": [0.4, 1]}, {"count": 3, "size": 8, "scale": [0.1, 0.4]}]
    check_takes(start.module, 8)
    _, model = trained(tmp_path, config_of("dino", views=views, epochs=1), start)
    let_size_vary(model, False)
    assert model(image).shape == before.shape


def test_a_backbone_of_one_size_says_so() -> None:
    args = {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 1]}
    swin = create_model("swin_tiny_patch4_window7_224", 1, None, args)
    with pytest.raises(RecipeError, match=r"(?s)SwinTransformer cannot take views of 96 px.*leave size out"):
        check_takes(swin.module, 96)


@pytest.mark.parametrize("method", ["dino", "esvit", "simclr", "byol", "moco", "pirl", "sit"])
def test_collapse_stops_the_training(tmp_path: Path, method: str) -> None:
    config = config_of(method, epochs=5, learning_rate=0, weight_decay=0)
    start = start_for(config)
    nn.init.zeros_(start.module.norm.weight)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="collapsed") as caught:
        trained(tmp_path, config, start)
    assert "learning_rate" in str(caught.value)
    assert len((tmp_path / METRICS).read_text().splitlines()) >= 5  # a quarter of 20 steps


def test_embeddings_that_are_nearly_alike_stop_the_training_where_a_head_spreads_them(tmp_path: Path) -> None:
    """BYOL's batch normalization scales the least differences up."""
    start = tiny_vit(patch_size=4)
    norm: Any = start.module.norm
    nn.init.constant_(norm.weight, 0.02)
    nn.init.ones_(norm.bias)
    with pytest.raises(TrainingError, match="got: embedding_spread"):
        trained(tmp_path, config_of("byol", epochs=5, learning_rate=0, weight_decay=0), start)
    row = json.loads((tmp_path / METRICS).read_text().splitlines()[-1])
    assert row["spread"] > 0.1


@pytest.mark.parametrize("said", ["one answer for all images", "a uniform answer for all images"])
def test_answers_of_dino_that_do_not_depend_on_the_image_stop_the_training(tmp_path: Path, said: str) -> None:
    config = config_of("dino", {"center_momentum": 1}, epochs=5, learning_rate=0, weight_decay=0)
    learner = learner_for(config, tiny_vit(patch_size=4), 24)
    assert isinstance(learner, DinoLearner)
    head: Any
    if said.startswith("one"):
        learner.center[1:] = 100.0
    else:
        for head in (learner.head, learner.teacher_head):
            nn.init.constant_(head.prototypes, 1)
    streams = [TrainingStream(blobs(), labelled=False)]
    with pytest.raises(TrainingError, match=said):
        fit(learner, streams, config, Context(work=tmp_path, workers=0), out=tmp_path, views=config.views)


def test_dinos_outputs_are_cosines_of_each_sample_with_the_prototypes() -> None:
    head = PrototypeHead(6, prototypes=5, hidden=8, bottleneck=4)
    embeddings = torch.randn(2, 3, 6)
    bottleneck = head.mlp(embeddings)
    expected = nn.functional.cosine_similarity(bottleneck.unsqueeze(2), head.prototypes, dim=-1)
    torch.testing.assert_close(head(embeddings), expected)


@pytest.mark.parametrize(("name", "value"), [("region_entropy", 1.0), ("region_entropy_of_mean", 0.0)])
def test_esvit_stops_where_the_answers_for_regions_collapse(name: str, value: float) -> None:
    learner = learner_for(config_of("esvit", {"center_momentum": 0.5}), tiny_vit(patch_size=4), 24)
    views = tuple(torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8) for _ in range(3))
    none = torch.zeros(3, dtype=torch.int64)
    step = learner(Batch(views, none, none, torch.arange(3), none, none, none, torch.ones(3), none))
    for number in range(1, 5):
        learner.after_step(number, 10)
    healthy = {"entropy": 0.5, "entropy_of_mean": 0.9, "region_entropy": 0.5, "region_entropy_of_mean": 0.9}
    assert set(healthy) < set(step.means)
    learner.check(healthy, 0.5, "here")
    with pytest.raises(TrainingError, match=f"(?s)collapsed.*{name} "):
        learner.check({**healthy, name: value}, 0.5, "here")


def test_every_row_holds_the_measures_of_collapse(tmp_path: Path) -> None:
    trained(tmp_path, config_of("dino", epochs=1))
    rows = (tmp_path / METRICS).read_text().splitlines()
    assert all(f'"{name}": ' in row for row in rows for name in ("entropy", "spread", "rank", "embedding_rank"))
    assert not any('"top1"' in row for row in rows)
