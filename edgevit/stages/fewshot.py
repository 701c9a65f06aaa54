"""fewshot: a checkpoint and a few labelled images → a checkpoint of their classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Fewshot
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.data.dataset import Dataset
from edgevit.fewshot.adapt import default_method, finetune, fit_head
from edgevit.models.checkpoints import Checkpoint, checkpoint_contents, open_checkpoint
from edgevit.training.fit import METRICS
from edgevit.training.ranks import on_ranks


def run(config: Fewshot, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    return (_finetuned if config.method == "finetune" else _with_head)(config, inputs, context, out)


@on_ranks
def _finetuned(config: Fewshot, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    checkpoint, support, pool = _opened(config, inputs)
    tuned = finetune(checkpoint, support, pool, config, context, out)
    return checkpoint_contents(tuned, support.classes, out, {"method": "finetune"}, {}, METRICS)


def _with_head(config: Fewshot, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    checkpoint, support, pool = _opened(config, inputs)
    method = config.method or default_method(pool)
    adapted = fit_head(checkpoint, support, pool, method, config, context)
    return checkpoint_contents(adapted, support.classes, out, {"method": method}, {})


def _opened(config: Fewshot, inputs: Mapping[str, Artifact]) -> tuple[Checkpoint, Dataset, Dataset | None]:
    pool = open_dataset(inputs["pool"]) if "pool" in inputs else None
    return open_checkpoint(inputs["model"], config.model_rates), open_dataset(inputs["support"]), pool
