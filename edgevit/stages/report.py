"""report: evaluations and latencies → one page that says whether the budget is met."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Report
from edgevit.context import Context
from edgevit.report.build import write_report


def run(config: Report, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    """A budget that is not met is an answer, not a failure: it stands in report.json's verdict."""
    measurements = [inputs[f"of.{index}"] for index in range(len(config.of))]
    report = write_report(measurements, context.budget, context.recipe_name or config.id, out, inputs.get("deployed"))
    verdict = report["verdict"]
    metrics = {"meets_budget": verdict["meets_budget"], "doubts": [doubt["kind"] for doubt in verdict["doubts"]]}
    return Contents("report", metrics=metrics, logs=("report.html",))
