"""NVIDIA's builder itself, where the extra is installed; and what is said where it is not, or where it dies."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgevit import pipeline
from edgevit.artifacts import IOSpec
from edgevit.checking import check_for_tensorrt, nvidia
from edgevit.checking.precision import Product
from edgevit.configs import Check
from edgevit.context import Context
from edgevit.errors import TargetError
from edgevit.exporting import onnx_from_module
from edgevit.graphs.files import artifact_from_onnx, write_onnx
from edgevit.graphs.float16 import with_float16
from edgevit.models import create_model
from edgevit.quantization import calibrated
from edgevit.store import Store
from tests.checking.graphs import CHANNELS, WEIGHTS, attention, classifier, constants, convolution, model, node, pair

needs_nvidia = pytest.mark.skipif(
    any(find_spec(module) is None for module in nvidia.PACKAGES), reason="edgevit[tensorrt-check] is not installed"
)
SIDE = 64


def written(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


@needs_nvidia
def test_a_legal_convolution_runs_in_int8(tmp_path: Path) -> None:
    found = check_for_tensorrt(written(convolution(), tmp_path / "model.onnx"))
    assert found.ok
    assert found.products == (Product("Conv_logits", "Conv", "int8", "int8"),)
    assert found.build_result is not None
    assert found.build_result.builder.startswith("TensorRT for RTX 1.")
    assert found.bytes_moved >= 16 * 16 * 9 + 4 * 16 * 8 * 8  # its weights in int8, the image in float32


@needs_nvidia
@pytest.mark.parametrize(("half", "fused"), [(True, True), (False, False)])
def test_attention_fuses_in_float16_and_not_in_float32(half: bool, fused: bool, tmp_path: Path) -> None:
    plain = attention(197, 64, quantized=False)
    found = check_for_tensorrt(written(with_float16(plain, "test") if half else plain, tmp_path / "model.onnx"))
    assert found.ok
    assert found.attentions == 1
    assert (not found.unfused) == fused


@needs_nvidia
def test_attention_over_one_token_behind_an_int8_convolution_runs_in_float16(tmp_path: Path) -> None:
    """It becomes one kernel with the scaling of the convolution's 32-bit sums."""
    found = check_for_tensorrt(written(with_float16(one_token(), "test"), tmp_path / "model.onnx"))
    assert found.ok
    assert {one.operator: (one.asked, one.got) for one in found.products} == {
        "Conv": ("int8", "int8"),
        "MatMul": ("half", "half"),
    }
    assert found.build_result is not None
    (merged,) = (kernel for kernel in found.build_result.kernels if "MatMul_logits" in kernel.nodes)
    assert [tensor.type for tensor in (*merged.inputs, *merged.constants, *merged.outputs)] == ["float"] * 3


def one_token() -> onnx.ModelProto:
    """keysᵀ · values of linear attention, both cut out of what a quantized convolution makes of the image."""
    nodes = [
        *pair("image", "rounded"),
        WEIGHTS,
        node("Conv", ["rounded", "weights"], "convolved"),
        node("Relu", ["convolved"], "positive"),
        node("Reshape", ["positive", "column"], "keys"),
        node("Reshape", ["convolved", "row"], "values"),
        node("MatMul", ["keys", "values"], "logits"),
    ]
    shapes = {"column": np.array([1, CHANNELS, 1]), "row": np.array([1, 1, CHANNELS])}
    return model(nodes, constants(**shapes), [1, CHANNELS, 3, 3], [1, CHANNELS, CHANNELS])


@needs_nvidia
@pytest.mark.slow
def test_a_hybrid_with_linear_attention_gets_the_precision_it_asks_for(tmp_path: Path) -> None:
    check_forms("efficientvit_b0", SIDE, tmp_path, {"depths": (1, 1, 1, 1, 1)})


@needs_nvidia
@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientvit_b0", "repvit_m0_9", "deit_tiny_patch16_224", "efficientformerv2_s0"])
def test_compact_models_get_the_precision_they_ask_for(name: str, tmp_path: Path) -> None:
    check_forms(name, SIDE, tmp_path)


@needs_nvidia
@pytest.mark.slow
def test_the_whole_catalogue_gets_the_precision_it_asks_for(tmp_path: Path) -> None:
    from edgevit.models import catalogue

    for entry in catalogue.read():
        check_forms(entry.name, entry.tested_sizes[0], tmp_path)


def check_forms(name: str, side: int, folder: Path, model_args: Mapping[str, Any] | None = None) -> None:
    """Export, quantize and check: everything is built as it asks to be."""
    built = create_model(name, 32, side, model_args)
    spec = IOSpec.for_classifier(built.preprocess, tuple(map(str, range(32))))
    exported = onnx_from_module(built.module, spec, 20, dynamic_batch=True)
    batch = 2 if exported.dynamic_batch else 1
    images = np.random.default_rng(0).standard_normal((batch, 3, side, side)).astype(np.float32)
    write_onnx(with_float16(exported.model, name), folder / "float16.onnx", exported.spec)
    quantized = calibrated(exported.model, lambda: [images], "minmax", "tensorrt", 1, name).quantized()
    write_onnx(quantized.model, folder / "int8.onnx", exported.spec)
    half, int8 = (check_for_tensorrt(folder / f"{form}.onnx") for form in ("float16", "int8"))
    for found in (half, int8):
        assert found.build_result is not None
        assert found.build_result.built, found.build_result.refused
        assert not found.fell_back
        assert not found.diagnostics
        assert all(product.got for product in found.products)
    assert {product.got for product in half.products} == {"half"}
    assert sum(product.got == "int8" for product in int8.products) == sum(quantized.quantized_ops.values())
    assert len(int8.unfused) == len(half.unfused)


