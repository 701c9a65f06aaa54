"""Structured pruning to a budget: units of the least importance for their cost are removed, and tensors shrink."""

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
NEXT_STEP = "leave out the kind of structure that causes it: structures: [heads], or [hidden]"


class Importance(NamedTuple):
    """The change of each image's loss when a unit or a block is removed, to first order.

    The score of a unit or a block is the mean square of this change over the images. Units that are removed together
    have the sum of their scores.

    Attributes:
        units: (images, units) by the path of the structure.
        blocks: (images,) by the path of the residual block.
    """

    units: Mapping[str, Tensor]
    blocks: Mapping[str, Tensor]


class Removal(NamedTuple):
    """The parts to remove: units by the path of their structure, and whole blocks."""

    units: Mapping[str, Sequence[int]]
    blocks: Sequence[str]


def prunable(model: nn.Module, kinds: Sequence[Removable]) -> tuple[dict[str, Structure], list[str]]:
    """The structures of these kinds, by their paths, and the paths of the removable residual blocks.

    Raises:
        RecipeError: the model has none of them, or merges tokens.
    """
    inner = timm_model(model)
    if any(isinstance(module, MergingBlocks) for module in inner.modules()):
        raise RecipeError("a model that merges tokens cannot be pruned", next="prune it first, then merge tokens")
    every = structures_of(inner)
    structures = {path: structure for path, structure in every.items() if structure.kind in kinds}
    blocks = blocks_of(inner) if "blocks" in kinds else []
    if not structures and not blocks:
        known = " and ".join(sorted({structure.kind for structure in every.values()}))
        raise RecipeError(
            "this model has no structure that pruning could remove",
            got=f"{', '.join(kinds)} of {type(inner).__name__}",
            expected=f"structures: {known}" if known else "a plain ViT, or a model with MLPs or inverted residuals",
        )
    return structures, blocks


def magnitude_importance(structures: Mapping[str, Structure]) -> Importance:
    """Scores that need no images: the sum of the squares of the weights of a unit (after Li et al. 2017)."""
    units = {path: _squares(structure).sqrt().unsqueeze(0) for path, structure in structures.items()}
    return Importance(units, {})


def plan_removal(built: BuiltModel, importance: Importance, cost: Cost, keep: float) -> Removal:
    """The units and blocks of the least importance for their cost. Without them, at most the share `keep` is left.

    Heads are removed one by one, hidden units in steps that leave a multiple of 8. Each step removes the units that
    change the loss least for each saved multiply-accumulate (or parameter), among the steps that save no more than is
    still needed. If every step saves more, the step that saves least is taken. So the model is below its budget by less
    than its cheapest step. Two heads, 8 hidden units and one block always stay.

    Raises:
        RecipeError: the budget cannot be met.
    """
    total, remaining = _all_removable(built, importance, cost)
    budget = int(keep * total)
    if remaining.reduce(total - budget) > 0:  # the last block always stays, and it may be the costliest one
        _, remaining = _all_removable(built, importance, cost)
        if remaining.reduce(total) > budget:
            raise _too_small(cost, keep, smallest_share(built, importance, cost))
    return Removal(remaining.gone, remaining.dropped)


def smallest_share(built: BuiltModel, importance: Importance, cost: Cost) -> float:
    """The share of the model's cost that is left without all removable parts; rounded up to a thousandth."""
    total, remaining = _all_removable(built, importance, cost)
    return min(1.0, math.ceil(1000 * remaining.reduce(total) / total + 1e-6) / 1000)


def pruned_model(built: BuiltModel, removal: Removal) -> BuiltModel:
    """A copy of the model without these units and blocks: its tensors are smaller, and its description says so.

    Raises:
        ParityError: its outputs differ from the outputs of the whole model with these units' weights set to 0.
    """
    smaller, masked = copy.deepcopy(built.module), copy.deepcopy(built.module)
    for model in (smaller, masked):
        structures = structures_of(timm_model(model))
        for path, units in removal.units.items():
            rest = sorted(set(range(structures[path].units)) - set(units))
            if model is smaller:
                structures[path].keep(rest)
            else:
                structures[path].zero(units)
        for path in removal.blocks:
            drop_block(timm_model(model), path)
    _check_same_answers(smaller, masked, built.preprocess)
    return built._replace(module=smaller, description=_described(built, removal))


def unit_counts(model: nn.Module, removal: Removal) -> dict[Removable, tuple[int, int]]:
    """The numbers of removable heads, hidden units and residual blocks, each before and after the removal."""
    inner = timm_model(model)
    structures = structures_of(inner)
    blocks = len(blocks_of(inner))
    left = _units_left(structures, removal)
    return {
        "heads": _total(structures, left, "heads"),
        "hidden": _total(structures, left, "hidden"),
        "blocks": (blocks, blocks - len(removal.blocks)),
    }


class _Step(NamedTuple):
    """A removal of some units of a structure, or of a whole block: the change of the loss, and the cost it saves."""

    path: str
    units: list[int]
    loss: float
    saving: int


