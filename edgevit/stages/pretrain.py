"""pretrain: images, whose labels are not used → the checkpoint of a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Pretrain
from edgevit.context import Context
from edgevit.models.checkpoints import checkpoint_contents
from edgevit.provenance import WEIGHTS_FROM
from edgevit.training.distributed.processes import on_ranks
from edgevit.training.loop.metrics_log import METRICS
from edgevit.training.ssl.setup import UNTRAINED_CLASSES, pretrained


@on_ranks
def run(config: Pretrain, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    built, init = pretrained(config, inputs, context, out), inputs.get("init")
    classes = UNTRAINED_CLASSES if init is None else init.io.classes
    origin = {} if init is None else init.manifest.provenance.get(WEIGHTS_FROM, {})
    body = "trained" if config.epochs else origin.get("body", "random")
    provenance = {WEIGHTS_FROM: {"body": body, "classifier": origin.get("classifier", "random")}}
    unnamed = init is None or not init.io.names_its_classes
    metrics = {"method": config.method.type}
    return checkpoint_contents(built, classes, out, metrics, provenance, METRICS, unnamed=unnamed)
