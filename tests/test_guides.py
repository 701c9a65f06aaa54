"""What the documentation shows runs: its commands, recipes and Python, found by a glob whose count is asserted."""

from __future__ import annotations

import ast
import functools
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.main import get_command

import edgevit
from edgevit.cli import app
from edgevit.recipe import load_recipe
from edgevit.recipes import shipped_recipes
from tests.known_machine import keep_timings
from tests.reader_folder import ROOT, make_folder, run, run_python

GENERATED = ("docs/reference", "docs/results", "docs/_build")  # their own tests hold them
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if not str(path.relative_to(ROOT)).startswith(GENERATED)
}
GUIDES = sorted(name for name in DOCUMENTS if name.startswith("docs/guides/"))
RESULTS = ROOT / "benchmarks" / "results"
OLD_NAMES = ("mergetokens", "pseudolabel", "factorise", "normalise")

# Command lines, recipes and Python blocks of each document that has any.
COUNTS = {
    "README.md": (6, 0, 1),
    "docs/index.md": (1, 0, 0),
    "docs/guides/browser.md": (4, 0, 0),
    "docs/guides/compression.md": (5, 1, 0),
    "docs/guides/devices.md": (28, 0, 1),
    "docs/guides/distillation.md": (0, 2, 1),
    "docs/guides/enrollment.md": (6, 0, 0),
    "docs/guides/estimate.md": (6, 0, 0),
    "docs/guides/exercise-cifar10.md": (5, 0, 0),
    "docs/guides/few-shot.md": (2, 2, 1),
    "docs/guides/own-onnx-file.md": (6, 0, 0),
    "docs/guides/pretraining.md": (2, 2, 0),
    "docs/guides/quantization.md": (4, 0, 0),
    "docs/guides/recipes.md": (7, 6, 0),
    "docs/guides/tensorrt.md": (3, 0, 0),
    "docs/guides/training-at-scale.md": (5, 0, 0),
    "docs/tutorial.md": (7, 0, 0),
}

# What does not run here, and why; that it is parsed as it stands is tested all the same.
NOT_HERE = {
    "edgevit run cifar10-10way-5shot": "needs CIFAR-10 and CIFAR-100",
    "python -c": "takes weights from a hub",
    "edgevit select --data photos/": "trains four students; tests/test_select_command.py trains two",
    "edgevit bundle deit.onnx --web": "npm gets a package; tests/bundling/test_page.py opens such a page in a browser",
    "edgevit profile deit.int8.onnx --like mlperf": "takes 10 minutes; tests/test_profile_command.py shortens it",
    "python -m http.server": "serves until it is stopped",
    **dict.fromkeys(
        ("edgevit devices check board", "edgevit devices clean board"),
        "needs a board; tests/targets/test_devices_commands.py has an SSH server",
    ),
    **dict.fromkeys(
        (
            "edgevit profile deit.int8.onnx --target board",
            "edgevit profile deit.int8.onnx --target local-cpu,board",
            "edgevit evaluate deit.int8.onnx --data photos/ --target board",
            "edgevit compare deit.onnx deit.int8.onnx --target board",
            "edgevit quantize deit.onnx --calibration photos/ --target board",
            "edgevit init photos/ --latency-ms 50 --target board",
            "edgevit run board.yaml",
        ),
        "needs a board; tests/targets/test_agent_host.py has an SSH server",
    ),
    **dict.fromkeys(
        (
            "edgevit devices calibrate pi",
            "edgevit estimate own.onnx --board pi",
            "edgevit select --data photos/ --latency-ms 20 --board pi",
        ),
        "needs a board; tests/latency_model/test_calibration.py calibrates a target",
    ),
}

# Settings that make a run short and keep it away from the hub. Everything else is as the reader types it.
SMALL_PHOTOS = "--set stages.start.image_size=64 --set stages.student.epochs=1 --anyway"
SMALL_QUICKSTART = "--set stages.student.epochs=1 --set datasets.glyphs.samples_per_class=20"
PRETRAIN_METHODS = (
    "dino", "esvit", "simclr", "moco", "pirl", "byol", "mae", "sit", "fcmae", "rotation", "jigsaw",
)  # fmt: skip
SHORTER = {
    "edgevit run photos.yaml": SMALL_PHOTOS,
    "edgevit run quickstart": SMALL_QUICKSTART,
    "edgevit run pretrain-methods": " ".join(f"--set stages.body/{method}.epochs=1" for method in PRETRAIN_METHODS),
    "edgevit run pretrain": "--set stages.body.epochs=1",
    "edgevit lr-find quickstart": SMALL_QUICKSTART,
    "torchrun": SMALL_QUICKSTART,
}
MAY_END_WITH_1 = {
    "edgevit compare": "untrained weights: either model may be better",
    "edgevit run": "a student of one epoch may miss its budget",
    "torchrun": "the same",
    "python bundle/enroll.py --class": "an untrained model may not tell the class from the others",
}


