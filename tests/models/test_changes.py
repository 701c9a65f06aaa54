"""Changes of a model as data: listed in one order, applied in it, and read from checkpoints of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError

from edgevit.artifacts import Artifact, FileEntry, sha256_of_file
from edgevit.errors import ArtifactError
from edgevit.models import ModelDescription, create_model, open_checkpoint
from edgevit.models.changes import AnyChange
from edgevit.models.creation import build, with_change
from edgevit.models.low_rank import LowRanks
from edgevit.models.structures import Pruned
from edgevit.models.token_merging import MergedTokens
from tests.learning import published_checkpoint

ARGS = {"patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3}
NAME = "deit_tiny_distilled_patch16_224"
# The fields of `model.json` as earlier versions wrote them, and the change that each of them stands for.
FLAT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pruned": (
        {"pruned": {"units": {"blocks.0.mlp": 16}, "dropped": ["blocks.1"]}},
        {"change": "pruned", "units": {"blocks.0.mlp": 16}, "dropped": ["blocks.1"]},
    ),
    "low_ranks": (
        {"low_ranks": {"blocks.0.mlp.fc1": 8}},
        {"change": "low_ranks", "ranks": {"blocks.0.mlp.fc1": 8}},
    ),
    "merged_tokens": ({"merged_tokens": 2}, {"change": "merged_tokens", "per_block": 2}),
    "neighbours": (
        {"neighbours": {"samples": 6, "k": 3, "scale": 4.0}},
        {"change": "knn_classifier", "samples": 6, "k": 3, "scale": 4.0},
    ),
    "distillation_token": (
        {"distillation_token": True, "inference": "class"},
        {"change": "distillation_token", "inference": "class"},
    ),
    "test_time_views": ({"test_time_views": ["flip"]}, {"change": "test_time_views", "views": ["flip"]}),
    "folded": ({"folded": True}, {"change": "folded", "image_size": 32}),
}
SAYING_NOTHING = {
    "distillation_token": False,
    "inference": "mean_softmax",
    "test_time_views": [],
    "neighbours": None,
    "folded": False,
    "pruned": None,
    "low_ranks": {},
    "merged_tokens": 0,
}


def flat_json(**fields: Any) -> dict[str, Any]:
    """`model.json` as an earlier version wrote it."""
    plain = "deit_tiny_patch16_224" if fields.get("neighbours") else NAME
    described = {"model": plain, "model_args": {**ARGS, "img_size": 32}, "num_classes": 3, "licence": None}
    return {**described, **SAYING_NOTHING, **fields}


def test_every_change_has_an_earlier_form_here() -> None:
    assert [expected["change"] for _, expected in FLAT.values()] == [
        kind.model_fields["change"].default for kind in get_args(AnyChange)
    ]


@pytest.mark.parametrize("field", FLAT)
def test_a_field_of_an_earlier_version_is_read_as_its_change_and_builds_the_model(field: str) -> None:
    flat, expected = FLAT[field]
    description = ModelDescription.model_validate_json(json.dumps(flat_json(**flat)))
    assert json.loads(description.model_dump_json())["changes"] == [expected]
    assert ModelDescription.model_validate_json(description.model_dump_json()) == description
    with torch.no_grad():
        assert build(description)(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_fields_that_say_nothing_and_fields_that_were_not_there_yet_are_no_change() -> None:
    for described in (flat_json(), {"model": NAME, "num_classes": 3}):
        assert ModelDescription.model_validate(described).changes == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pruned": "all"}, "valid dictionary"),
        ({"low_ranks": {"blocks.0.mlp.fc1": "many"}}, "valid integer"),
        ({"changes": []}, "not permitted"),  # fields of both versions
    ],
)
def test_a_damaged_field_of_an_earlier_version_is_no_description(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelDescription.model_validate(flat_json(**fields))


@pytest.mark.parametrize("changes", [[{"change": "painted"}], [{"per_block": 2}], 3, [3]])
def test_an_unknown_change_is_no_description(changes: object) -> None:
    with pytest.raises(ValidationError):
        ModelDescription.model_validate({"model": NAME, "num_classes": 3, "changes": changes})


def test_a_checkpoint_of_an_earlier_version_opens_and_answers_the_same(tmp_path: Path) -> None:
    built = create_model(NAME, 3, 32, ARGS, distillation_token=True, inference="mean_logits")
    built = with_change(built, MergedTokens(per_block=2))
    made = published_checkpoint(tmp_path, built, ("a", "b", "c"))
    file = made.path / "model.json"
    file.write_text(json.dumps(flat_json(distillation_token=True, inference="mean_logits", merged_tokens=2)))
    entry = FileEntry(sha256=sha256_of_file(file), size=file.stat().st_size)
    files = {**made.manifest.files, "model.json": entry}
    opened = open_checkpoint(Artifact(made.path, made.manifest.model_copy(update={"files": files})))
    assert opened.description == built.description
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(opened.module(images), built.module(images))
    file.write_text("[]")
    entry = FileEntry(sha256=sha256_of_file(file), size=2)
    files = {**made.manifest.files, "model.json": entry}
    with pytest.raises(ArtifactError, match="not a model description"):
        open_checkpoint(Artifact(made.path, made.manifest.model_copy(update={"files": files})))


def test_changes_have_one_order_and_each_kind_is_there_once() -> None:
    plain = ModelDescription(model=NAME, num_classes=3)
    ranks, pruned, merged = LowRanks(ranks={"a": 8}), Pruned(dropped=("blocks.1",)), MergedTokens(per_block=2)
    expected = (pruned, ranks, merged)
    assert plain.with_change(merged).with_change(ranks).with_change(pruned).changes == expected
    assert ModelDescription(model=NAME, num_classes=3, changes=(merged, pruned, ranks)).changes == expected
    fewer = MergedTokens(per_block=1)
    assert plain.with_change(merged).with_change(fewer).changes == (fewer,)
    described = plain.with_change(merged).with_change(ranks)
    assert described.change(LowRanks) is ranks
    assert described.change(Pruned) is None
    assert described.without_change(LowRanks).without_change(Pruned) == plain.with_change(merged)
    with pytest.raises(ValidationError, match="'merged_tokens' twice"):
        ModelDescription(model=NAME, num_classes=3, changes=(merged, fewer))


def test_a_change_is_made_to_a_copy() -> None:
    built = create_model(NAME, 3, 32, ARGS)._replace(classes=("a", "b", "c"))
    state = {key: value.clone() for key, value in built.module.state_dict().items()}
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = built.module(images)
        changed = with_change(built, MergedTokens(per_block=4))
        assert not torch.allclose(changed.module(images), before)
        assert torch.equal(built.module(images), before)
    assert all(torch.equal(state[key], value) for key, value in changed.module.state_dict().items())
    assert (changed.classes, built.description.changes) == (("a", "b", "c"), ())
