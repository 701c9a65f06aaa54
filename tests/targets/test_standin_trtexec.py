"""The stand-in's trtexec against logs of the real one, against ONNX Runtime, and against NVIDIA's builder."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto

from edgevit.checking import check_for_tensorrt
from edgevit.checking.check import graph_of
from edgevit.checking.layers import checked_products, kernels_of_engine
from edgevit.errors import CheckFailed
from edgevit.graphs.graph import Graph
from edgevit.profiling import MeasurePlan
from edgevit.targets.boards.versions import tensorrt_release
from edgevit.targets.trtexec.answers import failure_in, log_of
from edgevit.targets.trtexec.commands import (
    ENGINE,
    INPUT,
    TIMES,
    BatchProfile,
    Input,
    build_arguments,
    layers_arguments,
    outputs_arguments,
    timing_arguments,
)
from edgevit.targets.trtexec.commands import LAYERS as LAYERS_FILE
from edgevit.targets.trtexec.commands import OUTPUTS as OUTPUTS_FILE
from tests.checking import graphs
from tests.checking.graphs import attention, convolution, node
from tests.checking.test_nvidia import needs_nvidia
from tests.targets.standin import STANDINS, build
from tests.targets.standin.boards import TRTEXEC
from tests.targets.standin.trtexec.program import main
from tests.targets.standin.trtexec.settings import TrtexecSettings, Variant

RECORDED = Path(__file__).parents[3] / "shared" / "reference" / "device_logs"
NANO, AGX, AGX_11, THOR = (
    TRTEXEC[name]
    for name in ("jetpack6-orin-nano", "jetpack7-agx-orin", "jetpack7-agx-orin-tensorrt11", "jetpack7-thor")
)
LATER = replace(NANO, version=(10, 13, 3), serialization=NANO.serialization + 1)
SIDE, OUTPUTS = 4, 20
FIRST_PAIR = "QuantizeLinear_rounded_integers"
BUILD = ("--onnx=model.onnx", "--saveEngine=model.engine", "--skipInference", "--stronglyTyped")
LAYERS = ("--exportLayerInfo=layers.json", "--profilingVerbosity=detailed")
RUN = ("--loadEngine=model.engine", "--iterations=1", "--duration=0", "--warmUp=0")
OPEN = tuple(f"--{end}Shapes=image:{size}x{SIDE}" for end, size in (("min", 1), ("opt", 1), ("max", 4)))

needs_recorded = pytest.mark.skipif(not RECORDED.is_dir(), reason="needs ../shared/reference/device_logs")


@dataclass
class Trtexec:
    """Runs the program in the current folder, and keeps what it printed."""

    capture: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    def __call__(self, settings: TrtexecSettings, *arguments: str, variant: Variant = "good") -> int:
        settings.write(Path("settings.json"))
        Path("variant").write_text(variant)
        status = main(["settings.json", "variant", "trtexec", *arguments])
        self.out, self.err = self.capture.readouterr()
        state = {0: "PASSED", 1: "FAILED"}[status]
        assert self.out.splitlines()[-1].startswith(f"&&&& {state} TensorRT.trtexec [TensorRT v")
        return status

    @property
    def errors(self) -> list[str]:
        return re.findall(r"^\[[-/:\d]+\] \[E\] (.*)", self.err, re.MULTILINE)


@pytest.fixture
def trtexec(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trtexec:
    monkeypatch.chdir(tmp_path)
    return Trtexec(capsys)


def linear(batch: int | str, quantized: bool = False) -> ModelProto:
    """image → product → + bias → logits, of an open or a fixed batch."""
    weights = np.random.default_rng(0).standard_normal((SIDE, OUTPUTS)).astype(np.float32)
    constants: dict[str, Any] = {"weights": weights, "bias": np.float32(0.5)}
    before, read = [], ["image", "weights"]
    if quantized:
        integers = np.clip(weights * 40, -127, 127).astype(np.int8)
        constants |= {"scale": np.float32(0.02), "zero": np.int8(0), "weights": integers}
        before = [*graphs.pair("image", "rounded"), node("DequantizeLinear", ["weights", "scale", "zero"], "unpacked")]
        read = ["rounded", "unpacked"]
    nodes = [*before, node("MatMul", read, "product"), node("Add", ["product", "bias"], "logits")]
    return graphs.model(nodes, constants, [batch, SIDE], [batch, OUTPUTS])


def unsupported() -> ModelProto:
    """A graph with an operator that is in no column of NVIDIA's table."""
    return graphs.model([node("Det", ["image"], "logits")], {}, [1, 4, 4], [1])


