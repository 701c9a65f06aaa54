"""timm models made from a name and a few words, with errors a reader can act on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from edgevit.artifacts import Frozen, Json, Preprocess
from edgevit.configs import View
from edgevit.configs.fields import refused_model_arg
from edgevit.errors import ArtifactError, RecipeError, first_line, is_out_of_memory
from edgevit.models import catalogue
from edgevit.models.agreement import LARGEST_DEVIATION, deviation
from edgevit.models.cost import macs_by_module
from edgevit.models.distillation_token import DistillationTokenModel, Inference, has_distillation_token
from edgevit.models.folding import fold_batch_norms, fused_branches
from edgevit.models.knn_classifier import NearestNeighbours, Neighbours
from edgevit.models.low_rank import factorize, factors_of, ranks_for
from edgevit.models.names import known_model, nearest_models
from edgevit.models.structures import Kept, shape_like
from edgevit.models.token_merging import merge_tokens
from edgevit.models.views import MultiViewModel

CANDIDATE_SIZES = (32, 64, 96, 128, 160, 192, 224, 256)


class ModelDescription(Frozen):
    """All that is needed to build a model again, but its weights; `model.json` in a checkpoint.

    `licence` is that of the pretrained weights it started from, where there were any. `pruned`, `low_ranks` (of
    linear layers that became two, by their paths) and `merged_tokens` (pairs in each block) change the model that timm
    makes, in this order; then it is `folded`, see `folded_model`.
    """

    model: str
    model_args: Json = {}
    num_classes: int
    distillation_token: bool = False
    inference: Inference = "mean_softmax"
    licence: str | None = None
    test_time_views: tuple[View, ...] = ()
    neighbours: Neighbours | None = None
    folded: bool = False
    pruned: Kept | None = None
    low_ranks: dict[str, int] = {}
    merged_tokens: int = 0


class BuiltModel(NamedTuple):
    """A model in eval mode, what builds it again, and how pictures enter it."""

    module: nn.Module
    description: ModelDescription
    preprocess: Preprocess


def create_model(
    name: str,
    num_classes: int | None,
    image_size: int | None = None,
    model_args: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    *,
    distillation_token: bool = False,
    inference: Inference | None = None,
    drop_rates: Mapping[str, float] | None = None,
    seed: int = 0,
) -> BuiltModel:
    """A timm model for square images, with weights drawn from `seed` or pretrained.

    Args:
        name: a timm model name, with or without the tag of its weights.
        num_classes: outputs; None keeps the model's own.
        image_size: side in pixels; None keeps the model's own. Models with position embeddings are built for it.
        model_args: more arguments of timm's constructor, such as `patch_size` or `depth`.
        pretrained: fetch the weights that timm knows; position embeddings are resampled to `image_size`.
        distillation_token: train both heads of a model that has a distillation head.
        inference: what a model with both heads answers with.
        drop_rates: timm's drop_rate and drop_path_rate while training; no part of the description.

    Raises:
        RecipeError: an unknown name or argument, a size the model cannot take, no distillation head.
        ArtifactError: the pretrained weights cannot be fetched.
    """
    check_model_name(name)
    check_model_args(dict(model_args or {}), name)
    args, size = _sized_args(name, dict(model_args or {}), image_size)
    extra: Json = {**({} if num_classes is None else {"num_classes": num_classes}), **(drop_rates or {})}
    model, args = _build(name, args, size, extra, pretrained, seed)
    preprocess = preprocess_of(model, size)
    _check_runs(model, name, preprocess.height)
    if distillation_token:
        model = _with_distillation_token(model, name, inference or "mean_softmax")
    description = ModelDescription(
        model=name,
        model_args=args,
        num_classes=int(num_classes if num_classes is not None else model_config(model)["num_classes"]),
        distillation_token=distillation_token,
        inference=inference or "mean_softmax",
        licence=model_config(model).get("license") if pretrained else None,
    )
    return BuiltModel(model.eval(), description, preprocess)


def build(description: ModelDescription, drop_rates: Mapping[str, float] | None = None, seed: int = 0) -> nn.Module:
    """The model of a description, in eval mode, with weights drawn from `seed`."""
    check_model_name(description.model)
    check_model_args(description.model_args, description.model)
    extra: Json = {"num_classes": description.num_classes, **(drop_rates or {})}
    model, _ = _build(description.model, description.model_args, None, extra, pretrained=False, seed=seed)
    if description.pruned is not None:
        shape_like(model, description.pruned)
    if description.low_ranks:
        factorize(model, description.low_ranks)
    if description.merged_tokens:
        merge_tokens(model, description.merged_tokens)
    if description.neighbours is not None:
        _put_neighbours(model, description.num_classes, description.neighbours)
    if description.distillation_token:
        model = _with_distillation_token(model, description.model, description.inference)
    if description.test_time_views:
        model = MultiViewModel(model, description.test_time_views)
    model.eval()
    return _folded(model, preprocess_of(model, description.model_args.get("img_size"))) if description.folded else model


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
    """Raise RecipeError for an argument that reads a file, or makes another kind of model than `name` says."""
    if refused := refused_model_arg(model_args):
        raise RecipeError(f"'{refused[0]}' does not belong in model_args: {refused[1]}", where=name)


def preprocess_of(model: nn.Module, image_size: int | None = None) -> Preprocess:
    """How pictures enter a timm model: its own mean, std, interpolation and crop.

    timm's crop fraction belongs to the size it was tuned for; at any other size the whole picture is used.
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
    """Names for outputs that came without any: ImageNet's synsets where they are 1,000, else numbers."""
    if num_classes == 1000:
        return tuple(ImageNetInfo().label_names())  # type: ignore[no-untyped-call]
    return tuple(str(index) for index in range(num_classes))


