"""The selections behind the deployed model, for the report."""

from __future__ import annotations

from edgevit.artifacts import Json
from edgevit.report.variants import Lineup


def selections(models: Lineup) -> list[Json]:
    """The record of each `select` stage that the deployed model went through, with its id; the last stage first."""
    return [{"id": model.id, **model.metrics["selection"]} for model in models.line if model.manifest.stage == "select"]
