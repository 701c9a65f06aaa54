"""trtexec, or a program that speaks as it does, on a connected machine: each run is a job. Failures are explained."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from edgevit.artifacts import Json
from edgevit.errors import ArtifactError, EdgevitError, TargetError
from edgevit.profiling.measure import Label
from edgevit.targets.boards import HostFacts
from edgevit.targets.boards.versions import TensorRTRelease, tensorrt_release, version_numbers
from edgevit.targets.connection import Connection
from edgevit.targets.jobs import CarriedFile, Finished, Job, ended_job, run_job
from edgevit.targets.sampling import conditions_of, sampled, total_rails_of
from edgevit.targets.shipped import TENSORRT_FILES, TENSORRT_PROGRAM
from edgevit.targets.tensorrt_tools import TensorrtTools
from edgevit.targets.trtexec.answers import Failure, engine_that_failed, failure_in, log_of, version_in

LOG = "trtexec.log"
LARGEST_LOG = 2**26  # bytes
DROP_S = 60
END_OF_LOG = 2**17  # bytes of it that are searched for errors and warnings
COMPILE_ADVICE = ", or set a lower max_batch or workspace_mib of the stage compile"
INTO_LOG = ("/bin/sh", "-c", f'exec "$0" "$@" > {LOG} 2>&1')  # before a program and its arguments


@dataclass(frozen=True)
class TrtexecRun:
    """A run that has succeeded.

    Attributes:
        files: those that were fetched, by name.
        log: the end of it.
        carried: files that it carries on from earlier runs, by name.
        fetch: fetches more files, by name with the most bytes of each, into a folder. Only within `TrtexecProgram.ran`.
    """

    files: Mapping[str, Path]
    log: str
    carried: Mapping[str, CarriedFile]
    fetch: Callable[[Mapping[str, int], Path], dict[str, Path]]


@dataclass(frozen=True)
class TrtexecProgram:
    """Runs trtexec on a connected machine, one run after another; or `tensorrt_program.py`, which takes its options.

    Attributes:
        command: its words, such as the path of trtexec.
        name: for people.
        shipped: files that it needs in the folder of a run, by name.
        version: of its TensorRT, such as 10.3.0.
        label: of its times.
        conditions: facts about the machine that belong to a timing.
        total_rails: `Board.total_rails`.
    """

    connection: Connection
    command: tuple[str, ...]
    name: str
    shipped: Mapping[str, Path]
    version: str
    release: TensorRTRelease
    label: Label
    conditions: Json
    total_rails: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The machine's name, for errors."""
        return self.connection.target.name

    def for_engines(self, *, version_compatible: bool) -> TrtexecProgram:
        """The program with the flags that such engines need."""
        return replace(self, release=self.release.for_version_compatible()) if version_compatible else self

    def run(
        self,
        arguments: tuple[str, ...],
        files: Mapping[str, Path],
        out: Path,
        limit_s: float,
        *,
        outputs: Mapping[str, int],
        is_repeatable: bool,
        started_by: tuple[str, ...] = (),
        is_sampled: bool = False,
        idle_s: float = 0.0,
    ) -> TrtexecRun:
        """Run trtexec on input files, and fetch the files `outputs` that it writes into folder `out`.

        Args and errors as `ran`.
        """
        ran = self.ran(
            arguments,
            files,
            out,
            limit_s,
            outputs=outputs,
            is_repeatable=is_repeatable,
            started_by=started_by,
            is_sampled=is_sampled,
            idle_s=idle_s,
        )
        with ran as run:
            return run

    @contextmanager
    def ran(
        self,
        arguments: tuple[str, ...],
        files: Mapping[str, Path],
        out: Path,
        limit_s: float,
        *,
        outputs: Mapping[str, int],
        is_repeatable: bool,
        started_by: tuple[str, ...] = (),
        log: Path | None = None,
        carries: Mapping[str, str] | None = None,
        is_sampled: bool = False,
        idle_s: float = 0.0,
    ) -> Iterator[TrtexecRun]:
        """A run of trtexec on input files, with the files `outputs` that it has written in folder `out`.

        In the block, more of its files can be fetched.

        Args:
            started_by: a program that starts trtexec, and its arguments before the place of trtexec.
            outputs: the most bytes of each file, by name.
            log: a file for the log of a build, which is written if the build fails, too. Of other runs, only the end of
                what trtexec prints comes back.
            carries: files that stay on the machine from one run to the next: see `Job`.
            is_sampled: whether the state of the machine is sampled meanwhile, into the file TELEMETRY.
            idle_s: `MeasurePlan.idle_s` of a run that is sampled.

        Raises:
            TargetError: the run fails, lacks memory, or takes too long; or trtexec or the engine is of another TensorRT
                than the machine has named.
            ArtifactError: TensorRT does not take the model: the log names a node.
        """
        command, fetches = (*started_by, *self.command, *arguments), dict(outputs)
        if log is not None:
            command, fetches = (*INTO_LOG, *command), {**outputs, LOG: LARGEST_LOG}
        job = Job({**self.shipped, **files}, command, {}, limit_s, is_repeatable, fetches, carries or {})
        job = sampled(job, self.connection.python, idle_s, "gpu") if is_sampled else job
        with self.connection.locked(), ended_job(self.connection, job, out) as ended:
            finished = ended.finished
            text = log_of((finished.stdout, finished.stderr)) if log is None else _kept_log(finished, log)
            if finished.timed_out or finished.status != 0:
                raise self._failure(finished, text, limit_s, log)
            self._check_version(text)
            yield TrtexecRun(finished.files, text, finished.carried, ended.fetch)

    def drop(self, name: str, kept: str) -> None:
        """Remove a carried file from the machine.

        Args:
            kept: its name among the carried files; see `Job`.
        """
        job = Job({}, ("/bin/rm", "-f", name), {}, DROP_S, is_repeatable=False, carries={name: kept})
        with TemporaryDirectory() as folder:
            run_job(self.connection, job, Path(folder))

    def content(self, run: TrtexecRun, name: str) -> bytes:
        """The bytes of a file that trtexec wrote. Raises TargetError if it is missing."""
        if name not in run.files:
            raise TargetError(f"the answer of {self.name} cannot be read", where=self.where, got=f"no file {name}")
        return run.files[name].read_bytes()

    def _check_version(self, log: str) -> None:
        version = version_in(log)
        if version is None or version_numbers(version) != version_numbers(self.version)[:3]:
            next_step = "run the same command again, so that the machine is asked anew"
            what = f"{self.name} is of another TensorRT"
            raise TargetError(what, where=self.where, got=version, expected=self.version, next=next_step)

    def _failure(self, finished: Finished, text: str, limit_s: float, log: Path | None) -> EdgevitError:
        """The error for a run that failed. Only a build has a log. A model is refused where the log names a node."""
        kept = f"see its log in {log}" if log is not None else None
        engine = engine_that_failed(text)
        where = f"{self.where}, {engine}" if engine else self.where
        if finished.timed_out:
            got = f"over {limit_s:,.0f} s"
            return TargetError(f"{self.name} took too long, and was stopped", where=where, got=got, next=kept)
        failure = failure_in(text)
        if finished.status is not None and finished.status < 0 and failure.kind == "other":
            failure = Failure("memory" if finished.status == -9 else "other", "", f"signal {-finished.status}")
        if failure.kind == "memory":
            what = "the target has not enough memory for TensorRT"
            advice = "stop other programs there" + (COMPILE_ADVICE if log is not None else "")
            return TargetError(what, where=where, got=failure.text, next=advice)
        if failure.kind == "engine":
            what = "the engine is of another GPU or another TensorRT"
            return TargetError(what, where=where, got=failure.text, next="compile it again on this target")
        if failure.kind == "node":
            what = f"TensorRT {self.version} does not take the model: {failure.node}"
            return ArtifactError(what, where=where, got=failure.text, next="edgevit check names what it refuses")
        got = failure.text or f"exit status {finished.status}"
        return TargetError(f"{self.name} failed", where=where, got=got, next=kept)


def _kept_log(finished: Finished, log: Path) -> str:
    """Move the log that a run has written to file `log`, and return its end."""
    if LOG in finished.files:
        shutil.move(finished.files[LOG], log)
    else:
        log.write_text(log_of((finished.stdout, finished.stderr)), encoding="utf-8")
    return log.read_bytes()[-END_OF_LOG:].decode("utf-8", "replace")


def program_on(connection: Connection, facts: HostFacts, tools: TensorrtTools) -> TrtexecProgram:
    """The program that builds and times engines on a connected machine."""
    return TrtexecProgram(
        connection,
        command=(*connection.python, "-B", TENSORRT_PROGRAM) if tools.trtexec is None else (tools.trtexec,),
        name=tools.name,
        shipped=TENSORRT_FILES if tools.trtexec is None else {},
        version=tools.version,
        release=tensorrt_release(tools.version),
        label=facts.label,
        conditions={"timed_by": tools.name, **conditions_of(facts)},
        total_rails=total_rails_of(facts),
    )
