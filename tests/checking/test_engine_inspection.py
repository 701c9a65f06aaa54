"""What the command inspect shows of an engine: layers, precisions, fused attention, what is untold, times."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgevit.checking.check import graph_of
from edgevit.checking.engine_inspection import (
    NO_NODE,
    NO_TYPE,
    REGION,
    EngineInspection,
    OpaqueShare,
    inspect_engine,
)
from edgevit.errors import ArtifactError
from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.profiling.layer_times import LayerTime, LayerTimes
from edgevit.report.engine_inspection import engine_page, headline, opaque_sentence, times_sentences
from tests.checking.test_layers import UNTOLD, layer, tensor
from tests.small_models import int8_onnx_for_tensorrt as int8
from tests.targets.engine_folder import engine_folder, layers_of
from tests.test_files import run


def inspected(folder: Path, variant: str = "good", times: LayerTimes | None = None) -> EngineInspection:
    engine = engine_folder(int8(), folder / "engine", layers_of(int8(), variant))
    return inspect_engine(engine, engine.file("model.onnx"), times)


def timed(names: list[str], ms: list[float]) -> LayerTimes:
    layers = tuple(LayerTime(name, time, time) for name, time in zip(names, ms, strict=True))
    return LayerTimes(layers, 100, 1, 2.5, "orin", "replayed")


@pytest.mark.parametrize("major", [10, 11])
def test_each_product_is_told_with_its_layer(major: int, tmp_path: Path) -> None:
    """Two blocks: four INT8 products with weights in each, and attention's two; the patches and the classifier."""
    engine = engine_folder(int8(), tmp_path / "engine", layers_of(int8(), major=major))
    found = inspect_engine(engine, engine.file("model.onnx"))
    assert found.products is not None
    asked = [one.product.asked for one in found.products]
    assert asked.count("int8") == 2 * 4
    assert [one.product.got for one in found.products] == asked
    layers = {layer.name: layer for layer in found.layers}
    for one in found.products:
        assert one.product.node in layers[one.layer].nodes
    assert (found.attentions, found.unfused) == (2, ())
    assert sum(layer.is_attention for layer in found.layers) == 2
    assert headline(found) == "All 14 products run in the precision that they ask for"
    assert found.machine is not None
    assert found.machine.versions["tensorrt"] == "10.3.0"
    assert found.opaque.layers == 0


def test_shares_of_a_layer_that_names_no_node(tmp_path: Path) -> None:
    """Each layer reads 197 × 192 values in 8 bits, and writes as many in 16."""
    first, *others = (one.name for one in graph_of(read_onnx(onnx_file(int8())), tmp_path).of_type("MatMul"))
    told = layer(first, types=("Int8",), Name="told")
    untyped = layer(
        others[0], types=("N/A due to dynamic shapes",), Name="untyped", TacticName="sm80", LayerType="kgen"
    )
    untyped["Outputs"] = [tensor(UNTOLD, False)]
    engine = engine_folder(
        int8(), tmp_path / "engine", {"Layers": [told, layer("elsewhere", types=("Int8",)), untyped]}
    )
    found = inspect_engine(engine, engine.file("model.onnx"), timed(["told", "__myl_Fc_myl0_1", "untyped"], [3, 1, 4]))
    assert [one.untold for one in found.layers] == ["", NO_NODE, NO_TYPE]
    assert [one.bytes for one in found.layers] == [197 * 192 * 3, 197 * 192 * 3, 197 * 192 * 8]
    assert found.opaque == OpaqueShare(layers=2 / 3, bytes=11 / 14, time=5 / 8)


def test_time_of_layers_that_the_inspector_does_not_name_is_opaque(tmp_path: Path) -> None:
    """Else an engine would look as if it told all its time."""
    names = [layer.name for layer in inspected(tmp_path).layers]
    engine = engine_folder(int8(), tmp_path / "again")
    found = inspect_engine(engine, None, timed([*names, "a copy"], [0.1] * len(names) + [0.3]))
    assert found.opaque.layers == 0
    assert found.opaque.time == pytest.approx(0.3 / (0.1 * len(names) + 0.3))
    assert opaque_sentence(found).endswith("0.300 ms in layers that the inspector does not name")
    all_told = inspect_engine(engine, None, timed(names, [0.1] * len(names)))
    assert opaque_sentence(all_told) == "opaque share: none; each layer names its nodes and types"


