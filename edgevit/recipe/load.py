"""Read and check a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edgevit.configs import Recipe, renamed, with_absolute_files
from edgevit.configs.fields import check_utf8
from edgevit.errors import RecipeError
from edgevit.recipe.checks import mistakes_across_stages, with_patterns_resolved, within_budget
from edgevit.recipe.for_each import expand_for_each
from edgevit.recipe.mistakes import MISTAKES_SHOWN, combined, mistakes_of
from edgevit.recipe.settings import apply_setting, stages_in
from edgevit.recipes import find_recipe
from edgevit.yaml_reader import Allowance, Block, Items, read_yaml


def load_recipe(path: Path, settings: Sequence[str] = (), say: Callable[[str], None] | None = None) -> Recipe:
    """The recipe of `recipe_and_folder`, without the folder."""
    return recipe_and_folder(path, settings, say)[0]


def recipe_and_folder(
    path: Path, settings: Sequence[str] = (), say: Callable[[str], None] | None = None, base: Path | None = None
) -> tuple[Recipe, Path]:
    """Read and check a recipe; the recipe, and the folder from which its relative paths start.

    Args:
        path: the YAML file, or the name of a recipe that comes with edgevit (`edgevit.recipes.find_recipe`).
            Relative paths in a file start from its folder, those of a name from the working directory.
        settings: changes of the form "stages.ID.key=value", "datasets.NAME.key=value", "budget.latency_ms=5";
            a relative path given here starts from the current folder.
        say: receives a note for each former name in the recipe.
        base: the folder from which relative paths start and whose targets.yaml counts, in place of the file's own.

    Raises:
        RecipeError: with the line and the nearest valid name, for anything that a run could not use.
    """
    check_utf8(path.absolute())
    allowance = Allowance()
    file, own_folder = find_recipe(path)
    base = base or own_folder
    document, notes = _read(file, allowance), list[str]()
    _replace_former_names(document, notes)
    for setting in settings:
        apply_setting(document, setting, notes)
    expand_for_each(document, allowance)
    _replace_former_names(document, notes)  # of stages that settings or for_each gave
    if say:
        for note in dict.fromkeys(notes):
            say(note)
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        raise combined(mistakes_of(error, document)) from None
    resolved = tuple(with_patterns_resolved(stage, recipe.stages[:i]) for i, stage in enumerate(recipe.stages))
    recipe = recipe.model_copy(update={"stages": resolved})
    stages = tuple(with_absolute_files(within_budget(stage, recipe), base) for stage in resolved)
    recipe = recipe.model_copy(update={"stages": stages})
    if mistakes := list(islice(mistakes_across_stages(recipe, document, base), MISTAKES_SHOWN + 1)):
        raise combined(mistakes)
    return recipe, base


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of recipes, for editors."""
    schema = TypeAdapter(Recipe).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edgevit recipe", **schema}


def _read(path: Path, allowance: Allowance) -> Block:
    document = read_yaml(path, allowance)
    if not isinstance(document, Block):
        raise RecipeError("a recipe is a mapping", where=path, expected="name:, datasets:, stages:")
    return document


def _replace_former_names(document: Block, notes: list[str]) -> None:
    """Replace the former names of stages and options by their current names, with a note for each."""
    stages = document.get("stages")
    for stage in stages_in(stages) if isinstance(stages, Items) else ():
        if current := renamed.current_stage(former := stage.get("stage")):
            stage["stage"] = current
            notes.append(renamed.former_name_note(f"stage: {former}", current))
        for former, current in renamed.renamed_options(stage.get("stage")).items():
            if former in stage and current not in stage:
                stage[current], stage.places[current] = stage.pop(former), stage.places.get(former, stage.place)
                notes.append(renamed.former_name_note(former, current))
