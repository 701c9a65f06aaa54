"""Changes of a recipe from the command line: --set KEY.PATH=VALUE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgevit.configs import renamed
from edgevit.configs.fields import absolute_path
from edgevit.errors import RecipeError, did_you_mean, listed, shortened
from edgevit.yaml_reader import Block, Items, yaml_value

NAMES_SHOWN = 20
OPTIONAL_BLOCKS = ("budget", "augmentation", "few_shot", "splits", "model_args")  # added where a recipe has none


def apply_setting(document: Block, setting: str, notes: list[str]) -> None:
    """Change one value: `stages.ID.key=value`. Stage ids may contain dots.

    A former name of an option counts as its current name, with a note in `notes`.

    Raises RecipeError if the setting has no `=`, or its path leads nowhere.
    """
    target, equals, text = setting.partition("=")
    where = f"--set {shortened(setting)}"
    if not equals:
        raise RecipeError("a setting has the form key.path=value", where=where)
    value = yaml_value(text, where)
    names = target.split(".")
    node: Any = document
    while len(names) > 1:
        node, names = _descend(node, names, where)
    if not isinstance(node, Block):
        raise RecipeError(f"there is no '{shortened(names[0])}' to set", where=where)
    name = names[0]
    if current := renamed.renamed_options(node.get("stage")).get(name):
        notes.append(renamed.former_name_note(name, current))
        name = current
    if name in ("path", "weights") and isinstance(value, str):
        value = str(absolute_path(value, Path()))
    node[name], node.places[name] = value, where


def _descend(node: Any, names: list[str], where: str) -> tuple[Any, list[str]]:
    """The node that the first names lead to, and the names left. The first match with the fewest names wins."""
    for length in range(1, len(names)):
        name, rest = ".".join(names[:length]), names[length:]
        if isinstance(node, Items):
            for stage in stages_in(node):
                if stage.get("id") == name:
                    return stage, rest
            if name in map(str, range(len(node))):
                return node[int(name)], rest
        elif isinstance(node, Block) and name in node:
            return node[name], rest
        elif isinstance(node, Block) and name in OPTIONAL_BLOCKS:
            node[name], node.places[name] = Block(where), where
            return node[name], rest
    known: list[str] = []
    if isinstance(node, Items):
        known = [str(stage["id"]) for stage in stages_in(node) if "id" in stage]
    elif isinstance(node, Block):
        known = list(node)
    raise RecipeError(
        f"there is no '{shortened(names[0])}' to set. {did_you_mean(names[0], known) or ''}".strip(),
        where=where,
        expected=f"one of {listed(known, NAMES_SHOWN)}" if known else None,
    )


def stages_in(stages: Items) -> Iterator[Block]:
    """The stages of a list and of its for_each blocks. A change in a for_each block reaches every copy."""
    for stage in stages:
        if isinstance(stage, Block):
            yield stage
            inner = stage.get("stages")
            yield from stages_in(inner) if isinstance(inner, Items) else ()
