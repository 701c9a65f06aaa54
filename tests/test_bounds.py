"""Every number of a recipe and of the command line has a range, and what lies outside of it is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
import typer
from pydantic import BaseModel, TypeAdapter, ValidationError

from edgevit import bounds
from edgevit.artifacts import Preprocess
from edgevit.bounds import Range
from edgevit.cli import app
from edgevit.configs import DATASETS, OBJECTIVES, STAGES, Budget
from edgevit.recipe import recipe_schema

CONFIGS = [Budget, *dict.fromkeys(DATASETS.values()), *STAGES.values(), *OBJECTIVES.values()]


def numbers_in(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            yield path, schema
        for name, inner in schema.items():
            yield from numbers_in(inner, f"{path}/{name}")
    elif isinstance(schema, list):
        for index, inner in enumerate(schema):
            yield from numbers_in(inner, f"{path}/{index}")


def test_every_number_of_the_schema_has_a_smallest_and_a_largest_value() -> None:
    found = dict(numbers_in(recipe_schema()))
    assert len(found) > 100
    lacking = [
        path
        for path, schema in found.items()
        if not (schema.keys() & {"minimum", "exclusiveMinimum"} and schema.keys() & {"maximum", "exclusiveMaximum"})
    ]
    assert not lacking


def configs_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for info in annotation.model_fields.values():
            yield from configs_in(info.annotation)
    for inner in get_args(annotation):
        yield from configs_in(inner)


def number_fields() -> Iterator[tuple[str, Any]]:
    """Each field of a config that holds a number, alone or in a tuple, as an annotation of one number."""
    configs: list[type[BaseModel]] = [*(inner for one in CONFIGS for inner in configs_in(one)), Preprocess]
    for config in dict.fromkeys(configs):
        for name, info in config.model_fields.items():
            annotation = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
            for number in dict.fromkeys(numbers_of(annotation)):
                yield f"{config.__name__}.{name}", number


def numbers_of(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if annotation in (int, float) or (origin is Annotated and get_args(annotation)[0] in (int, float)):
        yield annotation
    elif origin in (Annotated, Union, UnionType, tuple):
        for inner in get_args(annotation):
            yield from numbers_of(inner)


FIELDS = [pair for pair in number_fields() if pair[0] not in ("Preprocess.height", "Preprocess.width")]


def test_the_walk_finds_numbers_alone_in_unions_and_in_tuples() -> None:
    names = {name for name, _ in FIELDS}
    assert names >= {"Train.epochs", "Train.freeze", "Evaluate.severities", "Budget.top1_drop", "Augmentation.scale"}
    assert names >= {"FewShotDraw.shots", "AttentionTransfer.student", "Preprocess.std", "Stream.share"}


@pytest.mark.parametrize(("name", "number"), FIELDS, ids=[name for name, _ in FIELDS])
def test_every_number_of_a_config_refuses_what_is_beyond_sense(name: str, number: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(number)
    (within,) = (mark for mark in number.__metadata__ if isinstance(mark, Range))
    for given in (float("nan"), float("inf"), -float("inf"), True, 10**20, -(10**20), 10**5000, "nan", "1e400"):
        with pytest.raises(ValidationError):
            adapter.validate_python(given)
    assert adapter.validate_python(within.high if within.high_is_in else within.low) in within


def test_bounds_leave_room_for_honest_use() -> None:
    assert 21_841 in bounds.CLASSES  # ImageNet-22k
    assert 65_536 in bounds.BATCH
    assert 10_000 in bounds.EPOCHS
    assert 14_197_122 in bounds.IMAGES  # ImageNet
    assert 256 in bounds.THREADS
    assert 1 / 255 in bounds.CHANNEL_STD


@pytest.mark.parametrize(
    ("within", "text", "inside", "outside"),
    [
        (Range(1, 1024), "at least 1 and at most 1,024", (1, 1024), (0, 1025, float("nan"))),
        (Range(0, 1, low_is_in=False), "above 0 and at most 1", (1e-9, 1), (0, 1.0001)),
        (Range(0.05, 1, high_is_in=False), "at least 0.05 and below 1", (0.05, 0.999), (0.04, 1)),
    ],
)
def test_a_range_holds_what_it_says(within: Range, text: str, inside: tuple[float], outside: tuple[float]) -> None:
    assert str(within) == text
    adapter: TypeAdapter[float] = TypeAdapter(Annotated[float, within])
    for number in inside:
        assert number in within
        assert adapter.validate_python(number) == number
    for number in outside:
        assert number not in within
        with pytest.raises(ValidationError, match=text):
            adapter.validate_python(number)


def numeric_options() -> Iterator[tuple[str, str, int]]:
    """The command, the flag and the count of numbers of each option that takes numbers."""
    for command in app.registered_commands:
        assert command.callback is not None
        for annotation in get_type_hints(command.callback, include_extras=True).values():
            marks = getattr(annotation, "__metadata__", ())
            flags = [
                name
                for mark in marks
                for name in (mark.default, *(mark.param_decls or ()))
                if str(name).startswith("--")
            ]
            if flags and (numbers := list(numbers_of(annotation))):
                yield command.callback.__name__.replace("_", "-"), flags[0], len(numbers)


OPTIONS = list(numeric_options())
EDGEVIT = typer.main.get_command(app)


def test_the_walk_finds_the_numeric_options() -> None:
    assert len(OPTIONS) >= 30
    assert {("describe", "--mean", 3), ("run", "--workers", 1), ("compare", "--duration", 1)} <= set(OPTIONS)


# What a command needs beside the option, none of which is there.
NEEDED = {
    "run": ["none.yaml"], "lr-find": ["none.yaml", "stage"], "init": ["none"],
    "select": ["--data", "none", "--latency-ms", "5"], "export": ["--model", "x", "--out", "o"],
    "describe": ["m", "--out", "o"], "quantize": ["m", "--calibration", "none", "--out", "o"],
    "evaluate": ["m", "--data", "none"], "profile": ["m"], "compare": ["m", "n"], "predict": ["m", "i"], "models": [],
    "compile": ["m", "--out", "n"], "estimate": ["m", "--board", "nano"], "inspect": ["m"],
}  # fmt: skip
BEYOND = (
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1e400",
    "9" * 20,
    "9" * 5000,
    "-99999999",
    "",
    "x",
    "0x10",
    "٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣",
)


@pytest.mark.parametrize(("command", "option", "count"), OPTIONS)
def test_every_numeric_option_refuses_what_is_beyond_sense(command: str, option: str, count: int) -> None:
    for number in BEYOND:
        arguments = [command, *NEEDED[command], option, *([number] * count)]
        with pytest.raises(typer.BadParameter) as caught:
            EDGEVIT.main(arguments, standalone_mode=False)
        assert caught.value.exit_code == 2
        assert f"'{option}'" in caught.value.format_message()
