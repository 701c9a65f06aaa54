"""Before a recipe trains: whether the pages of its bundles can be made."""

from __future__ import annotations

from collections.abc import Callable, Collection

from edgevit.bundling import Page, check_page_runtime, runtime_files
from edgevit.configs import Bundle, Compile, Export, Quantize, Recipe
from edgevit.context import Context


def check_pages_early(recipe: Recipe, pending: Callable[[], Collection[str]], context: Context) -> None:
    """Check the model's runtime and get ONNX Runtime Web for each bundle with a page that would be made.

    The user's cache folder keeps what npm gets, so that the bundle's stage needs no network.

    Args:
        pending: gives the ids of the stages that would run.

    Raises:
        ArtifactError: a model is made for another runtime, or a folder does not hold ONNX Runtime Web.
        MissingDependency: npm is not installed, or does not get the package.
    """
    pages = [(stage, page) for stage in recipe.stages if isinstance(stage, Bundle) and (page := Page.of(stage))]
    for bundle, page in pages:
        if bundle.id in pending():
            check_page_runtime(_runtime_of_model(bundle, recipe), bundle.model)
            runtime_files(page, context.progress)


def _runtime_of_model(bundle: Bundle, recipe: Recipe) -> str:
    """The runtime that opens the bundle's ONNX file on this machine."""
    stages = {stage.id: stage for stage in recipe.stages}
    maker = stages[bundle.model]
    while isinstance(maker, Compile):
        maker = stages[maker.model]
    assert isinstance(maker, (Export, Quantize))
    return maker.runtime if isinstance(maker, Export) else maker.runtime_here
