"""Commands and Python functions with an engine on a board over a real SSH server. A stand-in plays the board."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgevit
from edgevit.actions.first_difference import first_difference
from edgevit.checking.inner_tensors import InnerTensors
from edgevit.cli.first_difference import print_difference
from edgevit.configs import Compile
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.errors import ArtifactError, ParityError
from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.profiling import loop
from tests.small_models import int8_onnx_for_tensorrt as int8
from tests.small_models import workbench
from tests.targets.ssh_host import SshHost, needs_sshd
from tests.targets.standin import STANDINS
from tests.targets.standin.boards import throttling
from tests.targets.standin.module import needs_gcc
from tests.targets.test_tensorrt_journey import AGX_11, NANO, Board, board
from tests.targets.test_tensorrt_module import give_module
from tests.test_files import run

__all__ = ["board"]  # a fixture
pytestmark = needs_sshd
CONFIG = Compile(stage="compile", id="engine", model="model", runtime="tensorrt", target="orin", max_batch=24)
ON_ORIN = ("--runtime", "tensorrt", "--target", "orin", "--max-batch", 24)


def photos(folder: Path, count: int = 40) -> Path:
    """CLASS/*.png of digits."""
    digits = open_dataset(workbench().made["digits.test"])
    assert digits.labels is not None
    for index in range(count):
        home = folder / digits.classes[digits.labels[index]]
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.image(index)).save(home / f"{index:02}.png")
    return folder


def test_from_a_file_to_an_engine_and_its_numbers(board: Board, tmp_path: Path) -> None:
    """Every command that takes a model takes the folder, with the answers of the ONNX file here."""
    file, engine, images = onnx_file(int8()), tmp_path / "engine", photos(tmp_path / "photos")
    assert "products   14 of 14 tell their precision" in run("compile", file, *ON_ORIN, "--out", engine)
    assert {path.name for path in engine.iterdir()} == {
        "manifest.json", "model.engine", "model.onnx", "layers.json", "build.log",
    }  # fmt: skip
    assert (engine / "model.onnx").read_bytes() == file.read_bytes()
    moved = shutil.move(engine, tmp_path / "moved")
    there, here = (
        json.loads(run("evaluate", model, "--data", images, "--json", *target))
        for model, target in ((moved, ("--target", "orin")), (file, ()))
    )
    assert there["top1"]["value"] == pytest.approx(here["top1"]["value"], abs=1 / 40)
    told, expected = (
        json.loads(run("predict", model, images, "--json", *target))
        for model, target in ((moved, ("--target", "orin")), (file, ()))
    )
    assert [one["image"] for one in told] == [one["image"] for one in expected]
    got, wanted = ([one["labels"][0]["confidence"] for one in answers] for answers in (told, expected))
    np.testing.assert_allclose(got, wanted, atol=2e-3)
    profiled = json.loads(run("profile", moved, "--target", "orin", "--duration", 0.05, "--json"))
    assert (profiled["runtime"], profiled["latency_ms"]["label"]) == ("tensorrt", "replayed")
    timed = json.loads(run("inspect", moved, "--target", "orin", "--batch", 4, "--json"))
    assert timed["times"]["label"] == "replayed"
    assert timed["times"]["batch_size"] == 4
    assert timed["times"]["engine_ms"] == pytest.approx(3.14062, rel=0.01)  # of the recorded log
    assert sum(layer["ms"] for layer in timed["layers"]) == pytest.approx(timed["times"]["sum_ms"])
    assert {product["got"] for product in timed["products"] if product["asked"] == "int8"} == {"int8"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [None, AGX_11])
def test_inspect_times_layers_in_80_columns(name: str | None, board: Board, tmp_path: Path) -> None:
    if name:
        board.play(name)
    run("compile", onnx_file(int8()), *ON_ORIN, "--out", tmp_path / "engine")
    shown = run("inspect", tmp_path / "engine", "--target", "orin", "--html", tmp_path / "engine.html")
    assert max(map(len, shown.removeprefix(str(tmp_path / "engine")).splitlines())) <= 80
    assert "replayed, not measured: layers on orin, 1 image" in shown
    assert "Replayed, not measured" in (tmp_path / "engine.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_times_of_layers_on_a_board_that_throttles_are_invalid(board: Board, tmp_path: Path) -> None:
    run("compile", onnx_file(int8()), *ON_ORIN, "--out", tmp_path / "engine")
    board.play(NANO, throttling(STANDINS[NANO]))
    board.standin.take_time()
    shown = run("inspect", tmp_path / "engine", "--target", "orin")
    assert "INVALID: the machine throttled while it was measured" in shown
    assert "threads" not in run("profile", tmp_path / "engine", "--target", "orin", "--duration", 0.05)


@pytest.mark.slow
@needs_gcc
def test_the_python_module_times_layers_too(board: Board, server: SshHost, tmp_path: Path) -> None:
    """A board without trtexec: the file of its times is that of trtexec."""
    give_module(board, server)
    run("compile", onnx_file(int8()), *ON_ORIN, "--out", tmp_path / "engine")
    timed = json.loads(run("inspect", tmp_path / "engine", "--target", "orin", "--json"))
    assert timed["times"]["label"] == "replayed"
    assert all(layer["ms"] is not None for layer in timed["layers"])


@pytest.mark.slow
def test_python_does_the_same(board: Board, tmp_path: Path) -> None:
    images = photos(tmp_path / "photos", 12)
    engine = edgevit.compile(onnx_file(int8()), "orin", runtime="tensorrt", max_batch=16)
    loaded = edgevit.load(engine.save(tmp_path / "engine"))
    for model in (engine, loaded):
        assert edgevit.profile(model, target="orin", duration_s=0.05).p50_ms == pytest.approx(3.14062, rel=0.01)
        assert 0 <= edgevit.evaluate(model, images, target="orin").top1 <= 1
    there, here = loaded.predict(images, target="orin"), edgevit.load(onnx_file(int8())).predict(images)
    assert [one.image for one in there] == [one.image for one in here]
    np.testing.assert_allclose([one.confidence for one in there], [one.confidence for one in here], atol=2e-3)


@pytest.mark.slow
def test_compare_takes_two_engines(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STARTS", 6)
    engines = [tmp_path / "one", tmp_path / "two"]
    for engine, level in zip(engines, (1, 2), strict=True):
        run("compile", onnx_file(int8()), *ON_ORIN, "--builder-level", level, "--out", engine)
    compared = json.loads(run("compare", *engines, "--target", "orin", "--duration", 0.1, "--json"))
    assert compared["model"]["latency_ms"]["label"] == compared["other"]["latency_ms"]["label"] == "replayed"
    assert compared["speedup"]["low"] <= 1 <= compared["speedup"]["high"]


def node_of(part: str, operator: str) -> tuple[str, str]:
    """The name and the output of a node."""
    nodes = [node for node in read_onnx(onnx_file(int8())).graph.node if part in node.name and node.op_type == operator]
    return nodes[0].name, nodes[0].output[0]


@pytest.mark.slow
def test_a_wrong_engine_is_traced_to_its_node(board: Board, tmp_path: Path) -> None:
    node, tensor = node_of("blocks.1.mlp.fc2", "MatMul")
    board.standin.vary("wrong-from", node)
    file, out = onnx_file(int8()), tmp_path / "engine"
    with pytest.raises(ParityError) as caught:
        run("compile", file, *ON_ORIN, "--out", out)
    assert caught.value.next is not None
    assert f"edgevit compile {file} --runtime tensorrt --target orin --max-batch 24 --out" in caught.value.next
    assert "--find-difference" in caught.value.next
    found = json.loads(run("compile", file, *ON_ORIN, "--out", out, "--find-difference", "--json", status=1))
    assert (found["first"]["name"], found["first"]["node"]) == (tensor, node)
    assert found["first"]["sqnr_db"] == pytest.approx(-6.02, abs=0.1)  # its sign is changed: 10·log10(1/4)
    assert found["is_whole"]
    assert found["batch_size"] == 1
    assert min(one["sqnr_db"] for one in found["before"]) > 30
    assert found["builds"] <= 4
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "operator"), [("patch_embed", "Conv"), ("head", "Gemm"), ("blocks.1.attn.qkv", "MatMul")]
)
def test_any_node_can_be_the_wrong_one(part: str, operator: str, board: Board) -> None:
    """The first, the last, and one of a branch."""
    node, tensor = node_of(part, operator)
    board.standin.vary("wrong-from", node)
    found = first_difference(int8(), CONFIG, Context())
    assert found.first is not None
    assert (found.first.name, found.first.node, found.is_whole) == (tensor, node, True)
    assert all(one.agrees for one in found.before)


@pytest.mark.slow
def test_a_fault_that_vanishes_is_said(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    node, tensor = node_of("blocks.1.mlp.fc2", "MatMul")
    board.standin.vary("wrong-unless-marked", node)
    found = first_difference(int8(), CONFIG, Context())
    assert found.vanished == (tensor,)
    assert not found.is_whole
    assert found.first is not None
    assert found.first.name != tensor
    print_difference(found)
    said = capsys.readouterr().out
    assert f"the fault vanishes if {tensor} is a further output" in said
    assert "an earlier tensor may differ" in said
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.slow
def test_a_fault_in_large_batches_alone_is_found_there(board: Board) -> None:
    board.standin.vary("wrong-in-large-batches")
    found = first_difference(int8(), CONFIG, Context())
    assert found.batch_size == 24
    assert found.first is not None


@pytest.mark.slow
def test_large_tensors_are_compared_in_the_batch_that_shows_the_fault(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the largest batch no tensor fits; in batches of one image, in which the outputs differ, all do."""
    node, tensor = node_of("blocks.1.mlp.fc2", "MatMul")
    inner = InnerTensors(read_onnx(onnx_file(int8())), "model").tensors
    largest = max(math.prod(one.shape) for one in inner)
    monkeypatch.setattr("edgevit.actions.first_difference.MOST_VALUES", largest)
    monkeypatch.setattr("edgevit.actions.first_difference.MOST_VALUES_ALONE", largest)
    board.standin.vary("wrong-from", node)
    found = first_difference(int8(), CONFIG, Context())
    assert found.first is not None
    assert (found.first.name, found.is_whole, found.batch_size, found.too_large) == (tensor, True, 1, ())


@pytest.mark.slow
def test_tensors_that_are_too_large_are_counted(
    board: Board, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No tensor fits: the output of the model is the first that is known to differ, and the search is not whole."""
    monkeypatch.setattr("edgevit.actions.first_difference.MOST_VALUES_ALONE", 1)
    board.standin.vary("wrong-from", node_of("blocks.1.mlp.fc2", "MatMul")[0])
    found = first_difference(int8(), CONFIG, Context())
    assert found.first is not None
    assert (found.first.name, found.is_whole, found.builds) == (int8().io.outputs[0].name, False, 1)
    assert len(found.too_large) == len(InnerTensors(read_onnx(onnx_file(int8())), "model").tensors)
    print_difference(found)
    said = capsys.readouterr().out
    assert f"so many values: {len(found.too_large)}: {found.too_large[0]}" in " ".join(said.split())
    assert "an earlier tensor may differ" in said
    assert max(map(len, said.splitlines())) <= 80


def test_a_model_without_tensors_that_can_be_outputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InnerTensors, "_tensors", lambda _: ())
    with pytest.raises(ArtifactError, match="no tensor inside the model can be a further output"):
        first_difference(int8(), CONFIG, Context())
