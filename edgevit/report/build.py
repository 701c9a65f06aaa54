"""From measurements to report.json, report.md and report.html."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edgevit.artifacts import Artifact, Json
from edgevit.configs import Budget
from edgevit.provenance import untrained
from edgevit.report.advice import about_supports
from edgevit.report.checks import before_tensorrt
from edgevit.report.comparison import answer, comparisons, verdict
from edgevit.report.corruptions import under_corruption
from edgevit.report.episodes import over_episodes
from edgevit.report.lineage import cross_validated, learned_from, learned_too
from edgevit.report.page import page
from edgevit.report.text import markdown
from edgevit.report.variants import Lineup, lineup


def write_report(measurements: Sequence[Artifact], budget: Budget, name: str, out: Path) -> Json:
    """Write report.html, report.json and report.md into `out`; returns the content of report.json.

    Args:
        measurements: evaluations, latencies and checks, in the order of the recipe. Their store has the models.
        name: the title, a recipe's name.

    Raises:
        ArtifactError: a file behind a measurement was altered, or a measured model is gone.
    """
    models = lineup(measurements)
    report = report_json(models, budget, name)
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "report.md").write_text(markdown(report), encoding="utf-8")
    (out / "report.html").write_text(page(report, models), encoding="utf-8")
    return report


def report_json(models: Lineup, budget: Budget, name: str) -> Json:
    """The content of the page for programs: fractions, milliseconds, bytes; null for what was not measured."""
    return {
        "schema_version": 1,
        "name": name,
        "budget": budget.model_dump(mode="json"),
        "verdict": verdict(models, budget),
        "answer": answer(models, budget),
        "cautions": _cautions(models),
        "deployed": models.deployed.id,
        "float_student": models.float_student.id if models.float_student else None,
        "teacher": models.teacher.id if models.teacher else None,
        "comparisons": comparisons(models),
        "variants": [variant.as_json() for variant in models.variants],
        "advice": about_supports(models),
        "table_note": _table_note(models),
        "learned_from": learned_from(models),
        "corruptions": under_corruption(models),
        "episodes": over_episodes(models),
        "tensorrt": before_tensorrt(models),
    }


def _cautions(models: Lineup) -> list[str]:
    """Doubts about the accuracies and latencies in the answer: untrained weights, learned test images, noisy timing."""
    compared = [models.deployed, *(variant for _, variant in models.baselines())]
    random_weights = [f"{variant.id}: {warning}." for variant in compared if (warning := untrained(variant.model))]
    latencies = [
        f"{variant.id}: {warning}."
        for variant in compared
        if variant.latency_ms
        for warning in variant.latency_ms["warnings"]
    ]
    return [*random_weights, *cross_validated(models), *learned_too(models), *latencies]


def _table_note(models: Lineup) -> str:
    """The note below the table of variants: the test data, and what size and dash mean."""
    tested = next((variant.top1["data"] for variant in (models.deployed, *models.variants) if variant.top1), None)
    accuracy = f"Top-1 is the accuracy on {tested}, with its 95% interval. " if tested else ""
    return f"{accuracy}Size is the size of the file with the weights. –: not measured."
