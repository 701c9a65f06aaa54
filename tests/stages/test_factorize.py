"""factorize: fewer multiply-accumulates, nearly the same answers; and what comes after it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgevit.errors import RecipeError
from edgevit.models import model_from_checkpoint, open_checkpoint
from edgevit.models.low_rank import LowRanks
from edgevit.models.structures import Pruned
from edgevit.runtimes.base import random_images
from edgevit.runtimes.onnxruntime.session import OnnxruntimeSession
from tests.small_models import HYBRID, checkpoint, workbench


def test_factorised_model_is_nearer_than_one_divided_blindly() -> None:
    bench, whole = workbench(), model_from_checkpoint(checkpoint())
    thinner = bench.run("factorize", "factorized", model=checkpoint().id, keep_macs=0.7, data="digits.pool", images=64)
    assert thinner.metrics["macs"] <= 0.7 * checkpoint().metrics["macs"]
    opened = open_checkpoint(thinner)
    low_ranks = opened.description.change(LowRanks)
    assert low_ranks
    images = torch.from_numpy(random_images(thinner.io, 8, seed=0))
    with torch.no_grad():
        expected, found = whole(images), opened.module(images)
        for path, rank in low_ranks.ranks.items():
            weight = whole.get_submodule(path).weight
            weight.copy_(weight.clone()[torch.randperm(len(weight), generator=torch.Generator().manual_seed(rank))])  # type: ignore[arg-type]
        shuffled = whole(images)
    assert (found - expected).norm() < 0.5 * (shuffled - expected).norm()


@pytest.mark.slow
def test_factorised_model_goes_to_onnx_int8_and_back_to_school() -> None:
    bench = workbench()
    thinner = bench.run("factorize", "to-ship", model=checkpoint().id, keep_macs=0.7, data="digits.support")
    exported = bench.run("export", "thin-onnx", model=thinner.id)
    int8 = bench.run("quantize", "thin-int8", model=exported.id, calibration="digits.pool", calibration_images=16)
    assert int8.metrics["macs"] == exported.metrics["macs"] == thinner.metrics["macs"]
    images = random_images(thinner.io, 3, seed=0)
    session = OnnxruntimeSession(exported.file("model.onnx"), exported.io, exported.model_file.options, 1)
    with torch.no_grad():
        expected = model_from_checkpoint(thinner)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(session.infer({"image": images})["logits"], expected, atol=1e-4, rtol=1e-4)
    student = bench.run(
        "distill", "thin-student", teacher=checkpoint().id, init=thinner.id, streams=({"data": "few.pool"},),
        objectives=({"loss": "soft"},), epochs=1, batch_size=64,
    )  # fmt: skip
    assert open_checkpoint(student).description == open_checkpoint(thinner).description
    assert student.digest != thinner.digest


def test_prune_then_factorise_then_merge() -> None:
    bench = workbench()
    pruned = bench.run("prune", "first", model=checkpoint().id, keep_macs=0.8, score="magnitude")
    thinner = bench.run("factorize", "second", model=pruned.id, keep_macs=0.8, data="digits.pool", images=32)
    merged = bench.run("merge_tokens", "third", model=thinner.id, per_block=2)
    costs = [one.metrics["macs"] for one in (checkpoint(), pruned, thinner, merged)]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == 4
    assert model_from_checkpoint(merged)(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_model_without_linear_layers_is_refused() -> None:
    hybrid = workbench().run("load", "no-linear", **HYBRID, classes_of="digits.test")
    with pytest.raises(RecipeError, match="no linear layers to divide"):
        workbench().run("factorize", "refused", model=hybrid.id, keep_macs=0.5, data="digits.pool", images=8)


def test_a_factorised_model_is_not_factorised_again_and_loses_whole_blocks_with_their_ranks() -> None:
    bench = workbench()
    thinner = bench.run("factorize", "once", model=checkpoint().id, keep_macs=0.8, data="digits.pool", images=16)
    with pytest.raises(RecipeError, match="factorized already") as caught:
        bench.run("factorize", "twice", model=thinner.id, keep_macs=0.9, data="digits.pool", images=16)
    assert "before that" in str(caught.value.next)
    shallow = bench.run(
        "prune", "shallow", model=thinner.id, keep_macs=0.7, data="digits.support", structures=("blocks",)
    )
    description = open_checkpoint(shallow).description  # opening builds the model from it
    pruned, low_ranks = description.change(Pruned), description.change(LowRanks)
    assert pruned
    assert pruned.dropped
    assert low_ranks
    assert not any(path.startswith(f"{block}.") for path in low_ranks.ranks for block in pruned.dropped)


@pytest.mark.parametrize("stage", ["prune", "factorize", "merge_tokens"])
def test_what_qat_made_keeps_its_shape(stage: str) -> None:
    bench = workbench()
    rounded = bench.run(
        "qat", "rounded-shape", init=checkpoint().id, streams=({"data": "digits.support"},), epochs=0,
        calibration="digits.support", calibration_images=8,
    )  # fmt: skip
    fields = {
        "prune": {"keep_macs": 0.8, "score": "magnitude"},
        "factorize": {"keep_macs": 0.8, "data": "digits.support"},
        "merge_tokens": {"per_block": 1},
    }
    with pytest.raises(RecipeError, match="keeps its shape") as caught:
        bench.run(stage, f"reshaped-{stage}", model=rounded.id, **fields[stage])  # type: ignore[arg-type]
    assert "then qat" in str(caught.value.next)