def with_zero_point() -> ModelProto:
    model = linear(1, quantized=True)
    zero = next(entry for entry in model.graph.initializer if entry.name == "zero")
    zero.CopyFrom(onnx.numpy_helper.from_array(np.asarray(3, np.int8), "zero"))
    return model


def of_opset_21() -> ModelProto:
    model = linear(1)
    model.opset_import[0].version = 21
    return model


def saved(model: ModelProto) -> ModelProto:
    onnx.save(model, "model.onnx")
    return model


def form(line: str) -> str:
    """A line without its time and its command, and with its numbers replaced."""
    text = re.sub(r"^\[[-/:\d]+\] | # .*", "", line)
    return re.sub(r"(?<![\w.(])\d+(\.\d+)?(e-\d+)?", "#", text)


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"= (\d+(?:\.\d+)?)", line)]


@needs_recorded
def test_the_summary_has_the_recorded_form_and_times(trtexec: Trtexec) -> None:
    """Three seconds without transfers, as in the log of a Jetson with JetPack 6."""
    recorded = (RECORDED / "trtexec_summary_trt10_3_jp6_resnet50_fp16.txt").read_text().splitlines()[1:]
    saved(linear(1))
    trtexec(NANO, *BUILD)
    assert trtexec(NANO, "--loadEngine=model.engine", "--noDataTransfers") == 0
    replayed = {form(line): line for line in trtexec.out.splitlines()}
    for line in filter(None, recorded):
        assert form(line) in replayed, line
        assert numbers(replayed[form(line)]) == pytest.approx(numbers(line), rel=0.02), line
    rates = [float(re.search(r"Throughput: (.*) qps", text)[1]) for text in (trtexec.out, "\n".join(recorded))]
    assert rates[0] == pytest.approx(rates[1], rel=0.01)


@needs_recorded
def test_the_transfers_are_replayed_too(trtexec: Trtexec) -> None:
    recorded = (RECORDED / "trtexec_summary_trt10_with_transfers.txt").read_text().splitlines()[1:]
    saved(linear(1))
    trtexec(NANO, *BUILD)
    trtexec(NANO, "--loadEngine=model.engine")
    replayed = {form(line): line for line in trtexec.out.splitlines()}
    for line in recorded:
        assert form(line) in replayed, line
        if "H2D" in line or "D2H" in line:
            assert numbers(replayed[form(line)]) == pytest.approx(numbers(line), rel=0.02), line


@needs_recorded
def test_the_exported_times_have_the_recorded_form(trtexec: Trtexec) -> None:
    saved(linear(1))
    trtexec(NANO, *BUILD)
    assert trtexec(NANO, *RUN[:1], "--iterations=40", "--duration=0", "--exportTimes=times.json") == 0
    times = json.loads(Path("times.json").read_text())
    recorded = (RECORDED / "trtexec_export_timing_trt8_a100.json.txt").read_text().splitlines()
    mine = Path("times.json").read_text().splitlines()
    assert [form(line) for line in mine[:3]] == [form(line) for line in recorded[1:4]]
    assert len(times) == 40
    for run in times:
        assert run["latencyMs"] == pytest.approx(run["h2dMs"] + run["computeMs"] + run["d2hMs"], abs=1e-3)
        assert run["computeMs"] == pytest.approx(run["endComputeMs"] - run["startComputeMs"], abs=1e-3)
    starts = [run["startH2dMs"] for run in times]
    assert starts == sorted(starts)


