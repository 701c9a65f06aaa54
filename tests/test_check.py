"""The command check, on files that the other commands made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from edgevit.checking import nvidia
from edgevit.errors import ArtifactError, RecipeError
from tests.checking.graphs import convolution
from tests.checking.test_nvidia import needs_nvidia
from tests.test_files import run

MODEL = ("--model", "test_efficientnet", "--image-size", 64, "--classes", 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checked")
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for index in range(8):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / "photos" / f"{index}.png")
    run("export", *MODEL, "--out", folder / "float32.onnx")
    run("export", *MODEL, "--precision", "float16", "--out", folder / "float16.onnx")
    for_ = ("--calibration", folder / "photos", "--images", 8)
    run("quantize", folder / "float32.onnx", *for_, "--placement", "all", "--out", folder / "here.onnx")
    run("quantize", folder / "float32.onnx", *for_, "--runtime", "tensorrt", "--out", folder / "board.onnx")
    return folder


@needs_nvidia
def test_what_was_made_for_tensorrt_is_taken(folder: Path) -> None:
    half, board = json.loads(run("check", folder / "float16.onnx", folder / "board.onnx", "--json"))
    assert half["ok"]
    assert board["ok"]
    assert not board["diagnostics"]
    asked = {product["node"]: product["asked"] for product in board["products"]}
    assert {"int8", "half"} == set(asked.values())
    assert all(product["got"] == asked[product["node"]] for product in board["products"])
    shown = run("check", folder / "board.onnx")
    assert "built by TensorRT for RTX" in shown
    assert "int8   int8" in shown
    assert max(map(len, shown.removeprefix(str(folder)).splitlines())) <= 80


@needs_nvidia
def test_what_was_made_for_onnxruntime_is_refused_and_named(folder: Path) -> None:
    shown = run("check", folder / "here.onnx", status=1)
    assert "refused by TensorRT for RTX" in shown
    assert "Non-zero zero point is not supported" in shown
    assert "error: symmetric" in shown
    assert "quantize the float model with --runtime tensorrt" in shown


@needs_nvidia
def test_one_bad_file_among_good_ones_fails_the_command(folder: Path) -> None:
    answers = json.loads(run("check", folder / "board.onnx", folder / "here.onnx", "--json", status=1))
    assert [answer["ok"] for answer in answers] == [True, False]


@needs_nvidia
def test_a_product_that_falls_back_is_named(tmp_path: Path) -> None:
    scales = {"scale": np.full(16, 0.1, np.float32), "zero": np.zeros(16, np.int8)}
    onnx.save(convolution(**scales), tmp_path / "model.onnx")
    shown = run("check", tmp_path / "model.onnx", status=1)
    assert "Conv_logits falls back: int8 was asked for, float runs" in shown


def test_without_the_extra_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia._self_check.cache_clear()
    monkeypatch.setattr(nvidia, "find_spec", lambda name: None)
    assert "it follows TensorRT's rules" in run("check", folder / "board.onnx")
    assert "breaks TensorRT's rules" in run("check", folder / "here.onnx", status=1)
    nvidia._self_check.cache_clear()


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "photo.onnx").write_bytes(b"not a graph")
    with pytest.raises(ArtifactError, match="not an ONNX model"):
        run("check", tmp_path / "photo.onnx")


def test_float16_is_not_quantized(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="float16 already"):
        run("quantize", folder / "float16.onnx", "--calibration", folder / "photos", "--out", tmp_path / "out.onnx")


@needs_nvidia
@pytest.mark.parametrize(("precision", "short"), [("float8", "fp8"), ("int4", "int4")])
def test_float8_and_int4_are_made_inspected_and_taken(precision: str, short: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "narrow.onnx"
    options = ("--calibration", folder / "photos", "--images", 8, "--runtime", "tensorrt", "--precision", precision)
    run("quantize", folder / "float32.onnx", *options, "--out", out)
    (found,) = json.loads(run("check", out, "--json"))
    assert {one["got"] for one in found["products"]} == {short, "half"}
    assert not found["diagnostics"]
    layers = json.loads(run("inspect", out, "--json"))["layers"]
    quantized = {one["node"]: one for one in layers if one["asked"] == short}
    assert set(quantized) == {one["node"] for one in found["products"] if one["asked"] == short}
    assert all(bool(one["why_float"]) == (one["node"] not in quantized) for one in layers)
    assert {one["got"] for one in layers} == {"float"}, "ONNX Runtime multiplies neither"
    (here,) = json.loads(run("check", out, "--runtime", "onnxruntime", "--json", status=1))
    advice = {one["next"] for one in here["fell_back"] if one["node"] in quantized}
    assert advice == {f"quantize the float model in int8: there are no {short} kernels for this CPU"}


@pytest.mark.parametrize("precision", ["float8", "int4"])
def test_what_is_tensorrts_is_refused_for_another_runtime(precision: str, folder: Path, tmp_path: Path) -> None:
    asked = ("--calibration", folder / "photos", "--precision", precision, "--out", tmp_path / "out.onnx")
    with pytest.raises(RecipeError, match=f"{precision} is for runtime: tensorrt; onnxruntime takes int8"):
        run("quantize", folder / "float32.onnx", *asked)


def test_float16_halves_the_file(folder: Path) -> None:
    sizes = {name: (folder / f"{name}.onnx").stat().st_size for name in ("float32", "float16", "board")}
    assert sizes["float16"] < 0.6 * sizes["float32"]
    assert sizes["board"] < 0.7 * sizes["float16"]