def replaced_child(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program in the place of the child, once NVIDIA's builder has proved itself."""
    nvidia.working_builder()
    (folder / "child.py").write_text(program)
    monkeypatch.setattr(nvidia, "CHILD", folder / "child.py")


@needs_nvidia
def test_a_builder_that_crashes_twice_has_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced_child("import os\nos.abort()\n", tmp_path, monkeypatch)
    result = nvidia.build(convolution())
    assert not result.built
    assert result.refused[0].reason == "it crashes on this model: killed by SIGABRT, twice"


def log_of(built: bool, *errors: str) -> str:
    record = {"built": built, "bytes": 1, "seconds": 0.1, "refused": [], "errors": errors, "layers": []}
    return f"import json, sys\njson.dump([{record!r}], open(sys.argv[1], 'w'))\n"


CRASH_ONCE = """\
import os, pathlib, sys
crashed = pathlib.Path(__file__).with_name("crashed")
if not crashed.exists():
    crashed.touch()
    os.abort()
"""


@needs_nvidia
def test_a_builder_that_crashes_once_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced_child(CRASH_ONCE + log_of(False, "no such operator"), tmp_path, monkeypatch)
    assert nvidia.build(convolution()).refused[0].reason == "no such operator"


PASSING = {
    "killed by SIGKILL": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
    "killed by SIGTERM": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n",
    "killed by SIGABRT": 'import os\nos.write(2, b"what(): std::bad_alloc")\nos.abort()\n',
    "exit status 1: MemoryError": "raise MemoryError\n",
    "no result after 0.5 s": "import time\ntime.sleep(60)\n",
    "OutOfMemory (no room for this tactic)": log_of(False, "OutOfMemory (no room for this tactic)"),
}


@needs_nvidia
@pytest.mark.parametrize("ending", PASSING)
def test_a_builder_that_was_ended_has_not_answered(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what has not answered is not kept: the stage is tried again."""
    replaced_child(PASSING[ending], tmp_path, monkeypatch)
    if ending == "no result after 0.5 s":
        monkeypatch.setattr(nvidia, "TIME_LIMIT_S", 0.5)
    file, store = written(classifier(), tmp_path / "model.onnx"), Store(tmp_path / "store")
    config, inputs = Check(stage="check", id="check", model="model"), {"model": artifact_from_onnx(file)}
    with pytest.raises(TargetError, match="NVIDIA's builder ended before it gave a result") as caught:
        pipeline.make(config, inputs, store, Context())
    assert caught.value.got == ending
    monkeypatch.undo()
    made = pipeline.make(config, inputs, store, Context())
    assert made.metrics["built"]


@needs_nvidia
def test_a_self_check_that_was_ended_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia._self_check.cache_clear()
    (tmp_path / "child.py").write_text(PASSING["killed by SIGKILL"])
    monkeypatch.setattr(nvidia, "CHILD", tmp_path / "child.py")
    with pytest.raises(TargetError, match="ended before it gave a result"):
        check_for_tensorrt(written(convolution(), tmp_path / "model.onnx"))
    monkeypatch.undo()
    assert nvidia.working_builder()


def test_what_was_judged_by_rules_alone_is_judged_again_with_the_builder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Check(stage="check", id="check", model="model")
    inputs = {"model": artifact_from_onnx(written(classifier(), tmp_path / "model.onnx"))}
    there = pipeline.ingredients_of(config, inputs, Context())
    monkeypatch.setattr(nvidia, "find_spec", lambda name: None)
    gone = pipeline.ingredients_of(config, inputs, Context())
    assert gone["target"] == {"builder": None}
    assert (there == gone) == (nvidia.installed_builder() is None and there["target"] == {"builder": None})


@needs_nvidia
def test_names_of_nodes_may_say_anything(tmp_path: Path) -> None:
    named = attention(197, 64, quantized=False)
    for one, name in zip(named.graph.node, ("_gemm_mha", "a]b", "c[d", "_gemm_mha_v2", "e, f", "g"), strict=False):
        one.name = name
    found = check_for_tensorrt(written(named, tmp_path / "model.onnx"))
    assert found.unfused  # in float32, whatever it is called
    assert all(product.got == "float" for product in found.products)


def test_without_the_extra_the_rules_alone_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia._self_check.cache_clear()
    monkeypatch.setattr(nvidia, "find_spec", lambda name: None)
    right = check_for_tensorrt(written(convolution(), tmp_path / "right.onnx"))
    wrong = check_for_tensorrt(written(convolution(zero=np.int8(3)), tmp_path / "wrong.onnx"))
    assert (right.ok, wrong.ok) == (True, False)
    assert "edgevit[tensorrt-check]" in right.not_asked
    nvidia._self_check.cache_clear()


def test_on_another_machine_the_rules_alone_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia._self_check.cache_clear()
    monkeypatch.setattr(nvidia.platform, "machine", lambda: "aarch64")  # type: ignore[attr-defined]
    found = check_for_tensorrt(written(convolution(), tmp_path / "model.onnx"))
    assert found.ok
    assert "x86-64 Linux" in found.not_asked
    nvidia._self_check.cache_clear()


@needs_nvidia
def test_libraries_that_take_everything_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia._self_check.cache_clear()
    lying = tmp_path / "child.py"
    one = {"built": True, "bytes": 1, "seconds": 0.1, "refused": [], "errors": [], "layers": []}
    lying.write_text(f"import json, sys\njson.dump([{one!r}] * (len(sys.argv) - 2), open(sys.argv[1], 'w'))\n")
    monkeypatch.setattr(nvidia, "CHILD", lying)
    found = check_for_tensorrt(written(convolution(), tmp_path / "model.onnx"))
    assert found.build_result is None
    assert "do not work on this machine" in found.not_asked
    nvidia._self_check.cache_clear()
