"""The packages that a bundle needs: which versions, and that pip and old ones do with them what is said."""

import ast
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper
from PIL import Image

import edgevit
from edgevit.bundling import write_bundle
from edgevit.bundling.requirements import ONNXRUNTIME_RELEASES, oldest_onnxruntime, requirements_text
from edgevit.bundling.runner import ENGINE_RUNNER, ENROLLING, RUNNER
from tests.bundling.enrolling import copied_bundle, digit_files
from tests.bundling.small_model import small_model
from tests.pythons import index_is_reached, other_python, pip

PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
OLDEST_PYTHON = (3, 9)
PROGRAMS = RUNNER | ENROLLING | ENGINE_RUNNER


def addition(opset: int, ir_version: int) -> ModelProto:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "addition", tensors[:1], tensors[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


@pytest.mark.parametrize(
    ("opset", "ir_version", "expected"),
    [(20, 10, "1.19"), (22, 10, "1.21"), (20, 11, "1.23"), (25, 11, "1.24"), (99, 10, onnxruntime.__version__)],
)
def test_a_newer_graph_needs_a_newer_runtime(opset: int, ir_version: int, expected: str):
    model = addition(opset, ir_version)
    assert oldest_onnxruntime(model) == expected
    assert f"onnxruntime>={expected},<2" in requirements_text("onnxruntime", model, is_compiled=False).splitlines()


def test_the_installed_runtime_reads_what_the_table_says():
    """The table was measured with every release; the installed one confirms its own row."""
    installed = tuple(map(int, onnxruntime.__version__.split(".")[:2]))
    version, opset, ir_version = [
        row for row in ONNXRUNTIME_RELEASES if tuple(map(int, row[0].split("."))) <= installed
    ][-1]
    assert tuple(map(int, version.split("."))) <= installed
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(addition(opset, ir_version).SerializeToString(), options)
    assert session.run(None, {"x": np.ones(1, np.float32)})[0] == 2


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_programs_of_a_bundle_are_python_39(program: str):
    """The grammar; an option of zip and unions that are evaluated, which ruff does not report."""
    tree = ast.parse(PROGRAMS[program].read_text(encoding="utf-8"), feature_version=OLDEST_PYTHON)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if ast.unparse(call.func) == "zip" and call.keywords]
    assert not [
        node.lineno
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.BitOr)
    ]
    assert any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_pip_finds_every_package_for_each_python_on_both_architectures(runtime: str, machine: str, tmp_path: Path):
    index_is_reached(tmp_path)
    file = tmp_path / "requirements.txt"
    file.write_text(requirements_text(runtime, addition(20, 10), is_compiled=False))
    platforms = [f"--platform={name}_{machine}" for name in ("manylinux2014", "manylinux_2_28", "manylinux_2_31")]
    for python in PYTHONS:
        wanted = ["--only-binary=:all:", f"--python-version={python}", *platforms, "-r", file]
        answer = pip("install", "-q", "--dry-run", "--report=-", f"--target={tmp_path / 'none'}", *wanted)
        assert answer.returncode == 0, f"Python {python}: {answer.stderr}"
        names = {entry["metadata"]["name"].lower() for entry in json.loads(answer.stdout)["install"]}
        assert {"numpy", "pillow", runtime} <= names


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python 3.9 with the oldest versions that requirements.txt allows."""
    old = other_python("3.9")
    folder = tmp_path_factory.mktemp("oldest")
    index_is_reached(folder)
    write_bundle(small_model(folder / "model"), bundle := new(folder / "bundle"))
    lines = (bundle / "requirements.txt").read_text().splitlines()[1:]
    versions = [line.split(",")[0].replace(">=", "==") + ".*" for line in lines]
    subprocess.run([old, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *versions], check=True)
    return python


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("int8", 0.01)])
def test_the_oldest_versions_on_python_39_predict_alike(precision: str, tolerance: float, oldest: Path, tmp_path: Path):
    photos = noise_images(new(tmp_path / "photos"), 20)
    model = edgevit.export(edgevit.load("test_vit", classes=["ant", "bee", "cat"], image_size=64), embedding=True)
    if precision == "int8":
        model = edgevit.quantize(model, calibration=photos, min_sqnr_db=0)
    bundle = edgevit.bundle(model, tmp_path / "bundle")
    command: list[Any] = [oldest, "-B", bundle / "infer.py", "--verify", "--json", "--top", "3", photos]
    answer = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    found = [json.loads(line) for line in answer.stdout.splitlines()]
    expected = model.predict(sorted(photos.iterdir()), top=3)
    for got, wanted in zip(found, expected, strict=True):
        confidences = {one["label"]: one["confidence"] for one in got["labels"]}
        assert confidences == pytest.approx(dict(wanted.labels), abs=tolerance)


@pytest.mark.slow
def test_classes_are_enrolled_on_python_39(oldest: Path, tmp_path: Path):
    bundle = copied_bundle(tmp_path / "bundle")
    fours = digit_files(tmp_path / "fours", "4", 5)
    command: list[Any] = [oldest, "-B", bundle / "enroll.py", "--json", "--class", "four", *fours]
    answer = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    assert (json.loads(answer.stdout)["taken"], json.loads(answer.stdout)["classes"]) == (5, 9)


def new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def noise_images(folder: Path, count: int) -> Path:
    """Wide images. Pillow 13 rounds tall ones otherwise than older versions do."""
    for index in range(count):
        generator = np.random.default_rng(index)
        pixels = generator.integers(
            0, 256, (generator.integers(30, 60), generator.integers(90, 120), 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return folder
