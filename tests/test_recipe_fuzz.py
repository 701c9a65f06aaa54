"""Recipes of random types, keys and depth, and recipes with bytes changed: only RecipeError ever comes out."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from edgevit.artifacts import canonical_json
from edgevit.configs import DATASETS, OBJECTIVES, STAGES
from edgevit.errors import RecipeError
from edgevit.recipe import Recipe, load_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.yaml"))
KEYS = sorted(
    {key for config in (*DATASETS.values(), *STAGES.values(), *OBJECTIVES.values()) for key in config.model_fields}
)
WORDS = [
    "resnet18", "test_vit", "d", "d.train", "d.test", "d.support", "a", "b", "a/x", "glyphs", "auto", "none", "*", "~",
    "${v}", "${v}${v}", "é", "\x1b[31m", "\x85", "\u202e", "a: b", "[", "&a", "*a", "", " ", "x" * 300, "1", "0x10",
    "NaN", "..", "/",
]  # fmt: skip
NUMBERS = [0, 1, -1, 3, 0.5, 1e-9, -0.0, 2**31, 2**63, 10**30, 10**400, 1e308, math.inf, -math.inf, math.nan]


PIECES = [
    b"&a ", b"*a", b"<<: *a", b"!!x ", b"---\n", b"? ", b"- ", b": ", b"${v}", b".inf", b"9" * 200, b"\xc2\x85",
    b"\xe2\x80\xa8", b"\\U00110000", *(bytes([one]) for one in b"\t\r\x00\xff[]{}'\"|>#%@"),
]  # fmt: skip


def scalars() -> st.SearchStrategy[Any]:
    odd = st.sampled_from([None, True, False, *NUMBERS, *WORDS, *STAGES, *DATASETS])
    return odd | st.integers() | st.floats() | st.text(max_size=8)


def values() -> st.SearchStrategy[Any]:
    keys = st.sampled_from([*KEYS, "for_each", "stages"]) | st.text(max_size=4)
    return st.recursive(
        scalars(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
    )


def records(key: str, kinds: list[str]) -> st.SearchStrategy[Any]:
    """A mapping that says what it is, with other keys of any value; or anything at all."""
    base = st.fixed_dictionaries(
        {key: st.sampled_from(kinds)},
        optional={"id": st.sampled_from(["a", "b", "a/x", "${v}"]), "data": st.sampled_from(["d.train", "d"]),
                  "model": st.sampled_from(["resnet18", "a", "b"])},
    )  # fmt: skip
    more = st.dictionaries(st.sampled_from(KEYS), values(), max_size=3)
    return st.builds(lambda own, others: {**others, **own}, base, more) | values()


def documents() -> st.SearchStrategy[Any]:
    stages = st.lists(records("stage", list(STAGES)), min_size=1, max_size=4)
    block = st.fixed_dictionaries({"for_each": st.just({"v": [1, "x"]}) | values(), "stages": stages | values()})
    mixed = st.builds(lambda some, more: [*some, *more], stages, st.lists(block, max_size=1))
    datasets = st.dictionaries(st.sampled_from(["d", "e"]), records("source", list(DATASETS)), max_size=2)
    plain = st.just({"d": {"source": "digits", "few_shot": {"shots": 5}}})
    return st.fixed_dictionaries(
        {"name": st.just("x") | scalars(), "datasets": plain | datasets | values(), "stages": mixed | values()},
        optional={"budget": values(), "other": values()},
    )


def written(value: Any) -> str:
    """YAML of one line: JSON, but for the numbers that JSON has not."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)}: {written(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' * (value < 0)}.inf"
    return json.dumps(value)


def changed(content: bytes, changes: random.Random) -> bytes:
    """The bytes of a recipe with a few of them replaced, removed, repeated or put in."""
    for _ in range(changes.randint(1, 4)):
        start = changes.randrange(len(content) + 1)
        stop = min(len(content), start + changes.choice([0, 0, 1, 3, 40]))
        put = changes.choice([*PIECES, b"", content[start:stop] * 2, bytes([changes.randrange(256)])])
        content = content[:start] + put + content[stop:]
    return content


def check(path: Path, *given_settings: str) -> Recipe | None:
    """Loading ends well, or in an error that is short enough to be read; what is loaded has a key in the store."""
    try:
        recipe = load_recipe(path, given_settings)
    except RecipeError as error:
        text = str(error)
        assert text
        assert max(map(len, text.splitlines())) < 2000
        return None
    for stage in recipe.stages:
        assert canonical_json(stage.model_dump(mode="json"))
    return recipe


def fuzz_documents(path: Path, count: int) -> None:
    @seed(30)
    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck))
    @given(documents())
    def loaded(document: Any) -> None:
        path.write_text(written(document), encoding="utf-8", errors="surrogatepass")
        check(path)

    loaded()


def fuzz_bytes(path: Path, count: int) -> None:
    for index in range(count):
        changes = random.Random(index)
        path.write_bytes(changed(changes.choice(RECIPES).read_bytes(), changes))
        check(path)


def fuzz_settings(path: Path, count: int) -> None:
    path.write_bytes(RECIPES[0].read_bytes())
    places = [
        "name",
        "budget.latency_ms",
        "stages.0.id",
        "stages.0",
        "stages",
        "datasets",
        "stages.0.model_args.x",
        "x.y",
        ".",
        "=",
    ]

    @seed(30)
    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(places) | st.text(max_size=12), values().map(written) | st.text(max_size=12))
    def loaded(place: str, value: str) -> None:
        check(path, f"{place}={value}")

    loaded()


FUZZERS = [fuzz_documents, fuzz_bytes, fuzz_settings]


@pytest.fixture(autouse=True)
def no_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's name that the stored list lacks is wrong here, so that the default tier does not wait for timm."""
    monkeypatch.setattr("edgevit.models.names.names_in_timm", set)


@pytest.mark.parametrize("fuzzer", FUZZERS)
def test_only_recipe_errors_come_out(fuzzer: Callable[[Path, int], None], tmp_path: Path) -> None:
    assert len(RECIPES) >= 3
    fuzzer(tmp_path / "recipe.yaml", 60)


@pytest.mark.slow
@pytest.mark.parametrize("fuzzer", FUZZERS)
def test_only_recipe_errors_come_out_of_thousands(fuzzer: Callable[[Path, int], None], tmp_path: Path) -> None:
    fuzzer(tmp_path / "recipe.yaml", 5000)
