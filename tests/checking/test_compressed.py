"""Pruned models, and such as merge tokens, before NVIDIA's builder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgevit.artifacts import IOSpec
from edgevit.checking import check_for_tensorrt
from edgevit.compression.pruning import Removal, pruned_model
from edgevit.exporting import onnx_from_module
from edgevit.graphs.files import write_onnx
from edgevit.graphs.float16 import with_float16
from edgevit.models.creation import BuiltModel, create_model, with_change
from edgevit.models.token_merging import MergedTokens
from tests.checking.test_nvidia import needs_nvidia


def merging(built: BuiltModel) -> BuiltModel:
    return with_change(built, MergedTokens(per_block=3))


def with_two_heads(built: BuiltModel) -> BuiltModel:
    return pruned_model(built, removal([1]))


def with_one_head(built: BuiltModel) -> BuiltModel:
    return pruned_model(built, removal([0, 2]))


def removal(heads: list[int]) -> Removal:
    return Removal({"blocks.0.attn": heads, "blocks.0.mlp": range(200, 333)}, [])


@needs_nvidia
@pytest.mark.parametrize(
    ("compressed", "depth", "fused"),
    [
        pytest.param(with_two_heads, 1, 1, marks=pytest.mark.slow),
        (with_one_head, 1, 0),
        pytest.param(merging, 2, 2, marks=pytest.mark.slow),  # the second block has merged tokens
    ],
)
def test_attention_fuses_while_it_has_two_heads(
    compressed: Callable[[BuiltModel], BuiltModel], depth: int, fused: int, tmp_path: Path
) -> None:
    built = compressed(create_model("deit_tiny_patch16_224", 10, 64, {"depth": depth}))
    spec = IOSpec.for_classifier(built.preprocess, tuple("0123456789"))
    exported = onnx_from_module(built.module, spec, 20, dynamic_batch=True)
    write_onnx(with_float16(exported.model, "test"), tmp_path / "model.onnx", exported.spec)
    found = check_for_tensorrt(tmp_path / "model.onnx")
    assert found.ok
    assert found.attentions == depth
    assert found.attentions - len(found.unfused) == fused
