"""Structured pruning to a budget: what matters least for what it costs goes first, and tensors become smaller."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from edgevit.artifacts import Preprocess
from edgevit.errors import ParityError, RecipeError, first_line
from edgevit.models.agreement import LARGEST_DEVIATION, deviation
from edgevit.models.cost import macs_by_module, params_of
from edgevit.models.creation import BuiltModel
from edgevit.models.description import ModelDescription
from edgevit.models.low_rank import LowRanks
from edgevit.models.structures import Pruned, Structure, blocks_of, drop_block, structures_of
from edgevit.models.timm_models import timm_model
from edgevit.models.token_merging import MergingBlocks

Removable = Literal["heads", "hidden", "blocks"]
Cost = Literal["macs", "params"]
WHAT_ELSE = "leave the kind of structure that does it out: structures: [heads], or [hidden]"


class Importance(NamedTuple):
    """How far the loss of each image would change without a unit or a block, to first order.

    A unit's score is the mean of the square of that change over the images; units that go together have the sum of
    theirs, a block, which goes as one, its own.

    Attributes:
        units: (images, units) by the path of the structure.
        blocks: (images,) by the path of the residual block.
    """

    units: Mapping[str, Tensor]
    blocks: Mapping[str, Tensor]


class Removal(NamedTuple):
    """What is to go: units by the path of their structure, and whole blocks."""

    units: Mapping[str, Sequence[int]]
    blocks: Sequence[str]


def prunable(model: nn.Module, kinds: Sequence[Removable]) -> tuple[dict[str, Structure], list[str]]:
    """The structures of these kinds, by their paths, and the paths of the residual blocks that may go.

    Raises:
        RecipeError: the model has nothing of the kind.
    """
    inner = timm_model(model)
    if any(isinstance(module, MergingBlocks) for module in inner.modules()):
        raise RecipeError("a model that merges its tokens is no longer to be pruned", next="prune it first, then merge")
    every = structures_of(inner)
    structures = {path: one for path, one in every.items() if one.kind in kinds}
    blocks = blocks_of(inner) if "blocks" in kinds else []
    if not structures and not blocks:
        known = " and ".join(sorted({one.kind for one in every.values()}))
        raise RecipeError(
            "this model has nothing that pruning could take out whole",
            got=f"{', '.join(kinds)} of {type(inner).__name__}",
            expected=f"structures: {known}" if known else "a plain ViT, or a model with MLPs or inverted residuals",
        )
    return structures, blocks


def magnitude(structures: Mapping[str, Structure]) -> Importance:
    """Scores that need no image: the sum of the squares of the weights that would go (after Li et al. 2017)."""
    return Importance({path: _squares(one).sqrt().unsqueeze(0) for path, one in structures.items()}, {})


def plan_removal(built: BuiltModel, importance: Importance, cost: Cost, keep: float) -> Removal:
    """What matters least for what it costs, until no more than the share `keep` of the model's cost is left.

    Heads go one by one, hidden units so many at a time that a multiple of 8 stays. The next to go is what changes the
    loss least for each multiply-accumulate (or parameter) saved, unless it saves more than is needed; where everything
    does, what saves least. So the model stays below its budget by less than its cheapest step. Two heads, 8 hidden
    units and one block stay whatever they are worth.

    Raises:
        RecipeError: so much cannot go.
    """
    total, remaining = _before_any_goes(built, importance, cost)
    budget = int(keep * total)
    if remaining.reduce(total - budget) > 0:  # steps that fitted may have left the costliest block as the last one
        _, remaining = _before_any_goes(built, importance, cost)
        if remaining.reduce(total) > budget:
            raise _too_small(cost, keep, least_share(built, importance, cost))
    return Removal(remaining.gone, remaining.dropped)


def least_share(built: BuiltModel, importance: Importance, cost: Cost) -> float:
    """The share of the model's cost that stays at least, where all goes that may; rounded up to a thousandth."""
    total, remaining = _before_any_goes(built, importance, cost)
    return min(1.0, math.ceil(1000 * remaining.reduce(total) / total + 1e-6) / 1000)


