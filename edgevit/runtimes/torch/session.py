"""A checkpoint in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import nn

from edgevit.artifacts import Artifact, IOSpec
from edgevit.configs.runtimes import TORCH
from edgevit.errors import TargetError
from edgevit.models import model_from_checkpoint
from edgevit.profiling import Measurement, MeasurePlan, WallClock, Work, measure
from edgevit.profiling.conditions import hottest_c
from edgevit.profiling.layer_times import LayerTimes
from edgevit.profiling.loop import Part
from edgevit.profiling.telemetry import Processor
from edgevit.runtimes.base import Arrays, LocalSession, SessionOptions, end_to_end, random_images, receipt

Device = Literal["cpu", "cuda"]


class TorchSession(LocalSession):
    """A module in eval mode. It returns one tensor, or a tuple of tensors in the order of the IOSpec's outputs."""

    def __init__(
        self,
        module: nn.Module,
        spec: IOSpec,
        device: Device,
        options: SessionOptions,
        conditions: Mapping[str, Any] | None = None,
    ) -> None:
        self.spec = spec
        self._dtype = getattr(torch, options.precision)
        self._module = module.to(device, self._dtype)
        self._device, self._threads, self._conditions = device, options.threads_here, conditions or {}

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        images = self._tensor(inputs[self.spec.inputs[0].name])
        with on_threads(self._threads), torch.inference_mode():
            outputs = [output.float().cpu().numpy() for output in self._outputs(images)]
        return {tensor.name: output for tensor, output in zip(self.spec.outputs, outputs, strict=True)}

    def measure(self, plan: MeasurePlan) -> Measurement:
        # `end_to_end` includes the copy to host memory, which wall time covers. Kernels alone are timed by the GPU.
        clock = CudaClock() if self._device == "cuda" and plan.boundary == "compute" else WallClock()
        with on_threads(self._threads):
            return measure(
                self.work(plan), plan, clock, self._conditions, self._temperature_c, self.meters, self._processor
            )

    @property
    def _processor(self) -> Processor:
        return "cpu" if self._device == "cpu" else "gpu"

    def layers(self, plan: MeasurePlan) -> LayerTimes | None:
        """The time of each module by torch's profiler, in runs that follow those of the plan; None on a GPU."""
        if self._device == "cuda":
            return None
        from edgevit.runtimes.torch.layer_times import times_in_torch

        plain = self.measure(plan)
        with on_threads(self._threads):
            images = self._tensor(random_images(self.spec, plan.batch_size))
            return times_in_torch(self._module, images, self._threads, plain)

    @property
    def _temperature_c(self) -> Callable[[], float | None]:
        """The temperature of the processor. That of the GPU is not in the kernel's thermal zones."""
        return hottest_c if self._device == "cpu" else lambda: None

    def work(self, plan: MeasurePlan) -> Work:
        """One timed run: for boundary `compute`, on images on the device."""
        if plan.boundary == "end_to_end":
            return end_to_end(self, plan.batch_size, self._parts() if self._device == "cuda" else ())
        images = self._tensor(random_images(self.spec, plan.batch_size))

        def run() -> object:
            with on_threads(self._threads), torch.inference_mode():
                return self._module(images)

        return run

    def _parts(self) -> Sequence[Part]:
        """From the input tensor to outputs on a GPU, each part to its end."""

        def computed(images: torch.Tensor) -> Sequence[torch.Tensor]:
            with torch.inference_mode():
                return self._outputs(images)

        def copied(outputs: Sequence[torch.Tensor]) -> Arrays:
            arrays = (output.float().cpu().numpy() for output in outputs)
            return {tensor.name: array for tensor, array in zip(self.spec.outputs, arrays, strict=True)}

        def to_its_end(part: Callable[[Any], Any]) -> Callable[[Any], Any]:
            def run(value: Any) -> Any:
                result = part(value)
                torch.cuda.synchronize()
                return result

            return run

        return ("copy in", to_its_end(self._tensor)), ("compute", to_its_end(computed)), ("copy out", copied)

    def _outputs(self, images: torch.Tensor) -> Sequence[torch.Tensor]:
        outputs = self._module(images)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def _tensor(self, images: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(images).to(self._device, self._dtype)


class CudaClock(WallClock):
    """Times a run between two events on the current CUDA stream."""

    def time_ms(self, work: Work) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))


def open_session(model: Artifact, options: SessionOptions, device: Device) -> TorchSession:
    """Load a checkpoint onto a device."""
    if device == "cpu" and options.precision == "float16":
        raise TargetError(
            "torch has no fast half precision on a CPU",
            got="precision: float16 on local-cpu",
            expected="precision: float32",
            next="set target: local-gpu, or precision: float32",
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise TargetError(
            "torch sees no CUDA device",
            where="local-gpu",
            got=f"torch {torch.__version__}",
            next="install the CUDA build of torch (pytorch.org/get-started), or set target: local-cpu",
        )
    return TorchSession(
        model_from_checkpoint(model), model.io, device, options, receipt(model, TORCH.name, device, options)
    )


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Run on `count` threads. If torch has that many already, nothing is set, so that no timed sample pays for it."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
