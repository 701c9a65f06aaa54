"""What few-shot stages found out about their support sets, in sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from edgevit.artifacts import Artifact, Json
from edgevit.errors import listed
from edgevit.report.text import interval_percent, percent
from edgevit.report.variants import Lineup

FILE = "advice.json"
SHOWN = 5


def about_supports(found: Lineup) -> list[Json]:
    """One record for each few-shot stage behind the models that has advice: what it wrote, a title and sentences."""
    advised = [one for one in found.artifacts if FILE in one.manifest.files]
    return [
        _about(one, "About the support" + (f", as {one.id} sees it" if len(advised) > 1 else "")) for one in advised
    ]


def _about(stage: Artifact, title: str) -> Json:
    told = json.loads(stage.file(FILE).read_text(encoding="utf-8"))
    support = stage.manifest.inputs["support"].id
    return {"id": stage.id, "title": title, "support": support, "sentences": list(_sentences(support, told)), **told}


def _sentences(support: str, told: Mapping[str, Any]) -> Iterator[str]:
    yield f"{support} holds {told['images']} images of {told['classes']} classes, at least {told['shots']} of each."
    if told["mislabelled"]:
        named = [
            f"{one['sample_id']}, labelled {one['label']}, looks like {one['looks_like']} ({one['probability']:.0%})"
            for one in told["mislabelled"]
        ]
        yield f"Perhaps mislabelled, or unlike the rest of the class: {listed(named, SHOWN)}."
    if told["duplicates"]:
        named = [f"{' and '.join(one['sample_ids'])} (cosine {one['cosine']:.3f})" for one in told["duplicates"]]
        yield f"Nearly the same image, so that it counts twice: {listed(named, SHOWN)}."
    if told["confused"]:
        named = [f"{' and '.join(one['classes'])} ({one['images']} of {one['of']} images)" for one in told["confused"]]
        yield f"Nearer to the other class than to their own, each image left out in turn: {listed(named, SHOWN)}."
    yield from _on_more_images(told["learning_curve"])
    pool = told["pool"]
    if pool and pool["unlike"]:
        yield (
            f"The pool looks unlike the support: {pool['far']:,} of {pool['of']:,} images are farther from every class "
            "than 95% of the support's own images."
        )


def _on_more_images(curve: Mapping[str, Any]) -> Iterator[str]:
    if not curve["points"]:
        return
    last, outlook = curve["points"][-1], curve["outlook"]
    plural = "" if last["shots"] == 1 else "s"
    yield (
        f"The nearest centroid of {last['shots']} image{plural} a class answers {percent(last['value'])} "
        f"({interval_percent(last)}) of those held out rightly."
    )
    if outlook:
        then, now = outlook["accuracy"], outlook["now"]
        yield (
            f"With {outlook['shots']} images a class it would be about {percent(then['value'])} "
            f"({interval_percent(then)}) instead of {percent(now['value'])}, by the law {curve['law']}."
        )