# Numbers of runs, which no results hold.
COUNTS_OF_RUNS = {
    "docs/guides/promises.md": ("4",),
}


class Block(NamedTuple):
    """A fenced block of a document: its language and its text."""

    language: str
    text: str


def blocks(document: str) -> list[Block]:
    return [
        Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENTS[document], re.MULTILINE | re.DOTALL)
    ]


def texts(document: str, language: str) -> list[str]:
    return [block.text for block in blocks(document) if block.language == language]


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def commands(document: str) -> list[str]:
    return [line for text in texts(document, "sh") for line in lines(text)]


EVERY_COMMAND = sorted({line for name in DOCUMENTS for line in commands(name) if line.startswith("edgevit ")})
EVERY_RECIPE = [(name, text) for name in DOCUMENTS for text in texts(name, "yaml")]
EVERY_SNIPPET = [(name, text) for name in DOCUMENTS for text in texts(name, "python")]


def test_blocks_are_counted() -> None:
    found = {
        name: (len(commands(name)), len(texts(name, "yaml")), len(texts(name, "python")))
        for name in DOCUMENTS
        if name in COUNTS or any(block.language not in ("", "text", "math") for block in blocks(name))
    }
    assert found == COUNTS


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_blocks_have_a_known_language(document: str) -> None:
    assert {block.language for block in blocks(document)} <= {"", "text", "math", "sh", "yaml", "python"}


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_a_document_begins_with_its_one_title(document: str) -> None:
    without_code = re.sub(r"^```.*?^```$", "", DOCUMENTS[document], flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^# .+$", without_code, re.MULTILINE)
    assert len(titles) == 1
    assert DOCUMENTS[document].startswith(titles[0])


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_a_command_is_parsed(command: str) -> None:
    """Every option is there and takes the value that it is given; nothing is done."""
    _, name, *arguments = shlex.split(command)
    known = get_command(app)
    named = known.get_command(known.make_context("edgevit", [], resilient_parsing=True), name)  # type: ignore[attr-defined]
    assert named is not None, name
    if below := getattr(named, "commands", None):
        name, *arguments = arguments
        named = below[name]
    assert isinstance(named.make_context(name, arguments).params, dict)  # raises where something does not fit


@pytest.mark.parametrize(("document", "text"), EVERY_RECIPE)
def test_a_recipe_is_valid(document: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    assert load_recipe(file).stages


RUNS_BY_NAME = [line for line in EVERY_COMMAND if line.split()[1] == "run" and line.split()[2] in shipped_recipes()]


def test_recipes_are_run_by_name() -> None:
    assert {line.split()[2] for line in RUNS_BY_NAME} == {
        "quickstart", "cifar10-10way-5shot", "pretrain", "pretrain-methods",
    }  # fmt: skip


@pytest.mark.parametrize("command", RUNS_BY_NAME)
def test_the_settings_of_a_run_fit_its_recipe(command: str) -> None:
    words = shlex.split(command)
    settings = [value for option, value in pairwise(words) if option == "--set"]
    with_data = [setting for setting in settings if ".weights=" not in setting]  # a file that is not here
    assert load_recipe(Path(words[2]), with_data).stages


@pytest.mark.parametrize(("document", "text"), EVERY_SNIPPET)
def test_python_compiles(document: str, text: str) -> None:
    assert ast.parse(text).body


@pytest.mark.parametrize(
    ("document", "text"),
    [one for one in EVERY_SNIPPET if one[0] in ("docs/guides/few-shot.md", "docs/guides/distillation.md")],
)
def test_python_that_needs_no_files_says_what_it_announces(
    document: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(text, document, "exec"), {"__name__": "__main__"})
    announced = re.findall(r"^print\(.*\)\s+# (.+)$", text, re.MULTILINE)
    assert announced
    assert capsys.readouterr().out.splitlines() == announced


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_links_lead_somewhere(document: str) -> None:
    home = (ROOT / document).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[document]):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (home / path).resolve() if path else ROOT / document
        if str(file.relative_to(ROOT)).startswith(GENERATED):
            continue  # `make docs` writes it, and fails where a link leads nowhere
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(_anchor, headings), target


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_scripts_numbers_and_tests_that_are_named_are_there(document: str) -> None:
    named = re.findall(r"`((?:benchmarks|tests|edgevit)/[\w./]+)`", DOCUMENTS[document])
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_names_are_the_present_ones(document: str) -> None:
    assert [name for name in OLD_NAMES if name in DOCUMENTS[document].lower()] == []


def test_each_guide_is_linked_from_the_readme() -> None:
    assert [name for name in GUIDES if f"({name})" not in DOCUMENTS["README.md"]] == []


@functools.cache
def values(file: Path, digits: int) -> set[float]:
    """Every number of a file of results, positive and rounded: as it is, as percent, in thousands, as MiB, inverted."""

    def leaves(node: Any) -> Iterator[float]:
        if isinstance(node, dict | list):
            for inner in node.values() if isinstance(node, dict) else node:
                yield from leaves(inner)
        elif isinstance(node, int | float) and not isinstance(node, bool):
            yield abs(float(node))

    found = set(leaves(json.loads(file.read_text())))
    scaled = {scale * one for one in found for scale in (1, 100, 1000, 1e-3, 1e-6, 2**-20)}
    return {round(one, digits) for one in scaled | {1 / one for one in found if one}}


def tables(document: str) -> Iterator[tuple[list[Path], str]]:
    """The rows of each table that cites results, without its head and first column, with the files that it cites.

    They are cited in the paragraph above; or each row names its script, which has given the results of its name.
    """
    for table in re.finditer(r"(?:^\|.*\n)+", DOCUMENTS[document], re.MULTILINE):
        above = DOCUMENTS[document][: table.start()].rstrip().rsplit("\n\n", 1)[-1]
        for row in table.group().splitlines()[2:]:
            _, _, *cells, _ = row.split("|")
            files = [RESULTS / f"{name}.json" for name in re.findall(r"benchmarks/results/(\w+)\.json", above)]
            files = files or [
                file for name in re.findall(r"benchmarks/(\w+)\.py", row) for file in RESULTS.glob(f"{name}*.json")
            ]
            if files:
                yield files, "|".join(cells)


@pytest.mark.parametrize("document", sorted(name for name in DOCUMENTS if "| " in DOCUMENTS[name]))
def test_numbers_in_tables_are_in_the_results_they_cite(document: str) -> None:
    missing = []
    for files, row in tables(document):
        for text in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w.]|-)", re.sub(r"`.*?`|<!--.*?-->", "", row)):
            number = text.strip(",").replace(",", "")
            digits = len(number.partition(".")[2])
            if not any(float(number) in values(file, digits) for file in files):
                missing.append(text)
    assert sorted(set(missing)) == sorted(COUNTS_OF_RUNS.get(document, ()))


