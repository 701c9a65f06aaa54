"""The packages that a bundle needs: which versions, and that pip and old ones do with them what is said."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper
from PIL import Image

from edgevit.actions.predict_images import predict_images
from edgevit.bundling import write_bundle
from edgevit.bundling.requirements import ONNXRUNTIME_RELEASES, oldest_onnxruntime, requirements_text
from edgevit.bundling.runner import ENROLLING, RUNNER
from tests.bundling.small_model import small_model

PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
OLDEST_PYTHON = (3, 9)


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


@pytest.mark.parametrize("program", sorted(RUNNER | ENROLLING))
def test_programs_of_a_bundle_are_python_39(program: str):
    """The grammar; an option of zip and unions that are evaluated, which ruff does not report."""
    tree = ast.parse((RUNNER | ENROLLING)[program].read_text(encoding="utf-8"), feature_version=OLDEST_PYTHON)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert not [call.lineno for call in calls if call.func.id == "zip" and call.keywords]
    assert not [
        node.lineno
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.BitOr)
    ]
    assert any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_pip_finds_every_package_for_each_python_on_both_architectures(machine: str, tmp_path: Path):
    write_bundle(small_model(tmp_path / "model"), out := new(tmp_path / "bundle"))
    index_is_reached(tmp_path)
    for python in PYTHONS:
        platforms = [f"--platform={name}_{machine}" for name in ("manylinux2014", "manylinux_2_27", "manylinux_2_28")]
        wheels = new(tmp_path / f"wheels-{python}")
        command = [
            "--only-binary=:all:",
            f"--python-version={python}",
            *platforms,
            "-d",
            wheels,
            "-r",
            out / "requirements.txt",
        ]
        answer = pip("download", "-q", *command)
        assert answer.returncode == 0, f"Python {python}: {answer.stderr}"
        names = {wheel.name.split("-")[0] for wheel in wheels.iterdir()}
        assert {"numpy", "pillow", "onnxruntime"} <= names
        shutil.rmtree(wheels)


@pytest.mark.slow
def test_the_oldest_versions_on_python_39_predict_alike(tmp_path: Path):
    old = old_python()
    if old is None:
        pytest.skip("needs a Python 3.9 (python3.9 on the path, or pyenv's)")
    index_is_reached(tmp_path)
    model = small_model(tmp_path / "model")
    write_bundle(model, bundle := new(tmp_path / "bundle"))
    lines = (bundle / "requirements.txt").read_text().splitlines()[1:]
    oldest = [line.split(",")[0].replace(">=", "==") + ".*" for line in lines]
    subprocess.run([old, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *oldest], check=True)
    photos = noise_images(new(tmp_path / "photos"), 20)
    command = [python, "-B", bundle / "infer.py", "--verify", "--json", "--top", "4", photos]
    answer = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    expected = predict_images(model, [photos], 4).answers
    found = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(found) == 20
    for got, wanted in zip(found, expected, strict=True):
        assert [one["label"] for one in got["labels"]] == [one["label"] for one in wanted["labels"]]
        assert [one["confidence"] for one in got["labels"]] == pytest.approx(
            [one["confidence"] for one in wanted["labels"]], abs=1e-4
        )


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


def old_python() -> Path | None:
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which("python3.9"), *sorted(root.glob("3.9.*/bin/python"))]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return Path(candidate)
    return None


def pip(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def index_is_reached(folder: Path) -> None:
    answer = pip("download", "-q", "--no-deps", "-d", folder / "probe", "packaging")
    if answer.returncode:
        pytest.skip(f"needs a package index: {answer.stderr.strip().splitlines()[-1]}")
