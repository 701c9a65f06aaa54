"""Images per second and memory of pre-training beside the example loops of lightly's documentation.

    python -m benchmarks.pretraining_speed CIFAR [--rounds 7] [--steps 20] [--work WORK] [--python PYTHON]

CIFAR is the folder that holds `cifar-10-batches-py`. SimCLR, BYOL and MoCo train a ResNet-18 on the same images of
32 px in batches of 64, on one thread, with loading in the same process. lightly's loop (peers/lightly_loop.py) has the
transforms of its documentation: crop, flip, color, grayscale and blur as edgevit's, and solarization of BYOL's second
view. In every round each of the two takes one turn, in an order drawn anew, in a process of its own. lightly runs in an
environment of its own in WORK, or in that of PYTHON. A speed is that of the median step of a round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import ROOT, publish, spread
from benchmarks.environments import Environment
from edgevit.configs import Cifar, Pretrain
from edgevit.context import Context
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.dataset import ArrayImages, Dataset
from edgevit.models.creation import create_model
from edgevit.profiling.conditions import peak_bytes
from edgevit.progress import SilentProgress
from edgevit.training.loop.batches import TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.ssl.learners import learner_for

METHODS: dict[str, dict[str, Any]] = {"simclr": {}, "byol": {}, "moco": {"queue": 1024}}
IMAGES, BATCH, WARMUP = 4_096, 64, 3
PEER = ROOT / "benchmarks" / "peers" / "lightly_loop.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--work", type=Path, default=Path("runs") / "pretraining_speed")
    parser.add_argument("--python", type=Path, help="of an environment that has lightly, torch and timm")
    parser.add_argument("--turn", nargs=3, metavar=("METHOD", "IMAGES", "ANSWER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.turn:
        method, of_images, of_answer = asked.turn
        take_turn(method, Path(of_images), Path(of_answer), asked.steps)
        return
    asked.work.mkdir(parents=True, exist_ok=True)
    images = asked.work.absolute() / "images.npz"
    np.savez(images, images=pixels(asked.cifar))
    python = str(asked.python) if asked.python else lightly_python(asked.work)
    commands = {
        "edgevit": [sys.executable, "-m", "benchmarks.pretraining_speed", str(asked.cifar), "--turn"],
        "lightly": [python, str(PEER)],
    }
    turns: dict[str, dict[str, list[dict[str, Any]]]] = {method: {name: [] for name in commands} for method in METHODS}
    order = np.random.default_rng(0)
    for _ in range(asked.rounds):
        for method in METHODS:
            for name in order.permutation(list(commands)).tolist():
                answer = asked.work.absolute() / "answer.json"
                rest = (
                    [method, str(images), str(answer), "--steps", str(asked.steps)]
                    if name == "edgevit"
                    else [method, str(images), str(BATCH), str(asked.steps), str(answer)]
                )
                subprocess.run([*commands[name], *rest], check=True, cwd=ROOT)
                turns[method][name].append(json.loads(answer.read_text()))
    publish("pretraining_speed", {"batch_size": BATCH, "steps": asked.steps, "methods": compared(turns)})


def compared(turns: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """Images per second, peak memory, and the ratio of the speeds round by round."""
    result: dict[str, Any] = {}
    for method, both in turns.items():
        speeds = {name: [BATCH / float(np.median(turn["seconds"])) for turn in each] for name, each in both.items()}
        result[method] = {
            "images_per_s": {name: spread(values) for name, values in speeds.items()},
            "ratio": spread([own / peer for own, peer in zip(speeds["edgevit"], speeds["lightly"], strict=True)]),
            "peak_mib": {name: spread([turn["peak_mib"] for turn in each]) for name, each in both.items()},
            "versions": both["lightly"][0].get("versions"),
        }
    return result


def take_turn(method: str, images: Path, answer: Path, steps: int) -> None:
    """Time the steps of edgevit in this process."""
    torch.set_num_threads(1)
    arrays = np.load(images)["images"]
    ids = tuple(str(number) for number in range(len(arrays)))
    data = Dataset("cifar", (), ids, None, ArrayImages(arrays), np.arange(len(arrays)))
    config = Pretrain.model_validate(
        {
            "stage": "pretrain", "id": "body", "model": "m", "data": "d", "batch_size": BATCH, "epochs": 10,
            "method": {"type": method, **METHODS[method]},
        }
    )  # fmt: skip
    learner = learner_for(config, create_model("resnet18", 1, arrays.shape[1], seed=0), len(data))
    ended: list[float] = []

    def ends(loss: float) -> bool:
        ended.append(time.perf_counter())
        return len(ended) == steps + WARMUP

    work = answer.parent / f"edgevit-{time.time_ns()}"
    work.mkdir()
    context = Context(work=work, workers=0, stage_id="body", progress=SilentProgress())
    fit(learner, [TrainingStream(data)], config, context, out=work, views=config.views, ends=ends, save_every_s=1e9)
    seconds = np.diff(ended)[WARMUP - 1 :].tolist()
    peak = peak_bytes()
    assert peak is not None, "the largest memory of a process is read from Linux"
    answer.write_text(json.dumps({"seconds": seconds, "peak_mib": peak / 2**20}))


def pixels(folder: Path) -> np.ndarray:
    """The training images, (n, 32, 32, 3) uint8."""
    config = Cifar.model_validate({"source": "cifar10", "path": str(folder.absolute())})
    made = dataset_artifacts({"cifar": config}, Path(), ["cifar.train"])
    data = open_dataset(made["cifar.train"]).sample(IMAGES, seed=0)
    return np.stack([data.image(index) for index in range(len(data))])


def lightly_python(work: Path) -> str:
    """The Python of an environment with lightly and this environment's versions of torch and timm."""
    import timm
    import torchvision

    environment = Environment(work / "lightly", {})
    versions = {"torch": torch, "torchvision": torchvision, "timm": timm}
    pinned = [f"{name}=={package.__version__.partition('+')[0]}" for name, package in versions.items()]
    environment.install(["lightly>=1.6,<2", *pinned])
    return environment.program("python")


if __name__ == "__main__":
    main()
