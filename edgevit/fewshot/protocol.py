"""protocol: episodes of evaluate — a model's features as a start for new classes, over many draws."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgevit.artifacts import Artifact, Json
from edgevit.configs import Evaluate
from edgevit.data import open_dataset
from edgevit.data.dataset import Dataset, Labels
from edgevit.data.labels import class_indices, lacks_classes, missing_classes
from edgevit.data.splits import sample_by_hash
from edgevit.errors import DataError
from edgevit.fewshot.episodes import EpisodePlan, EpisodeResults, draw_episodes, run_episodes, summary
from edgevit.fewshot.heads import Floats
from edgevit.progress import Progress

Embed = Callable[[Dataset], Floats]
RECORD = "episodes.json"


def evaluate_episodes(
    config: Evaluate, inputs: Mapping[str, Artifact], embed: Embed, progress: Progress
) -> EpisodeResults:
    """Accuracy of each method on each episode that the config asks for; every image goes through the model once.

    Raises:
        DataError: images without labels, classes with too few images, queries of a class that the support lacks.
    """
    data = _labelled(open_dataset(inputs["data"]))
    assert data.labels is not None
    support = _labelled(open_dataset(inputs["support"])) if "support" in inputs else None
    plan = EpisodePlan(config.ways, config.shots, config.queries, config.episodes, config.imbalance, config.seed)
    episodes = (
        draw_episodes(data.labels, None, plan)
        if support is None
        else draw_episodes(_labels_in(support, data), data.labels, plan)
    )
    query_features, base = embed(data), _some(config, inputs, "base", embed)
    return run_episodes(
        list(episodes),
        config.methods,
        query_features if support is None else embed(support),
        query_features,
        _some(config, inputs, "pool", embed),
        None if base is None else base.mean(0),
        progress,
    )


def write_episodes(played: EpisodeResults, out: Path) -> Json:
    """Write episodes.npz (each method's accuracy on each episode) and episodes.json; gives the latter without times."""
    np.savez_compressed(
        out / "episodes.npz", methods=np.array(played.methods, dtype=np.str_), accuracies=played.accuracies
    )
    found = summary(played)
    seconds = dict(zip(played.methods, played.seconds, strict=True))
    metrics = {"episodes": found, "ways": played.ways, **({"auto_chose": played.chosen} if played.chosen else {})}
    (out / RECORD).write_text(json.dumps({**metrics, "seconds": seconds}, indent=1) + "\n", encoding="utf-8")
    return metrics


def _labelled(dataset: Dataset) -> Dataset:
    if dataset.labels is None or not len(dataset):
        got = "no labels" if len(dataset) else "no images"
        raise DataError("episodes need labelled images", where=dataset.name, got=got)
    return dataset


def _labels_in(support: Dataset, data: Dataset) -> Labels:
    """The support's labels as indices into the data's classes, matched by name; −1 for a class that `data` lacks."""
    assert support.labels is not None
    assert data.labels is not None
    query_classes = [data.classes[label] for label in np.unique(data.labels)]
    if missing_classes(query_classes, support.classes):
        advice = "name in the data set's include_classes the classes that the support has"
        raise lacks_classes("the support", query_classes, support.classes, f"{support.name}, {data.name}", advice)
    return class_indices(support.classes, data.classes)[support.labels]


def _some(config: Evaluate, inputs: Mapping[str, Artifact], name: str, embed: Embed) -> Floats | None:
    """Features of at most `max_pool_images` images of an input, if there is one."""
    if name not in inputs:
        return None
    return embed(sample_by_hash(open_dataset(inputs[name]), config.max_pool_images, config.seed))
