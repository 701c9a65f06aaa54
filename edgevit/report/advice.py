"""The advice of few-shot stages on their support sets, in sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from edgevit.artifacts import Artifact, Json
from edgevit.errors import listed
from edgevit.report.text.numbers import interval_percent, percent
from edgevit.report.variants import Lineup
from edgevit.terminal import points

FILE = "advice.json"
SHOWN = 5


def about_supports(lineup: Lineup) -> list[Json]:
    """A record for each few-shot stage with advice: the advice, a title and sentences.

    Of several stages with the same support and model, the first stands for all.
    """
    stages: dict[tuple[str, str], Artifact] = {}
    for artifact in lineup.artifacts:
        if FILE in artifact.manifest.files:
            inputs = artifact.manifest.inputs
            stages.setdefault((inputs["support"].digest, inputs["model"].digest), artifact)
    of_several = len(stages) > 1
    return [_about(stage, "The support set" + (f" of {stage.id}" if of_several else "")) for stage in stages.values()]


def _about(stage: Artifact, title: str) -> Json:
    advice = json.loads(stage.file(FILE).read_text(encoding="utf-8"))
    support, model = stage.manifest.inputs["support"].id, stage.manifest.inputs["model"].id
    return {
        "id": stage.id,
        "title": title,
        "support": support,
        "sentences": list(_sentences(support, model, advice)),
        **advice,
    }


def _sentences(support: str, model: str, advice: Mapping[str, Any]) -> Iterator[str]:
    images, classes, shots = advice["images"], advice["classes"], advice["shots"]
    yield f"{support} holds {images} images of {classes} classes, at least {shots} of each."
    if advice["mislabelled"]:
        suspects = [
            f"{image['sample_id']}, labelled {image['label']}, looks like {image['looks_like']} "
            f"({image['probability']:.0%})"
            for image in advice["mislabelled"]
        ]
        yield f"Perhaps mislabelled, or unlike the rest of the class: {listed(suspects, SHOWN)}."
    if advice["duplicates"]:
        pairs = [f"{' and '.join(pair['sample_ids'])} (cosine {pair['cosine']:.3f})" for pair in advice["duplicates"]]
        yield f"Nearly identical images, which count twice: {listed(pairs, SHOWN)}."
    if advice["confused"]:
        pairs = [f"{' and '.join(pair['classes'])} ({pair['images']} of {pair['of']})" for pair in advice["confused"]]
        yield f"Classes with images nearer to the other class (each image left out in turn): {listed(pairs, SHOWN)}."
    yield from _on_more_images(advice["learning_curve"], model)
    pool = advice["pool"]
    if pool and pool["unlike"]:
        yield (
            f"The pool differs from the support: {pool['far']:,} of {pool['of']:,} images are farther from every class "
            "than 95% of the support's images."
        )


def _on_more_images(curve: Mapping[str, Any], model: str) -> Iterator[str]:
    """Cross-validated accuracies of a nearest centroid classifier: no estimate for the accuracy on test images."""
    if not curve["points"]:
        return
    last, outlook = curve["points"][-1], curve["outlook"]
    shots = f"{last['shots']} image{'' if last['shots'] == 1 else 's'}"
    yield (
        f"A nearest centroid classifier on the features of {model}, with {shots} of each class, is right for "
        f"{percent(last['value'])} ({interval_percent(last)}) of the support images held out. This is not the accuracy "
        "of the adapted model."
    )
    if outlook:
        yield _outlook(outlook, curve["law"])


def _outlook(outlook: Mapping[str, Any], law: str) -> str:
    gain, present = outlook["gain"], outlook["now"]
    interval = f"95% interval {points(gain['low'])} to {points(gain['high'])}"
    change = f"{points(gain['value'])} points ({interval}) above {percent(present['value'])}, by the law {law}"
    helps = "may help" if gain["low"] > 0 else "would hardly help"
    return (
        f"More images {helps} this classifier. With {outlook['shots']} images of each class, its predicted accuracy is "
        f"{change}."
    )
