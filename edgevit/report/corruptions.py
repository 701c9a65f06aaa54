"""Accuracy under corruption, model beside model. Only evaluations on the same corrupted images share a table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from edgevit.artifacts import Artifact, Json
from edgevit.report.variants import Lineup, data_of, grouped, model_digest


def under_corruption(models: Lineup) -> list[Json]:
    """A record for each set of corrupted images: {data, n, kinds, severities, models}, teacher first."""
    return [_side_by_side(group) for group in grouped(models, models.corrupted, _corrupted_images)]


def _corrupted_images(evaluation: Artifact) -> str:
    """A name for the corrupted images of an evaluation."""
    config = evaluation.manifest.config
    sample = (config["seed"], evaluation.metrics["top1"]["n"])
    return json.dumps([data_of(evaluation).digest, sorted(config["kinds"]), sorted(config["severities"]), sample])


def _side_by_side(group: Sequence[Artifact]) -> Json:
    config, evaluations_of = group[0].manifest.config, Counter(map(model_digest, group))
    return {
        "data": data_of(group[0]).id,
        "n": group[0].metrics["top1"]["n"],
        "kinds": config["kinds"],
        "severities": sorted(config["severities"]),
        "models": [_model(evaluation, is_only=evaluations_of[model_digest(evaluation)] == 1) for evaluation in group],
    }


def _model(evaluation: Artifact, is_only: bool) -> Json:
    recorded = json.loads(evaluation.file("evaluation.json").read_text(encoding="utf-8"))["corruptions"]
    model = evaluation.manifest.inputs["model"].id
    return {
        "id": model if is_only else f"{model}@{evaluation.id}",
        "evaluation": evaluation.id,
        "runtime": evaluation.metrics["runtime"],
        "target": evaluation.metrics["target"],
        "top1": evaluation.metrics["top1"],
        "mean": recorded["mean"],
        "by_kind": recorded["by_kind"],
        "by_severity": recorded["by_severity"],
        "kinds": recorded["kinds"],
    }
