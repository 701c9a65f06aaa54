"""What NVIDIA's builder made of the models that were checked, side by side."""

from __future__ import annotations

from edgevit.artifacts import Artifact, Json
from edgevit.report.variants import Lineup


def before_tensorrt(found: Lineup) -> list[Json]:
    """One record for each check, in the order of the recipe: its model's id, and what was found out."""
    return [{"id": one.manifest.inputs["model"].id, "verdict": _verdict(one), **one.metrics} for one in found.checks]


def _verdict(check: Artifact) -> str:
    found = check.metrics
    if found["builder"] is None:
        return "by rules alone: " + ("nothing speaks against it" if found["ok"] else "it breaks them")
    if not found["built"]:
        return "refused"
    if found["fell_back"]:
        return f"built, {len(found['fell_back'])} fall back"
    return "built as asked" if found["ok"] else "built, against the rules"
