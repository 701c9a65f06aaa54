"""A TensorRT engine on another machine as a session: each inference and each timing is a run of trtexec there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import Artifact, IOSpec, Json
from edgevit.errors import ArtifactError, TargetError
from edgevit.model_file import TensorrtOptions
from edgevit.profiling import Measurement, MeasurePlan
from edgevit.profiling.layer_times import LayerTimes
from edgevit.profiling.loop import Soak
from edgevit.profiling.measure import Label, conditions_of_soak, disturbed_runs, doubts_of_soak
from edgevit.profiling.statistics import nearest_rank
from edgevit.profiling.telemetry import Telemetry
from edgevit.provenance import version_of
from edgevit.runtimes.base import Arrays, Session, check_batch, fixed_batch, random_images
from edgevit.targets.sampling import (
    conditions_of_telemetry,
    doubts_of_telemetry,
    sampled_content,
    soak_in_runs,
    telemetry_in,
)
from edgevit.targets.trtexec.answers import (
    LARGEST_JSON,
    Times,
    largest_outputs,
    largest_times,
    layer_times_in,
    outputs_in,
    times_in,
    warnings_in,
)
from edgevit.targets.trtexec.commands import (
    ENGINE,
    INPUT,
    OUTPUTS,
    PROFILE,
    TIMES,
    Input,
    outputs_arguments,
    profile_arguments,
    timing_arguments,
)
from edgevit.targets.trtexec_program import TrtexecProgram, TrtexecRun

RUN_S = 3600  # of one run, beside the plan of a timing


class _Timed(NamedTuple):
    """A timing by trtexec."""

    run: TrtexecRun
    arguments: tuple[str, ...]
    times: Times
    telemetry: Telemetry | None


class TrtexecSession(Session):
    """An engine that is loaded anew by each run.

    The boundary of its timings is `compute`: the time of the engine on the GPU. Copies of inputs and outputs are apart,
    in the conditions.
    """

    def __init__(self, trtexec: TrtexecProgram, model: Artifact) -> None:
        self.spec = model.io
        self._model = model
        self._engine = model.file(model.model_file.name)
        options = model.model_file.options
        assert isinstance(options, TensorrtOptions)
        self.trtexec = trtexec.for_engines(version_compatible=options.version_compatible)
        self._max_batch = options.max_batch

    def outputs(self, images: Iterable[NDArray[np.uint8]], batch_size: int) -> Iterator[Arrays]:
        """As `Session.outputs`, with batches of at most the engine's largest size."""
        return super().outputs(images, min(batch_size, self._max_batch or batch_size))

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        batch = inputs[self.spec.inputs[0].name]
        size = self._max_batch or len(batch)
        parts = [self._outputs(batch[start : start + size]) for start in range(0, len(batch), size)]
        return {output.name: np.concatenate([part[output.name] for part in parts]) for output in self.spec.outputs}

    def measure(self, plan: MeasurePlan) -> Measurement:
        self.check_plan(plan)
        soaked, idle = self._soaked(plan) if plan.soak_s else (None, None)
        timed = self._timed(plan if soaked is None else replace(plan, idle_s=0))
        if timed.telemetry and soaked is not None:
            timed = timed._replace(telemetry=replace(timed.telemetry, idle=idle))
        conditions = {
            **self._conditions(timed.run, timed.times),
            "trtexec": list(timed.arguments),
            **vars(plan),
            **conditions_of_soak(soaked),
            **conditions_of_telemetry(timed.telemetry),
        }
        label, doubts = self.trtexec.label, doubts_of_soak(soaked)
        return measurement_of(plan, timed.times, timed.telemetry, label, conditions, doubts)

    def layers(self, plan: MeasurePlan) -> LayerTimes:
        """The time of each layer by TensorRT's profiler, in runs that follow those of the plan."""
        self.check_plan(plan)
        arguments = profile_arguments(self.trtexec.release, input_of(self.spec), plan, self.is_open)
        fetches, where = {TIMES: largest_times(plan), PROFILE: LARGEST_JSON}, self.trtexec.where
        with TemporaryDirectory() as folder:
            limit_s, images = RUN_S + 2 * (plan.warmup_s + plan.duration_s), random_images(self.spec, plan.batch_size)
            run = self._run(arguments, images, Path(folder), limit_s, fetches, is_repeatable=False)
            times = times_in(self.trtexec.content(run, TIMES), plan.min_runs, where)
            layers, runs = layer_times_in(self.trtexec.content(run, PROFILE), where)
            content = sampled_content(run.files)
        # The profiler's runs follow those of the plan, and last as long.
        telemetry = telemetry_in(content, PROFILE, 2 * times.seconds, self.trtexec.total_rails)
        engine = measurement_of(plan, times, telemetry, self.trtexec.label)
        of_engine = (engine.percentile_ms(50), where, engine.label, engine.warnings, engine.invalid)
        return LayerTimes(layers, runs, plan.batch_size, *of_engine)

    @property
    def is_open(self) -> bool:
        """Whether the batch size is open."""
        return fixed_batch(self.spec) is None

    def check_plan(self, plan: MeasurePlan) -> None:
        """Raise an error if trtexec cannot time the engine by this plan."""
        check_batch(self.spec, plan.batch_size)
        if self._max_batch is not None and plan.batch_size > self._max_batch:
            raise TargetError(
                "the engine does not take so many images",
                where=self._model.id,
                got=f"batch size {plan.batch_size}",
                expected=f"at most {self._max_batch}",
                next=f"compile it with max_batch: {plan.batch_size}",
            )
        if plan.boundary != "compute":
            raise TargetError(
                "trtexec times the engine alone",
                where=self.trtexec.where,
                got=f"boundary: {plan.boundary}",
                expected="boundary: compute",
            )

    def _timed(self, plan: MeasurePlan) -> _Timed:
        """A run of trtexec by a plan, with its times and the state of the machine meanwhile."""
        arguments = timing_arguments(self.trtexec.release, input_of(self.spec), plan, self.is_open)
        limit_s = RUN_S + plan.warmup_s + plan.duration_s
        images, fetches = random_images(self.spec, plan.batch_size), {TIMES: largest_times(plan)}
        with TemporaryDirectory() as folder:
            run = self._run(arguments, images, Path(folder), limit_s, fetches, is_repeatable=False, idle_s=plan.idle_s)
            times = times_in(self.trtexec.content(run, TIMES), plan.min_runs, self.trtexec.where)
            content = sampled_content(run.files)
        telemetry = telemetry_in(content, TIMES, times.seconds, self.trtexec.total_rails)
        return _Timed(run, arguments, times, telemetry)

    def _soaked(self, plan: MeasurePlan) -> tuple[Soak, Telemetry | None]:
        """A soak, and the machine at rest before it."""
        loads: list[Telemetry | None] = []

        def load(seconds: float) -> Telemetry | None:
            loads.append(self._load(replace(plan, idle_s=0) if loads else plan, seconds))
            return loads[-1]

        soaked = soak_in_runs(load, plan.soak_s)
        return soaked, loads[0].idle if loads and loads[0] else None

    def _load(self, plan: MeasurePlan, seconds: float) -> Telemetry | None:
        """Run the engine for some seconds. Returns the state of the machine meanwhile."""
        return self._timed(replace(plan, warmup_s=0, duration_s=seconds, min_runs=1)).telemetry

    def _outputs(self, batch: NDArray[Any]) -> Arrays:
        arguments = outputs_arguments(self.trtexec.release, input_of(self.spec), len(batch), self.is_open)
        values = (len(batch) * math.prod(int(size) for size in output.shape[1:]) for output in self.spec.outputs)
        fetches = {OUTPUTS: largest_outputs(values)}
        with TemporaryDirectory() as folder:
            run = self._run(arguments, batch, Path(folder), RUN_S, fetches, is_repeatable=True)
            outputs = outputs_in(self.trtexec.content(run, OUTPUTS), self.trtexec.where)
        for output in self.spec.outputs:
            expected = (len(batch), *output.shape[1:])
            if output.name not in outputs or outputs[output.name].shape != expected:
                got = outputs[output.name].shape if output.name in outputs else ", ".join(outputs)
                what = f"output '{output.name}' of the engine does not fit its description"
                raise ArtifactError(what, where=self._model.id, got=got, expected=expected)
        return dict(outputs)

    def _run(
        self,
        arguments: tuple[str, ...],
        batch: NDArray[Any],
        folder: Path,
        limit_s: float,
        fetches: Mapping[str, int],
        *,
        is_repeatable: bool,
        idle_s: float = 0.0,
    ) -> TrtexecRun:
        source = folder / INPUT
        source.write_bytes(np.ascontiguousarray(batch).tobytes())
        files = {ENGINE: self._engine, INPUT: source}
        return self.trtexec.run(
            arguments,
            files,
            folder / "fetched",
            limit_s,
            outputs=fetches,
            is_repeatable=is_repeatable,
            is_sampled=not is_repeatable,  # a timing
            idle_s=idle_s,
        )

    def _conditions(self, run: TrtexecRun, times: Times) -> Json:
        """The conditions of a timing. Times are medians."""
        return {
            "runtime": self._model.model_file.runtime,
            "device": "gpu",
            "precision": self._model.model_file.precision,
            **self.trtexec.conditions,
            "to_gpu_ms": nearest_rank(times.to_gpu, 50),
            "to_host_ms": nearest_rank(times.to_host, 50),
            "enqueue_ms": nearest_rank(times.enqueue, 50),
            "warnings_of_tensorrt": list(warnings_in(run.log)),
            "versions": {"tensorrt": self.trtexec.version, "edgevit": version_of("edgevit")},
            "file_sha256": self._model.content_sha256,
        }


def input_of(spec: IOSpec) -> Input:
    """The input of a model for trtexec."""
    image = spec.inputs[0]
    return Input(image.name, tuple(int(size) for size in image.shape[1:]))


def measurement_of(
    plan: MeasurePlan,
    times: Times,
    telemetry: Telemetry | None,
    label: Label,
    conditions: Json | None = None,
    further_doubts: tuple[str, ...] = (),
) -> Measurement:
    """The compute times of an engine on the GPU, with the state of the machine meanwhile."""
    doubts = (*times.doubts, *further_doubts, *doubts_of_telemetry(telemetry))
    return Measurement(
        times.compute,
        plan,
        conditions or {},
        label,
        doubts,
        telemetry,
        "gpu",
        disturbed=disturbed_runs(times.compute, plan),
        seconds=times.seconds,
    )
