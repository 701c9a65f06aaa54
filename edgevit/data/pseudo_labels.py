"""Pseudo-labels: labels for the images of another data set, stored without the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgevit.artifacts import Artifact, Json, Manifest
from edgevit.data.dataset import Dataset, Labels

LABELS = "labels.npz"
_DATA = "data"  # key in provenance, which does not enter the digest: the images may move


def write_labels(out: Path, classes: Sequence[str], sample_ids: Sequence[str], labels: Labels) -> None:
    """Write labels.npz into folder `out`: class names, sample ids, and for each sample the index of its class."""
    np.savez_compressed(
        out / LABELS,
        classes=np.array(classes, dtype=np.str_),
        sample_ids=np.array(sample_ids, dtype=np.str_),
        labels=labels,
    )


def with_pseudo_labels(dataset: Dataset, artifact: Artifact) -> Dataset:
    """The samples of `dataset` that the artifact has labels for, with these labels and classes.

    Raises ArtifactError if labels.npz was altered after it was written.
    """
    with np.load(artifact.file(LABELS), allow_pickle=False) as arrays:
        classes, sample_ids, labels = (arrays[name] for name in ("classes", "sample_ids", "labels"))
    position_of = {sample_id: position for position, sample_id in enumerate(dataset.sample_ids)}
    positions = [position_of[sample_id] for sample_id in sample_ids.tolist()]
    return Dataset(
        name=artifact.id,
        classes=tuple(classes.tolist()),
        sample_ids=tuple(sample_ids.tolist()),
        labels=labels,
        images=dataset.images,
        indices=dataset.indices[positions],
        sha256=None if dataset.sha256 is None else dataset.sha256[positions],
    )


def source_record(data: Artifact) -> Json:
    """The entry in the provenance of pseudo-labels that tells where the labelled data set is."""
    return {_DATA: {"path": str(data.path), "manifest": data.manifest.model_dump(mode="json")}}


def source_artifact(artifact: Artifact) -> Artifact:
    """The artifact of the data set whose images the pseudo-labels are for."""
    recorded = artifact.manifest.provenance[_DATA]
    return Artifact(Path(recorded["path"]), Manifest.model_validate(recorded["manifest"]), artifact.contents)


def with_source(artifact: Artifact, data: Artifact) -> Artifact:
    """The pseudo-labels with the present location of their data set, which may have moved since they were written."""
    provenance = {**artifact.manifest.provenance, **source_record(data)}
    manifest = artifact.manifest.model_copy(update={"provenance": provenance})
    return replace(artifact, manifest=manifest, contents=data.contents)
