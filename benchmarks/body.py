"""Train the body that comes with edgevit, and keep it in edgevit/models/bodies/.

    python -m benchmarks.body PICTURES WEIGHTS [--runs runs] [--threads 2] [--set KEY=VALUE …]

PICTURES is an .npz file of CIFAR-100's training images, the first 25,000, and WEIGHTS are EfficientNet-Lite2's. The
recipe body.yaml takes about half an hour of one core with bfloat16; --set changes it as it does in `edgevit run`. A run
that was stopped goes on.

coatnet_1m.safetensors holds the weights, the large ones in float16, and coatnet_1m.json what they learned from, the
stage that trained them and the sha256 of the other file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from benchmarks.common import ROOT
from edgevit import pipeline
from edgevit.artifacts import Artifact, sha256_of_file
from edgevit.cli.output import terminal_context
from edgevit.models.bodies import FOLDER, Body, Pictures
from edgevit.models.checkpoints import DESCRIPTION, WEIGHTS
from edgevit.recipe import load_recipe

RECIPE = ROOT / "benchmarks" / "body.yaml"
NAME, DEFAULT_SIZE, LICENCE = "coatnet_1m", 192, "apache-2.0"
TEACHER = "tf_efficientnet_lite2.in1k (Apache-2.0)"
PICTURES, PICTURES_LICENCE = "CIFAR-100, training images", "none stated; its authors ask to be cited"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pictures", "weights"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    paths = {"datasets.pictures.path": asked.pictures, "stages.imagenet.weights": asked.weights}
    settings = [f"{key}={path.absolute()}" for key, path in paths.items()]
    made = pipeline.run(load_recipe(RECIPE, [*settings, *asked.set]), RECIPE.parent, asked.runs, terminal_context())
    keep(made["body"], made["pictures.train"].metrics["images"])


def keep(trained: Artifact, images: int) -> None:
    """Write the weights, without the classifier, beside what they are."""
    described = json.loads(trained.file(DESCRIPTION).read_text())
    state = {key: _halved(value) for key, value in load_file(trained.file(WEIGHTS)).items() if "head.fc." not in key}
    (FOLDER / f"{NAME}.safetensors").write_bytes(save(state))
    body = Body(
        name=NAME,
        architecture=described["model"],
        model_args={key: value for key, value in described["model_args"].items() if key != "img_size"},
        image_size=trained.io.preprocess.height,
        default_size=DEFAULT_SIZE,
        licence=LICENCE,
        teacher=TEACHER,
        learned_from=(Pictures(name=PICTURES, images=images, licence=PICTURES_LICENCE),),
        training=trained.manifest.config,
        sha256=sha256_of_file(FOLDER / f"{NAME}.safetensors"),
    )
    (FOLDER / f"{NAME}.json").write_text(body.model_dump_json(indent=1) + "\n")


def _halved(tensor: Tensor) -> Tensor:
    """A matrix or a convolution in float16; vectors stay as they are: batch norm's statistics need their range."""
    return tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor


if __name__ == "__main__":
    main()
