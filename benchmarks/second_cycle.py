"""A reference student trained further: a second cycle of the learning rate, from its kept weights.

    python -m benchmarks.second_cycle CIFAR WEIGHTS [--student conv] [--epochs 20] [--learning-rate 1e-3] [--threads 2]
        [--runs runs]

CIFAR and WEIGHTS are as for reference_students.py. The student learns as reference_students.yaml says but for these
two settings, and its accuracy on the test images is compared image by image with that of its kept weights.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.common import models_before, publish
from benchmarks.reference_students import RECIPE, STUDENT, lessons, reference_students
from edgevit import pipeline
from edgevit.cli.output import terminal_context
from edgevit.configs import Evaluate
from edgevit.evaluation.paired import paired_drop
from edgevit.evaluation.record import correct_predictions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--student", choices=[student.name for student in reference_students()], default="conv")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    taught = lessons(asked.cifar, asked.weights)
    kept = next(student for student in reference_students() if student.name == asked.student)
    lesson = taught.stages[STUDENT + asked.student]
    again = lesson.model_copy(
        update={
            "id": "further",
            "init": kept.name,
            "model": None,
            "model_args": {},
            "epochs": asked.epochs,
            "learning_rate": asked.learning_rate,
        }
    )
    teacher = taught.stages[lesson.model_dump()["teacher"]]
    stages = (
        teacher,
        kept.stage,
        again,
        *(
            Evaluate(stage="evaluate", id=f"{name}-top1", model=name, data="cifar.test")
            for name in (kept.name, "further")
        ),
    )
    recipe = taught.recipe("second-cycle", stages)
    done = pipeline.run(recipe, RECIPE.parent, asked.runs, terminal_context())
    before, after = done[f"{kept.name}-top1"], done["further-top1"]
    gained = paired_drop(correct_predictions(after), correct_predictions(before))
    publish(
        "second_cycle",
        {
            "students": {
                **models_before("second_cycle", "students"),
                kept.name: {
                    "epochs": [kept.description["training"]["epochs"], asked.epochs],
                    "learning_rates": [kept.description["training"]["learning_rate"], asked.learning_rate],
                    "seconds": done["further"].manifest.provenance["seconds"],
                    "top1": [before.metrics["top1"], after.metrics["top1"]],
                    "gained": asdict(gained),
                },
            }
        },
    )


if __name__ == "__main__":
    main()
