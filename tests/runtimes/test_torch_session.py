"""PyTorch as a runtime."""

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.artifacts import IOSpec, Preprocess
from edgevit.errors import TargetError
from edgevit.profiling import MeasurePlan
from edgevit.runtimes.base import SessionOptions, random_images
from edgevit.runtimes.torch.session import CudaClock, TorchSession, open_session
from tests.small_models import checkpoint

SPEC = IOSpec.for_classifier(Preprocess(height=8, width=8), tuple("abc"))
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3)).eval()


def test_it_computes_what_the_module_does_and_leaves_the_threads_as_they_were():
    before = torch.get_num_threads()
    images = random_images(SPEC, 4)
    with torch.inference_mode():
        expected = linear()(torch.from_numpy(images)).numpy()
    session = TorchSession(linear(), SPEC, "cpu", SessionOptions(threads=before + 1))
    np.testing.assert_array_equal(session.infer({"image": images})["logits"], expected)
    assert torch.get_num_threads() == before


def test_it_runs_on_the_threads_it_was_given():
    seen = []

    class Looks(nn.Module):
        def forward(self, images):
            seen.append(torch.get_num_threads())
            return images.mean((2, 3))

    session = TorchSession(Looks(), SPEC, "cpu", SessionOptions(threads=1))
    session.infer({"image": random_images(SPEC, 1)})
    session.measure(MeasurePlan(warmup_s=0, duration_s=0, min_runs=3))
    assert not session.work(MeasurePlan())().requires_grad  # type: ignore[attr-defined]
    assert set(seen) == {1}


@pytest.mark.parametrize("boundary", ["compute", "end_to_end"])
def test_threads_are_set_once_for_all_samples(boundary, monkeypatch):
    threads, calls = torch.get_num_threads(), []
    set_num_threads = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda count: [calls.append(count), set_num_threads(count)])  # type: ignore[func-returns-value]
    session = TorchSession(linear(), SPEC, "cpu", SessionOptions(threads=threads + 1))
    session.measure(MeasurePlan(warmup_s=0, duration_s=0, min_runs=3, boundary=boundary))
    assert calls == [threads + 1, threads]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_no_cuda_is_said():
    with pytest.raises(TargetError, match="no CUDA device"):
        open_session(checkpoint(), SessionOptions(), "cuda")


@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_cuda_agrees_with_the_cpu_and_is_timed_by_events(precision):
    images = random_images(checkpoint().io, 4)
    expected = open_session(checkpoint(), SessionOptions(), "cpu").infer({"image": images})["logits"]
    session = open_session(checkpoint(), SessionOptions(precision=precision), "cuda")
    got = session.infer({"image": images})["logits"]
    tolerance = 2e-2 if precision == "float16" else 1e-3  # TF32 in float32 convolutions
    np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(expected).max())
    assert session.measure(MeasurePlan(warmup_s=0.1, duration_s=0.1, min_runs=10)).samples_ms.min() > 0


@needs_cuda
def test_events_see_work_that_the_cpu_has_only_queued():
    clock = CudaClock()
    matrix = torch.randn(4096, 4096, device="cuda")
    clock.time_ms(lambda: matrix @ matrix)
    assert clock.time_ms(lambda: [matrix @ matrix for _ in range(20)]) > 5 * clock.time_ms(lambda: matrix @ matrix)
