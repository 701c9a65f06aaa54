"""The C++ programs of a bundle: compiled here, they label an image as Python does.

They need g++, the headers of nlohmann-json3-dev and libonnxruntime-dev (Debian 13's names; other places by
CPLUS_INCLUDE_PATH). The library is that of the Python package, so that both sides compute with one version.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from edgevit.artifacts import Artifact
from edgevit.bundling import write_bundle
from edgevit.bundling.serving import CPP
from edgevit.graphs.files import artifact_from_onnx, write_onnx
from edgevit.model_file import OnnxruntimeOptions
from tests.bundling.small_model import small_model

COMPILER = shutil.which("g++")
WARNINGS = ("-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
INCLUDES = ("-isystem", "/usr/include/onnxruntime", "-isystem", "/usr/local/cuda/include")


def needs_headers(*names: str) -> None:
    """Skip the test where g++ or one of its headers is missing."""
    if COMPILER is None:
        pytest.skip("needs g++")
    for name in names:
        asked = [COMPILER, "-E", "-x", "c++", *INCLUDES, "-"]
        if subprocess.run(asked, input=f"#include <{name}>\n", capture_output=True, text=True, check=False).returncode:
            pytest.skip(f"needs the header {name}")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the libonnxruntime of the Python package, under the names that linker and loader look for."""
    folder = tmp_path_factory.mktemp("library")
    files = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not files:
        pytest.skip("needs the libonnxruntime.so of the package onnxruntime, which its wheels for Linux hold")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(files[-1])
    return folder


@pytest.fixture(scope="module")
def program(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """classify_onnxruntime, with the ONNX Runtime of the Python package."""
    needs_headers("nlohmann/json.hpp", "onnxruntime_cxx_api.h")
    built = tmp_path_factory.mktemp("cpp") / "classify_onnxruntime"
    linked = [f"-L{library}", "-lonnxruntime", f"-Wl,-rpath,{library}"]
    subprocess.run([COMPILER, *WARNINGS, *INCLUDES, CPP / "classify_onnxruntime.cpp", *linked, "-o", built], check=True)
    return built


def bundled(model: Artifact, folder: Path) -> Path:
    folder.mkdir()
    write_bundle(model, folder)
    return folder


def taking_uint8_images(model: Artifact, folder: Path) -> Artifact:
    """The small model with the scaling in its graph: a uint8 image (N, height, width, 3) times 1/64, as planes."""
    proto = onnx.load(model.path / "model.onnx")
    graph = proto.graph
    graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 16, 24, 3]))
    graph.initializer.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / 64]))
    graph.node[0].input[0] = "planes"
    for node in (
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["float"], ["scaled"]),
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
    ):
        if node.op_type == "Mul":
            node.input.append("scale")
        graph.node.insert(0, node)
    folder.mkdir()
    write_onnx(proto, folder / "model.onnx", model.io.taking_uint8_images())
    return artifact_from_onnx(folder / "model.onnx")


