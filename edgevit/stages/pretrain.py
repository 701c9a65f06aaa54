"""pretrain: images, whose labels are not used → the checkpoint of a backbone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents, Json
from edgevit.configs import Pretrain
from edgevit.context import Context
from edgevit.models.checkpoints import checkpoint_contents
from edgevit.provenance import WEIGHTS_FROM
from edgevit.training.distributed.processes import on_ranks
from edgevit.training.loop.metrics_log import METRICS
from edgevit.training.ssl.setup import UNTRAINED_CLASSES, pretrained

MEASURES = (
    "loss", "spread", "rank", "embedding_spread", "embedding_rank", "entropy", "entropy_of_mean", "pretext_top1"
)  # fmt: skip


@on_ranks
def run(config: Pretrain, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    (built, method, precision), init = pretrained(config, inputs, context, out), inputs.get("init")
    classes = UNTRAINED_CLASSES if init is None else init.io.classes
    unnamed = init is None or not init.io.names_its_classes
    metrics: Json = {"method": method, **_last_measures(out / METRICS)}
    origin = {**_origin(config, init), "precision": precision}
    return checkpoint_contents(built, classes, out, metrics, origin, METRICS, unnamed=unnamed)


def _origin(config: Pretrain, init: Artifact | None) -> Json:
    """The provenance of the weights. The classifier of `init` does not fit a body that was trained further."""
    if init is None:
        return {WEIGHTS_FROM: {"body": "trained" if config.epochs else "random", "classifier": "random"}}
    if not config.epochs:
        return {}  # that of `init`
    before = init.manifest.provenance.get(WEIGHTS_FROM, {})
    return {
        WEIGHTS_FROM: {"body": "trained", "classifier": "random" if before.get("classifier") == "random" else "stale"}
    }


def _last_measures(log: Path) -> dict[str, float]:
    """The loss and the measures of collapse in the last row of the log; {} without a row."""
    rows = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    last = json.loads(rows[-1]) if rows else {}
    return {name: value for name, value in last.items() if name in MEASURES}