@pytest.mark.parametrize("settings", [NANO, THOR, AGX, AGX_11], ids=lambda settings: settings.title)
@pytest.mark.parametrize("batch", [1, "batch"])
def test_outputs_are_those_of_onnxruntime(settings: TrtexecSettings, batch: int | str, trtexec: Trtexec) -> None:
    model = saved(linear(batch, quantized=True))
    count = 3 if batch == "batch" else 1
    images = np.random.default_rng(1).standard_normal((count, SIDE)).astype(np.float32)
    images.tofile("images.raw")
    shapes = OPEN if batch == "batch" else ()
    shape = (f"--shapes=image:{count}x{SIDE}",) if batch == "batch" else ()
    assert trtexec(settings, *BUILD, *shapes) == 0, trtexec.err
    assert trtexec(settings, *RUN, *shape, "--loadInputs=image:images.raw", "--exportOutput=out.json") == 0, trtexec.err
    (output,) = json.loads(Path("out.json").read_text())
    assert (output["name"], output["dimensions"]) == ("logits", f"{count}x{OUTPUTS}")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(["logits"], {"image": images})[0]
    np.testing.assert_allclose(np.reshape(output["values"], expected.shape), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "flag", "is_known"),
    [
        (NANO, "--workspace=2048", False),
        (NANO, "--fp16", True),
        (NANO, "--tilingOptimizationLevel=1", False),
        (THOR, "--tilingOptimizationLevel=1", True),
        (THOR, "--cpuOnly", False),
        (AGX, "--cpuOnly", True),
        (AGX, "--noSpinWait", False),
        (AGX_11, "--noSpinWait", True),
        (AGX_11, "--fp16", False),
        (AGX_11, "--int8", False),
        (AGX_11, "--useSpinWait", True),
    ],
)
def test_each_version_knows_its_flags(settings: TrtexecSettings, flag: str, is_known: bool, trtexec: Trtexec) -> None:
    saved(linear(1))
    assert trtexec(settings, *BUILD, flag) == (0 if is_known else 1)
    name, _, value = flag.partition("=")
    assert trtexec.errors == ([] if is_known else [f"Unknown option: {name} {value}"])  # so it is recorded


@pytest.mark.parametrize("settings", [NANO, THOR, AGX, AGX_11], ids=lambda settings: settings.title)
def test_the_command_lines_of_edgevit_are_taken(settings: TrtexecSettings, trtexec: Trtexec) -> None:
    """By each release without a warning, and with equal options."""
    saved(linear("batch", quantized=True))
    Path("timing.cache").write_bytes(b"timings of another model\n")
    np.zeros((2, SIDE), np.float32).tofile(INPUT)
    release, source = tensorrt_release(".".join(map(str, settings.version))), Input("image", (SIDE,))
    lines = (
        build_arguments(
            release.for_version_compatible(),
            source,
            BatchProfile(best=1, most=4),
            builder_level=3,
            workspace_mib=None,
            timing=MeasurePlan(0.1, 0.2, 10),
            has_timing_cache=True,
        ),
        build_arguments(release, source, BatchProfile(best=1, most=4), builder_level=3, workspace_mib=512),
        layers_arguments(release, source, batch_size=2, is_open=True),
        outputs_arguments(release, source, batch_size=2, is_open=True),
        timing_arguments(release, source, MeasurePlan(0.1, 0.2, 10, batch_size=2), is_open=True),
    )
    for line in lines:
        assert trtexec(settings, *line) == 0, trtexec.err
        assert trtexec.err == ""
    assert "Data transfers: Enabled" in trtexec.out
    assert {ENGINE, LAYERS_FILE, OUTPUTS_FILE, TIMES} <= {file.name for file in Path().iterdir()}


def test_defaults_that_change_with_the_version(trtexec: Trtexec) -> None:
    saved(linear(1))
    for settings, flag, transfers in ((AGX, "", True), (AGX_11, "", False), (AGX_11, "--includeDataTransfers", True)):
        trtexec(settings, *BUILD)
        trtexec(settings, *RUN, *filter(None, [flag]), "--exportTimes=times.json")
        assert f"Data transfers: {'Enabled' if transfers else 'Disabled'}" in trtexec.out
        assert (json.loads(Path("times.json").read_text())[0]["h2dMs"] > 0) == transfers


@pytest.mark.parametrize(
    ("model", "arguments", "says"),
    [
        (linear(1, True), BUILD[:3], "int8 precision has been set for at least one layer"),
        (with_zero_point(), BUILD, "While parsing node number 0 [QuantizeLinear"),
        (unsupported(), BUILD, "While parsing node number 0 [Det"),
        (of_opset_21(), BUILD, "ModelImporter.cpp:954: ERROR"),
        (linear(1), (*BUILD, *OPEN), "Static model does not take explicit shapes"),
        (linear("batch"), (*BUILD, "--minShapes=photo:1x4"), 'Cannot find input tensor with name "photo"'),
        (linear(1), ("--onnx=missing.onnx",), "Input file cannot be found, or is not a regular file: missing.onnx"),
        (linear(1), ("--verbose",), "Model missing or format not recognized"),
    ],
)
def test_what_is_refused_at_a_build(model: ModelProto, arguments: list[str], says: str, trtexec: Trtexec) -> None:
    saved(model)
    assert trtexec(NANO, *arguments) == 1
    assert says in "\n".join(trtexec.errors), trtexec.err
    assert not Path("model.engine").exists()


