"""The INT8 placements `all` and `sigmoid` in ONNX Runtime, on networks with SiLU: speed, SQNR and accuracy.

    python -m benchmarks.sigmoid_placement CIFAR [--rounds 10]

CIFAR is a folder with cifar-10-batches-py. Models: the CoAtNet of models/, calibrated on 256 training images and judged
on the 10,000 test images; and timm models with random weights, calibrated on random images, whose accuracy would say
nothing. SQNR is that of the logits against the float file, on 64 other images. Both files and the float one take turns
in every round, one image at a time on one thread; a speed-up is the p50 of float's turn over that of the file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import interleaved_p50_ms, publish, spread
from benchmarks.quantized_files import BATCH, correct_images, quantized_session
from benchmarks.reference_students import reference_students
from edgevit.actions.single_stage import SingleStages, single_stages
from edgevit.artifacts import Artifact, Json
from edgevit.cli.output import terminal_context
from edgevit.configs import Cifar, Export, Load
from edgevit.context import usable_cpus
from edgevit.data import Dataset, dataset_artifacts, open_dataset
from edgevit.evaluation.paired import paired_drop
from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.progress import SilentProgress
from edgevit.quantization import calibrated, image_batches
from edgevit.quantization.dialects import Placement
from edgevit.runtimes.base import HostSession, SessionOptions, random_images
from edgevit.runtimes.parity import centered_outputs, sqnr_db
from edgevit.runtimes.sessions import open_session

TRAINED = "hybrid"
RANDOM = ("efficientnet_b0", "mobilevit_xxs", "mobilevitv2_050")
PLACEMENTS: tuple[Placement, ...] = ("all", "sigmoid")
CALIBRATION_IMAGES, HELD_OUT_IMAGES = 256, 64
IMAGES = CALIBRATION_IMAGES + HELD_OUT_IMAGES
TURN_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    asked = parser.parse_args()
    cifar = Cifar(source="cifar10", path=str(asked.cifar.absolute()))
    names = ["cifar.train", "cifar.test"]
    made = dataset_artifacts({"cifar": cifar}, Path.cwd(), names)
    train, test = (open_dataset(made[name]) for name in names)
    models = {}
    with single_stages(terminal_context()) as stages:
        for name, load in _models().items():
            model = _exported(load, stages)
            drawn = _images(train, model) if name == TRAINED else random_images(model.io, IMAGES)
            models[name] = _result(model, drawn, test if name == TRAINED else None, asked.rounds)
    publish("sigmoid_placement", {"models": models})


def _models() -> dict[str, Load]:
    kept = next(student.stage for student in reference_students() if student.name == TRAINED)
    drawn = {name: Load(stage="load", id="checkpoint", model=name, num_classes=1000) for name in RANDOM}
    return {TRAINED: kept, **drawn}


def _exported(load: Load, stages: SingleStages) -> Artifact:
    return stages.make(Export(stage="export", id="onnx", model=load.id), model=stages.make(load))


def _images(train: Dataset, model: Artifact) -> NDArray[np.float32]:
    """Training images as the model takes them, (n, 3, side, side)."""
    positions = np.random.default_rng(0).choice(len(train), IMAGES, replace=False)
    return np.concatenate(list(image_batches(train, positions.tolist(), model.io, SilentProgress(), "")()))


def _result(model: Artifact, images: NDArray[np.float32], test: Dataset | None, rounds: int) -> Json:
    calibration, held_out = (_batches(part) for part in np.split(images, [CALIBRATION_IMAGES]))
    source = read_onnx(onnx_file(model))
    ready = calibrated(source, lambda: calibration, "minmax", "onnxruntime", usable_cpus(), model.path)
    sessions: dict[str, HostSession] = {"float": open_session(model, SessionOptions(threads=1))}
    for placement in PLACEMENTS:
        sessions[placement] = quantized_session(ready.quantized(placement), model, threads=1)
    expected = centered_outputs(sessions["float"], held_out)
    db = {name: sqnr_db(centered_outputs(sessions[name], held_out), expected) for name in PLACEMENTS}
    right = {} if test is None else {name: correct_images(session, test) for name, session in sessions.items()}
    image = {model.io.inputs[0].name: images[:1]}
    p50_ms = interleaved_p50_ms({name: partial(one.infer, image) for name, one in sessions.items()}, rounds, TURN_S)
    return {
        "float_top1": float(right["float"].mean()) if right else None,
        "float_p50_ms": spread(p50_ms["float"]),
        "forms": {
            name: {
                "speedup": spread([ours / form for ours, form in zip(p50_ms["float"], p50_ms[name], strict=True)]),
                "sqnr_db": db[name],
                "lost": asdict(paired_drop(right["float"], right[name])) if right else None,
            }
            for name in PLACEMENTS
        },
    }


def _batches(images: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
    return np.split(images, range(BATCH, len(images), BATCH))


if __name__ == "__main__":
    main()
