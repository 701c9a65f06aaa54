"""Weights on disk: whole, unaltered, of the right model, and never code."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgevit.artifacts import sha256_of_file
from edgevit.errors import ArtifactError
from edgevit.models import create_model, load_weights, model_from_checkpoint, open_checkpoint, save_checkpoint
from edgevit.models.checkpoints import starting_model
from edgevit.models.weights_files import read_weights
from tests.learning import TINY_VIT, published_checkpoint


def test_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    built = create_model("vit_tiny_patch16_224", 3, 32, TINY_VIT)
    artifact = published_checkpoint(tmp_path, built, ("a", "b", "c"))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model_from_checkpoint(artifact)(images), built.module(images))
    assert open_checkpoint(artifact).classes == ("a", "b", "c")


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        built = create_model("vit_tiny_patch16_224", 3, 32, TINY_VIT, seed=5)
        save_checkpoint(built.module, built.description, tmp_path / name)
    assert sha256_of_file(tmp_path / "one/model.safetensors") == sha256_of_file(tmp_path / "two/model.safetensors")


def test_description_is_plain_json(tmp_path: Path) -> None:
    built = create_model("deit_tiny_distilled_patch16_224", 3, 32, TINY_VIT, distillation_token=True)
    save_checkpoint(built.module, built.description, tmp_path)
    assert json.loads((tmp_path / "model.json").read_text()) == {
        "model": "deit_tiny_distilled_patch16_224",
        "model_args": {**TINY_VIT, "img_size": 32},
        "num_classes": 3,
        "licence": None,
        "changes": [{"change": "distillation_token", "inference": "mean_softmax"}],
    }


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    artifact = published_checkpoint(tmp_path, create_model("vit_tiny_patch16_224", 3, 32, TINY_VIT), ("a", "b", "c"))
    file = artifact.path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match="altered"):
        model_from_checkpoint(artifact)


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th"])
def test_malicious_pickle_is_never_executed(tmp_path: Path, suffix: str) -> None:
    file, trace = tmp_path / f"weights{suffix}", tmp_path / "executed"
    torch.save({"state_dict": Malicious(trace)}, file)
    with pytest.raises(ArtifactError, match="could run code") as caught:
        read_weights(file)
    assert caught.value.where == file
    assert not trace.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_bare_malicious_pickle_is_never_executed(tmp_path: Path, protocol: int) -> None:
    file, trace = tmp_path / "weights.pth", tmp_path / "executed"
    file.write_bytes(pickle.dumps({"state_dict": Malicious(trace)}, protocol))
    with pytest.raises(ArtifactError, match="could run code"):
        read_weights(file)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("weights.safetensors", b"not a checkpoint at all", "not a safetensors file"),
        ("weights.pth", b"not a checkpoint at all", "not a PyTorch file"),
        ("weights.pth", b"\x80rubbish", "not a PyTorch file"),
        ("weights.pth", b"", "not a PyTorch file"),
        ("weights.pth", b"PK\x03\x04 cut short", "PyTorch file is damaged"),
        ("weights.pth", b"\x80\x02.", "PyTorch file is damaged"),
    ],
)
def test_rubbish_is_no_checkpoint(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=said):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["missing.pth", "model.onnx"])
def test_missing_and_unknown_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ArtifactError) as caught:
        read_weights(tmp_path / name)
    assert caught.value.where == tmp_path / name


def test_weights_of_another_model_name_the_first_keys_that_differ(tmp_path: Path) -> None:
    state = create_model("vit_tiny_patch16_224", 3, 32, {**TINY_VIT, "embed_dim": 48}).module.state_dict()
    state.pop("cls_token")
    state["surplus"] = torch.zeros(1)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError) as caught:
        load_weights(create_model("vit_tiny_patch16_224", 3, 32, TINY_VIT), read_weights(tmp_path / "w.safetensors"))
    got = str(caught.value.got)
    assert "lacks cls_token" in got
    assert "has unknown surplus" in got
    assert "pos_embed (1, 17, 48) for (1, 17, 24)" in got


def test_wrapped_state_dict_with_another_head_is_taken_without_its_head(tmp_path: Path) -> None:
    theirs = create_model("vit_tiny_patch16_224", 9, 32, TINY_VIT, seed=1).module.state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in theirs.items()}}, tmp_path / "w.th")
    built = create_model("vit_tiny_patch16_224", 3, 32, TINY_VIT, seed=2)
    own_head = built.module.state_dict()["head.weight"].clone()
    assert not load_weights(built, read_weights(tmp_path / "w.th"))
    assert torch.equal(built.module.state_dict()["pos_embed"], theirs["pos_embed"])
    assert torch.equal(built.module.state_dict()["head.weight"], own_head)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_floating_point_types_are_converted(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    """The reference is the forward pass with the rounded weights in float32."""
    theirs = create_model("vit_tiny_patch16_224", 3, 32, TINY_VIT, seed=1).module.eval()
    state = {key: value.to(dtype) for key, value in theirs.state_dict().items()}
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    built = create_model("vit_tiny_patch16_224", 3, 32, TINY_VIT, seed=2)
    assert load_weights(built, read_weights(tmp_path / name))
    assert {value.dtype for value in built.module.state_dict().values()} == {torch.float32}
    theirs.load_state_dict({key: value.float() for key, value in state.items()})
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(built.module.eval()(images), theirs(images))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.complex64])
def test_quantized_and_complex_weights_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    built = create_model("vit_tiny_patch16_224", 3, 32, TINY_VIT)
    torch.save({key: value.to(dtype) for key, value in built.module.state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(ArtifactError, match="quantized or complex") as caught:
        load_weights(built, read_weights(tmp_path / "w.pth"))
    assert f"cls_token ({str(dtype).removeprefix('torch.')})" in str(caught.value.got)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, bad: float) -> None:
    built = create_model("vit_tiny_patch16_224", 3, 32, TINY_VIT)
    state = built.module.state_dict()
    save_file(
        {**state, "pos_embed": state["pos_embed"].index_fill(1, torch.tensor([3]), bad)}, tmp_path / "w.safetensors"
    )
    with pytest.raises(ArtifactError, match="NaN or infinite") as caught:
        load_weights(built, read_weights(tmp_path / "w.safetensors"))
    assert caught.value.got == "pos_embed"


def test_a_classifier_that_is_left_out_may_hold_anything(tmp_path: Path) -> None:
    state = create_model("vit_tiny_patch16_224", 5, 32, TINY_VIT).module.state_dict()
    save_file({**state, "head.weight": torch.full_like(state["head.weight"], torch.nan)}, tmp_path / "w.safetensors")
    built = create_model("vit_tiny_patch16_224", 3, 32, TINY_VIT)
    assert not load_weights(built, read_weights(tmp_path / "w.safetensors"))
    assert all(value.isfinite().all() for value in built.module.state_dict().values())


def test_weights_of_another_image_size_name_the_position_embeddings(tmp_path: Path) -> None:
    save_file(create_model("vit_tiny_patch16_224", 3, 32, TINY_VIT).module.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError, match="their position embeddings belong to it") as caught:
        load_weights(create_model("vit_tiny_patch16_224", 3, 48, TINY_VIT), read_weights(tmp_path / "w.safetensors"))
    assert "pos_embed (1, 17, 24) for (1, 37, 24)" in str(caught.value.got)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module.model."])
def test_prefixes_of_training_frameworks_are_taken_off(tmp_path: Path, prefix: str) -> None:
    theirs = create_model("vit_tiny_patch16_224", 3, 32, TINY_VIT, seed=1).module.state_dict()
    raw = {f"{prefix}{key}": torch.zeros_like(value) for key, value in theirs.items()}
    averaged = {f"{prefix}{key}": value for key, value in theirs.items()}
    torch.save({"epoch": 3, "state_dict": raw, "state_dict_ema": averaged}, tmp_path / "w.pth")  # as timm's train.py
    built = create_model("vit_tiny_patch16_224", 3, 32, TINY_VIT, seed=2)
    assert load_weights(built, read_weights(tmp_path / "w.pth"))
    assert all(torch.equal(value, theirs[key]) for key, value in built.module.state_dict().items())


def test_start_from_a_checkpoint_keeps_its_head_only_for_the_same_classes(tmp_path: Path) -> None:
    built = create_model("vit_tiny_patch16_224", 3, 32, TINY_VIT)
    init = published_checkpoint(tmp_path, built, ("a", "b", "c"))
    same = starting_model(None, init, ("a", "b", "c"), None, {})
    other = starting_model(None, init, ("a", "b", "x"), None, {}, seed=1)
    assert torch.equal(same.module.state_dict()["head.weight"], built.module.state_dict()["head.weight"])
    assert not torch.equal(other.module.state_dict()["head.weight"], built.module.state_dict()["head.weight"])
    assert torch.equal(other.module.state_dict()["pos_embed"], built.module.state_dict()["pos_embed"])