def test_a_failed_parser_ends_as_recorded(trtexec: Trtexec) -> None:
    """As in a public log of 10.3: the node, the reason, and four lines."""
    saved(unsupported())
    trtexec(NANO, *BUILD)
    assert [re.sub(r" .*", "", text) for text in trtexec.errors if text.startswith("[TRT]")] == ["[TRT]"] * 4
    assert 'name: "Det_logits"\nop_type: "Det"\n' in trtexec.err
    assert trtexec.errors[-4:] == [
        "Failed to parse onnx file",
        "Parsing model failed",
        "Failed to create engine from model or file.",
        "Engine set up failed",
    ]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (THOR, "Version tag does not match. Note: Current Version: 236, Serialized Engine Version: 240"),
        (replace(NANO, compute_capability="11.0"), "expecting compute 8.7 got compute 11.0, please rebuild."),
    ],
)
def test_an_engine_of_another_board_is_refused(other: TrtexecSettings, says: str, trtexec: Trtexec) -> None:
    saved(linear(1))
    trtexec(other, *BUILD)
    assert trtexec(NANO, *RUN) == 1
    assert says in trtexec.errors[0]
    assert trtexec.errors[1] == "Engine deserialization failed"


def test_an_engine_of_another_model_of_the_board_is_warned_of(trtexec: Trtexec) -> None:
    saved(linear(1))
    trtexec(replace(NANO, sms=16), *BUILD)
    assert trtexec(NANO, *RUN) == 0
    assert "across different models of devices is not recommended" in trtexec.err
    Path("model.engine").write_bytes(b"no engine")
    assert trtexec(NANO, *RUN) == 1
    assert "plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed" in trtexec.errors[0]


def test_two_builds_give_different_bytes(trtexec: Trtexec) -> None:
    saved(linear(1))
    engines = set()
    for _ in range(2):
        trtexec(NANO, *BUILD, "--timingCacheFile=timings")
        engines.add(Path("model.engine").read_bytes())
    assert len(engines) == 2
    first = Path("timings").read_text()
    assert first.endswith(" by [TensorRT v100300] on Orin\n")
    saved(linear("batch"))
    trtexec(NANO, *BUILD, "--timingCacheFile=timings")
    assert Path("timings").read_text().startswith(first)
    assert len(Path("timings").read_text().splitlines()) == 2  # one a model


def test_a_version_compatible_engine_runs_with_later_versions_alone(trtexec: Trtexec) -> None:
    saved(linear(1))
    trtexec(NANO, *BUILD, "--versionCompatible")
    assert trtexec(LATER, *RUN, "--versionCompatible") == 0
    assert trtexec(NANO, *RUN) == 1
    assert "host code of engines is not allowed" in trtexec.errors[0]
    trtexec(LATER, *BUILD, "--versionCompatible")
    assert trtexec(NANO, *RUN, "--versionCompatible") == 1
    assert "Serialized Engine Version" in trtexec.errors[0]


@pytest.mark.parametrize(
    ("batch", "flags", "says"),
    [
        ("batch", ["--shapes=image:5x4"], "Set dimension [5,4] for tensor image does not satisfy any optimization"),
        ("batch", ["--shapes=image:5x4"], "Valid range for profile 0: [1,4]..[4,4].)"),
        ("batch", ["--shapes=image:2x4", "--loadInputs=image:images.raw"], "size is: 32 bytes but the file size is 16"),
        (1, ["--shapes=image:2x4"], "built with static shapes for input tensor image but the provided shapes do not"),
        (1, ["--loadInputs=photo:images.raw"], 'Cannot find input tensor with name "photo" in the engine bindings!'),
        (1, ["--loadInputs=image:none.raw"], "Cannot open file none.raw!"),
    ],
)
def test_what_is_refused_at_a_run(batch: int | str, flags: list[str], says: str, trtexec: Trtexec) -> None:
    saved(linear(batch))
    np.zeros(SIDE, np.float32).tofile("images.raw")
    trtexec(NANO, *BUILD, *(OPEN if batch == "batch" else ()))
    assert trtexec(NANO, *RUN, *flags) == 1
    assert says in trtexec.err