def without(built: BuiltModel, removal: Removal) -> BuiltModel:
    """A copy of the model without these units and blocks, its tensors smaller, and a description that says so.

    Raises:
        ParityError: it answers otherwise than the whole model does when it is deaf to them.
    """
    smaller, deaf = copy.deepcopy(built.module), copy.deepcopy(built.module)
    for model in (smaller, deaf):
        structures = structures_of(timm_model(model))
        for path, units in removal.units.items():
            rest = sorted(set(range(structures[path].units)) - set(units))
            if model is smaller:
                structures[path].keep(rest)
            else:
                structures[path].zero(units)
        for path in removal.blocks:
            drop_block(timm_model(model), path)
    _check_same_answers(smaller, deaf, built.preprocess)
    return built._replace(module=smaller, description=_described(built, removal))


def before_and_after(model: nn.Module, removal: Removal) -> dict[Removable, tuple[int, int]]:
    """How many heads, hidden units and residual blocks that could go a model has, and how many it will have."""
    inner = timm_model(model)
    structures = structures_of(inner)
    blocks = len(blocks_of(inner))
    left = _left(structures, removal)
    return {
        "heads": _total(structures, left, "heads"),
        "hidden": _total(structures, left, "hidden"),
        "blocks": (blocks, blocks - len(removal.blocks)),
    }


class _Step(NamedTuple):
    """The next units of a structure, or a whole block, to go: how far the loss changes by it, and what it saves."""

    path: str
    units: list[int]
    loss: float
    saving: int


class _Remaining:
    """What may still go. A block that has lost some of its units is worth, and costs, what is left of it."""

    def __init__(self, structures: Mapping[str, Structure], importance: Importance, costs: Mapping[str, int]) -> None:
        self._changes = importance.units
        self._ahead = {
            path: _unit_steps(structures[path], changes, costs[path])
            for path, changes in importance.units.items()
            if costs[path]
        }
        self._blocks = dict(importance.blocks)
        self._block_costs = {path: costs[path] for path in importance.blocks}
        self.gone: dict[str, list[int]] = {}
        self.dropped: list[str] = []

    def reduce(self, excess: int) -> int:
        """Let go what matters least until so much is saved; gives how much is still to be saved, where nothing is left
        to go.
        """
        while excess > 0 and (steps := self.steps()):
            fitting = [step for step in steps if step.saving <= excess]
            if fitting:
                step = min(fitting, key=lambda step: step.loss / step.saving)
            else:
                step = min(steps, key=lambda step: (step.saving, step.loss))
            self.take(step)
            excess -= step.saving
        return excess

    def steps(self) -> list[_Step]:
        """The next of each structure, and each block but the last."""
        steps = [ahead[0] for ahead in self._ahead.values() if ahead]
        if len(self._blocks) > 1:
            steps += [_Step(path, [], _score(left), self._block_costs[path]) for path, left in self._blocks.items()]
        return steps

    def take(self, step: _Step) -> None:
        if step.path in self._blocks:
            del self._blocks[step.path]
            self.dropped.append(step.path)
            for path in [path for path in self._ahead if _block_of(path) == step.path]:
                del self._ahead[path]
                self.gone.pop(path, None)
            return
        self._ahead[step.path].pop(0)
        self.gone.setdefault(step.path, []).extend(step.units)
        if (block := _block_of(step.path)) in self._blocks:
            self._blocks[block] = self._blocks[block] - self._changes[step.path][:, step.units].sum(1)
            self._block_costs[block] -= step.saving


def _before_any_goes(built: BuiltModel, importance: Importance, cost: Cost) -> tuple[int, _Remaining]:
    """What the model costs, and all that may go of it."""
    inner = timm_model(built.module)
    total, costs = _costs(inner, importance, cost, built.preprocess)
    return total, _Remaining(structures_of(inner), importance, costs)


def _unit_steps(structure: Structure, changes: Tensor, cost: int) -> list[_Step]:
    """All steps from the least important unit on; each leaves a multiple, and no fewer than the least."""
    scores = changes.double().square().mean(0)
    order = scores.argsort(stable=True)
    left, steps = structure.units, []
    while left > structure.least:
        size = left % structure.multiple or structure.multiple
        units = order[structure.units - left :][:size]
        steps.append(_Step(structure.path, units.tolist(), float(scores[units].sum()), size * cost))
        left -= size
    return steps


