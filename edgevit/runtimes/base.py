"""Sessions: the common interface of runtimes, for inference and timing."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevit.artifacts import Artifact, IOSpec, Json, Preprocess
from edgevit.configs.runtimes import RUNTIMES, TORCH
from edgevit.context import usable_cpus
from edgevit.data.preprocess import open_image, preprocess
from edgevit.errors import ArtifactError, TargetError
from edgevit.profiling import Measurement, MeasurePlan, SpanMeter, Work, measure
from edgevit.profiling.conditions import cpu, cpu_frequency, gpus
from edgevit.profiling.layer_times import LayerTimes
from edgevit.profiling.loop import Part, Waterfall
from edgevit.provenance import version_of

Arrays = dict[str, NDArray[Any]]
Precision = Literal["float32", "float16"]

PHOTO_SIZE = (480, 640)


@dataclass(frozen=True)
class SessionOptions:
    """How a session runs. The options change outputs by rounding only.

    Attributes:
        threads: CPU threads; None for all that the target has.
    """

    threads: int | None = 1
    precision: Precision = "float32"

    @property
    def threads_here(self) -> int:
        """The number of threads on this machine."""
        return self.threads or usable_cpus()


class Session(Protocol):
    """A loaded model."""

    spec: IOSpec

    def outputs(self, images: Iterable[NDArray[np.uint8]], batch_size: int) -> Iterator[Arrays]:
        """Outputs by name for RGB images (H, W, 3) of any sizes, preprocessed by the spec.

        They come in the order of the images, some images at a time.

        Args:
            batch_size: of a model with an open batch size.
        """
        name = self.spec.inputs[0].name
        for batch, count in input_batches(self.spec, images, batch_size):
            yield {output: values[:count] for output, values in self.infer({name: batch}).items()}

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs by name, in host memory."""

    def infer_each(self, batches: Iterable[NDArray[Any]]) -> Iterator[Arrays]:
        """Outputs by name of each input tensor."""
        name = self.spec.inputs[0].name
        return (self.infer({name: batch}) for batch in batches)

    def measure(self, plan: MeasurePlan) -> Measurement:
        """Time the model on seeded random inputs."""

    def layers(self, plan: MeasurePlan) -> LayerTimes | None:
        """The time of each layer; None if the runtime does not tell it."""
        return None

    def measure_anew(self, plan: MeasurePlan) -> Measurement:
        """As `measure`, in a fresh start of the model: in a process of its own, or loaded anew where it has none."""
        return self.measure(plan)


class LocalSession(Session, Protocol):
    """A model that this process has loaded.

    Attributes:
        meters: what a target of this machine measures beside the times, where a plan asks to watch the machine.
        starter: measures the model in a fresh start, by a plan; None if the target has no way to start it anew.
    """

    meters: Sequence[SpanMeter] = ()
    starter: Callable[[MeasurePlan], Measurement] | None = None

    def measure_anew(self, plan: MeasurePlan) -> Measurement:
        return self.measure(plan) if self.starter is None else self.starter(plan)

    def work(self, plan: MeasurePlan) -> Work:
        """One timed run. A race interleaves such runs."""


class HostSession(LocalSession):
    """A loaded file whose inputs and outputs are arrays in host memory. Each runtime implements `_run`."""

    def __init__(self, spec: IOSpec, conditions: Mapping[str, Any] | None = None) -> None:
        self.spec = spec
        self._conditions = conditions or {}

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        names = [output.name for output in self.spec.outputs]
        outputs = self._run(names, dict(inputs))
        _check_shape(outputs[0], len(inputs[self.spec.inputs[0].name]), self.spec)
        return dict(zip(names, outputs, strict=True))

    def measure(self, plan: MeasurePlan) -> Measurement:
        return measure(self.work(plan), plan, conditions=self._conditions, meters=self.meters)

    def work(self, plan: MeasurePlan) -> Work:
        """One timed run: for boundary `compute`, on preprocessed images.

        Raises TargetError if the model has a fixed batch size other than the plan's.
        """
        check_batch(self.spec, plan.batch_size)
        if plan.boundary == "end_to_end":
            return end_to_end(self, plan.batch_size)
        feed, names = self.feed(plan.batch_size), [output.name for output in self.spec.outputs]
        return lambda: self._run(names, feed)

    def feed(self, batch_size: int) -> Arrays:
        """Seeded random images, preprocessed by the spec, by the name of the input."""
        return {self.spec.inputs[0].name: random_images(self.spec, batch_size)}

    def _run(self, outputs: list[str], feed: Arrays) -> list[NDArray[Any]]:
        """The named outputs for `feed`, arrays by the names of the inputs."""
        raise NotImplementedError


def runtime_of(model: Artifact) -> str:
    """The name of the runtime that opens an artifact."""
    return TORCH.name if model.kind in TORCH.opens else model.model_file.runtime


def for_runtime(model: Artifact, runtime: str | None) -> Artifact:
    """The model, opened by `runtime` where one is given. Raises TargetError if that runtime cannot open it."""
    if runtime is None or runtime == runtime_of(model):
        return model
    if model.kind == "engine" or model.kind not in RUNTIMES[runtime].opens:
        raise TargetError(
            f"{runtime} does not open this {model.kind}",
            where=model.id,
            got=f"runtime: {runtime}",
            expected=f"runtime: {runtime_of(model)}, or an ONNX file",
        )
    return model.with_model_file(model.model_file.for_runtime(runtime))