@pytest.mark.parametrize(
    ("builder", "model", "variant", "kind", "node", "says"),
    [
        (THOR, linear(1), "good", "engine", "", "Serialized Engine Version: 240"),
        (replace(NANO, compute_capability="11.0"), linear(1), "good", "engine", "", "got compute 11.0, please rebuild"),
        (None, linear(1), "good", "engine", "", "kPLAN_MAGIC_TAG failed"),
        (NANO, unsupported(), "good", "node", "Det Det_logits", "Plugin not found, are the plugin name"),
        (
            NANO,
            with_zero_point(),
            "good",
            "node",
            "QuantizeLinear QuantizeLinear_rounded_integers",
            "must be all zeros.",
        ),
        (NANO, linear(1), "fails-at-node", "node", "MatMul_product", "Could not find any implementation"),
        (NANO, linear(1), "out-of-memory", "memory", "", "OutOfMemory (Requested size was"),
    ],
)
def test_edgevit_reads_why_it_failed(
    builder: TrtexecSettings | None, model: ModelProto, variant: Variant, kind: str, node: str, says: str,
    trtexec: Trtexec,
) -> None:  # fmt: skip
    """The words of public logs, as the stand-in says them: see its package."""
    saved(model)
    Path("model.engine").write_bytes(b"of another program")
    if builder is None or trtexec(builder, *BUILD, variant=variant) == 0:
        assert trtexec(NANO, *RUN) == 1
    failure = failure_in(log_of((trtexec.out, trtexec.err)))
    assert (failure.kind, failure.node) == (kind, node)
    assert says in failure.text


def layers_of(trtexec: Trtexec, settings: TrtexecSettings, *flags: str, variant: Variant = "good") -> dict[str, Any]:
    assert trtexec(settings, *BUILD, LAYERS[1], *flags) == 0, trtexec.err
    assert trtexec(settings, *RUN, *LAYERS, variant=variant) == 0, trtexec.err
    return dict(json.loads(Path("layers.json").read_text()))


def types(layer: dict[str, Any], part: str) -> list[str]:
    """The types of a layer's tensors, in either shape of the JSON."""
    return [tensor.get("Datatype") or tensor["Format/Datatype"] for tensor in layer.get(part, [])]


def product_types(layers: dict[str, Any]) -> dict[str, str]:
    """The type that each product multiplies, by the first node of its layer."""
    kinds = ("gemm", "fusion", "runtime_fusion", "CaskConvolution", "correlation")
    found = {}
    for layer in layers["Layers"]:
        if layer["LayerType"] in kinds:
            found[re.findall(r"\[ONNX Layer: (.*?)\]", layer["Metadata"])[0]] = types(layer, "Inputs")[0]
    return found


def test_the_two_shapes_of_the_layers(trtexec: Trtexec) -> None:
    """As NVIDIA's migration guide from 10.x to 11.x describes them."""
    saved(linear("batch", quantized=True))
    old, new = (layers_of(trtexec, settings, *OPEN) for settings in (AGX, AGX_11))
    assert old["Bindings"] == ["image", "logits"]
    assert [tensor["Name"] for tensor in new["I/O Tensors"]] == ["image", "logits"]
    assert new["I/O Tensors"][0]["ProfileInfo"][0]["MaxShape"] == [4, SIDE]
    assert "Bindings" not in new
    assert [layer["Name"] for layer in old["Layers"]] == [layer["Name"] for layer in new["Layers"]]
    assert product_types(old) == product_types(new) == {"MatMul_product": "Int8"}
    behind = old["Layers"][-1]
    assert "MatMul_product" in behind["Metadata"]  # the scale of the product is applied there, in floating point
    assert (behind["LayerType"], types(behind, "Inputs")) == ("kgen", ["Float"])


@pytest.mark.parametrize("settings", [AGX, AGX_11], ids=lambda settings: settings.title)
def test_no_types_of_an_open_batch_are_told_at_a_build(settings: TrtexecSettings, trtexec: Trtexec) -> None:
    """--skipInference makes no execution context. The words are recorded with 10.x."""
    model = saved(linear("batch", quantized=True))
    assert trtexec(settings, *BUILD, *LAYERS, *OPEN) == 0
    layers = json.loads(Path("layers.json").read_text())["Layers"]
    told = {text for layer in layers for part in ("Inputs", "Outputs") for text in types(layer, part)}
    assert told == {"N/A due to dynamic shapes"}
    (product,) = checked_products(Graph(model), kernels_of_engine(Path("layers.json")), "engine")
    assert (product.asked, product.got) == ("int8", "int8")  # by the weights or the tactic


