"""Decisions of a training. A resumed training keeps them."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TypeVar

from edgevit.context import Context
from edgevit.disks import whole_or_not_at_all

Choice = TypeVar("Choice")


def kept_decision(name: str, choices: Collection[Choice], context: Context) -> Choice | None:
    """The decision of this name in the training's work folder; None if there is none, or it is none of `choices`."""
    file = context.work / f"{name}.json"
    try:
        decision = json.loads(file.read_bytes()) if file.is_file() else None
    except ValueError:  # damaged
        return None
    return next((choice for choice in choices if choice == decision), None)


def keep_decision(name: str, decision: bool | str, context: Context) -> None:
    """Write a decision to the training's work folder."""
    with whole_or_not_at_all(context.work / f"{name}.json") as part:
        part.write_text(json.dumps(decision), encoding="utf-8")
