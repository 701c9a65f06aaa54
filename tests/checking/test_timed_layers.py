"""The times of layers with their modules and their work, in the command, the page and the picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import edgevit
from edgevit.artifacts import Artifact
from edgevit.checking import inspect_onnx
from edgevit.checking.timed_layers import TimedModel, timed_checkpoint, timed_onnx
from edgevit.errors import RecipeError
from edgevit.graphs.files import onnx_file
from edgevit.profiling.layer_times import LayerTime, LayerTimes
from edgevit.profiling.roofline import Peaks
from edgevit.report import plots
from edgevit.report.inspection import inspection_page
from edgevit.report.layer_times import HEADERS, cells, longest, sentences
from edgevit.report.layer_times_page import times_page
from edgevit.runtimes import peaks as room
from tests.small_models import checkpoint, float_onnx, int8_onnx
from tests.test_files import run

PEAKS = Peaks({"float32": 100.0, "int8": 400.0}, 10.0, 0.0001)


def timed(*layers: LayerTime, **changes: object) -> LayerTimes:
    fields: dict[str, object] = {"runs": 100, "batch_size": 1, "engine_ms": 2.0, "target": "local-cpu"}
    fields |= {"label": "measured", "profiled_ms": 2.2, "runtime": "ONNX Runtime 1.31", "threads": 1, **changes}
    return LayerTimes(layers, **fields)  # type: ignore[arg-type]


def of_vit(**changes: object) -> TimedModel:
    layers = (
        LayerTime("Transpose", 0.5, 0.5, "Transpose", (), 3264),
        LayerTime("blocks.0.mlp.fc1", 1.0, 1.0, "MatMul", ("blocks.0.mlp.fc1",), 53184),
        LayerTime("BiasGelu", 0.5, 0.5, "BiasGelu", ("node_linear_2", "node_gelu"), 26880),
    )
    return timed_onnx(onnx_file(float_onnx()), timed(*layers, **changes), "float32", PEAKS)


def test_each_layer_has_its_module_and_its_work() -> None:
    """fc1 of 17 tokens: 48 by 192. The file has no node for the Transpose."""
    opaque, product, gelu = of_vit().layers
    assert (product.module, product.macs) == ("blocks.0.mlp.fc1", 17 * 48 * 192)
    assert product.placement.intensity == pytest.approx(2 * 17 * 48 * 192 / 53184)
    assert (gelu.module, gelu.macs) == ("blocks.0.mlp", 0)
    assert (opaque.module, opaque.macs, opaque.placement) == ("", None, None)


def test_shares_of_the_time() -> None:
    found = of_vit()
    assert found.opaque == {"Transpose": 0.5}
    assert found.opaque_share == 0.25
    assert sum(found.by_bound.values()) == pytest.approx(1)
    assert found.by_bound["unknown"] == 0.25
    assert found.by_module["blocks.0.mlp.fc1"] == 1.0
    assert found.times.overhead == pytest.approx(0.1)


def test_sentences_state_the_overhead_and_the_opaque_share() -> None:
    said = " ".join(sentences(of_vit(invalid=("the machine throttled",), warnings=("other load",))))
    assert said.startswith("INVALID: the machine throttled")
    assert "sum to 2.00 ms; the median run without the profiler takes 2.00 ms, a run with it 2.20 ms (+10%)" in said
    assert "opaque share: 25.0% of the time is in layers that name no node (Transpose)" in said
    assert "100 GFLOP/s in float32, 400 GFLOP/s in INT8, 10.0 GB/s to memory; a launch takes 0.100 µs" in said
    assert said.endswith("note: other load")


def test_products_without_a_layer_are_counted() -> None:
    """Of two blocks with qkv, two products of attention, proj, fc1 and fc2, the patches and the head: one is timed."""
    said = " ".join(sentences(of_vit()))
    found = of_vit()
    total = float_onnx().metrics["macs"]
    assert (found.untimed.products, found.untimed.of_products) == (2 * 6 + 1, 2 * 6 + 2)
    assert found.untimed.macs_share == pytest.approx(1 - 17 * 48 * 192 / total)
    assert "13 of 14 products (" in said
    assert found.to_json()["untimed"]["products"] == 13


def test_a_product_whose_nodes_hold_none_is_of_unknown_work() -> None:
    layer = LayerTime("gelu", 1.0, 1.0, "Convolution", ("node_gelu",), 100)
    found = timed_onnx(onnx_file(float_onnx()), timed(layer), "float32", PEAKS)
    assert (found.layers[0].macs, found.layers[0].placement) == (None, None)


@pytest.mark.parametrize(("ms", "moved", "said"), [(0.001, 10**6, "has its data from caches"), (0.01, 1, "too low")])
def test_above_the_roof(ms: float, moved: int, said: str) -> None:
    """fc1 has 313,344 operations, 0.0031 ms at 100 GFLOP/s; a megabyte takes 0.1 ms at 10 GB/s."""
    layer = LayerTime("fc1", ms / 10, ms / 10, "MatMul", ("blocks.0.mlp.fc1",), moved)
    peaks = replace(PEAKS, launch_ms=0.0)
    found = timed_onnx(onnx_file(float_onnx()), timed(layer), "float32", peaks)
    assert found.layers[0].placement.share > 1
    assert said in sentences(found)[-1]


def test_a_profiler_that_seems_to_cost_nothing() -> None:
    said = " ".join(sentences(of_vit(profiled_ms=1.9)))
    assert "its cost is not told apart from other noise" in said
    assert "-5%" not in said


def test_two_images_have_twice_the_macs() -> None:
    product = of_vit(batch_size=2).layers[1]
    assert product.macs == 2 * 17 * 48 * 192


def test_the_longest_layers_come_in_the_order_of_execution() -> None:
    found = of_vit()
    kept, others_ms = longest(found, 2)
    assert [layer.name for layer in kept] == ["Transpose", "blocks.0.mlp.fc1"]
    assert others_ms == 0.5
    assert all(len(cells(layer, found)) == len(HEADERS) for layer in found.layers)


def test_the_picture_is_the_same_each_time() -> None:
    assert plots.roofline(of_vit(), 380) == plots.roofline(of_vit(), 380)
    drawn = plots.roofline(of_vit(), 960)
    assert "float32: 100 GFLOP/s" in drawn
    assert "10.0 GB/s" in drawn
    assert "var(--accent)" in drawn


def test_pages() -> None:
    found = of_vit()
    page = inspection_page(inspect_onnx(onnx_file(float_onnx())), found)
    assert "Roofline" in page
    assert "blocks.0.mlp.fc1" in page
    assert "Opaque share: 25.0% of the time" in page
    module = LayerTime("<b>", 1.0, 1.0, "Linear", ("<b>",), 100, 100)
    page = times_page(timed_checkpoint(Path("ck"), timed(module, runtime="PyTorch 2"), PEAKS))
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


@pytest.fixture
def known_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks take half a minute to measure; `tests/runtimes/test_peaks.py` measures them."""
    monkeypatch.setattr(room, "peaks_here", lambda runtime, threads, say: PEAKS)


