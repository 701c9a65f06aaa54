"""A bundle of a TensorRT engine: its files, its program, and its errors on a machine that is not its board.

A stand-in plays TensorRT: its engine holds the ONNX file, and ONNX Runtime computes.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgevit
from edgevit.artifacts import Artifact
from edgevit.bundling import ClassImages, check_engine_bundle, model_to_bundle, runner, write_bundle
from edgevit.bundling import engine as board_here
from edgevit.bundling.engine_record import engine_record, rebuild_command
from edgevit.bundling.infer import is_engine
from edgevit.configs import Bundle
from edgevit.context import Context
from edgevit.errors import ArtifactError
from edgevit.model_file import AS_WRITTEN, TensorrtOptions
from edgevit.progress import SilentProgress
from edgevit.stages import bundle as stage
from tests.bundling.engines import BOARD, LOADING, engine_in_store, python_path
from tests.bundling.small_model import small_model
from tests.bundling.test_damaged_bundle import ODD, mutated
from tests.pythons import index_is_reached, other_python
from tests.said import Said

CONFIG = Bundle(stage="bundle", id="bundle", model="engine", compiled=True)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return engine_in_store(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def whole(engine: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "loading.py").write_text(LOADING)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(runner.ENGINE_RUNNER, "tensorrt_loading.py", folder / "loading.py")
        (out := folder / "bundle").mkdir()
        contents = stage.run(CONFIG, {"model": engine}, Context(work=folder), out)
    assert contents.metrics["runtime"] == "tensorrt"
    assert contents.model_file is not None
    assert contents.model_file.runtime == "onnxruntime"  # which edgevit opens it in
    return out


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def infer(
    bundle: Path, *arguments: object, path: str = "", python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    command = [python, "-B", str(bundle / "infer.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False, env=environment
    )


def record_of(bundle: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((bundle / "bundle.json").read_bytes())
    return record


def test_the_bundle_says_what_its_engine_is_bound_to(whole: Path, engine: Artifact) -> None:
    record = record_of(whole)
    assert (whole / "model.engine").read_bytes() == engine.file("model.engine").read_bytes()
    assert record["engine"]["bound_to"] == BOARD.model_dump(mode="json")
    assert record["engine"]["session_options"] == {"runtime": "tensorrt", "max_batch": 8}
    assert record["engine"]["model"]["metrics"]["engine_sqnr_db"] == 71.5
    assert {"model.onnx", "model.engine", "engine.py", "tensorrt_loading.py"} <= record["files"].keys()
    # The ONNX file is the one that the engine was built from, for any machine.
    assert (record["runtime"]["name"], record["model"]["id"], record["model"]["portable"]) == (
        "onnxruntime",
        "onnx",
        True,
    )
    assert all(line.startswith("#") for line in (whole / "requirements.txt").read_text().splitlines())
    names = [line.partition(">")[0] for line in (whole / "requirements-onnx.txt").read_text().splitlines()[1:]]
    assert names == ["numpy", "pillow", "onnxruntime"]


def test_without_its_board_the_engine_of_a_bundle_is_not_tried(
    whole: Path, engine: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    said = Said()
    check_engine_bundle(engine, whole, Context(work=tmp_path, folder=tmp_path, progress=said))
    assert said.lines == ["note: infer.py was not run on orin: there is no target 'orin'"]


def test_the_command_that_builds_it_anew_has_the_options_that_built_it(whole: Path) -> None:
    command = record_of(whole)["engine"]["rebuild"]
    assert command[0].endswith("/trtexec")
    assert {"--onnx=model.onnx", "--saveEngine=rebuilt.engine", "--stronglyTyped", "--noTF32"} <= set(command)
    assert {"--minShapes=image:1x3x16x24", "--optShapes=image:1x3x16x24", "--maxShapes=image:8x3x16x24"} <= set(command)
    shown = (whole / "README.md").read_text().split("/usr/src/", 1)[1].split("python3 infer.py")[0]
    by_shell = ["sh", "-c", f"set -- /usr/src/{shown}\nprintf '%s\\n' \"$@\""]
    assert subprocess.run(by_shell, capture_output=True, text=True, check=True).stdout.splitlines() == command


def test_a_version_compatible_engine_is_built_anew_as_such(engine: Artifact) -> None:
    options = TensorrtOptions(max_batch=8, version_compatible=True)
    compatible = engine.with_model_file(engine.model_file.model_copy(update={"options": options}))
    assert set(rebuild_command(compatible)) - set(rebuild_command(engine)) == {"--versionCompatible"}
    assert engine_record(compatible)["session_options"]["version_compatible"] is True


def test_a_graph_that_another_machine_compiled_is_not_bundled_as_it_is(tmp_path: Path) -> None:
    model = small_model(tmp_path, options=AS_WRITTEN)
    assert model_to_bundle(model, True, SilentProgress()) == (model, None)  # it does not name its machine
    elsewhere = model.with_model_file(model.model_file.model_copy(update={"bound_to": BOARD}))
    with pytest.raises(ArtifactError, match="compiled the model on another machine") as caught:
        model_to_bundle(elsewhere, True, SilentProgress())
    assert "'orin'" in str(caught.value)


def test_infer_runs_the_engine_with_the_module_of_the_machine(bundle: Path, photo: Path, tmp_path: Path) -> None:
    path = python_path(tmp_path / "python")
    by_engine = infer(bundle, "--json", "--top", 4, photo, path=path)
    assert by_engine.returncode == 0, by_engine.stderr
    assert "max_batch 8 in the stand-in" in by_engine.stderr
    by_onnx = infer(bundle, "--onnx", "--json", "--top", 4, photo)
    assert by_onnx.returncode == 0, by_onnx.stderr
    assert by_onnx.stderr == ""
    assert json.loads(by_engine.stdout) == json.loads(by_onnx.stdout)


def test_without_the_module_infer_says_where_it_is_and_what_runs_here(bundle: Path, photo: Path) -> None:
    answer = infer(bundle, photo)
    assert answer.returncode == 2
    assert "this Python cannot import tensorrt" in answer.stderr
    assert "sudo apt install python3-libnvinfer" in answer.stderr
    assert "infer.py --onnx" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_another_tensorrt_is_named_with_the_command_that_builds_anew(bundle: Path, photo: Path, tmp_path: Path) -> None:
    answer = infer(bundle, photo, path=python_path(tmp_path / "python", "10.13.3.9"))
    assert answer.returncode == 2
    assert "was built for another machine, 'orin'" in answer.stderr
    assert "got: TensorRT 10.13.3.9, not 10.3.0" in answer.stderr
    assert shlex.join(record_of(bundle)["engine"]["rebuild"]) in answer.stderr
    assert "infer.py --onnx" in answer.stderr


def test_an_engine_that_was_built_anew_runs_and_the_old_one_must_be_whole(
    bundle: Path, photo: Path, tmp_path: Path
) -> None:
    path = python_path(tmp_path / "python", "10.13.3.9")
    rebuilt = shutil.copy(bundle / "model.engine", tmp_path / "rebuilt.engine")
    answer = infer(bundle, "--engine", rebuilt, photo, path=path)
    assert answer.returncode == 0, answer.stderr
    rebuilt.write_bytes(b"no engine")
    answer = infer(bundle, "--engine", rebuilt, photo, path=path)
    assert answer.returncode == 2
    assert "TensorRT 10.13.3.9 cannot load it: the engine cannot be deserialized: magicTag failed" in answer.stderr
    with (bundle / "model.engine").open("ab") as file:
        file.write(b" ")
    answer = infer(bundle, photo, path=python_path(tmp_path / "python"))
    assert answer.returncode == 2
    assert "model.engine: was altered" in answer.stderr


def test_a_bundle_without_an_engine_takes_none(tmp_path: Path, photo: Path, engine: Artifact) -> None:
    (out := tmp_path / "bundle").mkdir()
    config = CONFIG.model_copy(update={"compiled": False})
    stage.run(config, {"model": engine}, Context(work=tmp_path), out)
    assert not (out / "model.engine").exists()
    answer = infer(out, "--engine", tmp_path / "x.engine", photo)
    assert answer.returncode == 2
    assert "this bundle has none" in answer.stderr
    assert infer(out, "--onnx", photo).returncode == 0


def test_the_programs_of_the_engine_are_copied_verbatim(engine: Artifact, photo: Path, tmp_path: Path) -> None:
    """And a module that is called tensorrt, but is not NVIDIA's, gives no traceback."""
    model, built = model_to_bundle(engine, True, SilentProgress())
    (out := tmp_path / "bundle").mkdir()
    write_bundle(model, out, engine=built)
    package = Path(edgevit.__file__).parent
    assert (out / "tensorrt_loading.py").read_bytes() == (package / "runtimes/tensorrt_loading.py").read_bytes()
    assert (out / "engine.py").read_bytes() == (package / "bundling/engine.py").read_bytes()
    answer = infer(out, photo, path=python_path(tmp_path / "python"))
    assert answer.returncode == 2
    assert "TensorRT 10.3.0 cannot load it" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_engine_does_not_take_classes(engine: Artifact, tmp_path: Path) -> None:
    model, built = model_to_bundle(engine, True, SilentProgress())
    with pytest.raises(ArtifactError, match="takes classes holds no TensorRT engine"):
        write_bundle(model, tmp_path, ClassImages(support=None), engine=built)