@pytest.fixture(scope="module")
def readers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    make_folder(folder)
    keep_timings(10)
    return folder


def steps(document: str) -> Iterator[tuple[str, str]]:
    """The commands and Python blocks of a document in its order, each with its language."""
    for block in blocks(document):
        if block.language == "sh":
            yield from (("sh", line) for line in lines(block.text))
        elif block.language == "python":
            yield "python", block.text


@pytest.mark.slow
@pytest.mark.parametrize("document", sorted(name for name in COUNTS if name != "README.md"))
def test_a_document_runs_from_top_to_bottom(document: str, readers_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(readers_folder, folder, symlinks=True)
    for language, text in steps(document):
        if any(text.startswith(start) for start in NOT_HERE):
            continue
        more = next((settings for start, settings in SHORTER.items() if text.startswith(start)), "")
        answer = run_python(text, folder) if language == "python" else run(f"{text} {more}", folder)
        allowed = (0, 1) if any(text.startswith(start) for start in MAY_END_WITH_1) else (0,)
        assert answer.returncode in allowed, f"{text}\n{answer.stdout}{answer.stderr}"
        assert "Traceback" not in answer.stderr, f"{text}\n{answer.stderr}"


TWO_CLASSES = """
name: photos
datasets:
  photos: {source: image_folder, path: photos}
stages:
  - {stage: train, id: student, model: edgenext_xx_small, image_size: 32, data: photos.train, epochs: 1}
  - {stage: evaluate, id: accuracy, model: student, data: photos.test}
  - {stage: report, id: report, of: [accuracy]}
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(edgevit, "load"), reason="edgevit.load is not there yet")
def test_the_python_of_the_readme(readers_folder: Path, tmp_path: Path) -> None:
    for role, digits in (("train", (0, 1)), ("test", (0, 1))):
        for name, digit in zip(("bolt", "nut"), digits, strict=True):
            shutil.copytree(readers_folder / "photos" / f"class {digit}", tmp_path / "photos" / role / name)
    shutil.copy(readers_folder / "photo.jpg", tmp_path / "image.jpg")
    (tmp_path / "photos.yaml").write_text(TWO_CLASSES, encoding="utf-8")
    (text,) = texts("README.md", "python")
    answer = run_python(text, tmp_path)
    assert answer.returncode == 0, answer.stderr
