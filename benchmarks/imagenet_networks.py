"""Networks trained on ImageNet whose weights lie in a file: teachers, and the start of a student.

EfficientNet-Lite2 is the teacher of the recipes. MobileNetV2 was before it, and its results stay beside. Student a
of the exercise starts from it.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from benchmarks import imagenet_mobilenetv2
from edgevit import pipeline
from edgevit.artifacts import Artifact
from edgevit.cli.output import terminal_context
from edgevit.recipe import load_recipe


class Network(NamedTuple):
    """A network of timm's, its arguments, and its weights: (the file that was given, runs) → a file for timm."""

    model: str
    model_args: dict[str, Any]
    weights: Callable[[Path, Path], Path]


NETWORKS = {
    "efficientnet_lite2": Network("tf_efficientnet_lite2.in1k", {}, lambda file, runs: file.absolute()),
    "mobilenetv2": Network(
        imagenet_mobilenetv2.MODEL, imagenet_mobilenetv2.BICUBIC_ARGS, imagenet_mobilenetv2.weights_file
    ),
}
OF_RECIPES = "efficientnet_lite2"


def add_network(parser: ArgumentParser) -> None:
    """`weights`, a file, and `--network`, the network that it belongs to."""
    parser.add_argument("weights", type=Path)
    parser.add_argument("--network", choices=tuple(NETWORKS), default=OF_RECIPES)


def result_name(name: str, network: str) -> str:
    """The name of a benchmark's result: with the network, if it is not the recipes'."""
    return name if network == OF_RECIPES else f"{name}_{network}"


def settings_of_network(asked: Namespace, stage: str) -> list[str]:
    """The settings of a recipe's `load` stage: the asked network, with weights that need no download."""
    network = NETWORKS[asked.network]
    return _settings(stage, network, network.weights(asked.weights, asked.runs))


def settings_of_small(source: Path, elsewhere: Path, runs: Path, stage: str) -> list[str]:
    """The settings of a `load` stage of MobileNetV2, from which a training can go on.

    Args:
        source: the .npz of imagenet_mobilenetv2.py.
        elsewhere: an .npz file of images, the first of which set its batch norm.
    """
    return _settings(stage, NETWORKS["mobilenetv2"], imagenet_mobilenetv2.weights_to_train(source, elsewhere, runs))


def _settings(stage: str, network: Network, weights: Path) -> list[str]:
    return [
        f"stages.{stage}.model={network.model}",
        f"stages.{stage}.model_args={network.model_args}",
        f"stages.{stage}.pretrained=false",
        f"stages.{stage}.weights={weights}",
    ]


def networks(asked: Namespace, side: int) -> dict[str, Artifact]:
    """`teacher`, the network with its weights, and `random`, without; images of this side and their mirror images."""
    network, name = NETWORKS[asked.network], f"{asked.network}-{side}"
    asked.runs.mkdir(parents=True, exist_ok=True)
    loaded = {
        "stage": "load",
        "model": network.model,
        "model_args": network.model_args,
        "image_size": side,
        "test_time_views": ["flip"],
    }
    stages = [
        {**loaded, "id": "teacher", "weights": str(network.weights(asked.weights, asked.runs))},
        {**loaded, "id": "random"},
    ]
    recipe_file = asked.runs / f"{name}.yaml"
    with recipe_file.open("w") as file:
        YAML().dump({"name": name, "datasets": {}, "stages": stages}, file)
    return pipeline.run(load_recipe(recipe_file), recipe_file.parent, asked.runs, terminal_context())
