"""The worker as a process of this machine, against the sessions of edgevit, and each kind of its errors."""

from __future__ import annotations

import ast
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import PIL
import pytest
from onnx import TensorProto, helper

from edgevit.artifacts import Artifact
from edgevit.errors import NO_MEMORY
from edgevit.graphs.files import onnx_file
from edgevit.profiling import Measurement, comparisons_of_turns
from edgevit.profiling.conditions import cpu
from edgevit.profiling.loop import STARTS
from edgevit.targets.agent import sampler, worker
from edgevit.targets.boards.heat import temperatures_c
from edgevit.targets.shipped import TENSORRT_FILES, WORKER_FILES
from tests.targets.worker_runs import (
    OUTPUTS,
    PLAN,
    fixed_model,
    float_model,
    int8_model,
    noise,
    outputs_there_and_here,
    request_for,
    run,
    uint8_model,
)

PARTS = {"decode", "preprocess", "compute", "post"}
SHIPPED = {**WORKER_FILES, **TENSORRT_FILES, "sampler.py": Path(sampler.__file__)}


@pytest.mark.parametrize(
    "make",
    [int8_model, *(pytest.param(one, marks=pytest.mark.slow) for one in (float_model, fixed_model, uint8_model))],
)
def test_outputs_are_those_of_the_session_here(make: Callable[[Path], Artifact], tmp_path: Path) -> None:
    ended, expected = outputs_there_and_here(make(tmp_path), tmp_path)
    np.testing.assert_array_equal(ended.outputs["logits"], expected)
    assert ended.outputs["logits"].dtype == np.float32
    assert ended.result["versions"]["onnxruntime"] == onnxruntime.__version__


