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
from edgevit.profiling import MeasurePlan
from edgevit.profiling.measure import Label
from edgevit.profiling.statistics import nearest_rank
from edgevit.runtimes.base import fixed_batch
from edgevit.targets.base import CHOICE, Check, Compiled
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
from edgevit.targets.trtexec_session import RUN_S, input_of

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
        order = order_of_choice([build.p50_ms for build in builds], trtexec.label)
        kept, compiled = _first_right([builds[index] for index in order], builder, check)
    log = (out / BUILD_LOG).read_text(encoding="utf-8", errors="replace")
    facts: Json = {**asdict(build_facts_in(log)), "timing_cache": builder.timing_cache_of(kept)}
    if config.builds > 1:
        times = [build.p50_ms for build in builds]
        facts |= {"p50_ms": times, "spread": max(times) / min(times) - 1, "kept": kept.number, "label": trtexec.label}
        facts |= {"failed": failed}
    return replace(compiled, build=facts)


def order_of_choice(p50s_ms: Sequence[float], label: Label) -> list[int]:
    """The indices of builds in the order in which they are tried, from the median time of each.

    The fastest comes first. Replayed times choose nothing: then it is the order of building.
    """
    order = range(len(p50s_ms))
    return list(order) if label == "replayed" else sorted(order, key=lambda index: p50s_ms[index])


@dataclass(frozen=True)
class _Build:
    """An engine that is built, and still on the machine.

    Attributes:
        number: 1 for the first build.
        p50_ms: median time of a run after the build; 0 for a single build, which is not timed.
    """

    number: int
    run: TrtexecRun
    log: Path
    p50_ms: float


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
    def build(self, number: int) -> Iterator[_Build]:
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
            ) as run,
        ):
            yield _Build(number, run, log, self._p50_ms(run))

    def fetch(self, build: _Build) -> ModelFile:
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

    def timing_cache_of(self, build: _Build) -> Json | None:
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

    def _p50_ms(self, run: TrtexecRun) -> float:
        if self._timing is None:
            return 0.0
        times = times_in(self.trtexec.content(run, TIMES), self._timing.min_runs, self.trtexec.where)
        return nearest_rank(times.compute, 50)

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


def _all_built(builder: _Builder, stack: ExitStack) -> tuple[list[_Build], list[str]]:
    """The builds that succeed, which last as long as `stack`, and a sentence about each that fails."""
    builds: list[_Build] = []
    errors: list[TargetError | ArtifactError] = []
    failed: list[str] = []
    for number in range(1, builder.config.builds + 1):
        try:
            builds.append(stack.enter_context(builder.build(number)))
        except ConnectionLost:
            raise
        except (TargetError, ArtifactError) as error:
            errors.append(error)
            failed.append(f"build {number} failed: {error.what}")
            if builder.config.builds > 1:
                builder.trtexec.connection.say(f"    {failed[-1]}")
    if not builds:
        raise errors[0]
    return builds, failed


def _first_right(builds: Sequence[_Build], builder: _Builder, check: Check) -> tuple[_Build, Compiled]:
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
