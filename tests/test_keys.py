"""The keys of stages are those of the first release: finished results of earlier releases are found.

A stage whose result changes gets another `version`, and another key here.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgevit.configs import STAGES, references
from edgevit.store import Store, dotted, ingredients

KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "load": ({"model": "test_vit"}, "783c53bf84d3"),
    "train": ({"model": "test_vit", "data": "d"}, "43dca5b370df"),
    "pretrain": ({"model": "test_vit", "data": "d"}, "d5a61607605e"),
    "fewshot": ({"model": "m", "support": "s", "pool": "p"}, "6dd8d354bbff"),
    "distill": (
        {
            "teacher": "t",
            "model": "test_vit",
            "streams": [{"data": "d"}],
            "objectives": [{"loss": "soft"}, {"loss": "features"}],
        },
        "35646ec10848",
    ),
    "qat": ({"init": "m", "streams": [{"data": "d"}], "calibration": "c"}, "07376e1242fa"),
    "prune": ({"model": "m", "keep_macs": 0.5, "data": "d"}, "f4cbf2270e91"),
    "factorize": ({"model": "m", "keep_macs": 0.5, "data": "d"}, "1526e9554b7e"),
    "merge_tokens": ({"model": "m", "per_block": 2}, "903d60558bc1"),
    "pseudo_label": ({"teacher": "t", "data": "d"}, "5d556b0784db"),
    "export": ({"model": "m", "normalize": True}, "f3fffa05bba2"),
    "quantize": ({"model": "m", "calibration": "c"}, "01c1021c9449"),
    "compile": ({"model": "m"}, "3467a26de615"),
    "evaluate": ({"model": "m", "data": "d"}, "2598554fdcee"),
    "profile": ({"model": "m"}, "6dd79011ace0"),
    "select": ({"models": ["m", "n"], "data": "d"}, "8ffd6963373c"),
    "check": ({"model": "m"}, "234a42e84bb2"),
    "attention": ({"model": "m", "data": "d"}, "a098001cf554"),
    "bundle": ({"model": "m", "support": "s"}, "9ae16c9b936f"),
    "report": ({"of": ["a"]}, "f0dd30ebe745"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_the_key_of_a_stage_stays(stage: str) -> None:
    fields, expected = KEYS[stage]
    config = STAGES[stage].model_validate({"stage": stage, "id": "x", **fields})
    inputs: dict[str, Any] = {dotted(path): _artifact(name) for path, name, _ in references(config)}
    parts = ingredients(config, inputs, {"target": "here"}, {"latency_ms": 1}, "recipe")
    assert Store(Path("nowhere")).key(parts)[:12] == expected


def _artifact(name: str) -> SimpleNamespace:
    manifest = SimpleNamespace(inputs={})
    return SimpleNamespace(digest=f"digest of {name}", id=name, path=Path("/nowhere/a/b"), manifest=manifest)


@pytest.mark.parametrize("option", [{"class_weights": "balanced"}, {"sampling": "balanced"}, {"logit_adjustment": 0.5}])
def test_an_option_that_was_added_enters_the_key_where_it_is_given(option: dict[str, Any]) -> None:
    fields, key = KEYS["train"]
    config = STAGES["train"].model_validate({"stage": "train", "id": "x", **fields, **option})
    inputs: dict[str, Any] = {"data": _artifact("d")}
    parts = ingredients(config, inputs, {"target": "here"}, {"latency_ms": 1}, "recipe")
    assert Store(Path("nowhere")).key(parts)[:12] != key
