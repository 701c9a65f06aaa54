"""INT8 products that overflow on a CPU without VNNI, and weights of 7 bits, whose products do not."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from pydantic import ValidationError

from edgevit.artifacts import Artifact, IOSpec, Preprocess
from edgevit.configs import Qat, Quantize
from edgevit.context import Context
from edgevit.graphs.files import write_onnx
from edgevit.model_file import OnnxruntimeOptions
from edgevit.profiling.conditions import cpu
from edgevit.provenance import version_of
from edgevit.quantization import calibrated
from edgevit.quantization.overflow import overflows_here, overflows_on
from edgevit.runtimes import loading
from edgevit.runtimes.onnxruntime.session import inference_session
from edgevit.runtimes.parity import sqnr_db
from edgevit.runtimes.sessions import file_session
from edgevit.stages import quantize
from edgevit.targets import target_for
from edgevit.training import qat
from tests.checking.graphs import model as graph_of
from tests.said import Said
from tests.small_models import checkpoint, float_onnx, workbench

VNNI = {"avx_vnni", "avx512_vnni", "amx_int8"}
runtimes = pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])


def skip_without(runtime: str) -> None:
    if version_of(runtime) is None:
        pytest.skip(f"{runtime} is not installed")


@runtimes
def test_products_overflow_where_an_x86_cpu_names_no_vnni(runtime: str) -> None:
    skip_without(runtime)
    if platform.machine() != "x86_64":
        assert not overflows_here(runtime)
    elif not cpu()["instruction_sets"]:
        pytest.skip("this system does not name the CPU's instructions")
    else:
        assert overflows_here(runtime) == (not VNNI & set(cpu()["instruction_sets"]))


@runtimes
def test_a_target_is_asked_by_running_a_model_on_it(runtime: str) -> None:
    skip_without(runtime)
    assert overflows_on(target_for("local-cpu", Context()), runtime) == overflows_here(runtime)


@pytest.mark.parametrize(
    ("runtime", "reduced"), [("onnxruntime", True), ("openvino", True), ("onnxruntime", False)], ids=str
)
@pytest.mark.parametrize("operator", ["MatMul", "Conv"])
@pytest.mark.parametrize("seed", range(3))
def test_weights_of_7_bits_and_onnxruntimes_of_8_give_the_sums_of_the_graph_on_any_cpu(
    runtime: str, reduced: bool, operator: str, seed: int, tmp_path: Path
) -> None:
    """Weights and images of extremes alone, whose products would overflow. NumPy gives the sums."""
    skip_without(runtime)
    generator = np.random.default_rng(seed)
    shape = (16, 3, 3, 3) if operator == "Conv" else (48, 16)
    weight = generator.choice(np.array([-1, 1], np.float32), shape, p=[0.1, 0.9])
    images = generator.choice(np.array([0, 1], np.float32), (2, 3, 4, 4), p=[0.1, 0.9])
    images[0] = 1
    nodes = {
        "Conv": [
            onnx.helper.make_node("Conv", ["image", "w"], ["sums"], "sums"),
            onnx.helper.make_node("Flatten", ["sums"], ["logits"], "flat"),
        ],
        "MatMul": [
            onnx.helper.make_node("Flatten", ["image"], ["flat"], "flat"),
            onnx.helper.make_node("MatMul", ["flat", "w"], ["logits"], "sums"),
        ],
    }[operator]
    classes = 64 if operator == "Conv" else 16
    graph = graph_of(nodes, {"w": weight}, ["batch", 3, 4, 4], ["batch", classes])
    made = calibrated(graph, lambda: [images], "minmax", runtime, 1, "test", reduce_range=reduced).quantized()
    spec = IOSpec.for_classifier(Preprocess(height=4, width=4), tuple(map(str, range(classes))))
    write_onnx(made.model, tmp_path / "model.onnx", spec, made.options)
    given = file_session(tmp_path / "model.onnx", spec, made.options, 1).infer({"image": images})["logits"]
    if operator == "MatMul":
        exact = images.reshape(2, -1) @ weight
    else:
        patches = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(2, 3))
        exact = np.einsum("ncyxij,ocij->noyx", patches, weight).reshape(2, -1)
    # an int8 activation takes −128..127 for −1..1, and a uint8 output rounds to a 255th of its range
    np.testing.assert_allclose(given, exact, atol=0.02 * np.abs(exact).max())


class Ones(CalibrationDataReader):  # type: ignore[misc]
    """One batch of images of ones."""

    def __init__(self) -> None:
        self._batches = iter([{"image": np.ones((2, 3, 8, 8), np.float32)}])

    def get_next(self) -> Any:
        return next(self._batches, None)


def quantized_by_onnxruntime(how: str, folder: Path) -> Path:
    """A convolution and a product, all of whose weights are 1, by ONNX Runtime's own quantizer with 8 bits."""
    nodes = [
        onnx.helper.make_node("Conv", ["image", "w"], ["sums"], "conv"),
        onnx.helper.make_node("Flatten", ["sums"], ["flat"], "flat"),
        onnx.helper.make_node("MatMul", ["flat", "v"], ["logits"], "product"),
    ]
    weights = {"w": np.ones((16, 3, 3, 3), np.float32), "v": np.ones((576, 16), np.float32)}
    onnx.save(graph_of(nodes, weights, ["batch", 3, 8, 8], ["batch", 16], opset=17), folder / "float.onnx")
    if how == "dynamic":
        quantize_dynamic(folder / "float.onnx", folder / "int8.onnx", op_types_to_quantize=["MatMul"])
    else:
        layout, _, activations = how.partition(", ")
        quantize_static(
            folder / "float.onnx",
            folder / "int8.onnx",
            Ones(),
            quant_format=QuantFormat[layout],
            activation_type=QuantType[activations],
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    return folder / "int8.onnx"


@pytest.mark.parametrize("how", ["QDQ, QUInt8", "QDQ, QInt8", "QOperator, QUInt8", "dynamic"])
def test_files_of_another_quantizer_with_8_bits_are_right_on_any_cpu(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, overflows = quantized_by_onnxruntime(how, tmp_path), overflows_here("onnxruntime")
    images = {"image": np.ones((2, 3, 8, 8), np.float32)}
    monkeypatch.setattr(loading, "sums_overflow", lambda: True)  # the exact kernels give the same on any CPU
    shares = {}
    for exact in (True, False):
        session = inference_session(file, OnnxruntimeOptions(exact_sums=exact), 1)
        shares[exact] = float(session.run(None, images)[0].mean()) / (27 * 576)
    assert shares[True] == pytest.approx(1, abs=0.02)
    assert (shares[False] < 0.9) == overflows


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ONNX Runtime knows the option on x86 alone")
def test_exact_sums_take_other_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimized graph holds uint8 weights: the option is spelled as ONNX Runtime reads it."""
    file, types = quantized_by_onnxruntime("QOperator, QUInt8", tmp_path), {}
    for overflows in (True, False):
        monkeypatch.setattr(loading, "sums_overflow", lambda answer=overflows: answer)
        written = tmp_path / f"{overflows}.onnx"
        inference_session(file, OnnxruntimeOptions(), 1, optimized_path=written)
        tensors = onnx.load(written).graph.initializer
        types[overflows] = {tensor.data_type for tensor in tensors if len(tensor.dims) > 1}
    assert types == {True: {onnx.TensorProto.UINT8}, False: {onnx.TensorProto.INT8}}


def made_with(reduce_range: bool | None) -> tuple[Artifact, list[str]]:
    said = Said()
    fields = {"model": float_onnx().id, "calibration": "digits.pool", "calibration_images": 16, "placement": "all"}
    name = f"reduced-{reduce_range}"
    context = Context(progress=said)
    artifact = workbench().run("quantize", name, context, again=True, reduce_range=reduce_range, **fields)
    return artifact, said.lines


def integer_weights(artifact: Artifact) -> Mapping[str, np.ndarray]:
    model = onnx.load(artifact.file("model.onnx"))
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: values for name, values in tensors.items() if values.dtype == np.int8 and values.ndim > 1}


def test_the_stage_takes_7_bits_where_8_overflow_and_says_so() -> None:
    artifact, lines = made_with(None)
    overflows = overflows_here("onnxruntime")
    assert artifact.metrics.get("reduce_range", False) == overflows
    note = "INT8 weights have 7 bits: products of 8 bits overflow on this CPU"
    assert any(note in line for line in lines) == overflows
    largest = max(np.abs(values.astype(int)).max() for values in integer_weights(artifact).values())
    assert largest == (64 if overflows else 127)


def test_7_bits_can_be_asked_for_on_any_cpu() -> None:
    artifact, lines = made_with(True)
    assert artifact.metrics["reduce_range"]
    assert not any("overflow" in line for line in lines)
    weights = integer_weights(artifact)
    assert weights
    assert all(np.abs(values.astype(int)).max() == 64 for values in weights.values())
    assert artifact.metrics["sqnr_db"] > 20


@pytest.mark.parametrize("fields", [{"runtime": "tensorrt"}, {"runtime": "tensorrt", "precision": "float8"}])
def test_7_bits_for_tensorrt_are_refused(fields: dict[str, str]) -> None:
    stage = {"stage": "quantize", "id": "q", "model": "onnx", "calibration": "digits.pool", "reduce_range": True}
    with pytest.raises(ValidationError, match="reduce_range is for CPUs"):
        Quantize.model_validate({**stage, **fields})


@runtimes
def test_a_small_vit_stays_close_to_float_with_7_bits(runtime: str) -> None:
    """One bit less costs about 6 dB of the weights' noise, and nothing of the activations'."""
    images = np.random.default_rng(0).standard_normal((32, 3, 32, 32)).astype(np.float32)
    model = onnx.load(float_onnx().file("model.onnx"))
    outputs = {}
    for reduced in (False, True):
        made = calibrated(model, lambda: [images], "minmax", runtime, 1, "test", reduce_range=reduced).quantized().model
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # no integer kernels
        session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outputs[reduced] = session.run(["logits"], {"image": images})[0]
    plain = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = plain.run(["logits"], {"image": images})[0]
    db = {reduced: sqnr_db(values, expected) for reduced, values in outputs.items()}
    assert db[False] - 7 < db[True] < db[False] + 1


@pytest.mark.parametrize("here", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_cpu_that_overflows_decides_here_or_on_the_target(
    here: bool, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "overflows_here", lambda runtime: here)
    monkeypatch.setattr(quantize, "overflows_on", lambda target, runtime: there)
    said, target = Said(), target_for("local-cpu", Context())
    stage = {"stage": "quantize", "id": "q", "model": "onnx", "calibration": "digits.pool", "target": "board"}
    decided = quantize.with_decided_range(Quantize.model_validate(stage), target, said)
    assert decided.reduce_range == (here or there)
    place = "this CPU" if here else "board"
    note = f"    q: INT8 weights have 7 bits: products of 8 bits overflow on {place}"
    assert said.lines == ([note] if here or there else [])

    asked = quantize.with_decided_range(Quantize.model_validate({**stage, "reduce_range": False}), target, said)
    assert asked.reduce_range is False


def test_qat_keeps_its_decision_when_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = {"stage": "qat", "id": "q", "init": "student", "calibration": "digits.pool"}
    config = Qat.model_validate({**stage, "streams": [{"data": "digits.support"}]})
    for overflows in (True, False):  # as if it went on on another CPU
        monkeypatch.setattr(qat, "overflows_here", lambda runtime, answer=overflows: answer)
        said = Said()
        assert qat.with_decided_range(config, Context(work=tmp_path, progress=said)).reduce_range is True
        assert said.lines == ["    q: INT8 weights have 7 bits: products of 8 bits overflow on this CPU"]
    asked = config.model_copy(update={"reduce_range": False})
    assert qat.with_decided_range(asked, Context(work=tmp_path)).reduce_range is False


def test_ranges_of_a_training_with_7_bits_are_written_with_7_bits() -> None:
    for reduced in (True, False):
        trained = workbench().run(
            "qat", f"qat-{reduced}", init=checkpoint().id, calibration="digits.pool", calibration_images=16,
            streams=[{"data": "digits.support"}], epochs=0, reduce_range=reduced,
        )  # fmt: skip
        assert trained.metrics.get("reduce_range", False) == reduced
        exported = workbench().run("export", f"qat-{reduced}-onnx", model=trained.id)
        said = Said()
        made = workbench().run(
            "quantize", f"qat-{reduced}-int8", Context(progress=said), model=exported.id, calibration="digits.pool",
            calibration_images=16, calibrator="trained", placement="all",
        )  # fmt: skip
        is_reduced = reduced or overflows_here("onnxruntime")
        largest = max(np.abs(values.astype(int)).max() for values in integer_weights(made).values())
        assert largest == (64 if is_reduced else 127)
        assert made.metrics.get("reduce_range", False) == is_reduced
        assert any("trained for 8 bits and get 7" in line for line in said.lines) == (is_reduced and not reduced)
