"""for_each blocks of a recipe: copies of a list of stages, one for each value."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgevit.configs import STAGES
from edgevit.configs.fields import reference_fields
from edgevit.configs.recipe import MOST_STAGES
from edgevit.errors import RecipeError, shortened
from edgevit.yaml_reader import LONGEST_TEXT, Allowance, Block, Items, copied


def expand_for_each(document: Block, allowance: Allowance) -> None:
    """Replace each block {for_each: {NAME: [a, b]}, stages: […]} by one copy of its stages per value.

    In the copy for a, `${NAME}` becomes a, ids without it get the suffix /a, and references to ids of the block follow.

    Raises RecipeError if a block has another form, or the recipe grows too large.
    """
    stages = document.get("stages")
    if not isinstance(stages, Items):
        return
    expanded = Items(stages.place)
    for index, stage in enumerate(stages):
        place = stages.places.get(index, stages.place)
        is_block = isinstance(stage, Block) and "for_each" in stage
        for copy in _copies(stage, allowance, place) if is_block else [stage]:
            if len(expanded) == MOST_STAGES:
                raise RecipeError("the recipe has too many stages", where=place, expected=f"at most {MOST_STAGES:,}")
            expanded.places[len(expanded)] = place
            expanded.append(copy)
    document["stages"] = expanded


def _copies(block: Block, allowance: Allowance, place: str) -> Iterator[Any]:
    variables, stages = block.get("for_each"), block.get("stages")
    if not isinstance(variables, Block) or len(variables) != 1 or not isinstance(stages, Items):
        raise RecipeError("a for_each block is {for_each: {NAME: [values]}, stages: [...]}", where=place)
    ((name, values),) = variables.items()
    if not isinstance(values, Items):
        raise RecipeError(f"for_each needs a list of values for '{name}'", where=place, got=shortened(values))
    ids = {stage["id"] for stage in stages if isinstance(stage, Block) and isinstance(stage.get("id"), str)}
    id_fields = {"id"}.union(*map(reference_fields, STAGES.values()))
    variable = f"${{{name}}}"
    for value in values:
        text = str(value)
        suffix = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")
        new_ids = {id: id.replace(variable, suffix) if variable in id else f"{id}/{suffix}" for id in ids}
        replacement = _Replacement(variable, value, text, new_ids, id_fields, allowance, place)
        for stage in stages:
            yield copied(stage, allowance, place, scalar=replacement)


@dataclass(frozen=True)
class _Replacement:
    """The new value of each scalar in a block's stages, for one value of the variable.

    Attributes:
        text: the value inside a longer text.
        new_ids: the ids of the copied stages, by the ids in the block.
        id_fields: the keys under which ids stand.
    """

    variable: str
    value: Any
    text: str
    new_ids: Mapping[str, str]
    id_fields: Collection[str]
    allowance: Allowance
    place: str

    def __call__(self, scalar: Any, key: str) -> Any:
        """The new value of `scalar` under `key`."""
        if scalar == self.variable and key != "id":
            return copied(self.value, self.allowance, self.place)
        if not isinstance(scalar, str):
            return scalar
        if key in self.id_fields and scalar in self.new_ids:
            return self.new_ids[scalar]
        if scalar.count(self.variable) * len(self.text) > LONGEST_TEXT:
            raise RecipeError(
                f"the text is too long with the value of {self.variable}",
                where=self.place,
                expected=f"at most {LONGEST_TEXT:,} characters",
            )
        text = scalar.replace(self.variable, self.text)
        if unknown := re.search(r"\$\{\w+\}", text):
            raise RecipeError("for_each has no such variable", where=self.place, got=unknown[0], expected=self.variable)
        return text
