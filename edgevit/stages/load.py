"""load: a timm model with pretrained weights, a user's weights or random weights → checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents, Json, composed, numbers
from edgevit.configs import Load
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.data.class_names import check_class_names
from edgevit.data.class_order import in_order, possible_orders, unknown_order
from edgevit.errors import DataError, listed
from edgevit.models.bodies import body_of
from edgevit.models.checkpoints import checkpoint_contents, load_weights, num_classes_of_weights
from edgevit.models.creation import BuiltModel, create_model, with_new_head, with_test_time_views
from edgevit.models.timm_models import default_class_names, model_config
from edgevit.models.weights_files import WeightsFile, read_weights
from edgevit.provenance import WEIGHTS_FROM


def run(config: Load, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    weights = _weights(config, context)
    config = config if weights is None else config.model_copy(update={"pretrained": False})
    of_dataset = open_dataset(inputs["classes_of"]).classes if "classes_of" in inputs else None
    names = config.classes or of_dataset
    built, has_classifier = _built(config, weights, config.num_classes if names is None else len(names), context)
    if weights is not None and has_classifier and config.classes is None:
        names = _order_of_weights(config, weights, of_dataset, built.description.num_classes, context)
    if config.pretrained and has_classifier and of_dataset is not None:
        names = default_class_names(len(of_dataset))
        if set(names) != set(of_dataset):
            context.progress.say(f"the classes of {config.model} have other names: the classifier for yours is new")
            built, names, has_classifier = with_new_head(built, len(of_dataset)), of_dataset, False
    built = with_test_time_views(built, config.test_time_views)
    default_names = numbers if config.num_classes is not None and not config.pretrained else default_class_names
    classes = names or default_names(built.description.num_classes)
    check_class_names(classes, f"stage '{config.id}'")
    if built.description.licence:
        context.progress.say(f"the pretrained weights of {config.model} are under {built.description.licence}")
    if not config.pretrained and weights is None:
        context.progress.say(f"note: {config.id}: the weights of {config.model} are random: it has to be trained")
    provenance = {"weights": _source(config), WEIGHTS_FROM: _origin(config, has_classifier)}
    return checkpoint_contents(built, classes, out, {}, provenance, unnamed=names is None)


def _weights(config: Load, context: Context) -> WeightsFile | None:
    if config.weights is None:
        return None
    weights = read_weights(Path(config.weights), config.weights_key)
    if weights.other_keys:
        taken = f"'{weights.key}'{' (EMA)' if weights.is_ema else ''}"
        context.progress.say(
            f"{config.weights}: the weights at {taken} are used; weights_key chooses {listed(weights.other_keys)}"
        )
    return weights


def _built(
    config: Load, weights: WeightsFile | None, num_classes: int | None, context: Context
) -> tuple[BuiltModel, bool]:
    """The model, and whether its classifier was trained."""
    built = create_model(config.model, num_classes, config.image_size, config.model_args, config.pretrained)
    if weights is None:
        return built, config.pretrained and built.description.num_classes == model_config(built.module)["num_classes"]
    if num_classes is None:
        own = num_classes_of_weights(built, weights)
        built = built if own == built.description.num_classes else with_new_head(built, own)
    has_classifier = load_weights(built, weights)
    if not has_classifier:
        classes = built.description.num_classes
        context.progress.say(f"{weights.path} has a classifier of another size: that for {classes} classes is new")
    return built, has_classifier


def _order_of_weights(
    config: Load, weights: WeightsFile, of_dataset: tuple[str, ...] | None, num_classes: int, context: Context
) -> tuple[str, ...] | None:
    """The names of the outputs of the classifier in `weights`; None if they are unknown.

    Raises:
        DataError: the file's names are not those of the data set, or their order is not known.
    """
    written = tuple(map(composed, weights.class_names)) if weights.class_names else None
    if written is not None and len(written) != num_classes:
        written = None
    if config.class_order is not None and of_dataset is not None:
        return in_order(of_dataset, config.class_order)
    if written is not None:
        if of_dataset is not None and set(written) != set(map(composed, of_dataset)):
            raise _other_names(config, written, of_dataset)
        context.progress.say(f"the classes are called as in {config.weights}: {listed(written)}")
        return written
    if of_dataset is not None and (orders := possible_orders(of_dataset)):
        raise unknown_order(
            orders, f"stage '{config.id}'", "write class_order: natural or text, or classes in the order of the outputs"
        )
    return of_dataset


def _other_names(config: Load, written: tuple[str, ...], of_dataset: tuple[str, ...]) -> DataError:
    return DataError(
        "the classes of these weights are not those of classes_of",
        where=f"stage '{config.id}'",
        got=f"in {config.weights}: {listed(written)}",
        expected=f"in {config.classes_of}: {listed(of_dataset)}",
        next="write classes: the data set's names in the order of the outputs",
    )


def _source(config: Load) -> str:
    if config.weights is not None:
        return config.weights
    if (body := body_of(config)) is not None:
        return f"edgevit:{body.name}, sha256 {body.sha256}"
    return f"timm:{config.model}" if config.pretrained else "initialised"


def _origin(config: Load, has_classifier: bool) -> Json:
    """The origin of the weights of the body and of the classifier: "file", "pretrained" or "random"."""
    body = "file" if config.weights is not None else "pretrained" if config.pretrained else "random"
    return {"body": body, "classifier": body if has_classifier else "random"}