def with_new_head(
    built: BuiltModel,
    num_classes: int,
    drop_rates: Mapping[str, float] | None = None,
    seed: int = 0,
    neighbours: Neighbours | None = None,
) -> BuiltModel:
    """The same model and weights with a fresh classifier for `num_classes`: a linear one, drawn from `seed`, or k
    nearest neighbours, which remember nothing yet.
    """
    description = built.description.model_copy(update={"num_classes": num_classes, "neighbours": neighbours})
    fresh = build(description, drop_rates, seed)
    heads = classifier_prefixes(fresh)
    kept = {key: value for key, value in timm_model(built.module).state_dict().items() if not key.startswith(heads)}
    timm_model(fresh).load_state_dict(kept, strict=False)
    return BuiltModel(fresh, description, built.preprocess)


def _put_neighbours(model: nn.Module, num_classes: int, neighbours: Neighbours) -> None:
    prefixes = classifier_prefixes(model)
    classifier = dict(model.named_modules()).get(prefixes[0].removesuffix("."))
    if len(prefixes) > 1 or not isinstance(classifier, nn.Linear):
        raise RecipeError(
            "k nearest neighbours take the place of one linear classifier, which this model does not end in",
            got=type(model).__name__,
            expected="a model with one, or another method",
        )
    layer = NearestNeighbours(classifier.in_features, num_classes, neighbours)
    model.set_submodule(prefixes[0].removesuffix("."), layer)


def with_test_time_views(built: BuiltModel, views: tuple[View, ...]) -> BuiltModel:
    """The same model, which answers with the mean over the picture and these views of it; as it is where none."""
    if not views:
        return built
    description = built.description.model_copy(update={"test_time_views": views})
    return BuiltModel(MultiViewModel(built.module, views).eval(), description, built.preprocess)


def folded_model(built: BuiltModel) -> BuiltModel:
    """The same model as it is deployed: its branches fused, and batch norm folded into the layers before it.

    Its classifier stays apart from a norm before it, so that what enters it is still the embedding. A batch norm that
    follows no layer stays, too.

    Raises:
        RecipeError: the folded model answers otherwise, as where a layer's output is read before its norm as well.
    """
    if built.description.folded:
        return built
    module, rule = _folded(built.module, built.preprocess), built.preprocess
    difference = deviation(module, built.module, rule)
    if not difference <= LARGEST_DEVIATION:
        raise RecipeError(
            "batch norm cannot be folded into the layers of this model",
            got=f"answers that differ by {difference:.1e} of the largest",
            expected=f"at most {LARGEST_DEVIATION:g}",
            next="quantize it without training instead",
        )
    return BuiltModel(module, built.description.model_copy(update={"folded": True}), rule)


def _folded(model: nn.Module, rule: Preprocess) -> nn.Module:
    inner, heads = timm_model(model), classifier_prefixes(model)
    classifiers = [layer for name, layer in inner.named_modules() if f"{name}.".startswith(heads)]
    folded = fused_branches(model, apart=classifiers, whole=(model, inner))
    fold_batch_norms(folded, torch.zeros(2, 3, rule.height, rule.width))
    return folded


def with_low_ranks(built: BuiltModel, second_moments: Mapping[str, Tensor], keep: float) -> BuiltModel:
    """A model in which two thin linear layers stand for one where that is cheaper; see `ranks_for`.

    Args:
        second_moments: of what enters each layer that may go, by its path; up to a factor.
        keep: the share of the multiply-accumulates that stays, at most.

    Raises:
        RecipeError: so much cannot go, or the model has no linear layers but its classifier.
    """
    inner = timm_model(built.module)
    if built.description.low_ranks:
        raise RecipeError(
            "this model was factorized already",
            got=f"{len(built.description.low_ranks)} layers that are two",
            expected="a model as it was built, trained or pruned",
            next="factorize the model before that, to a smaller keep_macs",
        )
    if not second_moments:
        raise RecipeError(
            "this model has no linear layers to divide",
            got=type(inner).__name__,
            expected="a transformer, or a hybrid with linear layers",
        )
    macs = macs_by_module(inner, built.preprocess.height, built.preprocess.width)
    layers = {path: inner.get_submodule(path) for path in second_moments}
    factors = {
        path: factors_of(layer, second_moments[path], macs[path])
        for path, layer in layers.items()
        if isinstance(layer, nn.Linear)
    }
    ranks = ranks_for(factors, macs[""], keep)
    module = copy.deepcopy(built.module)
    factorize(timm_model(module), ranks, factors)
    description = built.description.model_copy(update={"low_ranks": ranks})
    return BuiltModel(module, description, built.preprocess)


