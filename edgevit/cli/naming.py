"""Class names of a model whose file has none: --labels and --class-order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgevit.artifacts import Artifact


def named_by_options(
    model: Artifact, labels: Path | None, class_order: str | None, images: Artifact | None = None
) -> Artifact:
    """The model with the class names of the file --labels, or of the folders of `images` in --class-order.

    Raises:
        RecipeError: both options are given, or the order has no folder to order.
        DataError: the names do not fit the model.
    """
    from edgevit.data.class_names import names_in_file
    from edgevit.errors import RecipeError

    if labels is not None and class_order is not None:
        raise RecipeError("--labels gives the order too", got="--labels and --class-order", expected="one of them")
    if labels is not None:
        return with_names(model, names_in_file(labels), labels)
    return model if class_order is None else _ordered(model, class_order, images)


def with_names(model: Artifact, names: tuple[str, ...], labels: Path) -> Artifact:
    """The model with these class names. Raises DataError if they are too many or too few."""
    from edgevit.data.class_names import check_names_fit

    check_names_fit(names, len(model.io.classes), labels)
    return model.calling_its_classes(names)


def _ordered(model: Artifact, class_order: str, images: Artifact | None) -> Artifact:
    from edgevit.data import open_dataset
    from edgevit.data.class_order import ORDERS, in_order, names_of_outputs
    from edgevit.errors import DataError, RecipeError, listed

    where, own = "--class-order", model.io.classes
    order = next(known for known in ORDERS if known == class_order)
    if images is None:
        raise RecipeError("an order needs class folders to sort", where=where, next="give a folder of labelled images")
    if model.io.names_its_classes:
        what = "the model names its classes, so there is no order to choose"
        raise DataError(what, where=where, got=listed(own), next="leave it out; --labels gives other names")
    classes = open_dataset(images).classes
    if (names := names_of_outputs(len(own), classes)) is None:
        got = f"{len(classes)} folders: {listed(classes)}"
        raise DataError("the folders are not the model's classes", where=where, got=got, expected=f"{len(own)} folders")
    return model.calling_its_classes(in_order(names, order))
