"""Former names of stages and options: recipes may still use them in this release, and keys are still made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STAGES = {"mergetokens": "merge_tokens", "pseudolabel": "pseudo_label", "factorise": "factorize"}
OPTIONS = {("export", "normalise"): "normalize"}  # by the stage's name of now


def current_stage(name: object) -> str | None:
    """The name of now of a stage that was renamed; None for all others."""
    return STAGES.get(name) if isinstance(name, str) else None


def renamed_options(stage: object) -> dict[str, str]:
    """The options of a stage that were renamed, by their former names."""
    return {former: now for (owner, former), now in OPTIONS.items() if owner == stage}


def with_former_names(ingredients: Mapping[str, Any]) -> dict[str, Any]:
    """The ingredients of a key under the names that they had before, so that finished stages are still found."""
    former_stages = {now: former for former, now in STAGES.items()}
    former_options = {now: former for former, now in renamed_options(ingredients.get("stage")).items()}
    return _renamed(ingredients, former_stages, former_options)


def with_current_names(ingredients: Mapping[str, Any]) -> dict[str, Any]:
    """Ingredients from a manifest, which may be of an earlier release, under the names of now."""
    stage = ingredients.get("stage")
    return _renamed(ingredients, STAGES, renamed_options(current_stage(stage) or stage))


def _renamed(ingredients: Mapping[str, Any], stages: Mapping[str, str], options: Mapping[str, str]) -> dict[str, Any]:
    stage, fields = ingredients.get("stage"), ingredients.get("config")
    found = {**ingredients, "stage": stages.get(stage, stage)} if isinstance(stage, str) else {**ingredients}
    if options and isinstance(fields, dict):
        found["config"] = {options.get(name, name): value for name, value in fields.items()}
    return found