def test_invalid_times_are_shown_so(tmp_path: Path) -> None:
    engine = engine_folder(int8(), tmp_path / "engine")
    times = replace(timed(["one"], [1.0]), invalid=("the machine throttled",), warnings=("the runs scatter",))
    found = inspect_engine(engine, None, times)
    sentences = times_sentences(found)
    assert (sentences[0], sentences[-1]) == ("INVALID: the machine throttled", "note: the runs scatter")
    assert "INVALID: the machine throttled" in engine_page(found)
    assert found.to_json()["times"]["invalid"] == ("the machine throttled",)


def test_a_network_in_one_layer_is_opaque(tmp_path: Path) -> None:
    found = inspected(tmp_path, "opaque-named")
    assert found.untold == {REGION: 1}
    assert (found.opaque.layers, found.opaque.bytes, found.opaque.time) == (1, 1, None)
    assert found.products is not None
    assert {one.product.got for one in found.products} == {""}
    assert headline(found) == "The engine does not tell the precision of 14 of 14 products"


def test_a_product_that_falls_back_is_in_the_headline(tmp_path: Path) -> None:
    """All but the narrow classifier, which is in a layer of other operators."""
    found = inspected(tmp_path, "silent-fallback")
    assert headline(found) == "13 of 14 products run in more bits than the ONNX file asks for"


def test_times_are_those_of_the_layers_by_name_and_order(tmp_path: Path) -> None:
    names = [layer.name for layer in inspected(tmp_path).layers]
    ms = [0.1 * (place + 1) for place in range(len(names))]
    times = timed([*names[:-1], "a copy that the inspector does not name"], ms)
    engine = engine_folder(int8(), tmp_path / "again")
    found = inspect_engine(engine, None, times)
    assert [layer.ms for layer in found.layers] == [*ms[:-1], None]
    assert times.elsewhere_ms(names) == pytest.approx(ms[-1])
    assert times.sum_ms == pytest.approx(sum(ms))
    twice = timed(["one", "two", "one"], [1.0, 2.0, 3.0])
    assert twice.by_layer(["one", "one", "two", "three"]) == [1.0, 3.0, 2.0, None]


def test_altered_layers_are_refused(tmp_path: Path) -> None:
    engine = engine_folder(int8(), tmp_path / "engine")
    (engine.path / "layers.json").write_text(json.dumps({"Layers": []}))
    with pytest.raises(ArtifactError, match="altered"):
        inspect_engine(engine, None)


def test_without_the_onnx_file_it_says_so(tmp_path: Path) -> None:
    engine = engine_folder(int8(), tmp_path / "engine")
    found = inspect_engine(engine, None)
    assert found.products is None
    assert found.to_json()["products"] is None


def test_the_command_and_its_page(tmp_path: Path) -> None:
    engine = engine_folder(int8(), tmp_path / "engine")
    shown = run("inspect", engine.path, "--html", tmp_path / "engine.html")
    assert max(map(len, shown.removeprefix(str(engine.path)).splitlines())) <= 80
    for line in (
        "built by orin, NVIDIA Jetson Orin Nano, TensorRT 10.3.0, JetPack 6.2",
        "int8, 1 to 8 images",
        "attention: 2 of 2 fused",
        "opaque share: none",
    ):
        assert line in shown
    page = (tmp_path / "engine.html").read_text(encoding="utf-8")
    assert "All 14 products run in the precision that they ask for" in page
    answer = json.loads(run("inspect", engine.path, "--json"))
    assert len(answer["products"]) == 14
    assert {one["got"] for one in answer["products"] if one["asked"] == "int8"} == {"int8"}
    assert answer["opaque"] == {"layers": 0.0, "bytes": 0.0, "time": None}


def test_a_page_escapes_what_the_engine_says(tmp_path: Path) -> None:
    layers = {"Layers": [layer("<script>alert(1)</script>", types=("Int8",), Name="<script>alert(2)</script>")]}
    engine = engine_folder(int8(), tmp_path / "engine", layers)
    page = engine_page(inspect_engine(engine, None, timed(["<script>alert(2)</script>"], [1.0])))
    assert "<script" not in page
    assert "&lt;script&gt;alert(2)" in page
    assert "Replayed, not measured: layers on orin" in page
