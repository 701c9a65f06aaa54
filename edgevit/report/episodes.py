"""Few-shot episodes, model beside model: only evaluations of the same draws share a table."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgevit.artifacts import Artifact, Json
from edgevit.report.variants import Lineup, data_of, grouped

DRAWN_BY = ("ways", "shots", "queries", "episodes", "imbalance", "seed")


def over_episodes(found: Lineup) -> list[Json]:
    """One record for each set of draws: {data, ways, shots, …, methods, models}, models from teacher to engine."""
    return [_side_by_side(group) for group in grouped(found, found.episodic, _draws)]


def _draws(evaluation: Artifact) -> str:
    """Names the episodes that were played, and what there was to learn from."""
    inputs = evaluation.manifest.inputs
    data = [inputs[name].digest if name in inputs else None for name in ("data", "support", "pool", "base")]
    return json.dumps([data, *(evaluation.manifest.config[name] for name in DRAWN_BY)])


def _side_by_side(group: Sequence[Artifact]) -> Json:
    first = group[0]
    inputs = first.manifest.inputs
    found = {one.digest: one.metrics["episodes"] for one in group}
    return {
        "data": data_of(first).id,
        **{name: inputs[name].id if name in inputs else None for name in ("support", "pool", "base")},
        **{name: first.manifest.config[name] for name in DRAWN_BY},
        "ways": first.metrics["ways"],
        "methods": list(dict.fromkeys(method for methods in found.values() for method in methods)),
        "models": [
            {
                "id": one.manifest.inputs["model"].id,
                "evaluation": one.id,
                "runtime": one.metrics["runtime"],
                "target": one.metrics["target"],
                "methods": found[one.digest],
            }
            for one in group
        ],
    }
