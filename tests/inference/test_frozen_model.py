"""Embeddings of frozen models: right wherever they are computed, computed once, and never another model's."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgevit.artifacts import Preprocess
from edgevit.configs import Augmentation
from edgevit.data.dataset import Dataset
from edgevit.inference import embedding_cache
from edgevit.inference import frozen_model as frozen
from edgevit.inference.frozen_model import FrozenModel, fast_forward
from edgevit.inference.over_dataset import outputs_of
from edgevit.models import create_model
from edgevit.models.creation import BuiltModel, with_new_head, with_test_time_views
from edgevit.models.embedding import Pooled
from edgevit.sealed_files import write_sealed

from ..learning import blobs, tiny_token_vit, tiny_vit

CPU = torch.device("cpu")


class Counted:
    """How many images went through a model's first layer."""

    def __init__(self, model: nn.Module) -> None:
        self.images = 0
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        first.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.images += int(inputs[0].flatten(1).any(1).sum())  # a blank one is there to be measured


def embeddings(built: BuiltModel, dataset: Dataset, cache: Path | None) -> Tensor:
    return FrozenModel(built.module, built.preprocess, CPU, cache).embeddings(dataset, batch_size=5)


def hybrid() -> BuiltModel:
    return create_model("repvit_m0_9", 3, 64)


def views() -> BuiltModel:
    return with_test_time_views(tiny_vit(), ("flip", "zoom"))


@pytest.mark.parametrize(
    "build", [tiny_vit, *(pytest.param(one, marks=pytest.mark.slow) for one in (tiny_token_vit, views, hybrid))]
)
@pytest.mark.parametrize("embedding", [False, True])
def test_onnxruntime_gives_what_pytorch_gives(
    build: Callable[[], BuiltModel], embedding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "WORTH_EXPORTING_MACS", 0)
    built, data = build(), blobs()
    expected = outputs_of(Pooled(built.module) if embedding else built.module, data, built.preprocess, CPU)
    forward = fast_forward(built.module, built.preprocess, CPU, images=1, embedding=embedding)
    assert not isinstance(forward, nn.Module)
    assert torch.allclose(outputs_of(forward, data, built.preprocess, CPU), expected, atol=1e-4, rtol=1e-4)


def test_a_few_images_are_not_worth_an_export() -> None:
    built = tiny_vit()
    assert fast_forward(built.module, built.preprocess, CPU, images=100) is built.module


class _Odd(nn.Module):
    """Behaves otherwise while it is exported."""

    def forward(self, images: Tensor) -> Tensor:
        return images * (3 if torch.compiler.is_exporting() or torch.jit.is_tracing() else 2)  # type: ignore[attr-defined]


class _Unknown(nn.Module):
    """Cannot be exported."""

    def forward(self, images: Tensor) -> Tensor:
        if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            raise RuntimeError("no such operator")
        return images * 2


@pytest.mark.parametrize("layer", [_Odd, _Unknown])
def test_a_model_that_onnx_does_not_hold_stays_in_pytorch(
    layer: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "WORTH_EXPORTING_MACS", 0)
    built = tiny_vit()
    built.module.norm_pre = layer()
    expected = outputs_of(built.module, blobs(), built.preprocess, CPU)
    forward = fast_forward(built.module, built.preprocess, CPU, images=1)
    assert forward is built.module
    assert torch.allclose(outputs_of(forward, blobs(), built.preprocess, CPU), expected, atol=1e-4)


def test_no_image_is_computed_twice_in_whatever_data_set_it_lies(tmp_path: Path) -> None:
    built, data = tiny_vit(), blobs()
    expected = embeddings(built, data, None)
    counted = Counted(built.module)
    some = data.subset(np.array([7, 3, 20]))
    assert torch.allclose(embeddings(built, some, tmp_path), expected[[7, 3, 20]], atol=1e-5)
    assert counted.images == 3
    assert torch.allclose(embeddings(built, data, tmp_path), expected, atol=1e-5)
    assert counted.images == len(data)
    again = embeddings(built, data.subset(np.arange(len(data))[::-1].copy()), tmp_path)
    assert torch.allclose(again.flip(0), expected, atol=1e-5)
    assert counted.images == len(data)


def test_a_random_view_is_not_taken_for_the_plain_image(tmp_path: Path) -> None:
    built, data = tiny_vit(), blobs()
    model = FrozenModel(built.module, built.preprocess, CPU, tmp_path)
    plain = model.embeddings(data)
    view = model.embeddings_of_views(data, Augmentation(scale=(0.3, 0.5)), 0, seed=1)
    assert not torch.allclose(view, plain, atol=1e-3)
    assert torch.equal(model.embeddings(data), plain)


