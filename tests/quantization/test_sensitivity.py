"""Which layers cost most, and which of them stay float, on a chain of products of which one is made to suffer."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgevit.artifacts import IOSpec, Preprocess
from edgevit.errors import ParityError
from edgevit.evaluation.accuracy import Share, wilson_interval
from edgevit.evaluation.paired import Drop
from edgevit.graphs.files import write_onnx
from edgevit.model_file import OnnxruntimeOptions
from edgevit.progress import SilentProgress
from edgevit.quantization import CalibratedModel, calibrated
from edgevit.quantization.gate import AnswerChange, Closeness
from edgevit.quantization.sensitivity import Sensitivity, SensitivityAnalysis, layers_to_keep_float
from edgevit.runtimes.sessions import file_session
from tests.small_models import float_onnx, workbench

SPEC = IOSpec.for_classifier(Preprocess(height=4, width=4), tuple(map(str, range(32))))
LAYERS, SUFFERS = 6, 3
FLOOR_DB = 10.0


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


Trial = tuple[SensitivityAnalysis, CalibratedModel]


@pytest.fixture(scope="module", params=["onnxruntime", "tensorrt"])
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    ready = calibrated(chain(), lambda: iter(IMAGES), "minmax", request.param, 1, "chain")
    folder = tmp_path_factory.mktemp("chain")
    write_onnx(chain(), folder / "chain.onnx", SPEC)
    reference = file_session(folder / "chain.onnx", SPEC, OnnxruntimeOptions(), 1)
    return SensitivityAnalysis(reference, IMAGES, threads=1), ready


def test_the_layer_that_suffers_is_found_and_alone_kept_float(trial: Trial) -> None:
    analysis, ready = trial
    found = analysis.sensitivities(ready, SilentProgress())
    assert sorted(one.node for one in found) == [f"product{index}" for index in range(LAYERS)]
    assert found[0].node == f"product{SUFFERS}"
    assert found[0].sqnr_db < found[1].sqnr_db - 10
    mixed = analysis.within(ready, analysis.closeness(ready, 25), found)
    assert mixed is not None
    assert mixed.kept_float == {f"product{SUFFERS}"}
    assert analysis.sqnr_db(mixed) >= 25
    assert analysis.sqnr_db(replace(mixed, kept_float=frozenset())) < 25
    assert analysis.within(ready, analysis.closeness(ready, 150), found) is None


def test_noises_of_layers_add_up_nearly(trial: Trial) -> None:
    analysis, ready = trial
    found = analysis.sensitivities(ready, SilentProgress())
    together = 10 ** (-analysis.sqnr_db(ready) / 10)
    assert 0.5 < sum(one.noise for one in found) / together < 2


def closeness(sqnr_db: float, lost: float | None = None) -> Closeness:
    """Closeness with a share `lost` of 1,000 answers, where 0.01 may be lost; None for no validation images."""
    if lost is None:
        return Closeness(sqnr_db, FLOOR_DB)
    changed = Share(lost, *wilson_interval(round(1000 * lost), 1000))
    return Closeness(sqnr_db, FLOOR_DB, AnswerChange(changed, 1000, Drop(lost, lost - 0.01, lost + 0.01, 1000), 0.01))


@pytest.mark.parametrize(
    ("one", "other", "gains"),
    [
        (closeness(20.0), closeness(20.0), False),
        (closeness(20.4), closeness(20.0), False),
        (closeness(20.6), closeness(20.0), True),
        (closeness(10.1), closeness(9.9), True),
        (closeness(9.9), closeness(9.8), False),
        (closeness(30.0, lost=0.1), closeness(20.0, lost=0.0), False),
        (closeness(20.0, lost=0.0), closeness(30.0, lost=0.1), True),
        (closeness(30.0, lost=0.2), closeness(20.0, lost=0.1), True),
    ],
)
def test_a_model_gains_by_the_gates_first_and_then_by_half_a_decibel(
    one: Closeness, other: Closeness, gains: bool
) -> None:
    assert one.gains_on(other, 0.5) == gains


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


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(1, 10**6)), min_size=1, max_size=12), st.floats(1e-3, 1))
def test_layers_in_float_leave_the_allowed_noise_and_none_is_there_for_nothing(
    layers: list[tuple[float, int]], share: float
) -> None:
    found = [Sensitivity(str(index), "Conv", db) for index, (db, _) in enumerate(layers)]
    allowed = share * sum(layer.noise for layer in found)
    kept = layers_to_keep_float(found, {str(index): size for index, (_, size) in enumerate(layers)}, allowed)
    rest = [layer.noise for layer in found if layer.node not in kept]
    assert math.fsum(rest) <= allowed
    assert all(math.fsum([*rest, layer.noise]) > allowed for layer in found if layer.node in kept)


def test_of_layers_with_equal_noise_the_smallest_stay_float() -> None:
    found = [Sensitivity(name, "Conv", 20.0) for name in ("large", "small", "medium")]
    sizes = {"large": 900, "small": 9, "medium": 90}
    kept = [layers_to_keep_float(found, sizes, allowed) for allowed in (0.031, 0.021, 0.011, 0.001)]
    assert kept == [set(), {"small"}, {"small", "medium"}, {"small", "medium", "large"}]


def test_a_layer_with_little_noise_is_quantized_again_where_a_large_one_has_to_stay_float() -> None:
    found = [Sensitivity("large", "Conv", 10.0), Sensitivity("small", "Conv", 30.0)]
    assert layers_to_keep_float(found, {"large": 10**6, "small": 9}, 0.05) == {"large"}
