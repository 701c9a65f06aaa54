"""The worker program on a host: its files travel by hash, its answers are checked, its failures explained."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
from pydantic import ValidationError

from edgevit.artifacts import Frozen, Json
from edgevit.errors import ArtifactError, EdgevitError, TargetError, shortened
from edgevit.runtimes.base import Arrays
from edgevit.targets.connection import Connection
from edgevit.targets.jobs import Finished, Job, run_job
from edgevit.targets.shipped import WORKER, WORKER_FILES

LONGEST_S = 4 * 3600  # of one program
LARGEST_RESULT = 2**28  # bytes of a result.json
LARGEST_OUTPUTS = 2**34  # bytes of an outputs.npz
FAILURE = re.compile(r"edgevit-worker: (import|model|shape|memory|disk|bug): (.*)")
NO_ANSWER = "the answer is not one of edgevit's worker"

R = TypeVar("R", bound=Frozen)


@dataclass(frozen=True)
class RemoteWorker:
    """Runs programs on a connected host, one after another.

    Attributes:
        cpus: that programs may use there.
        packages: the folder of the unpacked wheels there; None for the packages of the host's own Python.
    """

    connection: Connection
    cpus: int
    packages: str | None

    def timed(self, request: Json, files: Mapping[str, Path], answer: type[R]) -> R:
        """The checked answer to a request that measures."""
        with TemporaryDirectory() as folder:
            finished = self._run(request, files, Path(folder), is_repeatable=False)
            try:
                return answer.model_validate_json(self._file(finished, "result.json").read_bytes())
            except ValidationError as error:
                problem = error.errors(include_url=False)[0]
                raise self._no_answer(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None

    def outputs(self, request: Json, files: Mapping[str, Path], folder: Path) -> Arrays:
        """The arrays that a request for outputs gives, by name. Their shapes are not checked."""
        finished = self._run(request, files, folder, is_repeatable=True)
        try:
            with np.load(self._file(finished, "outputs.npz"), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, OSError, EOFError) as error:
            raise self._no_answer(str(error)) from None

    def _run(self, request: Json, files: Mapping[str, Path], out: Path, is_repeatable: bool) -> Finished:
        with TemporaryDirectory() as folder:
            written = Path(folder) / "request.json"
            written.write_text(json.dumps(request, sort_keys=True), encoding="utf-8")
            job = Job(
                files={**WORKER_FILES, **files, written.name: written},
                arguments=(*self.connection.python, "-B", WORKER),
                environment={"PYTHONPATH": self.packages} if self.packages else {},
                timeout_s=LONGEST_S,
                is_repeatable=is_repeatable,
                outputs={"result.json": LARGEST_RESULT, "outputs.npz": LARGEST_OUTPUTS},
            )
            with self.connection.locked():
                finished = run_job(self.connection, job, out)
        if finished.timed_out or finished.status != 0:
            raise self._failure(finished)
        return finished

    def _file(self, finished: Finished, name: str) -> Path:
        if name not in finished.files:
            raise self._no_answer(f"no file {name}")
        return finished.files[name]

    def _failure(self, finished: Finished) -> EdgevitError:
        """The error for a program that did not do its work."""
        where, last = self.connection.target.name, (finished.stderr.strip().splitlines() or [""])[-1]
        if finished.timed_out:
            return TargetError("the program on the target took too long", where=where, got=f"over {LONGEST_S:,} s")
        kind, text = found.groups() if (found := FAILURE.fullmatch(last)) else ("", shortened(last))
        if kind == "memory" or finished.status == -9:
            what = "there is not enough memory on the target"
            return TargetError(what, where=where, got=text or "the system stopped the program")
        if kind == "import":
            advice = "give the target another Python (python:), or another version (onnxruntime:) in targets.yaml"
            return TargetError("the runtime cannot be loaded on the target", where=where, got=text, next=advice)
        if kind == "model":
            return TargetError("the runtime on the target does not take the model", where=where, got=text)
        if kind == "shape":
            return ArtifactError("the model does not fit its description", where=where, got=text)
        got = text or f"exit status {finished.status}"
        return TargetError("the program on the target failed", where=where, got=got)

    def _no_answer(self, got: str) -> TargetError:
        return TargetError(NO_ANSWER, where=self.connection.target.name, got=shortened(got))