def _score(changes: Tensor) -> float:
    return float(changes.double().square().mean())


def _costs(inner: nn.Module, importance: Importance, cost: Cost, preprocess: Preprocess) -> tuple[int, dict[str, int]]:
    """What the model costs, what each unit does, by its structure's path, and what each block does."""
    structures = structures_of(inner)
    if cost == "params":
        units = {path: sum(one.sizes()) // one.units for path, one in structures.items()}
        blocks = {path: params_of(inner.get_submodule(path)) for path in importance.blocks}
        return params_of(inner), {**units, **blocks}
    macs = macs_by_module(inner, preprocess.height, preprocess.width)
    units = {path: sum(macs.get(name, 0) for name in one.counted) // one.units for path, one in structures.items()}
    return macs[""], {**units, **{path: macs[path] for path in importance.blocks}}


def _squares(structure: Structure) -> Tensor:
    """The sum of the squares of each unit's weights, (units,); biases and norms do not count."""
    found = torch.zeros(structure.units)
    for layer, axis, places in structure.parts:
        weight = layer.get_parameter("weight").detach().float()
        if weight.ndim > 1:
            rows = (weight if axis == "outputs" else weight.transpose(0, 1)).flatten(1).square().sum(1)
            found += rows[places].sum(1)
    return found


def _left(structures: Mapping[str, Structure], removal: Removal) -> dict[str, int]:
    """The number of units that each structure keeps; of those in a block that goes, none."""
    return {
        path: one.units - len(removal.units.get(path, ())) if _block_of(path) not in removal.blocks else 0
        for path, one in structures.items()
    }


def _total(structures: Mapping[str, Structure], left: Mapping[str, int], kind: Removable) -> tuple[int, int]:
    some = {path: one.units for path, one in structures.items() if one.kind == kind}
    return sum(some.values()), sum(left[path] for path in some)


def _described(built: BuiltModel, removal: Removal) -> ModelDescription:
    """The description of the pruned model; low ranks of layers in blocks that go, go too."""
    earlier = built.description.change(Pruned) or Pruned()
    left = _left(structures_of(timm_model(built.module)), removal)
    units = {**earlier.units, **{path: left[path] for path in left if path in removal.units}}
    pruned = Pruned(
        units={path: count for path, count in units.items() if _block_of(path) not in removal.blocks},
        dropped=(*earlier.dropped, *removal.blocks),
    )
    description = built.description if pruned == Pruned() else built.description.with_change(pruned)
    if (low_ranks := description.change(LowRanks)) is None:
        return description
    blocks = tuple(f"{path}." for path in removal.blocks)
    ranks = {path: rank for path, rank in low_ranks.ranks.items() if not path.startswith(blocks)}
    return description.with_change(LowRanks(ranks=ranks)) if ranks else description.without_change(LowRanks)


def _block_of(path: str) -> str:
    return path.rpartition(".")[0]


def _check_same_answers(smaller: nn.Module, deaf: nn.Module, preprocess: Preprocess) -> None:
    try:
        difference = deviation(smaller, deaf, preprocess)
    except RuntimeError as error:
        raise ParityError(f"the pruned model does not run: {first_line(error)}", next=WHAT_ELSE) from None
    if not difference <= LARGEST_DEVIATION:
        raise ParityError(
            "the pruned model does not answer as the whole one without what went",
            got=f"a deviation of {difference:.2g} of the largest answer",
            expected=f"at most {LARGEST_DEVIATION:g}",
            next=WHAT_ELSE,
        )


def _too_small(cost: Cost, keep: float, least: float) -> RecipeError:
    return RecipeError(
        "pruning cannot make the model so small",
        got=f"keep_{cost}: {keep:g}",
        expected=f"at least {least:g}, where the least is left of everything that may go",
        next="let more go (structures: [heads, hidden, blocks]), or start from a smaller model",
    )
