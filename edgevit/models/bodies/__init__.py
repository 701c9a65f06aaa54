"""Bodies: small networks that come with edgevit, with weights that have learned the features of a large network.

A body has no classifier. A student starts from it, or a classifier is fitted on its features. Its weights are a file in
this folder, NAME.safetensors, so they need no network, and NAME.json says what they learned from. `timm_bodies`
registers each body with timm, so a recipe names it as any pretrained model: `model: coatnet_1m, pretrained: true`.

A name stands for one shape: checkpoints are rebuilt from it. Better weights of another shape get another name.
benchmarks/body.py makes the files.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from edgevit.artifacts import Frozen, Json
from edgevit.configs import Load

FOLDER = Path(__file__).parent
TAG = "edgevit"  # of a body's weights, as timm tags pretrained weights


class Pictures(Frozen):
    """Pictures that a body has learned from, and under which license they are."""

    name: str
    images: int
    licence: str


class Body(Frozen):
    """What a body is and what it learned from.

    Attributes:
        architecture: a timm name.
        model_args: of timm's constructor.
        image_size: side in pixels of the images that it learned from.
        default_size: side in pixels of its input, unless another is asked for.
        licence: of the weights.
        teacher: the network whose features it learned, and the license of that network's weights.
        training: the stage that trained it.
        sha256: of the file of weights.
    """

    name: str
    architecture: str
    model_args: Json
    image_size: int
    default_size: int
    licence: str
    teacher: str
    learned_from: tuple[Pictures, ...]
    training: Json
    sha256: str

    @property
    def weights(self) -> Path:
        return FOLDER / f"{self.name}.safetensors"


@cache
def read() -> tuple[Body, ...]:
    """All bodies, by name."""
    return tuple(Body.model_validate_json(file.read_bytes()) for file in sorted(FOLDER.glob("*.json")))


def is_body(model: str) -> bool:
    """Whether a timm name, with or without a tag, is that of a body."""
    return body_named(model) is not None


def body_named(model: str) -> Body | None:
    """The body of a timm name, with or without a tag; None if it is of another model."""
    return next((body for body in read() if body.name == model.partition(".")[0]), None)


def body_of(load: Load) -> Body | None:
    """The body whose weights a stage `load` takes; None if it takes others."""
    return body_named(load.model) if load.pretrained and load.weights is None else None


def default_size_of_body(model: str) -> int | None:
    """The side in pixels of a body's input, unless another is asked for; None for other models.

    A checkpoint records it, as it does every size: the tables of positions belong to it.
    """
    body = body_named(model)
    return None if body is None else body.default_size