def board(root: Path, model: str = "", compatible: str = "", gpu: str = "") -> Path:
    """The files of /proc that tell a board or a GPU."""
    for name, text in (("device-tree/model", model), ("device-tree/compatible", compatible)):
        if text:
            (root / "proc" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "proc" / name).write_text(text + "\0")
    if gpu:
        folder = root / "proc/driver/nvidia/gpus/0000:01:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {gpu}\nIRQ: 77\n")
    return root


NANO = "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234"
NX = "nvidia,p3768-0000+p3767-0001\0nvidia,p3767-0001\0nvidia,tegra234"


@pytest.mark.parametrize(
    ("hardware", "here", "expected"),
    [
        ({"module": "p3767-0005"}, {"compatible": NANO}, []),
        ({"module": "p3767-0005"}, {"compatible": NX}, ["module p3767-0001, not p3767-0005"]),
        ({"module": "p3767-0005"}, {}, []),  # a container hides it
        ({"model": "Board A"}, {"model": "Board A"}, []),
        ({"model": "Board A"}, {"model": "Board B"}, ["Board B, not Board A"]),
        ({"gpus": ["NVIDIA RTX A2000"]}, {"gpu": "NVIDIA RTX A2000"}, []),
        ({"gpus": ["NVIDIA RTX A2000"]}, {"gpu": "NVIDIA L4"}, ["GPU NVIDIA L4, not NVIDIA RTX A2000"]),
    ],
)
def test_what_differs_here_is_named(
    hardware: dict[str, Any], here: dict[str, str], expected: list[str], tmp_path: Path
) -> None:
    record = {"session_options": {}, "bound_to": {"versions": {"tensorrt": "10.3.0"}, "hardware": hardware}}
    assert board_here.differences(record, "10.3.0", board(tmp_path, **here)) == expected


