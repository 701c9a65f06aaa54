"""timm's models: construction, with errors that say what works, and the facts that timm records about a model."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

import edgevit.models.timm_bodies  # noqa: F401 - registers the bodies
from edgevit.artifacts import Json, Preprocess
from edgevit.configs.fields import refused_model_arg
from edgevit.errors import ArtifactError, RecipeError, first_line, is_out_of_memory
from edgevit.models import catalogue
from edgevit.models.names import known_model, nearest_models
from edgevit.models.pretrained import check_pretrained, without_network_if_cached

# What timm's constructors raise, beside TypeError, for arguments that they do not check.
CONSTRUCTION_ERRORS = (
    AssertionError,
    AttributeError,
    ArithmeticError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    ValueError,
)


class ModelWrapper(nn.Module):
    """A module around a timm model that changes its output and has no weights of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def timm_model(model: nn.Module) -> nn.Module:
    """The timm model itself, without its wrappers."""
    while isinstance(model, ModelWrapper):
        model = model.model
    return model


def model_config(model: nn.Module) -> Json:
    """timm's record of a model: input size, classifier, license."""
    config: Json = timm_model(model).pretrained_cfg  # type: ignore[assignment]
    return config


def classifier_prefixes(model: nn.Module) -> tuple[str, ...]:
    """The prefixes of the classifier's keys in timm's state dict ("head.", "head_dist.")."""
    names = model_config(model)["classifier"]
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def lacks_classifier(name: str) -> bool:
    """Whether timm's model of this name gives features in place of class scores."""
    record = timm.models.get_pretrained_cfg(name)
    return record is not None and record.num_classes == 0


def preprocess_of(model: nn.Module, image_size: int | None = None) -> Preprocess:
    """A timm model's preprocessing: its mean, std, interpolation and crop.

    timm's crop fraction belongs to the size it was tuned for; at any other size the whole image is used.
    """
    config = resolve_model_data_config(timm_model(model))  # type: ignore[no-untyped-call]
    size = image_size or config["input_size"][-1]
    interpolation = config["interpolation"]
    return Preprocess(
        height=size,
        width=size,
        resize="squash" if config["crop_mode"] == "squash" else "crop",
        crop_pct=config["crop_pct"] if size == config["input_size"][-1] else 1.0,
        interpolation=interpolation if interpolation in ("nearest", "bilinear", "bicubic") else "bicubic",
        mean=_three(config["mean"]),
        std=_three(config["std"]),
    )


def default_class_names(num_classes: int) -> tuple[str, ...]:
    """Class names for outputs without names: ImageNet's synsets for 1,000 classes, numbers for any other count."""
    if num_classes == 1000:
        return tuple(ImageNetInfo().label_names())  # type: ignore[no-untyped-call]
    return tuple(str(index) for index in range(num_classes))


def check_model_name(name: str) -> None:
    """Raise RecipeError, with the nearest names, where timm has no model `name`."""
    if not known_model(name):
        near = nearest_models(name)
        raise RecipeError(
            "no timm model has this name",
            got=name,
            expected=f"for example {', '.join(near)}" if near else "a timm model name",
            next="edgevit models  lists compact students; timm.list_models() lists all",
        )


def check_model_args(model_args: Json, name: str) -> None:
    """Raise RecipeError for an argument that reads a file or makes another kind of model than `name` says."""
    if refused := refused_model_arg(model_args):
        raise RecipeError(f"'{refused[0]}' does not belong in model_args: {refused[1]}", where=name)


def model_from_timm(
    name: str, args: Json, size: int | None, extra: Json, pretrained: bool, seed: int
) -> tuple[nn.Module, Json]:
    """A timm model, and the arguments that made it.

    Args:
        args: arguments of timm's constructor that describe the model.
        size: side of an image in pixels; enters the arguments as `img_size` where the constructor takes it.
        extra: more arguments of timm's constructor, which are not among the returned arguments.
        pretrained: fetch timm's pretrained weights; otherwise the weights are drawn from `seed`.

    Raises:
        RecipeError: timm cannot build the model with these arguments.
        ArtifactError: the pretrained weights cannot be fetched.
    """
    if size is not None and "img_size" not in args:
        try:
            return _created(name, {**args, "img_size": size}, extra, pretrained, seed), {**args, "img_size": size}
        except TypeError as error:
            if "img_size" not in str(error):
                raise _bad_argument(name, error) from None
    try:
        return _created(name, args, extra, pretrained, seed), args
    except TypeError as error:
        raise _bad_argument(name, error) from None


def check_runs(model: nn.Module, name: str, size: int) -> None:
    """Raise RecipeError, with sizes that work, where the model cannot take images of `size` × `size` pixels."""
    patch = _patch_size(model)
    if patch and size % patch:
        raise RecipeError(
            f"{name} cannot take {size} px: its patches of {patch} px do not cover it",
            got=f"image_size {size}",
            expected=f"a multiple of {patch}, such as {max(1, round(size / patch)) * patch}",
        )
    try:
        with torch.no_grad():
            logits: Tensor = model.eval()(torch.zeros(1, 3, size, size))
        if not isinstance(logits, Tensor):
            raise ValueError(f"its output is a {type(logits).__name__} in place of one tensor")
        if not torch.isfinite(logits).all():
            raise ValueError("its output is not finite")
    except CONSTRUCTION_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise RecipeError(
            f"{name} cannot take {size} px: {first_line(error)}",
            got=f"image_size {size}",
            expected=_sizes_that_work(name),
        ) from None


def _created(name: str, args: Json, extra: Json, pretrained: bool, seed: int) -> nn.Module:
    if pretrained:
        check_pretrained(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            with without_network_if_cached(name) if pretrained else nullcontext():
                model: nn.Module = timm.create_model(name, pretrained=pretrained, **extra, **args)
        except CONSTRUCTION_ERRORS as error:
            if is_out_of_memory(error):
                raise
            if pretrained and isinstance(error, (RuntimeError, OSError)):
                raise ArtifactError(
                    f"the pretrained weights of {name} cannot be fetched: {first_line(error)}",
                    next="download the file on a machine with a network; then add weights: FILE to the stage "
                    "(export: --weights FILE)",
                ) from None
            raise RecipeError(
                f"timm cannot build {name} with these arguments: {first_line(error)}",
                got={**args, **extra},
                next="look at model_args and image_size",
            ) from None
    return model


def _patch_size(model: nn.Module) -> int | None:
    """The side of a plain ViT's patches in pixels; None for other models.

    If the side of an image is not a multiple of it, the ViT ignores the pixels that no whole patch covers.
    """
    size: Any = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    return int(size[0]) if isinstance(size, (tuple, list)) else None


def _sizes_that_work(name: str) -> str:
    own = timm.models.get_pretrained_cfg(name)
    sizes = {own.input_size[-1]} if own is not None else set()
    for entry in catalogue.read():
        if entry.name == name.partition(".")[0]:
            sizes.update(entry.tested_sizes)
    listed_sizes = ", ".join(str(size) for size in sorted(sizes))
    return f"image_size {listed_sizes}" if listed_sizes else "the model's own size: leave image_size out"


def _bad_argument(name: str, error: TypeError) -> RecipeError:
    return RecipeError(
        f"timm cannot build {name}: {first_line(error)}",
        expected="arguments that timm's constructor of this model takes",
        next="look at model_args, dropout and drop_path_rate",
    )


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in (values if len(values) == 3 else values * 3))
    return first, second, third
