"""Models built from a timm name, or rebuilt from a description."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from edgevit.artifacts import Json, Preprocess
from edgevit.configs import View
from edgevit.errors import RecipeError
from edgevit.models.agreement import LARGEST_DEVIATION, deviation
from edgevit.models.bodies import default_size_of_body
from edgevit.models.changes import AnyChange
from edgevit.models.description import ModelDescription
from edgevit.models.distillation_token import DistillationToken, Inference
from edgevit.models.folding import Folded
from edgevit.models.knn_classifier import KnnClassifier
from edgevit.models.timm_models import (
    check_model_args,
    check_model_name,
    check_runs,
    classifier_prefixes,
    lacks_classifier,
    model_config,
    model_from_timm,
    preprocess_of,
    timm_model,
)
from edgevit.models.views import TestTimeViews


class BuiltModel(NamedTuple):
    """A model in memory, in eval mode.

    Attributes:
        module: gives one tensor, logits (batch, classes), for images (batch, 3, H, W).
        description: rebuilds the module, without its weights.
        preprocess: the module's preprocessing of images.
        classes: names of the outputs, in order; () if they have no names yet.
    """

    module: nn.Module
    description: ModelDescription
    preprocess: Preprocess
    classes: tuple[str, ...] = ()


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
        num_classes: number of outputs; None for timm's number, or 1 for a model that timm has without a classifier.
        image_size: side in pixels; None for timm's size. Models with position embeddings are built for this size.
        model_args: more arguments of timm's constructor, such as `patch_size` or `depth`.
        pretrained: fetch timm's weights; position embeddings are resampled to `image_size`.
        distillation_token: train both heads of a model that has a distillation head.
        inference: the head, or mean of heads, that gives the output of a model with both heads.
        drop_rates: timm's drop_rate and drop_path_rate while training; no part of the description.

    Raises:
        RecipeError: an unknown name or argument, a size the model cannot take, no distillation head.
        ArtifactError: the pretrained weights cannot be fetched.
    """
    check_model_name(name)
    check_model_args(dict(model_args or {}), name)
    args, size = _sized_args(name, dict(model_args or {}), image_size)
    if num_classes is None and lacks_classifier(name):
        num_classes = 1
    extra: Json = {**({} if num_classes is None else {"num_classes": num_classes}), **(drop_rates or {})}
    model, args = model_from_timm(name, args, size, extra, pretrained, seed)
    preprocess = preprocess_of(model, size)
    check_runs(model, name, preprocess.height)
    description = ModelDescription(
        model=name,
        model_args=args,
        num_classes=int(num_classes if num_classes is not None else model_config(model)["num_classes"]),
        licence=model_config(model).get("license") if pretrained else None,
    )
    model.eval()
    if distillation_token:
        change = DistillationToken(inference=inference or "mean_softmax")
        model, description = change.apply(model), description.with_change(change)
    return BuiltModel(model.eval(), description, preprocess)


def build(description: ModelDescription, drop_rates: Mapping[str, float] | None = None, seed: int = 0) -> nn.Module:
    """The model of a description, in eval mode, with weights drawn from `seed`."""
    check_model_name(description.model)
    check_model_args(description.model_args, description.model)
    extra: Json = {"num_classes": description.num_classes, **(drop_rates or {})}
    model, _ = model_from_timm(description.model, description.model_args, None, extra, pretrained=False, seed=seed)
    for change in description.changes:
        model = change.apply(model)
    return model.eval()


def with_change(built: BuiltModel, change: AnyChange) -> BuiltModel:
    """A copy of a model with one more change, and a description that lists it."""
    module = change.apply(copy.deepcopy(built.module))
    return built._replace(module=module.eval(), description=built.description.with_change(change))


def with_test_time_views(built: BuiltModel, views: tuple[View, ...]) -> BuiltModel:
    """A copy of a model whose output is the mean over the image and these views; the model itself without views."""
    return with_change(built, TestTimeViews(views=views)) if views else built


def with_new_head(
    built: BuiltModel,
    num_classes: int,
    drop_rates: Mapping[str, float] | None = None,
    seed: int = 0,
    knn: KnnClassifier | None = None,
) -> BuiltModel:
    """A copy of a model with a new classifier for `num_classes`: a linear one, drawn from `seed`, or k nearest
    neighbors, which remember no samples yet.
    """
    description = built.description.model_copy(update={"num_classes": num_classes}).without_change(KnnClassifier)
    if knn is not None:
        description = description.with_change(knn)
    fresh = build(description, drop_rates, seed)
    heads = classifier_prefixes(fresh)
    kept = {key: value for key, value in timm_model(built.module).state_dict().items() if not key.startswith(heads)}
    timm_model(fresh).load_state_dict(kept, strict=False)
    return BuiltModel(fresh, description, built.preprocess)


def folded_model(built: BuiltModel) -> BuiltModel:
    """A folded copy of a model, see `Folded`; the model itself if it is folded already.

    Raises:
        RecipeError: the outputs change, for example because a layer's weight is read elsewhere.
    """
    if built.description.change(Folded):
        return built
    folded = with_change(built, Folded(image_size=built.preprocess.height))
    difference = deviation(folded.module, built.module, built.preprocess)
    if not difference <= LARGEST_DEVIATION:
        raise RecipeError(
            "batch norm cannot be folded into the layers of this model",
            got=f"outputs that differ by {difference:.1e} of the largest output",
            expected=f"at most {LARGEST_DEVIATION:g}",
            next="quantize it without training instead",
        )
    return folded


def _sized_args(name: str, args: Json, image_size: int | None) -> tuple[Json, int | None]:
    """The arguments, and the side of an image in pixels that they or `image_size` give."""
    own = args.get("img_size")
    if own is not None and image_size not in (None, own):
        raise RecipeError(
            f"two image sizes are given for {name}",
            got=f"image_size {image_size} and model_args img_size {own}",
            expected="one of them",
        )
    return args, image_size or own or default_size_of_body(name)