def precision_of(model: Artifact, options: SessionOptions) -> str:
    """The precision of a session: a file has its own, a checkpoint runs in the precision of the options."""
    return options.precision if model.kind in TORCH.opens else model.model_file.precision


def carried_cost(model: Artifact) -> Json:
    """Parameters and MACs of a model. Quantization and compilation do not change them."""
    return {name: model.metrics[name] for name in ("params", "macs") if name in model.metrics}


def fixed_batch(spec: IOSpec) -> int | None:
    """The fixed batch size of a model; None if it is open."""
    batch = spec.inputs[0].shape[0]
    return batch if isinstance(batch, int) else None


def check_batch(spec: IOSpec, batch_size: int) -> None:
    """Raise TargetError if a model has a fixed batch size other than `batch_size`."""
    fixed = fixed_batch(spec)
    if fixed not in (None, batch_size):
        raise TargetError(
            "the model has a fixed batch size",
            got=f"batch size {batch_size}",
            expected=fixed,
            next=f"give it {fixed} images at a time (--batch {fixed}, in a recipe batch_size: {fixed}), or "
            "export it with an open batch size",
        )


def random_images(spec: IOSpec, count: int, seed: int = 0) -> NDArray[Any]:
    """`count` images of smooth seeded color noise, preprocessed by the spec, (count, 3, H, W)."""
    generator = np.random.default_rng(seed)
    images = (_image(generator, spec.preprocess.height, spec.preprocess.width) for _ in range(count))
    return preprocessed(images, spec.preprocess)


def preprocessed(images: Iterable[NDArray[np.uint8]], rule: Preprocess) -> NDArray[Any]:
    """RGB images (H, W, 3) of any sizes, preprocessed by a model's rule, as one input tensor."""
    keywords = rule.model_dump()
    return np.stack([preprocess(image, **keywords) for image in images])


def input_batches(
    spec: IOSpec, images: Iterable[NDArray[np.uint8]], batch_size: int
) -> Iterator[tuple[NDArray[Any], int]]:
    """Input tensors, each with the number of images in it.

    With a fixed batch size, the last tensor is filled up with copies of its last image, which do not count.
    """
    fixed = fixed_batch(spec)
    for group in _groups(images, fixed or batch_size):
        batch = preprocessed(group, spec.preprocess)
        missing = max(0, (fixed or 0) - len(group))
        yield np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]), len(group)


def end_to_end(session: Session, batch_size: int, compute: Sequence[Part] = ()) -> Waterfall:
    """A run from encoded JPEG images to the class of each, in parts: decode, preprocess, compute, post.

    Args:
        compute: the parts from the input tensor to outputs by name, if the session has several.
    """
    encoded, rule, name = encoded_photo(), session.spec.preprocess, session.spec.inputs[0].name
    scores = session.spec.outputs[0].name
    return Waterfall(
        (
            ("decode", lambda _: [open_image(io.BytesIO(encoded)) for _ in range(batch_size)]),
            ("preprocess", lambda images: preprocessed(images, rule)),
            *(compute or (("compute", lambda tensor: session.infer({name: tensor})),)),
            ("post", lambda outputs: outputs[scores].argmax(axis=1)),
        )
    )


def encoded_photo() -> bytes:
    """A JPEG file of 640×480 pixels, the same at every call."""
    buffer = io.BytesIO()
    Image.fromarray(_image(np.random.default_rng(0), *PHOTO_SIZE)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def receipt(model: Artifact, runtime: str, device: str, options: SessionOptions) -> dict[str, Any]:
    """The conditions of a latency measurement: device, versions, options and file hashes."""
    packages = {name: version_of(name) for name in ("edgevit", RUNTIMES[runtime].package, "numpy")}
    return {
        "runtime": runtime,
        "device": device,
        "threads": options.threads_here,
        "precision": precision_of(model, options),
        "cpu": cpu(),
        "cpu_frequency": cpu_frequency(),
        "gpus": list(gpus()) if device == "cuda" else [],
        "versions": packages,
        "file_sha256": model.content_sha256,
    }


def _check_shape(scores: NDArray[Any], images: int, spec: IOSpec) -> None:
    width = spec.outputs[0].shape[1]
    if scores.shape != (images, width):
        raise ArtifactError(
            f"output '{spec.outputs[0].name}' does not have one row of scores for each image",
            got=scores.shape,
            expected=(images, width),
            next="export the model with an open batch size, or with a batch size of 1",
        )


def _groups(images: Iterable[NDArray[np.uint8]], size: int) -> Iterator[list[NDArray[np.uint8]]]:
    iterator = iter(images)
    while group := list(islice(iterator, size)):
        yield group


def _image(generator: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    coarse = generator.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    smooth: NDArray[np.int16] = np.asarray(Image.fromarray(coarse).resize((width, height)), np.int16)
    grain = generator.integers(-24, 25, smooth.shape, dtype=np.int16)
    image: NDArray[np.uint8] = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    return image
