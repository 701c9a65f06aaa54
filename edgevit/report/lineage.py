"""The data sets that the models learned from, and test images among them."""

from __future__ import annotations

from collections.abc import Iterator

from edgevit.artifacts import LEARNED_TOO, Json
from edgevit.provenance import data_behind
from edgevit.report.variants import Lineup, data_of


def learned_from(lineup: Lineup) -> list[Json]:
    """Models grouped by the data sets that they or their teachers learned from: `data` and `models`, in report order.

    Calibration data and unlabelled images count. Class names and validation data do not.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for variant in lineup.variants:
        groups.setdefault(tuple(sorted({*data_behind(variant.model).values()})), []).append(variant.id)
    return [{"data": list(data), "models": models} for data, models in groups.items() if data]


def learned_too(lineup: Lineup) -> Iterator[str]:
    """A sentence for each test set with images that models learned from."""
    evaluations = [variant.evaluation for variant in lineup.variants if variant.evaluation]
    models: dict[tuple[str, int, str, int, bool], list[str]] = {}
    for evaluation in (*evaluations, *lineup.corrupted, *lineup.episodic):
        data = data_of(evaluation).id
        for overlap in evaluation.metrics.get(LEARNED_TOO, []):
            shared = (data, overlap["of"], overlap["data"], overlap["images"], overlap["labelled"])
            models.setdefault(shared, []).append(evaluation.manifest.inputs["model"].id)
    for (data, count, learned, images, is_labelled), ids in models.items():
        labels = "" if is_labelled else ", without labels"
        yield (
            f"{', '.join(dict.fromkeys(ids))} learned from {images:,} of the {count:,} test images of {data} "
            f"(in {learned}{labels}). The accuracy on them says little about new images."
        )


def cross_validated(lineup: Lineup) -> Iterator[str]:
    """A sentence for each accuracy that was measured without test images."""
    for variant in lineup.variants:
        how = variant.evaluation.metrics.get("cross_validation") if variant.evaluation else None
        if variant.evaluation is None or how is None:
            continue
        optimistic = any(overlap["labelled"] for overlap in variant.evaluation.metrics.get(LEARNED_TOO, []))
        yield (
            f"{variant.id}: the accuracy is by {how['folds']}-fold cross-validation of a head ({how['method']}) on its "
            f"features, without test images. "
            + (
                "The features were trained with these labels, so it is optimistic."
                if optimistic
                else "The features were trained without these labels."
            )
        )
