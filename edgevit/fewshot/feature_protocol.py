"""Accuracy of heads on a model's frozen features, for `protocol: knn` and `protocol: linear` of the stage evaluate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from edgevit.artifacts import Artifact, Json
from edgevit.configs import Evaluate
from edgevit.data import open_dataset
from edgevit.data.dataset import Dataset, Labels
from edgevit.data.labels import check_has_classes_of, class_indices, labelled
from edgevit.data.splits import sample_by_hash
from edgevit.errors import DataError
from edgevit.evaluation.feature_measures import alignment, rankme, uniformity
from edgevit.evaluation.feature_record import FeatureRecord
from edgevit.fewshot.embeddings import Embedder
from edgevit.fewshot.heads import Floats
from edgevit.fewshot.probes import LabelPlan, draws_of, linear_probe, nearest_in, nearest_neighbors_probe, probed
from edgevit.progress import Progress

RECORD = "features.json"
MEASURED_IMAGES = 2000  # at most; features of all pairs of them are compared
SHOWN_QUERIES, SHOWN_NEIGHBORS = 6, 5
THUMBNAIL_SIDE = 72


def evaluate_features(
    config: Evaluate, inputs: Mapping[str, Artifact], embed: Embedder, progress: Progress, out: Path
) -> Json:
    """Fit heads to the features of the support, and predict each image of the data with them.

    Writes features.npz (the predictions), features.json, and, with `protocol: knn`, thumbnails of some images with
    their nearest neighbors. Returns the metrics.

    Raises:
        DataError: images have no labels, the support has fewer than two classes, or it lacks a class of the data.
    """
    data, support = (labelled(open_dataset(inputs[name]), "heads") for name in ("data", "support"))
    labels, support_labels = _labels_in(data, support), _labels_of(support)
    features, support_features = embed(data), embed(support)
    is_knn = config.protocol == "knn"
    probe = nearest_neighbors_probe(config.neighbors, config.temperature) if is_knn else linear_probe(config.seed)
    plan = LabelPlan(config.label_shares, config.draws, config.seed)
    heads = probed(probe, support_features, support_labels, features, plan, len(support.classes), progress)
    if not heads:
        raise DataError(
            "there are fewer labelled images than neighbors",
            where=support.name,
            got=f"{len(support)} images, neighbors {', '.join(map(str, config.neighbors))}",
            next=f"neighbors: [{max(1, len(support) // 5)}]",
        )
    record = FeatureRecord(data.sample_ids, support.classes, labels, heads)
    metrics = {**record.metrics(), "output": embed.output}
    shown: list[Json] = []
    if is_knn:
        metrics["left_out"] = _left_out(config, plan, support_labels, progress)
        metrics["features"] = _measures(config, data, features, embed)
        shown = _write_neighbors(config, data, support, labels, support_labels, features, support_features, out)
    _write(record, metrics, shown, out)
    return metrics


def _left_out(config: Evaluate, plan: LabelPlan, labels: Labels, progress: Progress) -> list[Json]:
    """The numbers of neighbors that are larger than a share of the labels. They are said."""
    left_out: list[Json] = []
    for share in plan.shares:
        draws = draws_of(labels, share, plan.draws, plan.seed)
        count = len(draws[0])
        if too_many := [k for k in config.neighbors if k > count]:
            left_out.append({"label_share": share, "support_images": count, "draws": len(draws), "neighbors": too_many})
            names = ", ".join(map(str, too_many))
            progress.say(
                f"    {config.id}: {share:.3g} of the labels are {count} images; neighbors {names} are left out"
            )
    return left_out


def _labels_of(support: Dataset) -> Labels:
    assert support.labels is not None
    if len(np.unique(support.labels)) < 2:
        raise DataError("heads need images of two classes", where=support.name, got="one class")
    return support.labels


def _labels_in(data: Dataset, support: Dataset) -> Labels:
    """The labels of the data as indices into the support's classes, matched by name."""
    assert data.labels is not None
    check_has_classes_of(support, data)
    return class_indices(data.classes, support.classes)[data.labels]


def _measures(config: Evaluate, data: Dataset, features: Floats, embed: Embedder) -> Json:
    """Rank, uniformity and, for a checkpoint, alignment of the features of at most MEASURED_IMAGES images."""
    positions = _hashed(data, MEASURED_IMAGES, config.seed)
    if len(positions) < 2:
        return {}
    sample, measured = data.subset(positions), features[positions]
    views = embed.of_views(sample, config.augmentation, 2, config.seed)
    return {
        "images": len(sample),
        "dimensions": features.shape[1],
        "rankme": rankme(measured),
        "uniformity": uniformity(measured),
        "alignment": None if views is None else alignment(views[0], views[1]),
    }


def _hashed(data: Dataset, count: int, seed: int) -> Labels:
    """The positions of the samples that `sample_by_hash` draws."""
    chosen = set(sample_by_hash(data, count, seed).sample_ids)
    return np.array([index for index, name in enumerate(data.sample_ids) if name in chosen], np.int64)


def _write_neighbors(
    config: Evaluate,
    data: Dataset,
    support: Dataset,
    labels: Labels,
    support_labels: Labels,
    features: Floats,
    support_features: Floats,
    out: Path,
) -> list[Json]:
    """Write thumbnails of some images and their nearest neighbors in the support. Hashes of the ids choose the images.

    Returns a record for each image: its file, sample_id and label, and the same of its `neighbors`, with the cosine.
    """
    queries = _hashed(data, SHOWN_QUERIES, config.seed)
    count = min(SHOWN_NEIGHBORS, len(support))
    cosines, nearest = nearest_in(support_features, features[queries], count)
    (out / "neighbors").mkdir()

    def shown(dataset: Dataset, position: int, label: int, name: str) -> Json:
        image = Image.fromarray(dataset.image(position))
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        image.save(out / name)
        return {"file": name, "sample_id": dataset.sample_ids[position], "label": support.classes[label]}

    records = []
    for row, query in enumerate(queries.tolist()):
        record = shown(data, query, int(labels[query]), f"neighbors/{row:02d}.png")
        record["neighbors"] = [
            {
                **shown(support, position, int(support_labels[position]), f"neighbors/{row:02d}-{place}.png"),
                "cosine": float(cosine),
            }
            for place, (position, cosine) in enumerate(zip(nearest[row].tolist(), cosines[row], strict=True), 1)
        ]
        records.append(record)
    return records


def _write(record: FeatureRecord, metrics: Json, shown: list[Json], out: Path) -> None:
    predicted: Json = {f"predicted_{number}": head.predicted for number, head in enumerate(record.heads)}
    names = np.array(record.sample_ids, dtype=np.str_)
    np.savez_compressed(out / "features.npz", sample_ids=names, labels=record.labels, **predicted)
    summary = {"classes": record.classes, **metrics, "neighbors": shown}
    (out / RECORD).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
