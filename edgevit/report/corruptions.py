"""Accuracy under corruption, model beside model: only evaluations of the same hurt pictures share a table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from edgevit.artifacts import Artifact, Json
from edgevit.report.variants import Lineup, data_of, grouped, model_digest


def under_corruption(found: Lineup) -> list[Json]:
    """One record for each set of hurt pictures: {data, n, kinds, severities, models}, models from teacher to engine."""
    return [_side_by_side(group) for group in grouped(found, found.corrupted, _pictures)]


def _pictures(evaluation: Artifact) -> str:
    """Names the hurt pictures that were shown."""
    config = evaluation.manifest.config
    drawn = (config["seed"], evaluation.metrics["top1"]["n"])
    return json.dumps([data_of(evaluation).digest, sorted(config["kinds"]), sorted(config["severities"]), drawn])


def _side_by_side(group: Sequence[Artifact]) -> Json:
    config, times = group[0].manifest.config, Counter(map(model_digest, group))
    return {
        "data": data_of(group[0]).id,
        "n": group[0].metrics["top1"]["n"],
        "kinds": config["kinds"],
        "severities": sorted(config["severities"]),
        "models": [_model(one, alone=times[model_digest(one)] == 1) for one in group],
    }


def _model(evaluation: Artifact, alone: bool) -> Json:
    recorded = json.loads(evaluation.file("evaluation.json").read_text(encoding="utf-8"))["corruptions"]
    model = evaluation.manifest.inputs["model"].id
    return {
        "id": model if alone else f"{model}@{evaluation.id}",
        "evaluation": evaluation.id,
        "runtime": evaluation.metrics["runtime"],
        "target": evaluation.metrics["target"],
        "top1": evaluation.metrics["top1"],
        "mean": recorded["mean"],
        "by_kind": recorded["by_kind"],
        "by_severity": recorded["by_severity"],
        "kinds": recorded["kinds"],
    }
