"""Before a recipe trains: whether the pages of its bundles can be made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from edgevit.bundling import Page, check_page_runtime, runtime_files
from edgevit.configs import Bundle, Compile, Export, Quantize, Recipe, Select, Stage, makers_of
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
            for model, runtime in _runtimes_of_model(bundle.model, {stage.id: stage for stage in recipe.stages}):
                check_page_runtime(runtime, model)
            runtime_files(page, context.progress)


def _runtimes_of_model(model: str, stages: Mapping[str, Stage]) -> Iterator[tuple[str, str]]:
    """The ONNX file of a model and the runtime that opens it on this machine; for a selection, those of each model."""
    for maker in makers_of(model, stages, through=(Select, Compile)):
        assert isinstance(maker, (Export, Quantize))
        yield maker.id, maker.runtime if isinstance(maker, Export) else maker.runtime_here
