"""Which data sets the models have learned from: a figure is only worth what may be compared with it."""

from __future__ import annotations

from edgevit.artifacts import Artifact, Json, ancestors
from edgevit.report.variants import Lineup

ONLY_LOOKED_AT = ("classes_of", "val")  # inputs of a stage that no weight learns from


def learned_from(found: Lineup) -> list[Json]:
    """Models by the data sets that they, or their teachers, were made from: `data` and `models`, in the report's order.

    Calibration counts, and so do images without labels; names of classes and validation do not.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for variant in found.variants:
        groups.setdefault(tuple(_data_behind(variant.model)), []).append(variant.id)
    return [{"data": list(data), "models": models} for data, models in groups.items() if data]


def _data_behind(model: Artifact) -> list[str]:
    behind = [one for one in ancestors(model) if one.kind != "evaluation"]
    made = {one.id for one in behind}
    used = {
        ref.id
        for one in behind
        for path, ref in one.manifest.inputs.items()
        if ref.kind == "dataset" and path not in ONLY_LOOKED_AT and ref.id not in made
    }
    return sorted(used)
