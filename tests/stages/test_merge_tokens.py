"""merge_tokens: the model costs less at once, goes to ONNX, and learns like any other."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgevit.errors import RecipeError
from edgevit.models import model_from_checkpoint, open_checkpoint
from edgevit.models.token_merging import MergedTokens
from edgevit.runtimes.base import random_images
from edgevit.runtimes.onnxruntime.session import OnnxruntimeSession
from tests.small_models import VIT, checkpoint, workbench

TOKEN: dict[str, Any] = {**VIT, "model": "deit_tiny_distilled_patch16_224"}


@pytest.mark.parametrize("dynamic_batch", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_merged_model_answers_the_same_in_onnx(dynamic_batch: bool) -> None:
    bench, name = workbench(), f"merged-{dynamic_batch:d}"
    whole = bench.run("load", "merge-from", **TOKEN, classes_of="digits.test")
    merged = bench.run("merge_tokens", name, model=whole.id, per_block=3)
    assert merged.metrics["macs"] < whole.metrics["macs"]
    assert merged.metrics["params"] == whole.metrics["params"]
    exported = bench.run("export", f"{name}-onnx", model=merged.id, dynamic_batch=dynamic_batch, opset=18)
    assert exported.metrics["exporter"] == "dynamo"
    operators = {node.op_type for node in onnx.load(exported.file("model.onnx")).graph.node}
    assert not operators & {"ScatterElements", "ScatterND", "Loop", "If", "NonZero"}
    images = random_images(merged.io, 3 if dynamic_batch else 1, seed=0)
    session = OnnxruntimeSession(exported.file("model.onnx"), exported.io, exported.model_file.options, 1)
    with torch.no_grad():
        expected = model_from_checkpoint(merged)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(session.infer({"image": images})["logits"], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_merged_model_is_quantized_and_distilled() -> None:
    bench = workbench()
    merged = bench.run("merge_tokens", "merged-to-train", model=checkpoint().id, per_block=2)
    exported = bench.run("export", "merged-float", model=merged.id)
    int8 = bench.run("quantize", "merged-int8", model=exported.id, calibration="digits.pool", calibration_images=16)
    assert int8.metrics["macs"] == exported.metrics["macs"] == merged.metrics["macs"]
    student = bench.run(
        "distill", "merged-student", teacher=checkpoint().id, init=merged.id, streams=({"data": "few.pool"},),
        objectives=({"loss": "soft"},), epochs=1, batch_size=64,
    )  # fmt: skip
    assert open_checkpoint(student).description.changes == (MergedTokens(per_block=2),)
    assert student.metrics["macs"] == merged.metrics["macs"]
    with pytest.raises(RecipeError, match="its features give another output"):
        bench.run(
            "distill", "merged-layers", teacher=checkpoint().id, init=merged.id, streams=({"data": "few.pool"},),
            objectives=({"loss": "features", "student": 0, "teacher": 0},), epochs=1,
        )  # fmt: skip


def test_hybrid_is_refused() -> None:
    with pytest.raises(RecipeError, match="in plain ViTs alone"):
        workbench().run("merge_tokens", "merged-hybrid", model=checkpoint(True).id, per_block=2)
