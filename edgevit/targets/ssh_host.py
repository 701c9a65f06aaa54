"""A machine that is reached over SSH, as a target: models run there in ONNX Runtime, and nothing is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.artifacts import Artifact
from edgevit.configs.runtimes import ONNXRUNTIME
from edgevit.configs.targets import INSTALLED, LOCAL_CPU, SshTarget
from edgevit.errors import TargetError
from edgevit.model_file import ModelFile, TargetInfo
from edgevit.profiling import Comparison, MeasurePlan
from edgevit.runtimes.base import Session, SessionOptions, runtime_of
from edgevit.targets.asked import asked
from edgevit.targets.boards import HostFacts
from edgevit.targets.connection import Connection, connected
from edgevit.targets.named import NamedTarget
from edgevit.targets.packages import unpack
from edgevit.targets.visits import facts_of, keep_facts
from edgevit.targets.wheels import WheelSet, fetched, wheels_for

if TYPE_CHECKING:
    from edgevit.targets.remote_worker import RemoteWorker

# What opens models is imported in the functions that use it: a finished recipe only calls `describe`, which needs none.

_connected: dict[NamedTarget, RemoteWorker] = {}  # a process connects once, since a connection holds the machine's lock

Say = Callable[[str], None]


class SshHost:
    """A Linux machine that is reached over SSH.

    Args:
        say: receives a line where a user waits, or where nobody answers.
    """

    runtimes = (ONNXRUNTIME.name,)

    def __init__(self, target: NamedTarget, say: Say) -> None:
        self._target, self._say = target, say
        self.name = target.name

    def describe(self, runtime: str) -> TargetInfo:
        self._check_runs(runtime)
        return self._info(facts_of(self._target, self._say), runtime)

    def compile(self, model: Artifact, out: Path) -> ModelFile:
        raise TargetError(
            "edgevit compiles models on this machine only",
            where=self.name,
            next="leave compile out: ONNX Runtime optimizes an ONNX file whenever it loads it",
        )

    @contextmanager
    def open(self, model: Artifact, options: SessionOptions) -> Iterator[Session]:
        from edgevit.targets.remote_session import RemoteSession

        with self._worker(model) as worker:
            yield RemoteSession(worker, model, options)

    def race(self, a: Artifact, b: Artifact, options: SessionOptions, plan: MeasurePlan) -> Comparison:
        from edgevit.targets.remote_session import race_on

        with self._worker(a, b) as worker:
            return race_on(worker, a, b, options, plan)

    @contextmanager
    def _worker(self, *models: Artifact) -> Iterator[RemoteWorker]:
        """A worker on the connected host, with the packages that it needs there."""
        from edgevit.targets.remote_worker import RemoteWorker

        for model in models:
            self._check_runs(runtime_of(model))
            self._check_is_portable(model)
        if (worker := _connected.get(self._target)) is not None:
            yield worker
            return
        before = self.describe(ONNXRUNTIME.name)
        with connected(self._target, self._say) as connection, connection.locked():
            facts = connection.call(partial(keep_facts, self._target))
            self._check_is_the_same(before, self._info(facts, ONNXRUNTIME.name))
            for gap in asked(self._config, facts):
                if gap.is_fault:
                    self._say(f"note: {self.name}: {gap.name}: {gap.found}; {gap.mend}")
            worker = RemoteWorker(connection, before, facts.system.cpus, self._packages(connection, facts))
            _connected[self._target] = worker
            try:
                yield worker
            finally:
                del _connected[self._target]

    def _check_is_the_same(self, before: TargetInfo, now: TargetInfo) -> None:
        """Raise TargetError if the fingerprint has changed since it entered the keys of stages."""
        if now != before:
            changed = {**now.versions, **now.hardware}
            differences = [
                f"{name}: {value} and {changed[name]}"
                for name, value in {**before.versions, **before.hardware}.items()
                if changed[name] != value
            ]
            what, next_step = "the target has changed since its facts were read", "run the same command again"
            raise TargetError(what, where=self.name, got=", ".join(differences), next=next_step)

    def _packages(self, connection: Connection, facts: HostFacts) -> str | None:
        """The folder of unpacked packages there; None if the host's own are to be used."""
        if self._config.onnxruntime == INSTALLED:
            return None
        wheels = fetched(self._wheels(facts), self._say)
        return unpack(connection, wheels)

    def _wheels(self, facts: HostFacts) -> WheelSet:
        try:
            return wheels_for(facts.system, self._config.onnxruntime)
        except TargetError as error:
            next_step = error.next or f"or install it there, and set onnxruntime: {INSTALLED} in targets.yaml"
            raise TargetError(
                error.what, where=self.name, got=error.got, expected=error.expected, next=next_step
            ) from None

    def _info(self, facts: HostFacts, runtime: str) -> TargetInfo:
        """The fingerprint: what decides outputs and latencies there."""
        hardware = {
            "model": facts.model,
            "processor": facts.processor,
            "architecture": facts.system.machine,
            "cpus": facts.system.cpus,
            "power_mode": facts.power_mode and facts.power_mode.name,
        }
        versions = {runtime: self._runtime_version(facts), "python": facts.system.python}
        return TargetInfo(name=self.name, runtime=runtime, versions=versions, hardware=hardware)

    def _runtime_version(self, facts: HostFacts) -> str:
        if self._config.onnxruntime != INSTALLED:
            return self._wheels(facts).versions[ONNXRUNTIME.package]
        for package in (ONNXRUNTIME.package, f"{ONNXRUNTIME.package}-gpu"):
            if package in facts.system.packages:
                return facts.system.packages[package]
        raise TargetError(
            "ONNX Runtime is not installed on the target",
            where=self.name,
            got=f"{INSTALLED} in targets.yaml, and none in {facts.system.executable}",
            next="leave onnxruntime out, so that edgevit brings it along",
        )

    def _check_runs(self, runtime: str) -> None:
        if runtime not in self.runtimes:
            advice = "export the model first" if runtime == "torch" else f"set runtime: {ONNXRUNTIME.name}"
            raise TargetError(
                f"{runtime} does not run on {self.name}, which is reached over SSH",
                expected=f"{' or '.join(self.runtimes)} there",
                next=f"{advice}, or target: {LOCAL_CPU}",
            )

    def _check_is_portable(self, model: Artifact) -> None:
        if model.is_compiled:
            bound_to = model.model_file.bound_to
            raise TargetError(
                "the model was compiled for another machine",
                where=self.name,
                got=bound_to and bound_to.name,
                next="take the ONNX file that it was compiled from",
            )

    @property
    def _config(self) -> SshTarget:
        assert self._target.config is not None
        return self._target.config