def changed_weight(built: BuiltModel) -> BuiltModel:
    with torch.no_grad():
        next(module for module in built.module.modules() if isinstance(module, nn.Conv2d)).weight[0, 0, 0, 0] += 1e-3
    return built


def other_mean(built: BuiltModel) -> BuiltModel:
    return built._replace(preprocess=Preprocess(**{**built.preprocess.model_dump(), "mean": (0.1, 0.2, 0.3)}))


def other_activation(built: BuiltModel) -> BuiltModel:
    return tiny_vit(act_layer="relu")


def other_heads(built: BuiltModel) -> BuiltModel:
    return tiny_vit(num_heads=3)


def other_pooling(built: BuiltModel) -> BuiltModel:
    return tiny_vit(global_pool="avg", fc_norm=False)


@pytest.mark.parametrize(
    "change",
    [
        changed_weight,
        other_mean,
        other_activation,
        other_heads,
        other_pooling,
        lambda built: with_test_time_views(built, ("flip",)),
    ],
)
def test_another_model_never_gets_these_embeddings(tmp_path: Path, change: Callable[[BuiltModel], BuiltModel]) -> None:
    data = blobs()
    embeddings(tiny_vit(), data, tmp_path)
    other = change(tiny_vit())
    assert torch.equal(embeddings(other, data, tmp_path), embeddings(other, data, None))


def test_another_classifier_on_the_same_body_gets_them(tmp_path: Path) -> None:
    built, data = tiny_vit(), blobs()
    embeddings(built, data, tmp_path)
    other = with_new_head(built, 7)
    counted = Counted(other.module)
    assert torch.equal(embeddings(other, data, tmp_path), embeddings(built, data, tmp_path))
    assert not counted.images


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_file_is_made_again(tmp_path: Path, seed: int) -> None:
    built, data, rng = tiny_vit(), blobs(), np.random.default_rng(seed)
    expected = embeddings(built, data, tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    content = bytearray(file.read_bytes())
    if seed % 2:
        content = content[: int(rng.integers(len(content)))]
    else:
        content[int(rng.integers(len(content)))] ^= 0xFF
    file.write_bytes(content)
    (file.with_suffix(".half")).write_bytes(b"of a process that was killed")
    assert torch.equal(embeddings(built, data, tmp_path), expected)


@pytest.mark.parametrize("changes", [{"embed_dim": 32}, {"depth": 2}], ids=["another width", "another depth"])
def test_a_file_of_another_model_is_made_again(changes: dict[str, int], tmp_path: Path) -> None:
    built, data = tiny_vit(), blobs()
    expected = embeddings(built, data, tmp_path / "own")
    embeddings(tiny_vit(**changes), data, tmp_path / "other")
    (file,), (own,) = (tmp_path / "other").rglob("*.npz"), (tmp_path / "own").rglob("*.npz")
    own.write_bytes(file.read_bytes())
    assert torch.equal(embeddings(built, data, tmp_path / "own"), expected)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY"])
def test_a_sealed_file_of_something_else_is_made_again(content: bytes, tmp_path: Path) -> None:
    built, data = tiny_vit(), blobs()
    expected = embeddings(built, data, tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    write_sealed(file, f"embeddings {file.parent.name}", content)
    assert torch.equal(embeddings(built, data, tmp_path), expected)


def test_what_a_killed_run_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    built, data = tiny_vit(), blobs()
    expected = embeddings(built, data, tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    left, growing = file.with_name("left.half"), file.with_name("growing.half")
    for half in (left, growing):
        half.write_bytes(b"not whole")
    os.utime(left, (0, 0))
    assert torch.equal(embeddings(built, data, tmp_path), expected)
    assert (left.exists(), growing.exists()) == (False, True)


def test_files_are_written_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_cache, "SHARD_ROWS", 10)
    built, data = tiny_vit(), blobs()
    model, written = FrozenModel(built.module, built.preprocess, CPU, tmp_path), list[int]()

    class Bar:
        def advance(self, count: int = 1, **values: float) -> None:
            written.append(len([*tmp_path.rglob("*.npz")]))

    model.embeddings(data, batch_size=5, bar=Bar())
    assert written == [0, 1, 1, 2, 2], "every second batch of five"
    assert len([*tmp_path.rglob("*.npz")]) == 3
    assert not [file for file in files_below(tmp_path) if file.endswith(".half")]


def files_below(folder: Path) -> Sequence[str]:
    return [name for _, _, names in os.walk(folder) for name in names]
