"""train: labelled images → checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Train
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.models.checkpoints import checkpoint_contents, starting_model
from edgevit.training.fit import METRICS, fit
from edgevit.training.objectives import label_objective
from edgevit.training.streams import labelled_stream, validation_set


def run(config: Train, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    data = open_dataset(inputs["data"])
    built = starting_model(
        config.model,
        inputs.get("init"),
        data.classes,
        config.image_size,
        config.model_args,
        drop_rates=config.model_rates,
        seed=config.seed,
    )
    val = open_dataset(inputs["val"]) if "val" in inputs else None
    trained, val_top1 = fit(
        built.module,
        label_objective(len(data.classes), config.label_smoothing),
        [labelled_stream(data)],
        config,
        context,
        preprocess=built.preprocess,
        out=out,
        val=validation_set(val, data.classes),
    )
    built = built._replace(module=trained)
    return checkpoint_contents(built, data.classes, out, {"val_top1": val_top1}, {}, METRICS)
