"""Which data sets the models have learned from: a figure is only worth what may be compared with it."""

from __future__ import annotations

from collections.abc import Iterator

from edgevit.artifacts import LEARNED_TOO, Json
from edgevit.provenance import data_behind
from edgevit.report.variants import Lineup, data_of


def learned_from(found: Lineup) -> list[Json]:
    """Models by the data sets that they, or their teachers, were made from: `data` and `models`, in the report's order.

    Calibration counts, and so do images without labels; names of classes and validation do not.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for variant in found.variants:
        groups.setdefault(tuple(sorted({*data_behind(variant.model).values()})), []).append(variant.id)
    return [{"data": list(data), "models": models} for data, models in groups.items() if data]


def learned_too(found: Lineup) -> Iterator[str]:
    """A sentence for each data set that accuracy is measured on and that models learned pictures of."""
    measured = [one.evaluation for one in found.variants if one.evaluation]
    models: dict[tuple[str, int, str, int, bool], list[str]] = {}
    for evaluation in (*measured, *found.corrupted, *found.episodic):
        data = data_of(evaluation).id
        for one in evaluation.metrics.get(LEARNED_TOO, []):
            place = (data, one["of"], one["data"], one["images"], one["labelled"])
            models.setdefault(place, []).append(evaluation.manifest.inputs["model"].id)
    for (data, count, learned, shared, labelled), ids in models.items():
        how = "" if labelled else " without labels"
        yield (
            f"{', '.join(dict.fromkeys(ids))}: {shared:,} of the {count:,} images of {data} were learned from{how} "
            f"({learned}). Accuracy on them says little about new images."
        )