def photo(file: Path, width: int = 24) -> np.ndarray[Any, Any]:
    pixels = np.random.default_rng(5).integers(0, 256, (16, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PPM")
    return pixels


def expected_logits(model: Artifact, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """ONNX Runtime and numpy, without edgevit."""
    spec = model.io
    if spec.preprocess.normalised_inside:
        image: np.ndarray[Any, Any] = pixels[np.newaxis]
    else:
        rule = spec.preprocess
        image = ((pixels / 255.0 - rule.mean) / rule.std).transpose(2, 0, 1)[np.newaxis].astype(np.float32)
    batch = spec.inputs[0].shape[0]
    session = onnxruntime.InferenceSession(model.path / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {"image": np.repeat(image, batch if isinstance(batch, int) else 1, axis=0)}
    logits: np.ndarray[Any, Any] = session.run(["logits"], feed)[0][0]
    return logits


@pytest.mark.parametrize("kind", ["open-batch", "fixed-batch", "uint8", "options"])
def test_the_program_gives_labels_and_logits_of_python(kind: str, program: Path, tmp_path: Path) -> None:
    options = OnnxruntimeOptions(disabled_optimizers=("ConstantFolding", "MatMulAddFusion"))
    model = small_model(
        tmp_path / "model",
        batch=4 if kind == "fixed-batch" else "batch",
        options=options if kind == "options" else None,
    )
    if kind == "uint8":
        model = taking_uint8_images(model, tmp_path / "uint8")
    bundle, file = bundled(model, tmp_path / "bundle"), tmp_path / "photo.ppm"
    pixels = photo(file)
    answer = json.loads(subprocess.run([program, bundle, file, "4"], capture_output=True, text=True, check=True).stdout)
    logits = expected_logits(model, pixels)
    np.testing.assert_allclose(answer["logits"], logits, rtol=1e-4, atol=1e-5)
    exponentials = np.exp(logits.astype(np.float64))
    confidence = dict(zip(model.io.classes, exponentials / exponentials.sum(), strict=True))
    assert [one["label"] for one in answer["labels"]] == sorted(confidence, key=lambda name: -confidence[name])
    for one in answer["labels"]:
        assert one["confidence"] == pytest.approx(confidence[one["label"]], abs=1e-5)


def test_what_it_cannot_read_is_said(program: Path, tmp_path: Path) -> None:
    bundle, file = bundled(small_model(tmp_path / "model"), tmp_path / "bundle"), tmp_path / "photo.ppm"
    photo(file, width=25)

    def said(*arguments: object) -> str:
        ended = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stdout) == (2, "")
        return ended.stderr

    assert "has 25x16 pixels, expected 24x16" in said(bundle, file)
    photo(file)
    file.write_bytes(file.read_bytes()[:-1])
    assert "ends before its last pixel" in said(bundle, file)
    assert "is no PPM file" in said(bundle, bundle / "labels.txt")
    assert "usage:" in said(bundle)
    for top in ("", "0", "-1", "two", "9999999"):
        assert "TOP is a whole number" in said(bundle, file, top)
    (bundle / "iospec.json").write_text('{"inputs": [{"name": "image", "shape": [0]}]}')
    photo(file)
    assert "error: " in said(bundle, file)
    (bundle / "model.onnx").write_text("no model")
    (bundle / "iospec.json").unlink()
    assert "iospec.json: is missing" in said(bundle, file)


PRINTING = """
#include "bundle.hpp"
#include <limits>
std::vector<float> infer(const bundle::Model&, const bundle::Bytes& pixels) {
    const float infinity = std::numeric_limits<float>::infinity();
    if (pixels[0] == 1) return {1, std::numeric_limits<float>::quiet_NaN(), -infinity, 2};
    if (pixels[0] == 2) return {1, infinity, 0, 2};
    if (pixels[0] == 3) return {-infinity, -infinity, -infinity, -infinity};
    if (pixels[0] == 4) throw std::runtime_error("a \\x1b[31m b \\xc2\\x9b c \\xc3\\xbc");
    return {1, -infinity, 2, 0.5f};
}
int main(int count, char** arguments) { return bundle::run(count, arguments, infer); }
"""


def test_what_a_model_may_answer_is_that_of_infer(tmp_path: Path) -> None:
    """The best score is a number; a class may have -infinity. Control characters of a bundle are escaped."""
    needs_headers("nlohmann/json.hpp")
    (tmp_path / "printing.cpp").write_text(PRINTING)
    printing = tmp_path / "printing"
    subprocess.run([COMPILER, *WARNINGS, *INCLUDES, f"-I{CPP}", tmp_path / "printing.cpp", "-o", printing], check=True)
    model = small_model(tmp_path / "model")
    bundle = bundled(model, tmp_path / "bundle")
    (bundle / "labels.txt").write_text("one\ntwo\nthree \x7f\u009b\nfour\n", encoding="utf-8")

    def answer(first: int) -> subprocess.CompletedProcess[str]:
        Image.fromarray(np.full((16, 24, 3), first, np.uint8)).save(tmp_path / "photo.ppm", "PPM")
        command = [str(file) for file in (printing, bundle, tmp_path / "photo.ppm")]
        return subprocess.run([*command, "4"], capture_output=True, text=True, encoding="utf-8", check=False)

    usable = answer(0)
    assert (usable.returncode, usable.stderr) == (0, "")
    assert r"three \u007f\u009b" in usable.stdout
    said = json.loads(usable.stdout)
    assert said["logits"] == [1, None, 2, 0.5]
    assert [one["label"][:5] for one in said["labels"]] == ["three", "one", "four", "two"]
    assert said["labels"][-1]["confidence"] == 0
    for first in (1, 2, 3):
        unusable = answer(first)
        assert (unusable.returncode, unusable.stdout) == (2, "")
        assert "'logits' is empty, NaN or infinite" in unusable.stderr
    assert answer(4).stderr == "error: a \\u001b[31m b \\u009b c ü\n"


@pytest.mark.slow
def test_the_program_for_tensorrt_compiles() -> None:
    """Against NVIDIA's headers; nothing is linked or run."""
    needs_headers("nlohmann/json.hpp", "NvInfer.h", "cuda_runtime_api.h")
    subprocess.run([COMPILER, *WARNINGS, *INCLUDES, "-fsyntax-only", CPP / "classify_tensorrt.cpp"], check=True)


@pytest.mark.slow
def test_cmake_builds_what_is_there(library: Path, tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("needs cmake")
    needs_headers("nlohmann/json.hpp", "onnxruntime_cxx_api.h")
    found = [f"-DCMAKE_LIBRARY_PATH={library}", f"-DCMAKE_INCLUDE_PATH={os.environ.get('CPLUS_INCLUDE_PATH', '')}"]
    configure = [cmake, "-S", str(CPP), "-B", str(tmp_path), *(option.replace(":", ";") for option in found)]
    made = subprocess.run(configure, capture_output=True, text=True, check=False)
    if "nlohmann_json" in made.stderr:
        pytest.skip("needs the CMake files of nlohmann-json3-dev (other places by CMAKE_PREFIX_PATH)")
    assert made.returncode == 0, made.stderr
    subprocess.run([cmake, "--build", tmp_path], check=True, capture_output=True)
    ended = subprocess.run([tmp_path / "classify_onnxruntime"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.split(" ")[0]) == (2, "usage:")
