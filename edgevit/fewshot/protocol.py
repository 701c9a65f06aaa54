"""Few-shot accuracy of a model's features over many random draws, for `protocol: episodes` of the stage evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgevit.artifacts import Artifact, Json
from edgevit.configs import Evaluate
from edgevit.data import open_dataset
from edgevit.data.dataset import Dataset, Labels
from edgevit.data.labels import check_has_classes_of, class_indices, labelled
from edgevit.data.splits import sample_by_hash
from edgevit.fewshot.episodes import EpisodePlan, EpisodeResults, draw_episodes, run_episodes, summary
from edgevit.fewshot.heads import Floats
from edgevit.progress import Progress

Embed = Callable[[Dataset], Floats]
RECORD = "episodes.json"


def evaluate_episodes(
    config: Evaluate, inputs: Mapping[str, Artifact], embed: Embed, progress: Progress
) -> EpisodeResults:
    """Measure the accuracy of each method on each episode of the config. Features of each image are computed once.

    Raises:
        DataError: images have no labels, a class has too few images, or the support lacks a class of the queries.
    """
    data = labelled(open_dataset(inputs["data"]), "episodes")
    assert data.labels is not None
    support = labelled(open_dataset(inputs["support"]), "episodes") if "support" in inputs else None
    plan = EpisodePlan(config.ways, config.shots, config.queries, config.episodes, config.imbalance, config.seed)
    episodes = (
        draw_episodes(data.labels, None, plan)
        if support is None
        else draw_episodes(_labels_in(support, data), data.labels, plan)
    )
    query_features, base = embed(data), _optional_features(config, inputs, "base", embed)
    return run_episodes(
        list(episodes),
        config.methods,
        query_features if support is None else embed(support),
        query_features,
        _optional_features(config, inputs, "pool", embed),
        None if base is None else base.mean(0),
        progress,
    )


def write_episodes(results: EpisodeResults, out: Path) -> Json:
    """Write episodes.npz (each method's accuracy on each episode) and episodes.json (metrics and times).

    Returns the metrics.
    """
    np.savez_compressed(
        out / "episodes.npz", methods=np.array(results.methods, dtype=np.str_), accuracies=results.accuracies
    )
    seconds = dict(zip(results.methods, results.seconds, strict=True))
    choices = {"auto_chose": results.chosen} if results.chosen else {}
    metrics = {"episodes": summary(results), "ways": results.ways, **choices}
    (out / RECORD).write_text(json.dumps({**metrics, "seconds": seconds}, indent=1) + "\n", encoding="utf-8")
    return metrics


def _labels_in(support: Dataset, data: Dataset) -> Labels:
    """The support's labels as indices into the data's classes, matched by name; −1 for a class that `data` lacks."""
    assert support.labels is not None
    check_has_classes_of(support, data)
    return class_indices(support.classes, data.classes)[support.labels]


def _optional_features(config: Evaluate, inputs: Mapping[str, Artifact], name: str, embed: Embed) -> Floats | None:
    """Features of at most `max_pool_images` images of an input; None if the stage has no such input."""
    if name not in inputs:
        return None
    return embed(sample_by_hash(open_dataset(inputs[name]), config.max_pool_images, config.seed))
