"""Changes of a timm model, as data. A checkpoint's description lists them, and each change has a method `apply`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, get_args

from pydantic import Field

from edgevit.models.distillation_token import DistillationToken
from edgevit.models.folding import Folded
from edgevit.models.knn_classifier import KnnClassifier
from edgevit.models.low_rank import LowRanks
from edgevit.models.structures import Pruned
from edgevit.models.token_merging import MergedTokens
from edgevit.models.views import TestTimeViews

# In the order of application. Each kind has a name, `change`, and a method `apply(model) -> nn.Module`, which may work
# in place. A new kind is a class in a file of its own and an entry here.
AnyChange = Pruned | LowRanks | MergedTokens | KnnClassifier | DistillationToken | TestTimeViews | Folded
Change = Annotated[AnyChange, Field(discriminator="change")]

KINDS: tuple[type[AnyChange], ...] = get_args(AnyChange)


def in_order(changes: Iterable[AnyChange]) -> tuple[AnyChange, ...]:
    """Changes in the order of application, whatever the order in which they were made.

    Raises:
        ValueError: there are two of a kind.
    """
    ordered = tuple(sorted(changes, key=lambda change: KINDS.index(type(change))))
    for earlier, later in pairwise(ordered):
        if type(earlier) is type(later):
            raise ValueError(f"a model has each change once, got '{later.change}' twice")
    return ordered
