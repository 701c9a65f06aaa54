"""Ways to make a trained ViT smaller, and their orders: accuracy against measured latency, in float and in INT8.

    python -m benchmarks.compositions CIFAR WEIGHTS [--seeds 1] [--ways NAME …] [--epochs 80] [--rounds 12]
        [--runs runs]

CIFAR is a folder with cifar-10-batches-py. WEIGHTS is cifar10_resnet56-4bfd9763.th (akamaster/pytorch_resnet_cifar10),
the teacher of all further training. Students made from the start also need cifar10_resnet20-12fca82f.th beside it, the
teacher of the model: the ViT in benchmarks/models/ (deit, reference_students.py), which learned for 80 epochs.

Each way in WAYS cuts it to about a half, or in several cuts to about a third, of its multiply-accumulates. What
trains does so for two epochs on the same 15,000 images by that teacher, however these are divided among the cuts.
`factorize` comes after `prune`, which finds no layers of its own in what is factorized. Beside them: the whole model
as it is, and trained on as long; and smaller students, shallower and narrower, made from the start as the model was
(--epochs, over an hour each by default) and trained on as long as the rest.

Each is exported and quantized for ONNX Runtime (`placement: all`), and evaluated on the 10,000 test images. All files
are then timed in turns in one process, one thread, one image at a time: the speed-up is the p50 of the whole float
model's turn in a round over theirs. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import interleaved_p50_ms, publish, spread
from benchmarks.reference_students import FORMS, IMAGES, MODELS, STUDENT, Lessons, deployed, lessons, reference_students
from edgevit import pipeline
from edgevit.artifacts import Artifact, Json
from edgevit.cli.output import terminal_context
from edgevit.configs import STAGES, Distill, Load, Stage
from edgevit.evaluation.paired import paired_drop
from edgevit.evaluation.record import correct_predictions
from edgevit.recipe import Recipe
from edgevit.runtimes.base import SessionOptions, random_images
from edgevit.runtimes.sessions import open_session

Step = Mapping[str, Any]
MODEL, WHOLE = "deit", "whole"
EPOCHS, LEARNING_RATE = 2, 5e-4
TRAINS = ("distill", "qat")


def prune(keep_macs: float, **changes: Any) -> Step:
    return {"stage": "prune", "keep_macs": keep_macs, "data": IMAGES, **changes}


def factorize(keep_macs: float) -> Step:
    return {"stage": "factorize", "keep_macs": keep_macs, "data": IMAGES}


def merge(per_block: int) -> Step:
    return {"stage": "merge_tokens", "per_block": per_block}


def train(epochs: int) -> Step:
    return {"stage": "distill", "epochs": epochs, "learning_rate": LEARNING_RATE}


def qat(epochs: int, learning_rate: float) -> Step:
    return {"stage": "qat", "epochs": epochs, "learning_rate": learning_rate}


WAYS: dict[str, tuple[Step, ...]] = {
    "whole": (),
    "whole-train": (train(EPOCHS),),
    # one cut
    "prune-train": (prune(0.5), train(EPOCHS)),
    "prune_by_magnitude-train": (prune(0.5, score="magnitude", data=None), train(EPOCHS)),
    "prune_blocks_too-train": (prune(0.5, structures=["heads", "hidden", "blocks"]), train(EPOCHS)),
    "factorize-train": (factorize(0.5), train(EPOCHS)),
    "merge": (merge(9),),
    "merge-train": (merge(9), train(EPOCHS)),
    # two cuts
    "prune-train-factorize-train": (prune(0.6), train(1), factorize(0.6), train(1)),
    "prune-factorize-train": (prune(0.6), factorize(0.6), train(EPOCHS)),
    "prune-train-merge-train": (prune(0.6), train(1), merge(9), train(1)),
    "prune-merge-train": (prune(0.6), merge(9), train(EPOCHS)),
    # when to learn to be rounded
    "prune-qat": (prune(0.5), qat(EPOCHS, LEARNING_RATE)),
    "prune-train-qat": (prune(0.5), train(1), qat(1, LEARNING_RATE / 5)),
}
FROM_THE_START: dict[str, Json] = {
    "shallower-train": {"depth": 3},
    "narrower-train": {"embed_dim": 72},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    names = [*WAYS, *FROM_THE_START]
    parser.add_argument("--ways", nargs="*", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--epochs", type=int, default=80, help="of smaller students made from the start")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--turn-s", type=float, default=0.5, help="seconds that a file is timed in each round")
    parser.add_argument("--threads", type=int, default=2, help="while training")
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    asked.ways = list(dict.fromkeys([WHOLE, *asked.ways]))
    torch.set_num_threads(asked.threads)
    made = pipeline.run(_recipe(asked), Path.cwd(), asked.runs, terminal_context())
    names = [f"{way}/{seed}" for seed in range(asked.seeds) for way in asked.ways]
    p50_ms = _p50_ms(made, names, asked)
    rows = {name: _row(made, name, p50_ms) for name in names}
    ways = {way: _summary([rows[f"{way}/{seed}"] for seed in range(asked.seeds)]) for way in asked.ways}
    publish("compositions", {"rounds": asked.rounds, "turn_s": asked.turn_s, "threads": 1, "ways": ways, "rows": rows})


def _recipe(asked: argparse.Namespace) -> Recipe:
    taught = lessons(asked.cifar, asked.weights)
    whole = next(model.stage for model in reference_students(asked.models) if model.name == MODEL)
    student = taught.stages[f"{STUDENT}{MODEL}"].model_copy(update={"epochs": asked.epochs})
    assert isinstance(student, Distill)
    assert student.teacher is not None
    stages: list[Stage] = [taught.teacher, whole]
    if set(asked.ways) & set(FROM_THE_START):
        stages.append(taught.stages[student.teacher])
    for seed in range(asked.seeds):
        for way in asked.ways:
            stages += _way(way, seed, whole, student, taught)
    return taught.recipe("compositions", stages)


def _way(way: str, seed: int, whole: Load, student: Distill, taught: Lessons) -> Iterator[Stage]:
    """The stages of one way, up to its evaluations."""
    name, start, steps = f"{way}/{seed}", whole.id, WAYS.get(way)
    if steps is None:
        args = {**student.model_args, **FROM_THE_START[way]}
        start, steps = f"{name}/student", (train(EPOCHS),)
        yield student.model_copy(update={"id": start, "model_args": args, "seed": seed})
    for number, step in enumerate(steps, 1):
        given = {"id": f"{name}/{number}", "seed": seed, **step}
        yield taught.further(start, given) if step["stage"] in TRAINS else _cut(start, given)
        start = given["id"]
    trained = {"calibrator": "trained"} if steps and steps[-1]["stage"] == "qat" else {}
    yield from deployed(name, start, seed, **trained)


def _cut(start: str, given: Json) -> Stage:
    kind = STAGES[given["stage"]]
    return kind.model_validate({"model": start, **{name: given[name] for name in given if name in kind.model_fields}})


def _p50_ms(made: Mapping[str, Artifact], names: Sequence[str], asked: argparse.Namespace) -> dict[str, list[float]]:
    """The p50 in each round of every float and INT8 file, by the ids of their stages."""
    runs = {}
    for stage_id in [f"{name}/{form}" for name in names for form in FORMS]:
        session = open_session(made[stage_id], SessionOptions())
        runs[stage_id] = partial(session.infer, {session.spec.inputs[0].name: random_images(session.spec, 1)})
    return interleaved_p50_ms(runs, asked.rounds, asked.turn_s)


def _row(made: Mapping[str, Artifact], name: str, p50_ms: Mapping[str, list[float]]) -> Json:
    """What a way of a seed gave, its drops and speed-ups against the whole float model."""
    whole = f"{WHOLE}/{name.rpartition('/')[2]}/float"
    row: Json = {cost: made[f"{name}/float"].metrics[cost] for cost in ("params", "macs")}
    for form in FORMS:
        right, whole_right = (correct_predictions(made[f"{model}-top1"]) for model in (f"{name}/{form}", whole))
        ratios = [whole_ms / form_ms for whole_ms, form_ms in zip(p50_ms[whole], p50_ms[f"{name}/{form}"], strict=True)]
        row[form] = {
            "top1": float(right.mean()),
            "top1_drop": asdict(paired_drop(whole_right, right)),
            "size_bytes": made[f"{name}/{form}"].metrics["size_bytes"],
            "p50_ms": spread(p50_ms[f"{name}/{form}"]),
            "speedup": spread(ratios),
        }
    return row


def _summary(rows: Sequence[Json]) -> Json:
    """Of all seeds: mean accuracy, and the median of the speed-ups."""
    return {
        "macs": [row["macs"] for row in rows],
        **{
            form: {
                "top1": statistics.mean(row[form]["top1"] for row in rows),
                "lost": statistics.mean(row[form]["top1_drop"]["value"] for row in rows),
                "speedup": statistics.median(row[form]["speedup"]["median"] for row in rows),
            }
            for form in FORMS
        },
    }


if __name__ == "__main__":
    main()
