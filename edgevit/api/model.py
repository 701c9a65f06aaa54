"""A model in Python: what every function of the interface takes and gives."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.artifacts import Artifact, Preprocess
from edgevit.bounds import COUNT
from edgevit.configs.targets import LOCAL_CPU
from edgevit.errors import ArtifactError
from edgevit.terminal import printable_line

if TYPE_CHECKING:
    from torch import nn

    from edgevit.api.inputs import ImageLike


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of one image.

    Attributes:
        image: the file, or the position of the image among those given.
        labels: (class, confidence) pairs, most likely first; a confidence is a probability from 0 to 1.
    """

    image: str
    labels: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """The most likely class."""
        return self.labels[0][0]

    @property
    def confidence(self) -> float:
        """The probability of the most likely class."""
        return self.labels[0][1]

    def __str__(self) -> str:
        labels = ", ".join(f"{name} {confidence:.1%}" for name, confidence in self.labels)
        return printable_line(f"{self.image}: {labels}")


@dataclass(frozen=True)
class Model:
    """A classifier: a checkpoint, an ONNX file, or a model that was compiled for a target.

    Attributes:
        artifact: the files with their manifest: kind, metrics, input and output specification.
        bundle: the bundle that the model was loaded from. Classes that were enrolled there are predicted, too.
    """

    artifact: Artifact
    bundle: Path | None = None

    @property
    def kind(self) -> str:
        """`checkpoint`, `onnx`, or `engine`: compiled for a target, by ONNX Runtime or TensorRT."""
        return self.artifact.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return self.artifact.io.classes

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes the input tensor."""
        return self.artifact.io.preprocess

    @property
    def metrics(self) -> dict[str, Any]:
        """Size in bytes, parameters, multiply-accumulates, precision, as far as they are known."""
        return dict(self.artifact.metrics)

    @property
    def file(self) -> Path:
        """The ONNX file, or the TensorRT engine, its hash checked.

        It lies in a temporary folder unless the model was read from elsewhere.

        Raises:
            ArtifactError: a checkpoint has no ONNX file.
        """
        if self.kind == "checkpoint":
            raise ArtifactError("a checkpoint has no ONNX file", where=self.artifact.id, next="edgevit.export(model)")
        from edgevit.actions.engine_files import is_engine
        from edgevit.graphs.files import onnx_file

        if is_engine(self.artifact):
            return self.artifact.file(self.artifact.model_file.name)
        return onnx_file(self.artifact)

    @property
    def module(self) -> nn.Module:
        """A new copy of the checkpoint as a torch module in eval mode: images (N, 3, H, W) → logits (N, classes).

        Raises:
            ArtifactError: the model is no checkpoint.
        """
        from edgevit.models import model_from_checkpoint

        return model_from_checkpoint(self.artifact)

    def predict(
        self, images: ImageLike | Sequence[ImageLike], top: int = 1, target: str = LOCAL_CPU
    ) -> list[Prediction]:
        """The most likely classes of each image.

        Args:
            images: a file, a folder, a PIL image, an array (H, W, 3) uint8 RGB, or several of these.
            top: the number of classes for each image.
            target: where the model runs; a TensorRT engine runs on the target that built it.

        Raises:
            DataError: an image cannot be read.
            RecipeError: `top` is no number of classes.
            TargetError: the model does not run on the target.
        """
        from edgevit.actions.predict_images import predict_images
        from edgevit.api.arguments import argument, number_argument
        from edgevit.api.inputs import named_images
        from edgevit.api.workspace import stages
        from edgevit.bundling import classes_since
        from edgevit.targets import target_for

        changed_classes = classes_since(self.bundle) if self.bundle else None
        top = number_argument(top, int, COUNT, argument("Model.predict", "top"))
        runner = target_for(target, stages().context)
        predicted = predict_images(self.artifact, named_images(images), top, changed_classes, runner)
        if predicted.unread:
            raise predicted.unread[0]
        return [
            Prediction(answer["image"], tuple((label["label"], label["confidence"]) for label in answer["labels"]))
            for answer in predicted.answers
        ]

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Copy the model to `path`: one ONNX file with its weights inside, or the folder of a checkpoint or an engine.

        Args:
            overwrite: replace a file at `path`. A folder is never replaced.

        Raises:
            ArtifactError: there is something at `path` already, or the weights are too large for one ONNX file.
        """
        from edgevit.actions.engine_files import is_engine
        from edgevit.api.arguments import argument, path_argument
        from edgevit.disks import copy_folder, whole_or_not_at_all
        from edgevit.graphs.files import copy_onnx

        target = path_argument(path, argument("Model.save", "path"))
        is_folder = self.kind == "checkpoint" or is_engine(self.artifact)
        is_replaceable = target.is_file() and not is_folder
        if target.exists() and not (overwrite and is_replaceable):
            remedy = "give another path" + (", or overwrite=True" if is_replaceable else "")
            raise ArtifactError("the path is already taken", where=target, next=remedy)
        with whole_or_not_at_all(target) as part:
            if is_folder:
                copy_folder(self.artifact.path, part)
            else:
                copy_onnx(self.artifact, part)
        return target

    def __repr__(self) -> str:
        return printable_line(f"<edgevit.Model {self._summary()}>")

    def _repr_html_(self) -> str:
        return f"<p><b>{html.escape(self.artifact.id)}</b>: {html.escape(self._summary())}</p>"

    def _summary(self) -> str:
        metrics, preprocess = self.artifact.metrics, self.preprocess
        words = [self.kind, f"{len(self.classes)} classes", f"{preprocess.height} × {preprocess.width} px"]
        if "params" in metrics:
            words.append(f"{metrics['params'] / 1e6:.2f} M parameters")
        if "size_bytes" in metrics:
            words.append(f"{metrics['size_bytes'] / 2**20:.2f} MiB")
        if "precision" in metrics:
            words.append(str(metrics["precision"]))
        return ", ".join(words)
