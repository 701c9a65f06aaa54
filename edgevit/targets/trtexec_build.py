"""ONNX file → TensorRT engine, built by trtexec on the machine that will run it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from edgevit.artifacts import Artifact, Json, sha256_of
from edgevit.configs import Compile
from edgevit.errors import ArtifactError, CheckFailed, ConnectionLost, TargetError
from edgevit.graphs.files import copy_onnx
from edgevit.model_file import ModelFile, TargetInfo, TensorrtOptions
from edgevit.profiling import Measurement, MeasurePlan
from edgevit.runtimes.base import fixed_batch
from edgevit.targets.base import CHOICE, Check, Compiled
from edgevit.targets.sampling import conditions_of_telemetry, sampled_content, telemetry_in
from edgevit.targets.trtexec.answers import LARGEST_JSON, build_facts_in, largest_times, times_in
from edgevit.targets.trtexec.commands import (
    ENGINE,
    LAYERS,
    MODEL,
    TIMES,
    TIMING_CACHE,
    BatchProfile,
    build_arguments,
    layers_arguments,
)
from edgevit.targets.trtexec_program import TrtexecProgram, TrtexecRun
from edgevit.targets.trtexec_session import RUN_S, input_of, measurement_of

BUILD_LOG = "build.log"
BUILD_S = 4 * 3600
LARGEST_ENGINE = 2**33  # bytes


def engine_from_onnx(
    model: Artifact, out: Path, config: Compile, trtexec: TrtexecProgram, machine: TargetInfo, check: Check
) -> Compiled:
    """Build an engine, and write it into folder `out`, with its ONNX file, the inspector's layers and the build log.

    Engines are strongly typed: each operator runs in the type that the ONNX file gives it. A build is not repeatable
    byte by byte, so each call builds anew. Of several builds, the fastest that `check` accepts is kept, and the other
    engines never leave the machine. Where a stand-in replays times, it is the first that `check` accepts. A build that
    fails is reported, and the others count. Several builds use no timing cache: it would give all of them the same
    kernels.

    Raises:
        TargetError: every build fails, or takes more than BUILD_S; or the line drops.
        ArtifactError: TensorRT does not take the model.
        CheckFailed: `check` accepts no engine.
    """
    with ExitStack() as stack:
        file = out / MODEL
        copy_onnx(model, file)
        own = trtexec.for_engines(version_compatible=config.version_compatible)
        builder = _Builder(own, model, config, file, out, machine)
        builds, failed = _all_built(builder, stack)
        kept, compiled = _first_right(order_of_choice(builds), builder, check)
    log = (out / BUILD_LOG).read_text(encoding="utf-8", errors="replace")
    facts: Json = {**asdict(build_facts_in(log)), "timing_cache": builder.timing_cache_of(kept)}
    if config.builds > 1:
        facts |= {**_timings(builds), "kept": kept.number, "label": trtexec.label, "failed": failed}
    return replace(compiled, build=facts)


@dataclass(frozen=True)
class Build:
    """An engine that is built, and still on the machine.

    Attributes:
        number: 1 for the first build.
        timing: of runs after the build; None for a single build, which is not timed.
    """

    number: int
    run: TrtexecRun
    log: Path
    timing: Measurement | None


def order_of_choice(builds: Sequence[Build]) -> list[Build]:
    """The order in which builds are tried: the fastest comes first, and those with an invalid timing last.

    Replayed times choose nothing: then it is the order of building.
    """

    def place(build: Build) -> tuple[bool, float]:
        timing = build.timing
        if timing is None or timing.label == "replayed":
            return False, 0.0
        return bool(timing.invalid), timing.percentile_ms(50)

    return sorted(builds, key=place)


@dataclass(frozen=True)
class _Builder:
    """Builds engines of an ONNX file.

    Attributes:
        file: the ONNX file as a single file.
        out: the folder of the result.
    """

    trtexec: TrtexecProgram
    model: Artifact
    config: Compile
    file: Path
    out: Path
    machine: TargetInfo

    @contextmanager
    def build(self, number: int) -> Iterator[Build]:
        """An engine on the machine, until the end of the block."""
        log = self.out / (BUILD_LOG if self.config.builds == 1 else f"build-{number}.log")
        outputs = {} if self._timing is None else {TIMES: largest_times(self._timing)}
        carries = {TIMING_CACHE: self._cache_name} if self._has_timing_cache else {}
        with (
            TemporaryDirectory() as folder,
            self.trtexec.ran(
                self._arguments,
                {MODEL: self.file},
                Path(folder),
                BUILD_S,
                outputs=outputs,
                is_repeatable=False,
                log=log,
                carries=carries,
                is_sampled=self._timing is not None,
            ) as run,
        ):
            yield Build(number, run, log, self._timed(run))

    def fetch(self, build: Build) -> ModelFile:
        """Write an engine into the folder of the result, with its layers and its log."""
        with TemporaryDirectory() as folder:
            files = build.run.fetch({ENGINE: LARGEST_ENGINE}, Path(folder))
            if ENGINE not in files:
                what, next_step = f"{self.trtexec.name} ended well, and wrote no engine", f"see its log in {build.log}"
                raise TargetError(what, where=self.trtexec.where, got=f"no file {ENGINE}", next=next_step)
            shutil.move(files[ENGINE], self.out / ENGINE)
            self._write_layers(Path(folder))
        return ModelFile(
            name=ENGINE,
            weight_precision=self.model.model_file.weight_precision,
            options=TensorrtOptions(
                max_batch=self.config.max_batch if self._is_open else None,
                version_compatible=self.config.version_compatible,
            ),
            bound_to=self.machine,
        )

    def timing_cache_of(self, build: Build) -> Json | None:
        """The timing cache of a build: its name on the machine, and the SHA-256 of what was offered and kept.

        TensorRT takes none of a cache that does not fit: it is offered, and not known to be used.
        """
        used = build.run.carried.get(TIMING_CACHE)
        return None if used is None else {"name": self._cache_name, "offered": used.before, "kept": used.after}

    def drop_timing_cache(self) -> None:
        """Remove the timing cache from the machine: with it, the next build would take the same kernels."""
        if self._has_timing_cache:
            self.trtexec.drop(TIMING_CACHE, self._cache_name)

    @property
    def _arguments(self) -> tuple[str, ...]:
        config, profile = self.config, BatchProfile(self.config.batch_size, self.config.max_batch)
        return build_arguments(
            self.trtexec.release,
            input_of(self.model.io),
            profile if self._is_open else None,
            config.builder_level,
            config.workspace_mib,
            self._timing,
            has_timing_cache=self._has_timing_cache,
        )

    @property
    def _timing(self) -> MeasurePlan | None:
        """The plan by which each of several engines is timed after its build."""
        return replace(CHOICE, batch_size=self.config.batch_size) if self.config.builds > 1 else None

    def _timed(self, run: TrtexecRun) -> Measurement | None:
        """The times of the runs that follow the build."""
        if self._timing is None:
            return None
        times = times_in(self.trtexec.content(run, TIMES), self._timing.min_runs, self.trtexec.where)
        telemetry = telemetry_in(sampled_content(run.files), TIMES, times.seconds, self.trtexec.total_rails)
        return measurement_of(self._timing, times, telemetry, self.trtexec.label)

    @property
    def _has_timing_cache(self) -> bool:
        return self.config.timing_cache and self.config.builds == 1

    @property
    def _cache_name(self) -> str:
        """The name of the timing cache: the machine and the options by which times of kernels count.

        trtexec takes a cache of any device. TensorRT's documentation binds a cache to the device, CUDA, TensorRT and
        the options that change kernels. Clocks differ between power modes.
        """
        options = self.config.model_dump(include={"builder_level", "workspace_mib", "version_compatible"})
        return sha256_of([self.machine.versions, self.machine.hardware, options])

    @property
    def _is_open(self) -> bool:
        return fixed_batch(self.model.io) is None

    def _write_layers(self, folder: Path) -> None:
        trtexec = self.trtexec
        source, batch_size = input_of(self.model.io), self.config.batch_size
        arguments = layers_arguments(trtexec.release, source, batch_size, self._is_open)
        fetches, engine = {LAYERS: LARGEST_JSON}, {ENGINE: self.out / ENGINE}
        run = trtexec.run(arguments, engine, folder, RUN_S, outputs=fetches, is_repeatable=True)
        (self.out / LAYERS).write_bytes(trtexec.content(run, LAYERS))


def _all_built(builder: _Builder, stack: ExitStack) -> tuple[list[Build], list[str]]:
    """The builds that succeed, which last as long as `stack`, and a sentence about each that fails."""
    builds: list[Build] = []
    errors: list[TargetError | ArtifactError] = []
    failed: list[str] = []
    for number in range(1, builder.config.builds + 1):
        try:
            build = stack.enter_context(builder.build(number))
        except ConnectionLost:
            raise
        except (TargetError, ArtifactError) as error:
            errors.append(error)
            failed.append(f"build {number} failed: {error.what}")
            if builder.config.builds > 1:
                builder.trtexec.connection.say(f"    {failed[-1]}")
            continue
        builds.append(build)
        for reason in build.timing.invalid if build.timing else ():
            builder.trtexec.connection.say(f"    build {number}: its timing is invalid: {reason}")
    if not builds:
        raise errors[0]
    return builds, failed


def _timings(builds: Sequence[Build]) -> Json:
    """The medians of the builds, what is wrong with each timing, and the state of the machine meanwhile.

    The spread is that of the valid medians; None if fewer than two are valid.
    """
    timings = [build.timing for build in builds if build.timing is not None]
    valid = [timing.percentile_ms(50) for timing in timings if not timing.invalid]
    return {
        "p50_ms": [timing.percentile_ms(50) for timing in timings],
        "spread": max(valid) / min(valid) - 1 if len(valid) > 1 else None,
        "invalid": [list(timing.invalid) for timing in timings],
        "warnings": [list(timing.warnings) for timing in timings],
        "conditions": [conditions_of_telemetry(timing.telemetry) for timing in timings],
    }


def _first_right(builds: Sequence[Build], builder: _Builder, check: Check) -> tuple[Build, Compiled]:
    """The first build that `check` accepts, in the folder of the result."""
    first_error: CheckFailed | None = None
    for build in builds:
        file = builder.fetch(build)
        try:
            compiled = Compiled(file, check(file))
        except CheckFailed as error:
            first_error = first_error or error
            builder.drop_timing_cache()
            if builder.config.builds > 1:
                builder.trtexec.connection.say(f"    build {build.number} is refused: {error.what}")
            continue
        if build.log.name != BUILD_LOG:
            build.log.rename(builder.out / BUILD_LOG)
        return build, compiled
    assert first_error is not None
    raise first_error