@pytest.mark.usefixtures("known_peaks")
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_command_times_a_file(runtime: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = ("--target", "local-cpu", "--runtime", runtime, "--html", page)
    shown = run("inspect", onnx_file(int8_onnx()), *options)
    assert max(map(len, shown.splitlines()[1:])) <= 80  # the first line is the path
    assert "on local-cpu, 1 thread, 1 image" in shown
    assert "opaque share: " in shown
    assert "bound by, in shares of the time: " in " ".join(shown.split())
    assert "Roofline" in page.read_text(encoding="utf-8")


@pytest.mark.usefixtures("known_peaks")
def test_the_macs_of_the_layers_are_those_of_the_model() -> None:
    """The independent count is torch's, made at export."""
    made: Artifact = float_onnx(True)
    told = json.loads(run("inspect", onnx_file(made), "--target", "local-cpu", "--json"))["times"]
    assert sum(layer["macs"] or 0 for layer in told["layers"]) == made.metrics["macs"]
    assert told["peaks"]["bandwidth_gb_s"] == 10
    assert told["opaque_share"] < 0.5
    assert told["profiled_ms"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("known_peaks")
def test_the_python_interface() -> None:
    found = edgevit.layer_times(onnx_file(float_onnx()), batch_size=2)
    assert found.times.batch_size == 2
    assert {layer.module for layer in found.layers} >= {"blocks.0.attn.qkv", "blocks.1.mlp.fc2"}
    with pytest.raises(RecipeError, match="there is no such runtime"):
        edgevit.layer_times(onnx_file(float_onnx()), runtime="tflite")


@pytest.mark.slow
@pytest.mark.usefixtures("known_peaks")
def test_the_command_times_the_modules_of_a_checkpoint() -> None:
    shown = run("inspect", checkpoint().path, "--target", "local-cpu")
    assert max(map(len, shown.splitlines())) <= 80
    assert "layers in PyTorch" in shown
    assert "(between operators)" in shown
    assert "blocks.0.mlp.fc1" in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--threads", "2"), "layers are timed only on a target"),
        (("--batch", "2"), "layers are timed only on a target"),
        (("--target", "local-cpu", "--runtime", "tflite"), "there is no such runtime"),
        (("--target", "local-gpu"), "other models are timed on local-cpu"),
    ],
)
def test_options_that_do_not_fit(options: tuple[str, ...], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        run("inspect", onnx_file(float_onnx()), *options)
