"""Accuracies and latencies of the exercise: recipes/cifar10-10way-5shot.yaml for several draws of the support.

    python -m benchmarks.cifar10_exercise CIFAR ELSEWHERE WEIGHTS SMALL [--network NAME] [--draws 3] [--runs runs]

CIFAR, ELSEWHERE, WEIGHTS and SMALL are as for cifar10_students.py. ELSEWHERE holds half of CIFAR-100's training images,
so body a takes twice the recipe's epochs: as many steps as with all of them. The students' bodies, which know no label,
are trained once and serve all draws. Draw 0, the recipe's own, is left out: it was looked at while the recipe was made.

`quantize` chooses among its forms by their times, and the first draw gives latencies: nothing else may run on the
machine. --draw makes the float models of one draw beforehand, keeps them in RUNS and publishes nothing. They do not
depend on how busy the machine is, and several processes may share RUNS. stage_costs.py gives the seconds of a run.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT, publish
from benchmarks.draws import parser_of_draws
from benchmarks.imagenet_networks import add_network, result_name, settings_of_network, settings_of_small
from edgevit import pipeline
from edgevit.artifacts import Artifact
from edgevit.cli.output import terminal_context
from edgevit.configs import Bundle, Evaluate, Profile, Quantize, Report, Stage
from edgevit.fewshot.episodes import mean_interval
from edgevit.recipe import load_recipe

RECIPE = ROOT / "recipes" / "cifar10-10way-5shot.yaml"
BODY_A_EPOCHS = 2  # of 25,000 images, where the recipe takes 1 of 50,000
STEPS = (
    ("teacher-b", "teacher-a"),
    ("head-b", "teacher-b"),
    ("taught-b", "head-b"),
    ("student-b", "taught-b"),
    ("student-b", "head-b"),
    ("student-b", "teacher-b"),
    ("student-a", "teacher-a"),
    ("int8/a", "student-a"),
    ("int8/b", "student-b"),
    ("int8/teacher", "teacher-b"),
    ("int8/b", "teacher-a"),
)


def main() -> None:
    parser = parser_for(__doc__, draws=3)
    parser.add_argument("--draw", type=int, help="make the float models of this one and publish nothing")
    asked = parser.parse_args()
    if asked.draw is not None:
        _run(asked.draw, asked, float_only=True)
        return
    rows = [_draw(draw, asked) for draw in range(1, asked.draws + 1)]
    names = rows[0]["top1"].keys()
    top1 = {name: np.array([row["top1"][name] for row in rows]) for name in names}
    publish(
        result_name("cifar10_exercise", asked.network),
        {
            "draws": rows,
            "top1": {name: mean_interval(values) for name, values in top1.items()},
            "steps": {
                f"{model} - {baseline}": mean_interval(top1[model] - top1[baseline]) for model, baseline in STEPS
            },
        },
    )


def parser_for(description: str | None, draws: int, with_small: bool = True) -> argparse.ArgumentParser:
    """What benchmarks of the exercise are told; `small` if they train body a."""
    parser = parser_of_draws(description, "cifar", "elsewhere", draws=draws)
    add_network(parser)
    if with_small:
        parser.add_argument("small", type=Path)
    return parser


def settings_of(asked: argparse.Namespace) -> list[str]:
    """Where the recipe finds its data, and weights that need no network."""
    elsewhere = f"source: npz, path: {asked.elsewhere.absolute()}, splits: {{val: 0, test: 0}}"
    return [
        f"datasets.cifar.path={asked.cifar.absolute()}",
        f"datasets.elsewhere={{{elsewhere}}}",
        f"stages.body/a.epochs={BODY_A_EPOCHS}",
        *settings_of_network(asked, "imagenet"),
        *(settings_of_small(asked.small, asked.elsewhere, asked.runs, "small") if "small" in asked else ()),
    ]


def _draw(draw: int, asked: argparse.Namespace) -> dict[str, Any]:
    made = _run(draw, asked, float_only=False)
    return {
        "draw": draw,
        "top1": {
            name.removeprefix("accuracy/"): artifact.metrics["top1"]["value"] for name, artifact in made["evaluation"]
        },
        "p50_ms": {name: artifact.metrics["latency_ms"]["p50"] for name, artifact in made["latency"]},
        "size_bytes": {name: artifact.metrics["size_bytes"] for name, artifact in made["onnx"]},
    }


def _run(draw: int, asked: argparse.Namespace, float_only: bool) -> dict[str, list[tuple[str, Artifact]]]:
    """The artifacts of a draw by kind, each with the id of its stage."""
    recipe = load_recipe(RECIPE, [*settings_of(asked), f"datasets.cifar.few_shot.draw={draw}"])
    left_out = (Report, Bundle) if draw == 1 else (Report, Bundle, Profile)
    kept = tuple(
        stage
        for stage in recipe.stages
        if not isinstance(stage, left_out) and not (float_only and _depends_on_times(stage))
    )
    timed = [stage.id for stage in kept if isinstance(stage, (Quantize, Profile))]
    recipe = recipe.model_copy(update={"stages": kept})
    done = pipeline.run(recipe, RECIPE.parent, asked.runs, terminal_context(), fresh=timed)
    by_kind: dict[str, list[tuple[str, Artifact]]] = defaultdict(list)
    for stage in kept:
        by_kind[done[stage.id].kind].append((stage.id, done[stage.id]))
    return by_kind


def _depends_on_times(stage: Stage) -> bool:
    """Whether a stage's result depends on how fast models ran: a latency, an INT8 file, or the accuracy of one."""
    return isinstance(stage, (Quantize, Profile)) or (isinstance(stage, Evaluate) and stage.model.startswith("int8/"))


if __name__ == "__main__":
    main()
