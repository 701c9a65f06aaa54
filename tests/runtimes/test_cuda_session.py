"""ONNX Runtime's CUDA provider: what can be told without a GPU, on sessions that run on the CPU."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgevit.errors import MissingDependency, TargetError
from edgevit.graphs.files import onnx_file
from edgevit.provenance import version_of
from edgevit.runtimes.base import random_images
from edgevit.runtimes.onnxruntime.cuda_session import (
    CUDA,
    RECORD_PROVIDERS,
    check_has_cuda,
    check_uses_cuda,
    operators_on_cpu,
    run_on_device,
)
from tests.small_models import float_onnx


@pytest.fixture(scope="module")
def on_cpu() -> onnxruntime.InferenceSession:
    """A session that runs every node of its file as it is, and records where."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(RECORD_PROVIDERS, "1")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(onnx_file(float_onnx()), options, providers=["CPUExecutionProvider"])


def test_the_operators_that_the_cpu_runs_are_counted(on_cpu: onnxruntime.InferenceSession) -> None:
    nodes = onnx.load(onnx_file(float_onnx())).graph.node
    assert operators_on_cpu(on_cpu) == Counter(node.op_type for node in nodes if node.op_type != "Constant")


def test_a_session_without_cuda_is_refused(on_cpu: onnxruntime.InferenceSession) -> None:
    with pytest.raises(TargetError, match="could not start its CUDA provider") as caught:
        check_uses_cuda(on_cpu)
    assert (caught.value.got, caught.value.expected) == ("CPUExecutionProvider", CUDA)
    with pytest.raises(MissingDependency, match="has no CUDA provider"):
        check_has_cuda(["AzureExecutionProvider", "CPUExecutionProvider"])
    check_has_cuda([CUDA, "CPUExecutionProvider"])


def test_a_run_on_a_device_gives_the_outputs_there(on_cpu: onnxruntime.InferenceSession) -> None:
    feed, names = {"image": random_images(float_onnx().io, 3)}, ["logits"]
    run = run_on_device(on_cpu, names, feed, "cpu")
    run()
    bound = run()
    assert isinstance(bound, onnxruntime.IOBinding)
    (logits,) = bound.copy_outputs_to_cpu()
    np.testing.assert_array_equal(logits, on_cpu.run(names, feed)[0])


def test_the_version_is_that_of_the_distribution_with_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert version_of("onnxruntime") is None
    record = tmp_path / "onnxruntime_gpu-1.99.0.dist-info" / "METADATA"
    record.parent.mkdir()
    record.write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.99.0\n")
    assert version_of("onnxruntime") == "1.99.0"
    assert version_of("openvino") is None
