"""The worker program on a host: its files travel by hash, its answers are checked, its failures explained."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from pydantic import ValidationError

from edgevit.artifacts import Frozen, Json
from edgevit.configs.runtimes import ONNXRUNTIME, TENSORRT
from edgevit.errors import ArtifactError, EdgevitError, ModelRefused, TargetError, shortened
from edgevit.frozen import first_problem
from edgevit.model_file import TargetInfo
from edgevit.profiling.measure import Label
from edgevit.profiling.telemetry import Telemetry
from edgevit.targets.connection import Connection
from edgevit.targets.jobs import Finished, Job, run_job
from edgevit.targets.sampling import sampled, sampled_content, telemetry_in
from edgevit.targets.shipped import ENGINE_WORKER_FILES, WORKER, WORKER_FILES

RESULT, OUTPUTS, COMPILED = "result.json", "outputs.bin", "compiled.onnx"
LARGEST_RESULT = 2**28  # bytes of a result.json
FAILURE = re.compile(r"edgevit-worker: (import|model|engine|shape|memory|disk|bug): (.*)")
IMPORT_ADVICE = {
    ONNXRUNTIME.name: "give the target another Python (python:), or another version (onnxruntime:) in targets.yaml",
    TENSORRT.name: "give the target JetPack's own Python (python:), or set tensorrt: trtexec in targets.yaml",
}
MODEL_ADVICE = {
    ONNXRUNTIME.name: "name a newer version of ONNX Runtime for the target (onnxruntime: in targets.yaml)",
    TENSORRT.name: "compile it again on this target, or set tensorrt: trtexec in targets.yaml",
}

R = TypeVar("R", bound=Frozen)


@dataclass(frozen=True)
class RemoteWorker:
    """Runs programs on a connected host, one after another.

    Attributes:
        info: the fingerprint of the host and its runtime.
        cpus: that programs may use there.
        label: of its times.
        packages: the folder of the unpacked wheels there; None for the packages of the host's own Python.
        total_rails: `Board.total_rails`.
        conditions: facts about the machine that belong to a timing.
    """

    connection: Connection
    info: TargetInfo
    cpus: int
    label: Label
    packages: str | None
    total_rails: tuple[str, ...] = ()
    conditions: Json = field(default_factory=dict)

    def timed(
        self,
        request: Json,
        files: Mapping[str, Path],
        answer: type[R],
        limit_s: float,
        counted_s: Callable[[R], float],
        idle_s: float = 0.0,
    ) -> tuple[R, Telemetry | None]:
        """The checked answer to a request that measures, and the telemetry of the counted runs.

        Args:
            limit_s: a program that takes longer is stopped.
            counted_s: how long the counted runs lasted, by the answer.
            idle_s: `MeasurePlan.idle_s`. The machine rests before the program starts.
        """
        outputs = {RESULT: LARGEST_RESULT}
        with self._finished(
            request, files, limit_s, outputs, is_repeatable=False, is_sampled=True, idle_s=idle_s
        ) as finished:
            result, content = self._result(finished, answer), sampled_content(finished.files)
        return result, telemetry_in(content, RESULT, counted_s(result), self.total_rails)

    def outputs(
        self, request: Json, files: Mapping[str, Path], answer: type[R], limit_s: float, most_bytes: int
    ) -> tuple[R, bytes]:
        """The checked answer to a request for outputs, and the bytes of the arrays, at most `most_bytes`.

        An equal request to an equal host, with the same runtime, may be answered by what an earlier one has left.
        """
        named = {**request, "target": self.info.model_dump(mode="json")}
        fetched = {RESULT: LARGEST_RESULT, OUTPUTS: most_bytes}
        with self._finished(named, files, limit_s, fetched, is_repeatable=True) as finished:
            return self._result(finished, answer), self._file(finished, OUTPUTS).read_bytes()

    def compiled(self, request: Json, files: Mapping[str, Path], limit_s: float, most_bytes: int) -> bytes:
        """The graph that a request to compile has written, at most `most_bytes`."""
        fetched = {RESULT: LARGEST_RESULT, COMPILED: most_bytes}
        with self._finished(request, files, limit_s, fetched, is_repeatable=False) as finished:
            return self._file(finished, COMPILED).read_bytes()

    @contextmanager
    def _finished(
        self,
        request: Json,
        files: Mapping[str, Path],
        limit_s: float,
        outputs: Mapping[str, int],
        is_repeatable: bool,
        is_sampled: bool = False,
        idle_s: float = 0.0,
    ) -> Iterator[Finished]:
        """A program that did its work, with its files until the end of the block."""
        with TemporaryDirectory() as folder:
            written = Path(folder) / "request.json"
            written.write_text(json.dumps(request, sort_keys=True), encoding="utf-8")
            job = Job(
                files={**self._files, **files, written.name: written},
                arguments=(*self.connection.python, "-B", WORKER),
                environment={"PYTHONPATH": self.packages} if self.packages else {},
                timeout_s=limit_s,
                is_repeatable=is_repeatable,
                outputs=outputs,
            )
            job = sampled(job, self.connection.python, idle_s) if is_sampled else job
            with self.connection.locked():
                finished = run_job(self.connection, job, Path(folder) / "outputs")
            if finished.timed_out or finished.status != 0:
                raise self._failure(finished, limit_s)
            yield finished

    @property
    def _files(self) -> Mapping[str, Path]:
        return ENGINE_WORKER_FILES if self._is_tensorrt else WORKER_FILES

    @property
    def _is_tensorrt(self) -> bool:
        return self.info.runtime == TENSORRT.name

    def _result(self, finished: Finished, answer: type[R]) -> R:
        try:
            return answer.model_validate_json(self._file(finished, RESULT).read_bytes())
        except ValidationError as error:
            raise self.no_answer(first_problem(error)) from None

    def _file(self, finished: Finished, name: str) -> Path:
        if name not in finished.files:
            raise self.no_answer(f"no file {name}")
        return finished.files[name]

    def no_answer(self, got: str) -> TargetError:
        """The error for an answer that is not one of the worker's."""
        what = "the answer is not one of edgevit's worker"
        return TargetError(what, where=self.connection.target.name, got=shortened(got))

    def _failure(self, finished: Finished, limit_s: float) -> EdgevitError:
        """The error for a program that did not do its work."""
        where, last = self.connection.target.name, (finished.stderr.strip().splitlines() or [""])[-1]
        if finished.timed_out:
            return TargetError("the program on the target took too long", where=where, got=f"over {limit_s:,.0f} s")
        kind, text = found.groups() if (found := FAILURE.fullmatch(last)) else ("", shortened(last))
        if kind == "memory" or finished.status == -9:
            what = "there is not enough memory on the target"
            return TargetError(what, where=where, got=text or "the system stopped the program")
        if kind == "disk":
            next_step = "free some space there, or give the target another work_folder"
            return TargetError("the target's disk is full", where=where, got=text, next=next_step)
        if kind == "import":
            advice = IMPORT_ADVICE[self.info.runtime]
            return TargetError("the runtime cannot be loaded on the target", where=where, got=text, next=advice)
        if kind == "model":
            advice = MODEL_ADVICE[self.info.runtime]
            return ModelRefused("the runtime on the target does not take the model", where=where, got=text, next=advice)
        if kind == "engine":
            what = "the engine is of another GPU or another TensorRT"
            return TargetError(what, where=where, got=text, next="compile it again on this target")
        if kind == "shape":
            return ArtifactError("the model does not fit its description", where=where, got=text)
        got = text or f"exit status {finished.status}"
        return TargetError("the program on the target failed", where=where, got=got)
