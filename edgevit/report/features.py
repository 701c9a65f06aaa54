"""Heads on frozen features, model beside model. Only evaluations with the same labels and images share a table."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgevit.artifacts import EMBEDDING, Artifact, Json
from edgevit.report.variants import Lineup, data_of, grouped, model_digest


def of_features(models: Lineup) -> list[Json]:
    """A record for each set of images and labels: {data, support, rows, left_out, constant_guess, same_views, models}.

    Models are in the order from teacher to student. `rows` name the heads: {head, label_share, support_images, draws}.
    `left_out` names shares with fewer labelled images than neighbors. The `top1` of a model has a place for each row,
    None where the head was not measured. `are_logits` is for files without an embedding output. `features` holds the
    measures of `protocol: knn`, None without it. Alignments of different random views do not compare: without
    `same_views`, they are None.
    """
    return [_side_by_side(group) for group in grouped(models, models.featured, _labels_of)]


def neighbors_of(models: Lineup) -> list[tuple[Artifact, list[Json]]]:
    """The evaluations by `protocol: knn`, each with images and their nearest neighbors, in the order of the tables."""
    evaluations = (each for group in grouped(models, models.featured, _labels_of) for each in group)
    recorded = ((evaluation, _record(evaluation)["neighbors"]) for evaluation in evaluations)
    return [(evaluation, neighbors) for evaluation, neighbors in recorded if neighbors]


def _labels_of(evaluation: Artifact) -> str:
    """A name for the images, and for the labels and their draws, of an evaluation."""
    inputs = evaluation.manifest.inputs
    return json.dumps([inputs["data"].digest, inputs["support"].digest, evaluation.manifest.config["seed"]])


def _side_by_side(group: Sequence[Artifact]) -> Json:
    heads = {_row(head): head for each in group for head in each.metrics["heads"]}
    rows = sorted(heads, key=lambda row: -row[0])  # of equals, in the order of the evaluations
    evaluations_of: dict[str, list[Artifact]] = {}
    for evaluation in group:
        evaluations_of.setdefault(model_digest(evaluation), []).append(evaluation)
    aligned = [each for each in group if each.metrics.get("features", {}).get("alignment") is not None]
    same_views = len({_views_of(each) for each in aligned}) < 2
    return {
        "data": data_of(group[0]).id,
        "images": group[0].metrics["images"],
        "support": group[0].manifest.inputs["support"].id,
        "constant_guess": group[0].metrics["constant_guess"],
        "rows": [{key: value for key, value in heads[row].items() if key != "top1"} for row in rows],
        "left_out": _left_out(group),
        "same_views": same_views,
        "models": [_model(evaluations, rows, same_views) for evaluations in evaluations_of.values()],
    }


def _row(head: Json) -> tuple[float, int, str]:
    """What two heads of one row have in common: share and draws of the labels, and name."""
    return head["label_share"], head["draws"], head["head"]


def _views_of(evaluation: Artifact) -> str:
    """A name for the random changes of an evaluation's views."""
    return json.dumps(evaluation.manifest.config.get("augmentation"), sort_keys=True)


def _left_out(group: Sequence[Artifact]) -> list[Json]:
    """The shares of the labels, and the neighbors, that were left out in an evaluation of a group; each once."""
    found: list[Json] = []
    for evaluation in group:
        found += [row for row in evaluation.metrics.get("left_out", []) if row not in found]
    return found


def _model(evaluations: Sequence[Artifact], rows: Sequence[tuple[float, int, str]], same_views: bool) -> Json:
    """One model, from its evaluations by `knn` and by `linear`."""
    features = next((each.metrics["features"] for each in evaluations if each.metrics.get("features")), None)
    top1 = {_row(head): head["top1"] for each in evaluations for head in each.metrics["heads"]}
    return {
        "id": evaluations[0].manifest.inputs["model"].id,
        "evaluations": [evaluation.id for evaluation in evaluations],
        "top1": [top1.get(row) for row in rows],
        "are_logits": any(each.metrics.get("output", EMBEDDING) != EMBEDDING for each in evaluations),
        "features": features if features is None or same_views else {**features, "alignment": None},
    }


def _record(evaluation: Artifact) -> Json:
    recorded: Json = json.loads(evaluation.file("features.json").read_text(encoding="utf-8"))
    return recorded
