"""What lies in benchmarks/results/, and the scripts that made it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Json = Mapping[str, Any]

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SCRIPTS = ROOT / "benchmarks"
# Parts of a file's name that are written otherwise in a title.
SPELLED = {
    "cifar10": "CIFAR-10",
    "mobilenetv2": "MobileNetV2",
    "omniglot": "Omniglot",
    "qat": "QAT",
    "tensorrt": "TensorRT",
}


@dataclass(frozen=True)
class Script:
    """A benchmark script, as its docstring describes it.

    Attributes:
        summary: the first paragraph.
        command: the lines that run it.
        paragraphs: the rest, in order.
    """

    name: str
    summary: str
    command: str
    paragraphs: tuple[str, ...]


def result_names() -> list[str]:
    """The names of all results, without `.json`."""
    return sorted(path.stem for path in RESULTS.glob("*.json"))


@cache
def read_result(name: str) -> dict[str, Any]:
    """The content of a result.

    Raises:
        FileNotFoundError: there is no such result.
    """
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


def title_of(name: str) -> str:
    """`CIFAR-10 few shot` for cifar10_few_shot."""
    words = [SPELLED.get(word, word) for word in name.split("_")]
    return " ".join([words[0][0].upper() + words[0][1:], *words[1:]])


def script_of(name: str) -> Script:
    """The script that made a result: the one whose name is the longest beginning of the result's name."""
    names = [path.stem for path in SCRIPTS.glob("*.py") if name == path.stem or name.startswith(f"{path.stem}_")]
    if not names:
        raise FileNotFoundError(f"benchmarks/results/{name}.json: no script in benchmarks/ has made it")
    return _read_script(max(names, key=len))


def conditions_in(result: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Json]]:
    """Every record of conditions in a result, with the keys that lead to it: a result may be of several runs."""
    for key, value in result.items():
        if key == "conditions":
            yield path, value
        elif isinstance(value, Mapping):
            yield from conditions_in(value, (*path, key))


def _read_script(name: str) -> Script:
    docstring = ast.get_docstring(ast.parse((SCRIPTS / f"{name}.py").read_text(encoding="utf-8"))) or ""
    summary, *paragraphs = docstring.split("\n\n")
    is_command = [bool(re.match(r"\s*python (-m )?benchmarks", text)) for text in paragraphs]
    commands = [text for text, wanted in zip(paragraphs, is_command, strict=True) if wanted]
    others = [" ".join(text.split()) for text, wanted in zip(paragraphs, is_command, strict=True) if not wanted]
    command = "\n".join(" ".join(lines.split()) for lines in re.split(r"\n(?=\s*python )", "\n".join(commands)))
    return Script(name, " ".join(summary.split()), command, tuple(others))