class _Remaining:
    """All that may still be removed. The score and cost of a block are those of its remaining units."""

    def __init__(self, structures: Mapping[str, Structure], importance: Importance, costs: Mapping[str, int]) -> None:
        self._changes = importance.units
        self._steps = {
            path: _unit_steps(structures[path], changes, costs[path])
            for path, changes in importance.units.items()
            if costs[path]
        }
        self._blocks = dict(importance.blocks)
        self._block_costs = {path: costs[path] for path in importance.blocks}
        self.gone: dict[str, list[int]] = {}
        self.dropped: list[str] = []

    def reduce(self, excess: int) -> int:
        """Remove units and blocks until `excess` is saved. Returns the part of `excess` that cannot be saved."""
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
        """The next step of each structure, and each block but the last."""
        steps = [structure_steps[0] for structure_steps in self._steps.values() if structure_steps]
        if len(self._blocks) > 1:
            steps += [
                _Step(path, [], _score(changes), self._block_costs[path]) for path, changes in self._blocks.items()
            ]
        return steps

    def take(self, step: _Step) -> None:
        if step.path in self._blocks:
            del self._blocks[step.path]
            self.dropped.append(step.path)
            for path in [path for path in self._steps if _block_of(path) == step.path]:
                del self._steps[path]
                self.gone.pop(path, None)
            return
        self._steps[step.path].pop(0)
        self.gone.setdefault(step.path, []).extend(step.units)
        if (block := _block_of(step.path)) in self._blocks:
            self._blocks[block] = self._blocks[block] - self._changes[step.path][:, step.units].sum(1)
            self._block_costs[block] -= step.saving


def _all_removable(built: BuiltModel, importance: Importance, cost: Cost) -> tuple[int, _Remaining]:
    """The model's cost, and all that may be removed."""
    inner = timm_model(built.module)
    total, costs = _costs(inner, importance, cost, built.preprocess)
    return total, _Remaining(structures_of(inner), importance, costs)


def _unit_steps(structure: Structure, changes: Tensor, cost: int) -> list[_Step]:
    """All steps from the least important unit on; each leaves a multiple, and at least the minimum."""
    scores = changes.double().square().mean(0)
    order = scores.argsort(stable=True)
    left, steps = structure.units, []
    while left > structure.min_units:
        size = left % structure.multiple or structure.multiple
        units = order[structure.units - left :][:size]
        steps.append(_Step(structure.path, units.tolist(), float(scores[units].sum()), size * cost))
        left -= size
    return steps


def _score(changes: Tensor) -> float:
    return float(changes.double().square().mean())


def _costs(inner: nn.Module, importance: Importance, cost: Cost, preprocess: Preprocess) -> tuple[int, dict[str, int]]:
    """The cost of the model, of one unit of each structure, by its path, and of each block, by its path."""
    structures = structures_of(inner)
    if cost == "params":
        units = {path: sum(structure.sizes()) // structure.units for path, structure in structures.items()}
        blocks = {path: params_of(inner.get_submodule(path)) for path in importance.blocks}
        return params_of(inner), {**units, **blocks}
    macs = macs_by_module(inner, preprocess.height, preprocess.width)
    units = {
        path: sum(macs.get(name, 0) for name in structure.counted) // structure.units
        for path, structure in structures.items()
    }
    return macs[""], {**units, **{path: macs[path] for path in importance.blocks}}


def _squares(structure: Structure) -> Tensor:
    """The sum of the squares of each unit's weights, (units,); biases and norms do not count."""
    squares = torch.zeros(structure.units)
    for layer, axis, places in structure.parts:
        weight = layer.get_parameter("weight").detach().float()
        if weight.ndim > 1:
            rows = (weight if axis == "outputs" else weight.transpose(0, 1)).flatten(1).square().sum(1)
            squares += rows[places].sum(1)
    return squares


def _units_left(structures: Mapping[str, Structure], removal: Removal) -> dict[str, int]:
    """The number of units that each structure keeps: 0 in a block that is removed."""
    return {
        path: structure.units - len(removal.units.get(path, ())) if _block_of(path) not in removal.blocks else 0
        for path, structure in structures.items()
    }


def _total(structures: Mapping[str, Structure], left: Mapping[str, int], kind: Removable) -> tuple[int, int]:
    units = {path: structure.units for path, structure in structures.items() if structure.kind == kind}
    return sum(units.values()), sum(left[path] for path in units)


def _described(built: BuiltModel, removal: Removal) -> ModelDescription:
    """The description of the pruned model; it lists no low ranks of layers in removed blocks."""
    earlier = built.description.change(Pruned) or Pruned()
    left = _units_left(structures_of(timm_model(built.module)), removal)
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


def _check_same_answers(smaller: nn.Module, masked: nn.Module, preprocess: Preprocess) -> None:
    try:
        difference = deviation(smaller, masked, preprocess)
    except RuntimeError as error:
        raise ParityError(f"the pruned model does not run: {first_line(error)}", next=NEXT_STEP) from None
    if not difference <= LARGEST_DEVIATION:
        raise ParityError(
            "the outputs of the pruned model differ from the whole model's with the removed units set to 0",
            got=f"a deviation of {difference:.2g} of the largest output",
            expected=f"at most {LARGEST_DEVIATION:g}",
            next=NEXT_STEP,
        )


def _too_small(cost: Cost, keep: float, least: float) -> RecipeError:
    return RecipeError(
        "pruning cannot make the model so small",
        got=f"keep_{cost}: {keep:g}",
        expected=f"at least {least:g}, with everything removed that may be removed",
        next="allow more to be removed (structures: [heads, hidden, blocks]), or start from a smaller model",
    )
