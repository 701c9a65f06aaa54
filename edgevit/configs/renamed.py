"""Former names of stages and options. Recipes may use them in this release, and keys are still made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STAGES = {"mergetokens": "merge_tokens", "pseudolabel": "pseudo_label", "factorise": "factorize"}
OPTIONS = {("export", "normalise"): "normalize"}  # by the stage's current name


def former_name_note(former: str, current: str) -> str:
    """The note for a former name that is used."""
    return f"note: {former} is called {current} now; the former name is accepted in this release only"


def current_stage(name: object) -> str | None:
    """The current name of a renamed stage; None for all other stages."""
    return STAGES.get(name) if isinstance(name, str) else None


def renamed_options(stage: object) -> dict[str, str]:
    """The options of a stage that were renamed, by their former names."""
    return {former: current for (owner, former), current in OPTIONS.items() if owner == stage}


def with_former_names(ingredients: Mapping[str, Any]) -> dict[str, Any]:
    """The ingredients of a key under their former names, so that stages finished earlier are found."""
    former_stages = {current: former for former, current in STAGES.items()}
    former_options = {current: former for former, current in renamed_options(ingredients.get("stage")).items()}
    return _renamed(ingredients, former_stages, former_options)


def with_current_names(ingredients: Mapping[str, Any]) -> dict[str, Any]:
    """Ingredients from a manifest, perhaps of an earlier release, under their current names."""
    stage = ingredients.get("stage")
    return _renamed(ingredients, STAGES, renamed_options(current_stage(stage) or stage))


def _renamed(ingredients: Mapping[str, Any], stages: Mapping[str, str], options: Mapping[str, str]) -> dict[str, Any]:
    stage, fields = ingredients.get("stage"), ingredients.get("config")
    renamed = {**ingredients, "stage": stages.get(stage, stage)} if isinstance(stage, str) else {**ingredients}
    if options and isinstance(fields, dict):
        renamed["config"] = {options.get(name, name): value for name, value in fields.items()}
    return renamed
