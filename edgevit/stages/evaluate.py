"""evaluate: accuracy of a model where it will run → every prediction, top-1 with its interval, mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Evaluate
from edgevit.context import Context, usable_cpus
from edgevit.data import open_dataset
from edgevit.data.splits import drawn
from edgevit.evaluation import classify, classify_corrupted, write_corrupted, write_evaluation
from edgevit.runtimes.base import SessionOptions, runtime_of
from edgevit.targets import target_for


def run(config: Evaluate, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    model, dataset = inputs["model"], open_dataset(inputs["data"])
    with target_for(config.target).open(model, SessionOptions(threads=usable_cpus())) as session:
        if config.protocol == "corruptions":
            dataset = drawn(dataset, config.max_images, config.seed)
            hurt = classify_corrupted(
                session, dataset, config.kinds, config.severities, config.seed, config.batch_size, context.progress
            )
            metrics = write_corrupted(hurt, dataset, out)
        else:
            metrics = write_evaluation(classify(session, dataset, config.batch_size, context.progress), dataset, out)
    return Contents(kind="evaluation", metrics={**metrics, "runtime": runtime_of(model), "target": config.target})
