"""evaluate: accuracy of a model where it will run → every prediction, top-1 with its interval, mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.artifacts import LEARNED_TOO, Artifact, Contents, Json
from edgevit.configs import Evaluate
from edgevit.configs.targets import LOCAL_GPU
from edgevit.context import Context
from edgevit.data import Dataset, open_dataset
from edgevit.data.duplicates import Overlap
from edgevit.data.splits import sample_by_hash
from edgevit.evaluation import classify, classify_corrupted, write_corrupted, write_evaluation
from edgevit.progress import Progress
from edgevit.provenance import data_behind
from edgevit.runtimes.base import Session, SessionOptions, for_runtime, runtime_of
from edgevit.targets import target_for

if TYPE_CHECKING:
    from edgevit.fewshot.embeddings import Embedder


def run(config: Evaluate, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    model = for_runtime(inputs["model"], config.runtime)
    with target_for(config.target, context).open(model, SessionOptions(threads=None)) as session:
        metrics = PROTOCOLS[config.protocol](config, inputs, session, context, out)
    logs = ("episodes.json",) if config.protocol == "episodes" else ()  # for the times in it
    learned = _learned_too(config, inputs, context.progress)
    recorded = {**metrics, **learned, "runtime": runtime_of(model), "target": config.target}
    return Contents(kind="evaluation", metrics=recorded, logs=logs)


def _learned_too(config: Evaluate, inputs: Mapping[str, Artifact], progress: Progress) -> Json:
    """The tested images that the model, or a teacher of it, has learned from; nothing where there are none.

    A protocol that replaces the head does not count the images that the head was fitted to, but those of the new head.
    """
    has_new_head = config.protocol in ("knn", "linear")
    behind = data_behind(inputs["model"], of_body=has_new_head or config.protocol == "cross_validation")
    overlaps = inputs["data"].manifest.provenance.get(LEARNED_TOO, [])
    learned = [
        {key: overlap[key] for key in overlap if key != "digest"} for overlap in overlaps if overlap["digest"] in behind
    ]
    if "support" in inputs:
        shared = _in_support(open_dataset(inputs["data"]), open_dataset(inputs["support"]), progress)
        learned += shared if has_new_head else []  # episodes only say so
    return {LEARNED_TOO: learned} if learned else {}


def _in_support(tested: Dataset, support: Dataset, progress: Progress) -> list[Json]:
    """The tested images that new heads may be fitted to, compared by content; empty if there are none."""
    known = set(support.contents())
    images = sum(content in known for content in tested.contents())
    if not images:
        return []
    progress.say(f"    note: {images} of the {len(tested)} test images are in the support: the accuracy is too high")
    return [asdict(Overlap(support.name, True, images, len(tested)))]


def _standard(config: Evaluate, inputs: Mapping[str, Artifact], session: Session, context: Context, out: Path) -> Json:
    dataset = open_dataset(inputs["data"])
    return write_evaluation(classify(session, dataset, config.batch_size, context.progress), dataset, out)


def _corruptions(
    config: Evaluate, inputs: Mapping[str, Artifact], session: Session, context: Context, out: Path
) -> Json:
    dataset = sample_by_hash(open_dataset(inputs["data"]), config.max_images, config.seed)
    hurt = classify_corrupted(
        session, dataset, config.kinds, config.severities, config.seed, config.batch_size, context.progress
    )
    return write_corrupted(hurt, dataset, out)


def _episodes(config: Evaluate, inputs: Mapping[str, Artifact], session: Session, context: Context, out: Path) -> Json:
    from edgevit.fewshot.protocol import evaluate_episodes, write_episodes

    embed = _embedder(config, inputs, session, context)
    return write_episodes(evaluate_episodes(config, inputs, embed, context.progress), out)


def _cross_validation(
    config: Evaluate, inputs: Mapping[str, Artifact], session: Session, context: Context, out: Path
) -> Json:
    from edgevit.fewshot.cross_validated import cross_validate

    (method,) = config.methods
    dataset, embed = open_dataset(inputs["data"]), _embedder(config, inputs, session, context)
    result = cross_validate(dataset, method, config.seed, embed, context.progress)
    how = {"folds": result.folds, "method": method, "copies_left_out": result.copies}
    return {**write_evaluation(result.predictions, result.dataset, out), "cross_validation": how}


def _new_heads(config: Evaluate, inputs: Mapping[str, Artifact], session: Session, context: Context, out: Path) -> Json:
    from edgevit.fewshot.feature_protocol import evaluate_features

    return evaluate_features(config, inputs, _embedder(config, inputs, session, context), context.progress, out)


def _embedder(config: Evaluate, inputs: Mapping[str, Artifact], session: Session, context: Context) -> Embedder:
    from edgevit.fewshot.embeddings import Embedder

    device = "cuda" if config.target == LOCAL_GPU else "cpu"
    return Embedder(inputs["model"], session, device, config.batch_size, context.progress, context.cache)


PROTOCOLS = {
    "standard": _standard,
    "corruptions": _corruptions,
    "episodes": _episodes,
    "cross_validation": _cross_validation,
    "knn": _new_heads,
    "linear": _new_heads,
}
