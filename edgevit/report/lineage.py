"""The data sets that the models learned from, and test images among them."""

from __future__ import annotations

from collections.abc import Iterator

from edgevit.artifacts import Artifact, InputRef, Json, ancestors
from edgevit.data.duplicates import Overlap
from edgevit.provenance import data_behind, share_images
from edgevit.report.variants import Lineup, data_of, overlaps_of

MOST_IMAGES = 0.5  # of the test images: with so many learned from, the accuracy says little about new images


def learned_from(lineup: Lineup) -> list[Json]:
    """Models grouped by the data sets that they or their teachers learned from: `data` and `models`, in report order.

    Calibration data and unlabelled images count. Class names and validation data do not.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for variant in lineup.variants:
        groups.setdefault(tuple(sorted({*data_behind(variant.model).values()})), []).append(variant.id)
    return [{"data": list(data), "models": models} for data, models in groups.items() if data]


def learned_too(lineup: Lineup, in_verdict: bool) -> Iterator[str]:
    """A sentence for each test set with images that models learned from.

    Args:
        in_verdict: whether the verdict already says which images the deployed model learned from.
    """
    own = lineup.deployed.evaluation
    evaluations = [variant.evaluation for variant in lineup.variants if variant.evaluation]
    models: dict[tuple[str, Overlap], list[str]] = {}
    for evaluation in (*evaluations, *lineup.corrupted, *lineup.episodic, *lineup.featured):
        for overlap in overlaps_of(evaluation):
            models.setdefault((data_of(evaluation).id, overlap), []).append(evaluation.manifest.inputs["model"].id)
    for (tested, shared), ids in models.items():
        if in_verdict and own is not None and tested == data_of(own).id and shared in overlaps_of(own):
            continue
        labels = "" if shared.labelled else ", without labels"
        yield (
            f"{', '.join(dict.fromkeys(ids))} learned from {shared.images:,} of the {shared.of:,} test images of "
            f"{tested} (in {shared.data}{labels}). {_effect(shared)}"
        )


def validated_too(lineup: Lineup) -> Iterator[str]:
    """A sentence for each accuracy on labelled images that also decided which model or quantized form ships."""
    for variant in lineup.variants:
        if variant.evaluation is None:
            continue
        tested = data_of(variant.evaluation)
        for chosen in ancestors(variant.model):
            data, what = _chosen_by(chosen)
            if data is not None and share_images(data, tested):
                yield (
                    f"{variant.id}: '{chosen.id}' chose {what} by its accuracy on {data.id}. So the accuracy on "
                    f"{tested.id} may be too high."
                )


def _chosen_by(chosen: Artifact) -> tuple[InputRef | None, str]:
    """The images whose accuracy decided what a stage made, and what it chose; None where no accuracy decided."""
    stage, inputs = chosen.manifest.stage, chosen.manifest.inputs
    if stage == "select":
        return inputs["data"], "the model"
    if stage == "quantize" and "top1_drop" in chosen.metrics:
        return inputs.get("validation"), "the quantized form"
    return None, ""


def cross_validated(lineup: Lineup) -> Iterator[str]:
    """Sentences for each accuracy that was measured without test images."""
    for variant in lineup.variants:
        how = variant.evaluation.metrics.get("cross_validation") if variant.evaluation else None
        if variant.evaluation is None or how is None:
            continue
        optimistic = any(overlap.labelled for overlap in variant.learned_from)
        labels = (
            "The features were trained with these labels, so it is optimistic."
            if optimistic
            else "The features were trained without these labels."
        )
        yield (
            f"{variant.id}: the accuracy is by {variant.how_predicted} on its features, without test images. "
            f"{_copies_left_out(how.get('copies_left_out', 0))}{labels}"
        )


def _copies_left_out(copies: int) -> str:
    if not copies:
        return ""
    return f"{copies:,} {'copies of images were' if copies > 1 else 'copy of an image was'} left out. "


def _effect(shared: Overlap) -> str:
    """The largest effect of test images that a model learned from."""
    if shared.images >= MOST_IMAGES * shared.of:
        return "The accuracy says little about new images."
    most = 100 * shared.images / shared.of
    return f"They change the accuracy by {most:.2g} points at most."