def with_merged_tokens(built: BuiltModel, merged: int) -> BuiltModel:
    """The same weights in a model each of whose blocks merges so many pairs of tokens.

    Raises:
        RecipeError: it is no plain ViT, or merges tokens already.
    """
    if built.description.merged_tokens:
        raise RecipeError(
            "this model merges tokens already", got=f"{built.description.merged_tokens} in each block", expected="none"
        )
    description = built.description.model_copy(update={"merged_tokens": merged})
    fresh = build(description)
    timm_model(fresh).load_state_dict(timm_model(built.module).state_dict())
    return BuiltModel(fresh, description, built.preprocess)


def classifier_prefixes(model: nn.Module) -> tuple[str, ...]:
    """The beginnings of the classifier's keys in the state dict, as timm names them ("head.", "head_dist.")."""
    names = model_config(model)["classifier"]
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def timm_model(model: nn.Module) -> nn.Module:
    """The timm model itself, without the wrappers of test-time views and of a distillation token."""
    inner = model.model if isinstance(model, MultiViewModel) else model
    return inner.model if isinstance(inner, DistillationTokenModel) else inner


def model_config(model: nn.Module) -> Json:
    """timm's record of a model: input size, classifier, licence."""
    config: Json = timm_model(model).pretrained_cfg  # type: ignore[assignment]
    return config


def _sized_args(name: str, args: Json, image_size: int | None) -> tuple[Json, int | None]:
    own = args.get("img_size")
    if own is not None and image_size not in (None, own):
        raise RecipeError(
            f"two image sizes are given for {name}",
            got=f"image_size {image_size} and model_args img_size {own}",
            expected="one of them",
        )
    return args, image_size or own


def _build(name: str, args: Json, size: int | None, extra: Json, pretrained: bool, seed: int) -> tuple[nn.Module, Json]:
    """The model and the arguments that made it: `img_size` is among them where the constructor takes it."""
    if size is not None and "img_size" not in args:
        try:
            return _timm_create(name, {**args, "img_size": size}, extra, pretrained, seed), {**args, "img_size": size}
        except TypeError as error:
            if "img_size" not in str(error):
                raise _bad_argument(name, error) from None
    try:
        return _timm_create(name, args, extra, pretrained, seed), args
    except TypeError as error:
        raise _bad_argument(name, error) from None


# What timm's constructors raise, beside TypeError, for arguments that they do not check.
_REFUSALS = (
    AssertionError,
    AttributeError,
    ArithmeticError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    ValueError,
)


def _timm_create(name: str, args: Json, extra: Json, pretrained: bool, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: nn.Module = timm.create_model(name, pretrained=pretrained, **extra, **args)
        except _REFUSALS as error:
            if is_out_of_memory(error):
                raise
            if pretrained and isinstance(error, (RuntimeError, OSError)):
                raise ArtifactError(
                    f"the pretrained weights of {name} cannot be fetched: {first_line(error)}",
                    next="fetch the file where there is a network; then weights: FILE.safetensors (export: --weights)",
                ) from None
            raise RecipeError(
                f"timm cannot build {name} with these arguments: {first_line(error)}",
                got={**args, **extra},
                next="look at model_args and image_size",
            ) from None
    return model


def _check_runs(model: nn.Module, name: str, size: int) -> None:
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
    except _REFUSALS as error:
        if is_out_of_memory(error):
            raise
        raise RecipeError(
            f"{name} cannot take {size} px: {first_line(error)}", got=f"image_size {size}", expected=_what_works(name)
        ) from None


def _patch_size(model: nn.Module) -> int | None:
    """The side of the patches of a plain ViT, which would leave out the rest of other sizes in silence."""
    size = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    return int(size[0]) if isinstance(size, (tuple, list)) else None


def _what_works(name: str) -> str:
    own = timm.models.get_pretrained_cfg(name)
    sizes = {own.input_size[-1]} if own is not None else set()
    for entry in catalogue.read():
        if entry.name == name.partition(".")[0]:
            sizes.update(entry.tested_sizes)
    listed = ", ".join(str(size) for size in sorted(sizes))
    return f"image_size {listed}" if listed else "the model's own size: leave image_size out"


def _bad_argument(name: str, error: TypeError) -> RecipeError:
    return RecipeError(
        f"timm cannot build {name}: {first_line(error)}",
        expected="arguments that timm's constructor of this model takes",
        next="look at model_args, dropout and drop_path_rate",
    )


def _with_distillation_token(model: nn.Module, name: str, inference: Inference) -> nn.Module:
    if not has_distillation_token(model):
        raise RecipeError(
            f"{name} has no distillation head",
            got="distillation_token: true",
            expected="a model that has one, such as deit_tiny_distilled_patch16_224, or distillation_token: false",
        )
    return DistillationTokenModel(model, inference)


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in (values if len(values) == 3 else values * 3))
    return first, second, third