@pytest.mark.parametrize(
    ("built_with", "here", "compatible", "fits"),
    [
        ("10.3.0", "10.3.0.30", False, True),
        ("10.3.0.30", "10.3.0.26", False, False),
        ("10.3.0", "10.30.0", False, False),
        ("10.3.0", "10.13.3", True, True),
        ("10.13.3", "10.3.0", True, False),
        ("10.9.0", "10.13.3.9", True, True),
        ("10.3.0", "11.4.1", True, False),
    ],
)
def test_versions_of_tensorrt(built_with: str, here: str, compatible: bool, fits: bool, tmp_path: Path) -> None:
    options = {"version_compatible": True} if compatible else {}
    record = {"session_options": options, "bound_to": {"versions": {"tensorrt": built_with}, "hardware": {}}}
    assert (board_here.differences(record, here, tmp_path) == []) is fits


def test_a_damaged_record_of_an_engine_is_refused_or_harmless(whole: Path, tmp_path: Path) -> None:
    """Whatever `is_engine` accepts, the next functions can read."""
    record, draw = record_of(whole)["engine"], random.Random(0)
    assert is_engine(record)
    for _ in range(300):
        damaged = mutated(record, draw)
        if is_engine(damaged):
            board_here.differences(damaged, "10.3.0", tmp_path)
            board_here.next_step(damaged, tmp_path)
    for value in ODD:
        assert not is_engine(value)


@pytest.mark.slow
def test_infer_runs_on_the_python_of_jetpack_6(bundle: Path, photo: Path, tmp_path: Path) -> None:
    """Python 3.10, with numpy 1.21.5 and Pillow 9.0.1 of Ubuntu 22.04. ONNX Runtime is there for the stand-in alone."""
    stock = other_python("3.10")
    index_is_reached(tmp_path)
    subprocess.run([stock, "-m", "venv", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    packages = ["numpy==1.21.5", "pillow==9.0.1", "onnxruntime==1.19.2"]
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *packages], check=True)
    path = python_path(tmp_path / "python")
    answer = infer(bundle, "--verify", "--json", "--top", 4, photo, path=path, python=python)
    assert answer.returncode == 0, answer.stderr
    expected = json.loads(infer(bundle, "--onnx", "--json", "--top", 4, photo).stdout)["labels"]
    got = json.loads(answer.stdout)["labels"]
    assert [one["label"] for one in got] == [one["label"] for one in expected]
    for one, other in zip(got, expected, strict=True):
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-4)
