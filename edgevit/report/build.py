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
from edgevit.report.lineage import learned_from, learned_too
from edgevit.report.page import page
from edgevit.report.text import markdown
from edgevit.report.variants import Lineup, lineup


def write_report(measurements: Sequence[Artifact], budget: Budget, name: str, out: Path) -> Json:
    """Write report.html, report.json and report.md into `out`; gives what report.json holds.

    Args:
        measurements: evaluations, latencies and checks, in the order of the recipe; their store leads to the models.
        name: the title, a recipe's name.

    Raises:
        ArtifactError: a file behind a measurement was altered, or a measured model is gone.
    """
    found = lineup(measurements)
    report = report_json(found, budget, name)
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "report.md").write_text(markdown(report), encoding="utf-8")
    (out / "report.html").write_text(page(report, found), encoding="utf-8")
    return report


def report_json(found: Lineup, budget: Budget, name: str) -> Json:
    """Everything the page says, for programs: fractions, milliseconds, bytes; null where nothing was measured."""
    return {
        "schema_version": 1,
        "name": name,
        "budget": budget.model_dump(mode="json"),
        "verdict": verdict(found, budget),
        "answer": answer(found, budget),
        "cautions": _cautions(found),
        "deployed": found.deployed.id,
        "float_student": found.float_student.id if found.float_student else None,
        "teacher": found.teacher.id if found.teacher else None,
        "comparisons": comparisons(found),
        "variants": [one.as_json() for one in found.variants],
        "advice": about_supports(found),
        "table_note": _table_note(found),
        "learned_from": learned_from(found),
        "corruptions": under_corruption(found),
        "episodes": over_episodes(found),
        "tensorrt": before_tensorrt(found),
    }


def _cautions(found: Lineup) -> list[str]:
    """What makes an accuracy or a latency doubtful that the answer rests on; untrained weights come first."""
    answering = [found.deployed, *(one for _, one in found.baselines())]
    random = [f"{one.id}: {warning}." for one in answering if (warning := untrained(one.model))]
    latencies = [
        f"{one.id}: {warning}." for one in answering if one.latency_ms for warning in one.latency_ms["warnings"]
    ]
    return [*random, *learned_too(found), *latencies]


def _table_note(found: Lineup) -> str:
    """The conditions under which the numbers of the table were taken, said once."""
    tested = next((one.top1["data"] for one in (found.deployed, *found.variants) if one.top1), None)
    accuracy = f"Top-1 on {tested} with 95% intervals. " if tested else ""
    return f"{accuracy}Size is that of the file with the weights. A dash: not measured."
