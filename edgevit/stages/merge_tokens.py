"""merge_tokens: checkpoint → the same weights in a model whose tokens become fewer from block to block."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import MergeTokens
from edgevit.context import Context
from edgevit.models.checkpoints import checkpoint_contents, open_to_reshape
from edgevit.models.creation import with_change
from edgevit.models.token_merging import MergedTokens


def run(config: MergeTokens, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    whole, io = open_to_reshape(inputs["model"]), inputs["model"].io
    merged = with_change(whole, MergedTokens(per_block=config.per_block))
    contents = checkpoint_contents(merged, io.classes, out, {}, {}, unnamed=not io.names_its_classes)
    share = contents.metrics["macs"] / inputs["model"].metrics["macs"]
    context.progress.say(f"    left: {share:.1%} of the MACs")
    return contents
