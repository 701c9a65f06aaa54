"""Reading YAML: values as ruamel reads them, copies in place of aliases, and bounds on what a file grows to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from edgevit.errors import RecipeError
from edgevit.yaml_reader import LARGEST_FILE, Allowance, read_yaml, yaml_value

SCALARS = [
    "1", "-7", "+3", "012", "0o17", "0x1F", "1.", ".5", "-.5", "1e-4", "1E3", "1e400", "-1.5e+3", ".inf", "-.INF",
    "+.Inf", "true", "False", "TRUE", "no", "yes", "on", "~", "null", "Null", "", "a", "1a", "1 2", "'1'", '"true"',
    "\"\\x41\\n\"", "!!str 5", "!!int '5'", "!!float 5", "!!null ''", "!!bool true", "e3", ".", "0o8", "--1", "1e",
]  # fmt: skip
BLOCKS = [
    "[1, [2, x], {a: b}]", "{a: {b: [c]}, 'd': 1}", "a: 1\nb:\n  - c\n  - d: e\n", 
    "a: |\n  text\n  more\nb: >-\n  x\n  y\n",
    "a: &x {b: 1}\nc: *x\n", "a: &x [1]\nc: [*x, *x]\n", "- &x 1\n- *x\n",
    "a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n", "a: &x {b: 1}\nc: &y {b: 2, d: 3}\ne: {<<: [*x, *y], f: 4}\n",
    "a: &x {b: 1}\nc: &y {<<: *x, d: 2}\ne: {f: 1, <<: *y}\n", "a: !!map {}\nb: !!seq []\n", "# only a comment\n",
]  # fmt: skip


def read(tmp_path: Path, text: str | bytes) -> Any:
    path = tmp_path / "some.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path, Allowance())


def says(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, text)
    return str(caught.value)


@pytest.mark.parametrize("text", [f"a: {scalar}\n" for scalar in SCALARS] + BLOCKS)
def test_values_are_those_that_ruamel_reads(tmp_path: Path, text: str) -> None:
    own, theirs = read(tmp_path, text), YAML(typ="safe", pure=True).load(text)
    assert own == theirs
    assert json.dumps(own, sort_keys=True) == json.dumps(theirs, sort_keys=True)  # of the same types


def test_not_a_number_is_one() -> None:
    assert str(yaml_value("[.nan, .NaN]", "--set")) == "[nan, nan]"


@pytest.mark.parametrize("text", ["2024-01-01", "2024-13-45", "12:30:45", "1_000"])
def test_text_is_what_the_core_schema_of_yaml_1_2_calls_text(text: str) -> None:
    assert yaml_value(text, "--set") == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_ends_of_lines_make_no_difference(tmp_path: Path, encoding: str, end: str) -> None:
    document = read(tmp_path, f"a: é{end}b: 2{end}".encode(encoding))
    assert document == {"a": "é", "b": 2}
    assert document.places["b"].endswith("some.yaml:2")


def test_aliases_and_merges_share_nothing(tmp_path: Path) -> None:
    document = read(tmp_path, "a: &x {b: {c: 1}, l: [1]}\nd: *x\ne: {<<: *x}\nf: {<<: [*x], g: 2}\n")
    for name in ("d", "e", "f"):
        document[name]["b"]["c"] = name
        document[name]["l"].append(name)
    assert document["a"] == {"b": {"c": 1}, "l": [1]}
    assert [document[name]["b"]["c"] for name in ("d", "e", "f")] == ["d", "e", "f"]


def test_entries_know_their_line(tmp_path: Path) -> None:
    document = read(tmp_path, "a: &x\n  b: 1\nc:\n- {d: 2}\n-\n  <<: *x\n  e: 3\n")
    lines = [place.rpartition(":")[2] for place in (*document.places.values(), *document["c"].places.values())]
    assert lines == ["1", "3", "4", "6"]
    assert document["c"][1].places["b"].endswith(":2")  # a merged value stands where it is written


def test_what_comes_from_a_setting_stands_there() -> None:
    assert set(yaml_value("{a: [1], b: 2}", "--set x").places.values()) == {"--set x"}


LAUGHS = "a0: &a0 [x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)  # the last would have 3e11 values
NESTED = "".join(f"a{i}: &a{i} {'[' * 40}{f'*a{i - 1}' if i else 1}{']' * 40}\n" for i in range(40))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LAUGHS, "some.yaml:6: the recipe is too large once aliases and for_each are written out"),
        (NESTED, "some.yaml:2: lists and mappings are nested too deeply"),
        ("a: &a\n  <<: *a\n", "some.yaml:2: the alias *a refers to a value that contains it"),
        ("a: &a [1, *a]\n", "some.yaml:1: the alias *a refers to"),
        ("a: 1\nb: " + "[" * 10_000, "some.yaml:2: lists and mappings are nested too deeply"),
        ("? " * 10_000, "some.yaml:1: lists and mappings are nested too deeply"),
        ("a: *b\n", "undefined alias 'b'"),
        ("a: " + "9" * 5000, "some.yaml:1: the number is too long"),
        ("a: " + "x" * 20_000, "some.yaml:1: the text is too long"),
        ("#" * LARGEST_FILE + "\na: 1\n", "too large for a recipe"),
        ("a: 1\nb: \ta\n\tc: 1", "not valid YAML"),
        ("a: 1\na: 2\n", "some.yaml:2: this is not valid YAML: found duplicate key"),
        ("a: !x 5\n", "some.yaml:1: this YAML tag is not supported"),
        ("a: !!python/object/apply:os.system [id]\n", "this YAML tag is not supported"),
        ("a: !!int x\n", "some.yaml:1: this is not a value of YAML's type int"),
        ("a: !!map [x]\n", "some.yaml:1: this is not a value of YAML's type map"),
        ("1: a\n", "some.yaml:1: a key should be text\n  got: 1\n  next: write it in quotes"),
        ("? [a]\n: 1\n", "some.yaml:1: a key should be text"),
        ("a: {<<: 3}\n", "some.yaml:1: << merges mappings"),
        ("a: 1\n---\nb: 2\n", "some.yaml:2: a second YAML document begins here"),
        ('a: "\\0"\n', "some.yaml:1: the text holds an invalid character\n  got: \\u0000"),
        ('a: "\\ud800"\n', "some.yaml:1: the text holds an invalid character\n  got: \\ud800"),
        ('a: "\\UFFFFFFFF"\n', "not valid YAML"),
        ("a: \x07\n", "not valid YAML"),
        ("a: 1\nb: é\n".encode("latin-1"), "some.yaml:2: the file is not text in UTF-8\n  got: byte 0xe9"),
        ("a: 1\n".encode("utf-16"), "some.yaml:1: the file is not text in UTF-8"),
    ],
)
def test_what_is_refused_is_named_with_its_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert expected in says(tmp_path, text)
