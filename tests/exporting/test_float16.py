"""export with precision: float16, of models whose activations float16 does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import save_file

from edgevit.graphs.float16_rounding import rounded_to_float16
from edgevit.models import model_from_checkpoint
from edgevit.runtimes.base import random_images
from tests.graphs.norm_graphs import answers, as_declared, noise_db
from tests.small_models import VIT, checkpoint, workbench


def with_large_tokens(state: dict[str, torch.Tensor], gain: float) -> dict[str, torch.Tensor]:
    """Norms forget the size of tokens, so all that is added to them may be `gain` times as large."""
    added = ("patch_embed.proj", "pos_embed", "cls_token", "attn.proj", "mlp.fc2")
    return {
        name: (value * gain if any(part in name for part in added) else value).contiguous()
        for name, value in state.items()
    }


@pytest.mark.parametrize(
    ("norm", "gain"), [("layer norm", 100000.0), pytest.param("rms norm", 1000.0, marks=pytest.mark.slow)]
)
def test_tokens_of_any_size(norm: str, gain: float, tmp_path: Path) -> None:
    """Squares of the smaller tokens overflow, and the larger tokens themselves."""
    fields: dict[str, Any] = {**VIT, "classes_of": "digits.test"}
    state = model_from_checkpoint(checkpoint()).state_dict()
    if norm == "rms norm":
        fields["model_args"] = {**fields["model_args"], "norm_layer": "rmsnorm"}
        state = {key: value for key, value in state.items() if not ("norm" in key and key.endswith("bias"))}
    save_file(with_large_tokens(state, gain), tmp_path / "large.safetensors")
    name = f"large {norm} {gain:g}"
    made = workbench().run("load", name.replace(" ", "-"), weights=str(tmp_path / "large.safetensors"), **fields)
    half = workbench().run("export", f"half-{made.id}", model=made.id, precision="float16")
    model, images = onnx.load(half.file("model.onnx")), random_images(half.io, 8, seed=1)
    with torch.no_grad():
        expected = model_from_checkpoint(made)(torch.from_numpy(images)).numpy()
    assert noise_db(answers(rounded_to_float16(model), images), expected) > 40
    assert noise_db(as_declared(model, images), expected) > 40
