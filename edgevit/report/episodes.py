"""Few-shot episodes, model beside model. Only evaluations with the same episodes share a table."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgevit.artifacts import Artifact, Json
from edgevit.report.variants import Lineup, data_of, grouped

DRAWN_BY = ("ways", "shots", "queries", "episodes", "imbalance", "seed")


def over_episodes(models: Lineup) -> list[Json]:
    """A record for each set of episodes: {data, ways, shots, …, methods, models}, models from teacher to engine."""
    return [_side_by_side(group) for group in grouped(models, models.episodic, _episodes_of)]


def _episodes_of(evaluation: Artifact) -> str:
    """A name for the episodes of an evaluation and their data sets."""
    inputs = evaluation.manifest.inputs
    data = [inputs[name].digest if name in inputs else None for name in ("data", "support", "pool", "base")]
    return json.dumps([data, *(evaluation.manifest.config[name] for name in DRAWN_BY)])


def _side_by_side(group: Sequence[Artifact]) -> Json:
    first = group[0]
    inputs = first.manifest.inputs
    by_evaluation = {evaluation.digest: evaluation.metrics["episodes"] for evaluation in group}
    return {
        "data": data_of(first).id,
        **{name: inputs[name].id if name in inputs else None for name in ("support", "pool", "base")},
        **{name: first.manifest.config[name] for name in DRAWN_BY},
        "ways": first.metrics["ways"],
        "methods": list(dict.fromkeys(method for methods in by_evaluation.values() for method in methods)),
        "models": [
            {
                "id": evaluation.manifest.inputs["model"].id,
                "evaluation": evaluation.id,
                "runtime": evaluation.metrics["runtime"],
                "target": evaluation.metrics["target"],
                "methods": by_evaluation[evaluation.digest],
            }
            for evaluation in group
        ],
    }
