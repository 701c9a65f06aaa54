"""fewshot: a checkpoint and a few labelled images → a checkpoint of their classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Fewshot
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.fewshot.adapt import default_method, finetune, fit_head
from edgevit.models.checkpoints import checkpoint_contents, open_checkpoint
from edgevit.training.fit import METRICS


def run(config: Fewshot, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    checkpoint = open_checkpoint(inputs["model"], config.model_rates)
    support = open_dataset(inputs["support"])
    pool = open_dataset(inputs["pool"]) if "pool" in inputs else None
    method = config.method or default_method(pool)
    if method == "finetune":
        adapted = finetune(checkpoint, support, pool, config, context, out)
    else:
        adapted = fit_head(checkpoint, support, pool, method, config, context)
    return checkpoint_contents(adapted, support.classes, out, {"method": method}, {}, METRICS)
