"""Where a student for photos of ten classes should start from, with five labelled photos of each and 391 others.

    python -m benchmarks.photo_students GROCERY WEIGHTS [--draws 3] [--runs runs]

GROCERY is the folder of the Grocery Store Dataset, and WEIGHTS are EfficientNet-Lite2's, the teacher's. Students start
from the body that comes with edgevit, which has seen none of these photos, or from random weights.
photo_students.yaml holds the chain.

Each draw takes other labelled photos, and other seeds of the trainings. The test photos choose nothing. `behind` are
the points that a student is behind its teacher. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.common import ROOT, publish
from benchmarks.draws import accuracy, artifacts_of_draws, paired, parser_of_draws, recipe_of_draw
from edgevit.artifacts import Artifact
from edgevit.recipe import Recipe

RECIPE = ROOT / "benchmarks" / "photo_students.yaml"
TEACHER = "accuracy/teacher"


def main() -> None:
    asked = parser_of_draws(__doc__, "grocery", "weights").parse_args()
    made = artifacts_of_draws(lambda draw: _recipe(asked, draw), asked.draws, asked.runs)
    rows = [id.removeprefix("onnx/") for id in made[0] if id.startswith("onnx/")]
    publish(
        "photo_students",
        {
            "draws": len(made),
            "teacher": {**accuracy(made, TEACHER), **_costs(made[0]["backbone"])},
            "students": {name: {**_costs(made[0][f"student/{name}"]), **_student(made, name)} for name in rows},
        },
    )


def _recipe(asked: argparse.Namespace, draw: int) -> Recipe:
    weights = f"stages.backbone.weights={asked.weights.absolute()}"
    return recipe_of_draw(RECIPE, draw, {"photos": asked.grocery}, [weights], ("distill", "train"))


def _student(made: list[dict[str, Artifact]], name: str) -> dict[str, Any]:
    """A student's accuracy in float and in INT8, and the points that it is behind its teacher in each draw."""
    float_, int8 = (accuracy(made, f"accuracy/{form}/{name}") for form in ("student", "int8"))
    return {"float": float_, "int8": int8, "behind": paired(accuracy(made, TEACHER), int8, scale=100)}


def _costs(checkpoint: Artifact) -> dict[str, Any]:
    return {name: checkpoint.metrics[name] for name in ("params", "macs")}


if __name__ == "__main__":
    main()
