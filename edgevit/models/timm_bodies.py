"""Registers the bodies with timm. Importing this module does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import timm
from safetensors.torch import load_file
from timm.layers import resize_rel_pos_bias_table_simple
from timm.models import generate_default_cfgs, get_pretrained_cfg, register_model
from torch import Tensor, nn

from edgevit.artifacts import Json, sha256_of_file
from edgevit.errors import ArtifactError, RecipeError
from edgevit.models import bodies
from edgevit.models.bodies import Body

HALF = (0.5, 0.5, 0.5)


def _config(body: Body) -> Json:
    """timm's record of a body."""
    own = _record(body.architecture)
    return {
        "file": str(body.weights),
        "input_size": (3, body.default_size, body.default_size),
        "num_classes": 0,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": HALF,
        "std": HALF,
        "license": body.licence,
        **{name: own[name] for name in ("classifier", "first_conv")},
    }


def _record(name: str) -> Json:
    """timm's record of a model."""
    record = get_pretrained_cfg(name)
    assert record is not None
    return asdict(record)


def _constructor(body: Body) -> Callable[..., nn.Module]:
    def construct(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
        **options: Any,
    ) -> nn.Module:
        options = {"img_size": body.default_size, "num_classes": 0, **body.model_args, **options}
        model: nn.Module = timm.create_model(body.architecture, **options)
        record: Any = _record(body.name)
        model.pretrained_cfg = model.default_cfg = record
        if pretrained:
            load_body(model, body)
        return model

    construct.__name__ = body.name
    return construct


def load_body(model: nn.Module, body: Body) -> None:
    """Load a body's weights into a model, which keeps its classifier.

    The tables of relative positions are interpolated if the model is for another image size than the body's.

    Raises:
        ArtifactError: the file of weights is not the one that came with edgevit.
        RecipeError: the model has another shape than the body.
    """
    got = sha256_of_file(body.weights) if body.weights.is_file() else "no such file"
    if got != body.sha256:
        raise ArtifactError(
            "the weights of this body are damaged",
            where=body.weights,
            got=got,
            expected=f"sha256 {body.sha256}",
            next="install edgevit again",
        )
    own = model.state_dict()
    learned = {key: _fitted(key, value.float(), model) for key, value in load_file(body.weights).items()}
    heads = {key for key in own if key.startswith(f"{model.pretrained_cfg['classifier']}.")}  # type: ignore[index]
    fits = own.keys() - heads == learned.keys() and all(own[key].shape == learned[key].shape for key in learned)
    if not fits:
        what, advice = "a body keeps its shape", "leave model_args out, or pretrained"
        raise RecipeError(what, where=body.name, got="other model_args", next=advice)
    model.load_state_dict({**own, **learned})


def _fitted(key: str, value: Tensor, model: nn.Module) -> Tensor:
    owner, _, name = key.rpartition(".")
    if name != "relative_position_bias_table":
        return value
    attention: Any = dict(model.named_modules()).get(owner)
    if attention is None:
        return value
    table: Tensor = attention.relative_position_bias_table
    if table.shape == value.shape:
        return value
    size = {"new_window_size": attention.window_size, "new_bias_shape": table.shape}
    resized: Tensor = resize_rel_pos_bias_table_simple(value, **size)
    return resized


default_cfgs = generate_default_cfgs({f"{body.name}.{bodies.TAG}": _config(body) for body in bodies.read()})
for _body in bodies.read():
    register_model(_constructor(_body))
