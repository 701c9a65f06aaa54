"""From measurements to report.json, report.md and report.html."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edgevit.artifacts import Artifact, Json
from edgevit.budget import LearnedTestImages, Verdict
from edgevit.configs import Budget
from edgevit.provenance import untrained
from edgevit.report.advice import about_supports
from edgevit.report.attention import attention_beside
from edgevit.report.checks import before_tensorrt, scatter_of_builds, untold_precision
from edgevit.report.comparison import about_deployed, comparisons, points_of
from edgevit.report.corruptions import under_corruption
from edgevit.report.device import on_device
from edgevit.report.episodes import over_episodes
from edgevit.report.features import of_features
from edgevit.report.layer_times import layer_times_json
from edgevit.report.lineage import cross_validated, learned_from, learned_too, validated_too
from edgevit.report.page import page
from edgevit.report.selection import selections
from edgevit.report.text.latency import latency_facts
from edgevit.report.text.report import markdown
from edgevit.report.variants import Lineup, data_of, lineup
from edgevit.report.verdict import outcome, verdict_json, verdict_on


def write_report(
    measurements: Sequence[Artifact], budget: Budget, name: str, out: Path, deployed: Artifact | None = None
) -> Json:
    """Write report.html, report.json and report.md into `out`; returns the content of report.json.

    Args:
        measurements: evaluations, latencies, checks and attention, in the order of the recipe. Their store has the
            models.
        name: the title, a recipe's name.
        deployed: the deployed model; None takes the one that `lineup` finds.

    Raises:
        ArtifactError: a file behind a measurement was altered, a measured model is gone, or the deployed model was not
            measured.
    """
    models = lineup(measurements, deployed)
    report = report_json(models, budget, name)
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "report.md").write_text(markdown(report), encoding="utf-8")
    (out / "report.html").write_text(page(report, models), encoding="utf-8")
    return report


def report_json(models: Lineup, budget: Budget, name: str) -> Json:
    """The content of the page for programs: fractions, milliseconds, bytes; null for what was not measured."""
    verdict, timing = verdict_on(models, budget), models.deployed.timing
    return {
        "schema_version": 1,
        "name": name,
        "budget": budget.model_dump(mode="json"),
        "verdict": verdict_json(verdict, models),
        "answer": {**outcome(verdict), "deployed": about_deployed(models.deployed), "points": points_of(models)},
        "cautions": _cautions(models, verdict),
        "device": on_device(models),
        "latency_facts": latency_facts(timing) if timing else [],
        "offline": [batch.as_json() for batch in timing.offline] if timing else [],
        "fixed_rate": timing.fixed_rate.as_json() if timing and timing.fixed_rate else None,
        "like_mlperf": timing.like_mlperf.as_json() if timing and timing.like_mlperf else None,
        "deployed": models.deployed.id,
        "float_student": models.float_student.id if models.float_student else None,
        "teacher": models.teacher.id if models.teacher else None,
        "nearest_centroid": models.centroid.id if models.centroid else None,
        "comparisons": comparisons(models),
        "classes": models.deployed.accuracy.per_class() if models.deployed.accuracy else [],
        "variants": [variant.as_json() for variant in models.variants],
        "advice": about_supports(models),
        "table_note": _table_note(models),
        "selections": selections(models),
        "learned_from": learned_from(models),
        "corruptions": under_corruption(models),
        "episodes": over_episodes(models),
        "features": of_features(models),
        "attention": attention_beside(models),
        "layer_times": layer_times_json(models),
        "tensorrt": before_tensorrt(models),
    }


def _cautions(models: Lineup, verdict: Verdict) -> list[str]:
    """Doubts about the numbers that the deployed model is compared with, about latencies, and about engines.

    Doubts about the accuracy of the deployed model are in the verdict, but for images that chose its quantized form.
    """
    baselines = [variant for _, variant in models.baselines()]
    random_weights = [f"{variant.id}: {warning}." for variant in baselines if (warning := untrained(variant.model))]
    in_verdict = any(isinstance(doubt, LearnedTestImages) for doubt in verdict.doubts)
    shared, chosen = learned_too(models, in_verdict), validated_too(models)
    timed = [models.deployed, *(variant for _, variant in models.timed_baselines())]
    latencies = [
        f"{variant.id}: {warning}." for variant in timed if variant.timing for warning in variant.timing.warnings
    ]
    latencies += [
        f"{variant.id}: {one}." for variant in timed if variant.timing for one in variant.timing.scenario_failed
    ]
    latencies += [  # that of the deployed model is in the verdict
        f"{variant.id}: the latency is invalid: {reason}."
        for variant in timed[1:]
        if variant.timing
        for reason in variant.timing.invalid
    ]
    measured = [variant.model for variant in models.variants]
    warnings = ((engine, warn(engine)) for engine in measured for warn in (untold_precision, scatter_of_builds))
    engines = [f"{engine.id}: {warning}." for engine, warning in warnings if warning]
    return list(dict.fromkeys([*random_weights, *cross_validated(models), *shared, *chosen, *latencies, *engines]))


def _table_note(models: Lineup) -> str:
    """The note below the table of variants: the test data, and what size and dash mean."""
    tested = next((variant.evaluation for variant in (models.deployed, *models.variants) if variant.evaluation), None)
    accuracy = f"Top-1 is the accuracy on {data_of(tested).id}, with its 95% interval. " if tested else ""
    return f"{accuracy}Size is the size of the file with the weights. –: not measured."
