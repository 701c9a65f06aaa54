"""factorize: checkpoint → a cheaper checkpoint, in which two thin linear layers stand for one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from edgevit.artifacts import Artifact, Contents
from edgevit.compression.low_rank import with_low_ranks
from edgevit.compression.second_moments import second_moments
from edgevit.configs import Factorize
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.models.checkpoints import checkpoint_contents, open_to_reshape
from edgevit.models.cost import share_left
from edgevit.models.low_rank import LowRanks


def run(config: Factorize, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    built, io = open_to_reshape(inputs["model"]), inputs["model"].io
    dataset = open_dataset(inputs["data"]).sample(config.images, config.seed)
    moments = second_moments(built, dataset, torch.device(context.device), context.progress)
    thinner = with_low_ranks(built, moments, config.keep_macs)
    contents = checkpoint_contents(thinner, io.classes, out, {}, {}, unnamed=not io.names_its_classes)
    low_ranks = thinner.description.change(LowRanks)
    divided = f"{len(low_ranks.ranks) if low_ranks else 0} of {len(moments)} linear layers are two"
    context.progress.say(f"    left: {share_left(inputs['model'].metrics, contents.metrics)}; {divided}")
    return contents