def test_input_tensors_are_taken_as_they_are_and_an_output_may_have_any_name(tmp_path: Path) -> None:
    graph = onnx.load(onnx_file(float_model(tmp_path)))
    graph.graph.node[-1].output[0] = graph.graph.output[0].name = "file/../0"  # `file` is an argument of numpy.savez
    onnx.save(graph, tmp_path / "model.onnx")
    images = np.random.default_rng(0).normal(size=(5, 3, 16, 24)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    names = {"input": "image", "outputs": ["file/../0"]}
    model = {"file": "model.onnx", "runtime": "onnxruntime", "session_options": {}, **names}
    ended = run(tmp_path, {**OUTPUTS, "model": model, "preprocess": None})
    reference = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(ended.outputs["file/../0"], reference.run(None, {"image": images})[0], rtol=1e-5)


def test_a_measurement_has_its_samples_and_conditions(tmp_path: Path) -> None:
    model = uint8_model(tmp_path)
    medians = {}
    for boundary in ("compute", "end_to_end"):
        plan = replace(PLAN, boundary=boundary, batch_size=2)
        request = {"do": "measure", "threads": 1, "plan": asdict(plan), **request_for(tmp_path, model, plan)}
        result = run(tmp_path, request).result
        measurement = Measurement(np.asarray(result["samples_ms"]), plan, result["conditions"])
        medians[boundary] = measurement.percentile_ms(50)
        assert len(measurement.samples_ms) >= PLAN.min_runs
        assert measurement.samples_ms.min() > 0
        assert 0 < result["start"][1] < 1e5
        assert set(result["parts_ms"]) == (set() if boundary == "compute" else PARTS)
        assert result["cpu_s"] > 0
        assert result["conditions"]["cpu"] == cpu()
        for moment in ("before", "after"):
            assert set(result["conditions"][moment]) == {"load_average_1min", "cpu_frequency", "thermal_zones"}
            zones = temperatures_c(result["conditions"][moment]["thermal_zones"])
            assert all(-60 < degrees < 200 for degrees in zones.values())
    versions = {"python": platform.python_version(), "numpy": np.__version__, "onnxruntime": onnxruntime.__version__}
    assert result["versions"] == {**versions, "pillow": PIL.__version__}
    assert medians["end_to_end"] > 2 * medians["compute"]  # two photos are decoded


@pytest.mark.slow
def test_a_race_gives_equally_many_runs_of_all_in_each_start(tmp_path: Path) -> None:
    models = (float_model(tmp_path), uint8_model(tmp_path), float_model(tmp_path))
    sides = [request_for(tmp_path, model, PLAN, str(index)) for index, model in enumerate(models)]
    result = run(tmp_path, {"do": "race", "threads": 1, "plan": asdict(PLAN), "models": sides}).result
    assert len(result["starts"]) == STARTS
    for turns in result["starts"]:
        assert len(turns) == 3
        assert {len(latencies_ms) for latencies_ms in turns} == {len(turns[0])}
        assert len(turns[0]) >= PLAN.min_runs / STARTS
    for comparison in comparisons_of_turns(result["starts"], PLAN, {}):
        assert comparison.interval.low <= comparison.ratio <= comparison.interval.high


def refusing(folder: Path, module: str) -> str:
    """A folder with a module that cannot be imported."""
    folder.mkdir()
    (folder / f"{module}.py").write_text("raise OSError('libfoo.so.1: cannot open shared object file')")
    return str(folder)


@pytest.mark.parametrize(
    "module", ["onnxruntime", *(pytest.param(one, marks=pytest.mark.slow) for one in ("numpy", "PIL"))]
)
def test_a_package_that_cannot_be_imported_is_named(module: str, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", noise(2, 16, 24))
    request = {**OUTPUTS, **request_for(tmp_path, float_model(tmp_path))}
    ended = run(tmp_path, request, PYTHONPATH=refusing(tmp_path / "packages", module))
    assert ended.error.startswith("edgevit-worker: import: ")
    assert "libfoo.so.1" in ended.error


def one_node(name: str, *constants: TensorProto, **attributes: Any) -> bytes:
    """A model of one operator."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 24])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    node = helper.make_node(name, ["image", *(constant.name for constant in constants)], ["logits"], **attributes)
    graph = helper.make_graph([node], name, [image], [logits], constants)
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()
    return content


HUGE = helper.make_tensor("shape", TensorProto.INT64, [6], [2**23, 2**23, 1, 1, 1, 1])  # beyond any address space


@pytest.mark.parametrize(
    ("expected", "content", "shape"),
    [
        ("model: ", b"no model", (2, 16, 24)),
        pytest.param("shape: ", None, (2, 8, 24), marks=pytest.mark.slow),
        ("shape: the outputs have shapes [(1, 2304)] for 2 images", one_node("Flatten", axis=0), (2, 16, 24)),
        ("memory: ", one_node("Expand", HUGE), (2, 16, 24)),
    ],
)
def test_a_model_that_does_not_run_is_an_error_with_its_kind(
    expected: str, content: bytes | None, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    request = {**OUTPUTS, **request_for(tmp_path, float_model(tmp_path))}
    np.save(tmp_path / "images.npy", noise(*shape))
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    assert run(tmp_path, request).error.startswith(f"edgevit-worker: {expected}")


def test_a_full_disk_is_an_error_of_its_kind(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", noise(1_000, 16, 24))
    request = {**OUTPUTS, **request_for(tmp_path, float_model(tmp_path))}
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (8_000, 8_000))  # the outputs have 16,000 bytes
    assert run(tmp_path, request, limit).error.startswith("edgevit-worker: disk: ")


def test_any_other_error_is_a_bug_with_its_traceback(tmp_path: Path) -> None:
    ended = run(tmp_path, {"do": "dance"})
    assert ended.error == "edgevit-worker: bug: 'dance'"
    assert "Traceback" in ended.stderr
    assert not (tmp_path / "result.json").exists()


def test_words_of_short_memory_are_those_that_edgevit_knows() -> None:
    assert set(worker.NO_MEMORY) <= set(NO_MEMORY)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_files_are_python_38_and_import_nothing_of_edgevit(name: str) -> None:
    tree = ast.parse(SHIPPED[name].read_text(encoding="utf-8"), feature_version=(3, 8))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(str(node.module).partition(".")[0])
    assert names <= sys.stdlib_module_names | {"numpy", "PIL", "onnxruntime", "openvino", "tensorrt"}


def test_the_files_need_no_library_newer_than_python_38() -> None:
    pytest.importorskip("vermin", reason="needs vermin (pip install 'edgevit[dev]')")
    files = map(str, SHIPPED.values())
    command = [sys.executable, "-c", "import vermin; vermin.main()", "--no-tips", "-t=3.8-", *files]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
