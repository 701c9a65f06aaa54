"""load: a timm model with pretrained weights, a user's weights, or as initialised → checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Load
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.data.class_names import check_class_names
from edgevit.errors import RecipeError
from edgevit.models.checkpoints import checkpoint_contents, load_weights, num_classes_of_weights
from edgevit.models.creation import (
    BuiltModel,
    create_model,
    default_class_names,
    with_new_head,
    with_test_time_views,
)


def run(config: Load, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    classes = config.classes
    if "classes_of" in inputs:
        classes = open_dataset(inputs["classes_of"]).classes
    built = _built(config, None if classes is None else len(classes), context)
    built = with_test_time_views(built, config.test_time_views)
    classes = classes or default_class_names(built.description.num_classes)
    check_class_names(classes, f"stage '{config.id}'")
    if built.description.licence:
        context.progress.say(f"the pretrained weights of {config.model} are under {built.description.licence}")
    return checkpoint_contents(built, classes, out, {}, {"weights": _origin(config)})


def _built(config: Load, num_classes: int | None, context: Context) -> BuiltModel:
    if config.weights is None:
        return create_model(config.model, num_classes, config.image_size, config.model_args, config.pretrained)
    if config.pretrained:
        raise RecipeError("weights come from one place", got="pretrained: true and weights", expected="one of them")
    weights = Path(config.weights)
    built = create_model(config.model, num_classes, config.image_size, config.model_args)
    if num_classes is None:
        own = num_classes_of_weights(built, weights)
        built = built if own == built.description.num_classes else with_new_head(built, own)
    if not load_weights(built, weights):
        classes = built.description.num_classes
        context.progress.say(f"{weights} has a classifier of another size: the one for {classes} classes is new")
    return built


def _origin(config: Load) -> str:
    if config.weights is not None:
        return config.weights
    return f"timm:{config.model}" if config.pretrained else "initialised"