@pytest.mark.parametrize("settings", [NANO, AGX_11], ids=lambda settings: settings.title)
def test_edgevit_sees_what_fell_back(settings: TrtexecSettings, trtexec: Trtexec) -> None:
    graph, file = graph_of(saved(linear(1, quantized=True)), Path("model.onnx")), Path("layers.json")
    layers_of(trtexec, settings)
    (product,) = checked_products(graph, kernels_of_engine(file), "engine")
    assert (product.asked, product.got) == ("int8", "int8")
    layers_of(trtexec, settings, variant="silent-fallback")
    with pytest.raises(CheckFailed, match="in more bits than the ONNX file asks for"):
        checked_products(graph, kernels_of_engine(file), "engine")
    for variant in ("opaque", "opaque-named"):
        (layer,) = layers_of(trtexec, settings, variant=variant)["Layers"]
        assert ("MatMul_product" in layer["Metadata"]) == (variant == "opaque-named")
        (product,) = checked_products(graph, kernels_of_engine(file), "engine")
        assert product.got == ""


@needs_nvidia
@pytest.mark.parametrize(
    "model",
    [
        linear(1, True),
        attention(17, 16, False),
        *(pytest.param(m, marks=pytest.mark.slow) for m in (linear(1), convolution())),
    ],
)
def test_products_have_the_types_that_nvidias_builder_gives(
    model: ModelProto, trtexec: Trtexec, tmp_path: Path
) -> None:
    saved(model)
    built = check_for_tensorrt(tmp_path / "model.onnx")
    assert built.ok, built.to_json()
    got = product_types(layers_of(trtexec, AGX_11))
    short = {"half": "Half", "float": "Float", "int8": "Int8"}
    assert got == {product.node: short[product.got] for product in built.products}


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        ("fails-at-node", "Could not find any implementation for node MatMul_product."),
        ("out-of-memory", "Error Code 2: OutOfMemory (Requested size was 754974720 bytes.)"),
    ],
)
def test_builds_that_fail(variant: Variant, says: str, trtexec: Trtexec) -> None:
    saved(linear(1))
    assert trtexec(NANO, *BUILD, variant=variant) == 1
    assert says in trtexec.err
    assert not Path("model.engine").exists()


def test_runs_that_are_wrong(trtexec: Trtexec) -> None:
    saved(linear(1))
    trtexec(NANO, *BUILD)
    written: dict[Variant, str] = {}
    for variant in ("wrong-outputs", "not-a-number", "half-outputs", "no-outputs", "unstable"):
        Path("out.json").unlink(missing_ok=True)
        assert trtexec(NANO, *RUN[:1], "--exportOutput=out.json", variant=variant) == 0
        written[variant] = Path("out.json").read_text() if Path("out.json").exists() else ""
    assert json.loads(written["wrong-outputs"])[0]["values"] == [1.0] + [0.0] * (OUTPUTS - 1)
    assert '"values" : [ nan, nan,' in written["not-a-number"]
    assert written["half-outputs"].startswith("[")
    assert "]" not in written["half-outputs"]
    assert written["no-outputs"] == ""
    assert "* GPU compute time is unstable, with coefficient of variance = " in trtexec.err


def test_the_program_of_a_board(tmp_path: Path) -> None:
    """By its name, as the agent starts it: another process, with an environment of its own."""
    board = build(STANDINS["jetpack7-agx-orin-tensorrt11"], tmp_path / "board")
    onnx.save(linear(1), tmp_path / "model.onnx")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(board.path / "trtexec"), *arguments]
        return subprocess.run(command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)

    helped = run("--help")
    assert (helped.returncode, helped.stdout.splitlines()[0].split(" #")[0]) == (
        0,
        "&&&& RUNNING TensorRT.trtexec [TensorRT v110401] [b101]",
    )
    passed = run(*BUILD)
    assert (passed.returncode, passed.stderr) == (0, "")
    board.vary("killed")
    assert run(*BUILD).returncode == -9
