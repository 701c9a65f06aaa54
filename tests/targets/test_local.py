"""What targets say about this machine, and what they refuse."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgevit.context import Context
from edgevit.errors import ArtifactError, MissingDependency, TargetError
from edgevit.graphs.files import artifact_from_onnx, onnx_file
from edgevit.profiling import MeasurePlan, conditions, loop
from edgevit.runtimes.base import SessionOptions
from edgevit.targets import local, target_for, target_info
from tests.runtimes.cuda_library import install_cuda_library
from tests.small_models import checkpoint, float_onnx


def test_the_fingerprint_is_stable_and_names_the_runtimes_version():
    import onnxruntime

    first = target_info("local-cpu", "onnxruntime", Context())
    conditions.cpu.cache_clear()
    assert target_info("local-cpu", "onnxruntime", Context()) == first
    assert first["versions"] == {"onnxruntime": onnxruntime.__version__}
    assert first["hardware"]["model"]
    assert target_info("local-cpu", "torch", Context()) != first


def test_describing_loads_no_runtime():
    code = (
        "import sys; from edgevit.context import Context; from edgevit.targets import target_info;"
        "target_info('local-cpu', 'torch', Context());"
        "print([name for name in ('torch', 'onnxruntime', 'onnx', 'timm') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_gpu_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(local, "gpus", tuple)
    with pytest.raises(TargetError, match="no NVIDIA GPU") as caught:
        target_info("local-gpu", "torch", Context())
    assert "local-cpu" in caught.value.next
    with pytest.raises(TargetError), target_for("local-gpu", Context()).open(checkpoint(), SessionOptions()):
        pass


def test_a_gpu_is_described(monkeypatch, tmp_path):
    gpu = {"model": "NVIDIA H200", "driver": "570.1", "compute_capability": "9.0"}
    monkeypatch.setattr(local, "gpus", lambda: (gpu, gpu))
    install_cuda_library(tmp_path, monkeypatch)
    for runtime in ("torch", "onnxruntime"):
        assert target_info("local-gpu", runtime, Context())["hardware"]["gpu"] == gpu
    with pytest.raises(TargetError, match="openvino does not run on local-gpu"):
        target_info("local-gpu", "openvino", Context())


def test_gpus_of_several_kinds_are_refused(monkeypatch):
    gpu = {"model": "NVIDIA H200", "driver": "570.1", "compute_capability": "9.0"}
    monkeypatch.setattr(local, "gpus", lambda: (gpu, {**gpu, "model": "NVIDIA T400"}))
    with pytest.raises(TargetError, match="GPUs are of several kinds") as caught:
        target_info("local-gpu", "torch", Context())
    assert caught.value.got == "NVIDIA H200, NVIDIA T400"


def test_what_stays_on_the_cpu_is_said_once():
    said: list[str] = []
    counted = SimpleNamespace(other_than_shapes={"NonZero": 2, "Loop": 1})
    load = local._saying_what_stays_on_cpu(float_onnx(), lambda: cast(Any, counted), said.append)
    assert load() is load()
    assert said == [f"note: {float_onnx().id}: ONNX Runtime leaves operators to the CPU: 2 × NonZero, 1 × Loop"]
    counted.other_than_shapes = {}
    local._saying_what_stays_on_cpu(float_onnx(), lambda: cast(Any, counted), said.append)()
    assert len(said) == 1


def test_unknown_names_get_the_nearest():
    with pytest.raises(TargetError, match="no target 'local-cpus'") as caught:
        target_info("local-cpus", "torch", Context())
    assert caught.value.next == "Did you mean 'local-cpu'?"
    with pytest.raises(TargetError, match="tensorrt does not run"):
        target_info("local-cpu", "tensorrt", Context())


def test_a_runtime_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(local, "version_of", lambda name: None)
    with pytest.raises(MissingDependency) as caught:
        target_info("local-cpu", "onnxruntime", Context())
    assert caught.value.next == "pip install onnxruntime"


def test_a_race_runs_both_models_equally_often_and_checks_their_files_first(monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "STARTS", 6)
    options, plan = SessionOptions(), MeasurePlan(warmup_s=0.01, duration_s=0.1, min_runs=12)
    onnx, target = float_onnx(), target_for("local-cpu", Context())
    (raced,) = target.race((checkpoint(), onnx), options, plan)
    assert len(raced.a.samples_ms) == len(raced.b.samples_ms) >= 12
    assert raced.interval.low <= raced.ratio <= raced.interval.high
    assert raced.a.conditions["starts"] == 6
    (whole,) = target.race((onnx, onnx), options, replace(plan, batch_size=4))
    assert whole.a.conditions["batch_size"] == 4
    file = tmp_path / "model.onnx"
    file.write_bytes(onnx_file(onnx).read_bytes())
    altered = artifact_from_onnx(file)
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match="altered"):
        target.race((onnx, altered), options, plan)
