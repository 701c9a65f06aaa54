"""Which layers cost most, and which of them stay float, on a chain of products of which one is made to suffer."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgevit.artifacts import IOSpec, Preprocess
from edgevit.errors import ParityError
from edgevit.graphs.files import write_onnx
from edgevit.model_file import OnnxruntimeOptions
from edgevit.progress import SilentProgress
from edgevit.quantization import calibrated
from edgevit.quantization.sensitivity import SensitivityAnalysis
from edgevit.runtimes.sessions import file_session
from tests.small_models import float_onnx, workbench

SPEC = IOSpec.for_classifier(Preprocess(height=4, width=4), tuple(map(str, range(32))))
LAYERS, SUFFERS = 6, 3


def chain(suffering: Collection[int] = (SUFFERS,)) -> ModelProto:
    """image → flattened → six products of 32 channels, with a channel a thousand times larger before some of them."""
    generator = np.random.default_rng(0)
    scale = np.ones(32, np.float32)
    scale[5] = 1000
    first = generator.standard_normal((48, 32)).astype(np.float32) / 7
    weights = [first, *(generator.standard_normal((32, 32)).astype(np.float32) / 6 for _ in range(LAYERS - 1))]
    for index in suffering:
        weights[index][5] /= 1000
    tensors = [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)]
    tensors += [numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(np.array([-1, 48]), "shape")]
    nodes, value = [helper.make_node("Reshape", ["image", "shape"], ["h"], "flat")], "h"
    for index in range(LAYERS):
        if index in suffering:
            nodes.append(helper.make_node("Mul", [value, "scale"], [f"scaled{index}"], f"outlier{index}"))
            value = f"scaled{index}"
        output = "logits" if index == LAYERS - 1 else f"h{index}"
        nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [output], f"product{index}"))
        value = output
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 32])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


IMAGES = [np.random.default_rng(seed).standard_normal((16, 3, 4, 4)).astype(np.float32) for seed in range(3)]


@pytest.fixture(scope="module", params=["onnxruntime", "tensorrt"])
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SensitivityAnalysis:
    ready = calibrated(chain(), lambda: iter(IMAGES), "minmax", request.param, 1, "chain")
    folder = tmp_path_factory.mktemp("chain")
    write_onnx(chain(), folder / "chain.onnx", SPEC)
    return SensitivityAnalysis(
        ready, file_session(folder / "chain.onnx", SPEC, OnnxruntimeOptions(), 1), IMAGES, threads=1
    )


def test_the_layer_that_suffers_is_found_and_alone_kept_float(trial: SensitivityAnalysis) -> None:
    found = trial.sensitivities(SilentProgress())
    assert sorted(one.node for one in found) == [f"product{index}" for index in range(LAYERS)]
    assert found[0].node == f"product{SUFFERS}"
    assert found[0].sqnr_db < found[1].sqnr_db - 10
    mixed = trial.within(trial.closeness(trial._model, 25), found)
    assert mixed is not None
    assert mixed.kept_float == {f"product{SUFFERS}"}
    assert trial.sqnr_db(mixed) >= 25
    assert trial.sqnr_db(replace(mixed, kept_float=frozenset())) < 25
    assert trial.within(trial.closeness(trial._model, 150), found) is None


def test_noises_of_layers_add_up_nearly(trial: SensitivityAnalysis) -> None:
    found = trial.sensitivities(SilentProgress())
    together = 10 ** (-trial.sqnr_db(trial._model) / 10)
    assert 0.5 < sum(one.noise for one in found) / together < 2


def test_a_floor_that_the_whole_misses_is_met_with_some_layers_in_float() -> None:
    fields = {"model": float_onnx().id, "calibration": "digits.pool", "calibration_images": 16}
    plain = workbench().run("quantize", "plain-mixed", sensitivity=True, **fields)
    table = json.loads(plain.file("sensitivity.json").read_text())
    assert len(table) == sum(plain.metrics["quantized_ops"].values())
    assert [one["sqnr_db"] for one in table] == sorted(one["sqnr_db"] for one in table)
    assert not any(one["kept_float"] for one in table)
    asked = plain.metrics["sqnr_db"] + 4
    mixed = workbench().run("quantize", "mixed", min_sqnr_db=asked, **fields)
    kept = mixed.metrics["kept_float"]
    assert 0 < kept < len(table)
    assert mixed.metrics["sqnr_db"] >= asked
    assert sum(mixed.metrics["quantized_ops"].values()) == len(table) - kept
    with pytest.raises(ParityError):
        workbench().run("quantize", "too-much", min_sqnr_db=150, **fields)
