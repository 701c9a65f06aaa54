"""How well short trainings rank twelve students: top-1 after a few epochs against top-1 after many.

    python -m benchmarks.selection_rounds CIFAR [--validation 2000] [--work FOLDER]

Images, teacher and students are those of selection_exhaustive.py, but from the first training images of CIFAR-10. For
each number of images in LENGTHS, all students train to each number of epochs, each time from the start and with a
cosine of its own, as in the first round of `edgevit select`. Top-1 is on the validation images.

`rank_correlation` is Spearman's, of the students' top-1 with that of the longest training. `rank_of_best` is the place
that the best student of the longest training has. A run that was stopped goes on. About 100 minutes on one core.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from benchmarks.common import publish
from benchmarks.selection_exhaustive import MODELS, Costs, Run, students_by_macs, write_images
from edgevit.cli.output import terminal_context
from edgevit.context import Context

LENGTHS = {3000: (1, 2, 9), 400: (1, 2, 6, 15, 40)}  # images: epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--validation", type=int, default=2000)
    parser.add_argument("--work", type=Path, default=Path("runs/selection_rounds"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["EDGEVIT_CACHE"] = str(asked.work.absolute() / "cache")
    context = terminal_context(workers=0)
    rows = []
    for images, lengths in LENGTHS.items():
        work = asked.work.absolute() / str(images)
        work.mkdir(parents=True, exist_ok=True)
        write_images(asked.cifar, 0, images, asked.validation, work / "images.npz")
        top1 = {epochs: _top1(work, epochs, context) for epochs in lengths}
        rows.append({"images": images, "trainings": [_row(epochs, top1) for epochs in lengths]})
        publish("selection_rounds", {"validation": asked.validation, "sets": rows})


def _top1(work: Path, epochs: int, context: Context) -> dict[str, float]:
    costs = Costs(work / "costs.json")
    run = Run(str(epochs), work, work / "teacher", costs, context, again=False)
    return run.top1_after(students_by_macs(len(MODELS)), epochs)


def _row(epochs: int, top1: dict[int, dict[str, float]]) -> dict[str, Any]:
    longest, this = top1[max(top1)], top1[epochs]
    names = [name for name in this if name in longest]  # a training that diverged has no place
    order = sorted(names, key=lambda name: -this[name])
    return {
        "epochs": epochs,
        "rank_correlation": float(spearmanr([this[name] for name in names], [longest[name] for name in names])[0]),
        "rank_of_best": order.index(max(names, key=lambda name: longest[name])) + 1,
        "top1": {name: this[name] for name in order},
    }


if __name__ == "__main__":
    main()
