"""The description that rebuilds a model without its weights: timm's name and arguments, and the changes."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import field_validator, model_validator

from edgevit.artifacts import Frozen, Json
from edgevit.configs import View
from edgevit.models.changes import AnyChange, Change, in_order
from edgevit.models.distillation_token import DistillationToken, Inference
from edgevit.models.folding import Folded
from edgevit.models.knn_classifier import KnnClassifier
from edgevit.models.low_rank import LowRanks
from edgevit.models.structures import Pruned
from edgevit.models.token_merging import MergedTokens
from edgevit.models.views import TestTimeViews

AChange = TypeVar("AChange", bound=AnyChange)


class ModelDescription(Frozen):
    """`model.json` in a checkpoint: all that rebuilds the model, without its weights.

    Attributes:
        licence: license of the pretrained weights before training, if there were any.
        changes: changes of timm's model, in the order of application; each kind at most once.
    """

    model: str
    model_args: Json = {}
    num_classes: int
    licence: str | None = None
    changes: tuple[Change, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _read_flat_fields(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or "changes" in fields:
            return fields
        flat = {name: fields[name] for name in _FlatChanges.model_fields if name in fields}
        others = {name: value for name, value in fields.items() if name not in flat}
        args = fields.get("model_args")
        image_size = args.get("img_size") if isinstance(args, dict) else None
        return {**others, "changes": _FlatChanges.model_validate(flat).changes(image_size)}

    @field_validator("changes")
    @classmethod
    def _put_in_order(cls, changes: tuple[AnyChange, ...]) -> tuple[AnyChange, ...]:
        return in_order(changes)

    def change(self, kind: type[AChange]) -> AChange | None:
        """The change of this kind; None if there is none."""
        return next((change for change in self.changes if isinstance(change, kind)), None)

    def with_change(self, change: AnyChange) -> ModelDescription:
        """A description with one more change, which replaces a change of its kind."""
        others = self.without_change(type(change))
        return others.model_copy(update={"changes": in_order((*others.changes, change))})

    def without_change(self, kind: type[AnyChange]) -> ModelDescription:
        """A description without the change of this kind."""
        others = tuple(change for change in self.changes if not isinstance(change, kind))
        return self.model_copy(update={"changes": others})


class _FlatChanges(Frozen):
    """Changes as fields of `model.json`, as earlier versions wrote them."""

    distillation_token: bool = False
    inference: Inference = "mean_softmax"
    test_time_views: tuple[View, ...] = ()
    neighbours: KnnClassifier | None = None
    folded: bool = False
    pruned: Pruned | None = None
    low_ranks: dict[str, int] = {}
    merged_tokens: int = 0

    def changes(self, image_size: int | None) -> tuple[AnyChange, ...]:
        """One change for each field that is set."""
        optional: tuple[AnyChange | None, ...] = (
            self.pruned,
            LowRanks(ranks=self.low_ranks) if self.low_ranks else None,
            MergedTokens(per_block=self.merged_tokens) if self.merged_tokens else None,
            self.neighbours,
            DistillationToken(inference=self.inference) if self.distillation_token else None,
            TestTimeViews(views=self.test_time_views) if self.test_time_views else None,
            Folded(image_size=image_size) if self.folded else None,
        )
        return tuple(change for change in optional if change is not None)
