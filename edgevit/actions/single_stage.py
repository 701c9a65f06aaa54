"""Run single stages on plain files: the same functions as in a recipe, in a store that is thrown away."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edgevit.artifacts import MANIFEST, MODEL_KINDS, Artifact
from edgevit.configs import ImageFolder, Stage
from edgevit.context import Context
from edgevit.data import dataset_artifacts
from edgevit.data.sources.image_folder import folder_of_tests
from edgevit.errors import ArtifactError, RecipeError
from edgevit.pipeline import make
from edgevit.progress import Progress
from edgevit.recipe import suggestion
from edgevit.store import Store

S = TypeVar("S", bound=Stage)
M = TypeVar("M", bound=BaseModel)
READABLE_KINDS = (*MODEL_KINDS, "bundle")


class SingleStages:
    """Makes artifacts from files that a user names."""

    def __init__(self, store: Store, context: Context) -> None:
        self._store, self.context = store, context

    def make(self, config: Stage, **inputs: Artifact) -> Artifact:
        """Run one stage on its inputs, named by the fields that refer to them."""
        return make(config, inputs, self._store, self.context)

    def model(self, path: Path, for_images: bool = True) -> Artifact:
        """The model in an ONNX file, a bundle, the folder of a stage or of an engine.

        Args:
            for_images: say how images are prepared, and which output gives the classes, where the file does not.
        """
        if path.is_dir():
            return _model_in_folder(path, self.context.progress)
        from edgevit.actions.engine_files import check_is_no_engine_file
        from edgevit.graphs.files import artifact_from_onnx

        check_is_no_engine_file(path)
        model = artifact_from_onnx(path)
        if for_images:
            for note in _notes(path, model):
                self.context.progress.say(f"note: {note}")
        return model

    def onnx_file(self, path: Path) -> Path:
        """A file of any graph as it is; of a bundle or the folder of a stage, its ONNX file."""
        from edgevit.actions.engine_files import check_is_no_engine_file
        from edgevit.graphs.files import onnx_file

        check_is_no_engine_file(path)
        return onnx_file(self.model(path)) if path.is_dir() else path

    def labelled_images(self, folder: Path) -> Artifact:
        """A folder of class folders; of its folder of test images where it has one."""
        return self._images(folder_of_tests(folder) if folder.is_dir() else folder, "top")

    def support_images(self, folder: Path) -> Artifact:
        """A folder of class folders."""
        return self._images(folder, "top")

    def unlabelled_images(self, folder: Path) -> Artifact:
        """Every image below a folder, labels unread."""
        return self._images(folder, "none")

    def _images(self, folder: Path, classes: str) -> Artifact:
        config = ImageFolder.model_validate(
            {"source": "image_folder", "path": str(folder.absolute()), "classes": classes}
        )
        made = dataset_artifacts({"images": config}, Path.cwd(), ["images"], progress=self.context.progress)["images"]
        for note in made.manifest.provenance["notes"]:
            self.context.progress.say(f"note: {note}")
        return made


@contextmanager
def single_stages(context: Context) -> Iterator[SingleStages]:
    """Single stages whose store is removed at the end: copy out what is to stay."""
    folder = Path(tempfile.mkdtemp(prefix="edgevit-"))
    try:
        yield SingleStages(Store(folder), context)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def stage_config(config: type[S], **fields: Any) -> S:
    """A stage's config from command line values. Raises RecipeError naming the option that is wrong."""
    return record_from_options(config, {"stage": config.name(), **fields})


def stage_config_from_arguments(config: type[S], /, **fields: Any) -> S:
    """A stage's config from arguments of a Python function. Raises RecipeError naming the argument that is wrong."""
    return record_from_arguments(config, config.name(), {"stage": config.name(), **fields})


def record_from_arguments(model: type[M], function: str, fields: Mapping[str, Any]) -> M:
    """A record from arguments of a function of the Python interface; errors name the argument."""
    return _record(model, fields, lambda field: f"edgevit.{function}({field}=…)")


def record_from_options(model: type[M], fields: Mapping[str, Any], arguments: Mapping[str, str] | None = None) -> M:
    """A record from command line values; errors name the option.

    Args:
        arguments: fields that are no options but arguments, each with the argument's name.
    """
    return _record(model, fields, lambda field: (arguments or {}).get(field, f"--{field.replace('_', '-')}"))


def _record(model: type[M], fields: Mapping[str, Any], called: Callable[[str], str]) -> M:
    """A record from values that a user gave. Raises RecipeError, which names a field as `called` gives it."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        names = [part for part in problem["loc"] if isinstance(part, str)]
        message = str(problem["msg"]).removeprefix("Value error, ")
        got = problem["input"] if names else None
        where = called(names[-1]) if names else None
        raise RecipeError(message, where=where, got=got, next=suggestion(problem)) from None


def _notes(path: Path, model: Artifact) -> list[str]:
    """What is assumed of a model whose file does not say it."""
    about = model.manifest.provenance
    unprepared = (
        f"{path} does not say how images are prepared: ImageNet's mean and standard deviation are assumed; edgevit "
        "describe writes others into it, and names of classes"
    )
    return [*([] if about["described"] else [unprepared]), *(f"{path}: {note}" for note in about["notes"])]


def _model_in_folder(path: Path, progress: Progress) -> Artifact:
    if not (path / MANIFEST).is_file():
        from edgevit.actions.engine_files import check_is_no_engine_file

        for file in sorted(path.iterdir()):
            check_is_no_engine_file(file)
        expected = "an ONNX file, a bundle, an engine's folder, or runs/NAME/ID of a model"
        raise ArtifactError("there is no model in this folder", where=path, expected=expected)
    artifact = Artifact.load(path)
    if artifact.kind not in READABLE_KINDS:
        raise ArtifactError(f"this is a {artifact.kind}, not a model", where=path, expected=" or ".join(READABLE_KINDS))
    if artifact.kind == "bundle":
        from edgevit.bundling import classes_since
        from edgevit.graphs.files import artifact_from_onnx

        if classes := classes_since(path):
            now, own = len(classes[0].classes), len(artifact.io.classes)
            progress.say(
                f"note: {path} was changed to {now} classes by enroll: predict answers with these, other commands with "
                f"the model's own {own}"
            )
        return artifact_from_onnx(artifact.file("model.onnx"))
    if artifact.kind == "engine":
        from edgevit.actions.engine_files import check_engine_folder, is_engine

        if is_engine(artifact):
            check_engine_folder(artifact)
    return artifact
