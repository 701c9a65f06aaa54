"""A bundle that was damaged or made by hand: the bundle's programs say what is wrong, and never end in a traceback."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgevit.artifacts import Artifact
from edgevit.bundling import check_bundle, classes_since, write_bundle
from edgevit.bundling.prototypes import FILE, read_support
from edgevit.errors import ArtifactError, ParityError
from edgevit.graphs.files import artifact_from_onnx
from tests.bundling.enrolling import copied_bundle, digit_files
from tests.bundling.small_model import small_model

TEXTS = ("bundle.json", "iospec.json", "labels.txt", FILE)
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3,
    10**30,
    1e999,
    float("nan"),
    0.5,
    "",
    "x",
    "../up",
    "\0",
    [],
    [[]],
    [None],
    {},
    {"a": {}},
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied_bundle(tmp_path_factory.mktemp("damaged") / "bundle")


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digit_files(tmp_path_factory.mktemp("image"), "4", 1)[0]


def program(bundle: Path, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", str(bundle / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False)


def shipped_infer(bundle: Path) -> Any:
    """The bundle's infer.py as a module of its own, with nothing kept from another bundle."""
    loader = SourceFileLoader("infer_under_test", str(bundle / "infer.py"))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def labelled(infer: Any, image: Path) -> tuple[int, str]:
    """Exit status and errors of `infer.py --verify PICTURE`, in this process."""
    infer.shipped.cache_clear()
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as err:
        status = infer.main(["--verify", "--top", "3", str(image)])
    return status, err.getvalue()


def repinned(bundle: Path, name: str, content: bytes) -> None:
    """Exchange a file, and its hash in the record."""
    (bundle / name).write_bytes(content)
    record = json.loads((bundle / "bundle.json").read_bytes())
    record["files"][name]["sha256"] = hashlib.sha256(content).hexdigest()
    (bundle / "bundle.json").write_text(json.dumps(record))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value inside a JSON value."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


def mutated(value: Any, draw: random.Random) -> Any:
    """A JSON value with one of its parts exchanged or removed."""
    value = copy.deepcopy(value)
    *above, last = draw.choice(list(places(value)))
    parent = value
    for key in above:
        parent = parent[key]
    if draw.random() < 0.25:
        del parent[last]
    else:
        parent[last] = draw.choice(ODD)
    return value


def flipped(content: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(content)
    if draw.random() < 0.2:
        del damaged[draw.randrange(len(damaged)) :]
    else:
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def damage(bundle: Path, number: int) -> None:
    """Flip a byte, cut a file short, or exchange a value; half of the time with the hash that then fits."""
    draw = random.Random(number)
    name = TEXTS[number % len(TEXTS)]
    content = (bundle / name).read_bytes()
    if name.endswith(".json") and draw.random() < 0.8:
        content = json.dumps(mutated(json.loads(content), draw)).encode()
    else:
        content = flipped(content, draw)
    if name in ("iospec.json", "labels.txt") and draw.random() < 0.7:
        repinned(bundle, name, content)
    else:
        (bundle / name).write_bytes(content)


@pytest.mark.parametrize(
    "mutations", [range(80), pytest.param(range(80, 4000), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_no_damage_ends_in_a_traceback(bundle: Path, image: Path, mutations: range) -> None:
    infer = shipped_infer(bundle)
    original = {name: (bundle / name).read_bytes() for name in TEXTS}
    assert labelled(infer, image)[0] == 0
    statuses = []
    for number in mutations:
        damage(bundle, number)
        status, said = labelled(infer, image)
        assert status in (0, 1, 2), number
        complaints = [line for line in said.splitlines() if not line.endswith("all as they were bundled")]
        assert bool(complaints) == (status > 0), (number, said)
        statuses.append(status)
        try:
            classes_since(bundle)
        except ArtifactError:
            assert status == 2, number
        for name, content in original.items():
            (bundle / name).write_bytes(content)
    assert statuses.count(2) > len(statuses) / 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "a JSON object"),
        (b"\xff\xfe", "is not JSON"),
        (b'{"format": "edgevit-bundle", "format_version": 2}', "format_version: 1"),
        (b'{"format": "edgevit-bundle", "format_version": 1, "files": {"../up": {"sha256": "0"}}}', "without folders"),
    ],
)
def test_a_record_that_is_none_is_refused(bundle: Path, image: Path, content: bytes, said: str) -> None:
    (bundle / "bundle.json").write_bytes(content)
    status, message = labelled(shipped_infer(bundle), image)
    assert status == 2
    assert said in message


@pytest.mark.parametrize("name", ["preprocess.py", "prototypes.py", "infer.py"])
def test_an_altered_program_is_not_imported(bundle: Path, image: Path, name: str) -> None:
    altered = (bundle / name).read_text() + f"\nopen({str(bundle / 'ran')!r}, 'w')\n"
    (bundle / name).write_text(altered)
    for called in {"infer.py", "enroll.py"} - {name}:
        answer = program(bundle, called, *([image] if called == "infer.py" else ["--list"]))
        assert answer.returncode == 2 or (called, name) == ("infer.py", "infer.py"), answer.stderr
        assert f"{name}: was altered" in answer.stderr
        assert "Traceback" not in answer.stderr
    assert not (bundle / "ran").exists()


@pytest.mark.parametrize("name", ["preprocess.py", "prototypes.py", "infer.py", "bundle.json"])
def test_a_missing_program_or_record_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    answer = program(bundle, "enroll.py", "--list")
    assert answer.returncode == 2
    assert name in answer.stderr
    assert "Traceback" not in answer.stderr


def without_numbers(folder: Path, value: float) -> Artifact:
    """The small model, whose bias is no number."""
    model = small_model(folder)
    loaded = onnx.load(model.path / "model.onnx")
    (bias,) = (one for one in loaded.graph.initializer if one.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(4, value, np.float32), "bias"))
    onnx.save(loaded, model.path / "model.onnx")
    return artifact_from_onnx(model.path / "model.onnx")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_no_numbers_are_refused(tmp_path: Path, image: Path, value: float) -> None:
    model, out = without_numbers(tmp_path / "model", value), tmp_path / "bundle"
    out.mkdir()
    write_bundle(model, out)
    with pytest.raises(ParityError, match="does not run") as caught:
        check_bundle(model, out, tmp_path)
    assert "is NaN or infinite" in str(caught.value)
    answer = program(out, "infer.py", image)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert f"{image}: the model's output 'logits' is NaN or infinite" in answer.stderr


def test_a_class_that_is_impossible_is_no_obstacle(tmp_path: Path, image: Path) -> None:
    """-inf is probability 0."""
    model, out = small_model(tmp_path / "model"), tmp_path / "bundle"
    loaded = onnx.load(model.path / "model.onnx")
    (bias,) = (one for one in loaded.graph.initializer if one.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.array([0, -np.inf, 0, 0], np.float32), "bias"))
    onnx.save(loaded, model.path / "model.onnx")
    out.mkdir()
    write_bundle(artifact_from_onnx(model.path / "model.onnx"), out)
    answer = program(out, "infer.py", "--json", "--top", 4, image)
    assert answer.returncode == 0
    assert json.loads(answer.stdout)["labels"][-1] == {"label": "bee", "confidence": 0.0}


def test_a_full_disk_leaves_the_old_classes(bundle: Path, tmp_path: Path) -> None:
    fours, before = digit_files(tmp_path / "fours", "4", 5), (bundle / FILE).read_bytes()
    full = len(before) // 2  # bytes that a file may have
    answer = subprocess.run(
        [sys.executable, "-B", str(bundle / "enroll.py"), "--class", "four", *map(str, fours)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (full, full)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr
    assert (bundle / FILE).read_bytes() == before
    assert not [path for path in bundle.iterdir() if path.name.endswith(".part")]
    assert read_support(bundle / FILE)
