"""A machine with an agent, as a target: models run there in ONNX Runtime or in TensorRT.

The machine is reached over SSH, or it is this one, whose agent is a child process. Nothing is installed there. ONNX
Runtime is brought along. TensorRT is the machine's own: trtexec and its Python module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edgevit.artifacts import Artifact, Json
from edgevit.configs import Compile
from edgevit.configs.runtimes import ONNXRUNTIME, TENSORRT
from edgevit.configs.targets import INSTALLED, LOCAL_CPU, MachineTarget
from edgevit.errors import TargetError
from edgevit.model_file import TargetInfo, TensorrtOptions
from edgevit.profiling import Comparison, MeasurePlan
from edgevit.runtimes.base import Session, SessionOptions, runtime_of
from edgevit.targets.asked import asked
from edgevit.targets.base import Check, Compiled, unchecked
from edgevit.targets.boards import HostFacts
from edgevit.targets.boards.request import NVPMODEL
from edgevit.targets.connection import Connection, connected
from edgevit.targets.engine_binding import differences, graph_differences, runs_elsewhere
from edgevit.targets.jobs import Finished, Job, run_job
from edgevit.targets.named import NamedTarget
from edgevit.targets.nvidia_gpus import check_one_kind
from edgevit.targets.packages import unpack
from edgevit.targets.sampling import conditions_of, total_rails_of
from edgevit.targets.tensorrt_tools import TensorrtTools, tools_of
from edgevit.targets.visits import facts_of, keep_facts, known
from edgevit.targets.wheels import WheelSet, fetched, wheels_for

if TYPE_CHECKING:
    from edgevit.targets.remote_worker import RemoteWorker
    from edgevit.targets.trtexec_program import TrtexecProgram

# What opens models is imported in the functions that use it: a finished recipe only calls `describe`, which needs none.

# A process connects once, since a connection holds the machine's lock.
_connected: dict[NamedTarget, tuple[Connection, HostFacts]] = {}

Say = Callable[[str], None]


class AgentHost:
    """A Linux machine on which an agent runs models, over SSH or here.

    Args:
        say: receives a line where a user waits, or where nobody answers.
    """

    runtimes = (ONNXRUNTIME.name, TENSORRT.name)

    def __init__(self, target: NamedTarget, say: Say) -> None:
        self._target, self._say = target, say
        self.name = target.name

    def describe(self, runtime: str) -> TargetInfo:
        self._check_runs(runtime)
        return self._info(facts_of(self._target, self._say), runtime)

    def compile(self, model: Artifact, out: Path, config: Compile, check: Check = unchecked) -> Compiled:
        if config.runtime == ONNXRUNTIME.name:
            from edgevit.targets.remote_session import compile_on

            with self._worker(model) as worker:
                file = compile_on(worker, model, out)
                return Compiled(file, check(file))
        from edgevit.targets.trtexec_build import engine_from_onnx

        with self._trtexec() as trtexec:
            return engine_from_onnx(model, out, config, trtexec, self.describe(TENSORRT.name), check)

    @contextmanager
    def open(self, model: Artifact, options: SessionOptions) -> Iterator[Session]:
        if runtime_of(model) == TENSORRT.name:
            with self._engine_session(model, options) as session:
                yield session
        else:
            from edgevit.targets.remote_session import RemoteSession

            with self._worker(model) as worker:
                yield RemoteSession(worker, model, options)

    def race(self, models: Sequence[Artifact], options: SessionOptions, plan: MeasurePlan) -> tuple[Comparison, ...]:
        are_engines = [runtime_of(model) == TENSORRT.name for model in models]
        if all(are_engines):
            return self._engine_race(models, plan)
        if any(are_engines):
            raise TargetError(
                "a TensorRT engine is measured in turns with other engines only",
                where=self.name,
                got=f"'{models[are_engines.index(False)].id}' is not an engine",
                next=f"compile its ONNX file with runtime: tensorrt and target: {self.name}",
            )
        from edgevit.targets.remote_session import race_on

        with self._worker(*models) as worker:
            return race_on(worker, models, options, plan)

    def _engine_race(self, engines: Sequence[Artifact], plan: MeasurePlan) -> tuple[Comparison, ...]:
        from edgevit.targets.engine_race import race_engines

        with self._trtexec() as trtexec:
            for engine in engines:
                self._check_is_of_this_board(engine)
            return race_engines(trtexec, engines, plan)

    def run_beside_module(self, arguments: tuple[str, ...], files: Mapping[str, Path], limit_s: float) -> Finished:
        """Run a program with the target's Python and TensorRT's module there, in a folder that holds `files`.

        Raises:
            TargetError: the target cannot be reached, or its Python has no TensorRT module for its engines.
        """
        with self._visited(TENSORRT.name) as (connection, facts), TemporaryDirectory() as folder:
            if not self._tools(facts).has_module:
                raise TargetError("its Python has no TensorRT module that loads its engines", where=self.name)
            job = Job(files, (*connection.python, "-B", *arguments), {}, limit_s, is_repeatable=False)
            with connection.locked():
                return run_job(connection, job, Path(folder))

    @contextmanager
    def _worker(self, *models: Artifact) -> Iterator[RemoteWorker]:
        """A worker on the connected host, with the packages that it needs there."""
        from edgevit.targets.remote_worker import RemoteWorker

        for model in models:
            self._check_runs(runtime_of(model))
            self._check_is_portable(model)
        with self._visited(ONNXRUNTIME.name) as (connection, facts):
            info, packages = self._info(facts, ONNXRUNTIME.name), self._packages(connection, facts)
            rails, conditions = total_rails_of(facts), conditions_of(facts)
            yield RemoteWorker(connection, info, facts.system.cpus, facts.label, packages, rails, conditions)

    @contextmanager
    def _engine_session(self, model: Artifact, options: SessionOptions) -> Iterator[Session]:
        """An engine on the connected host."""
        from edgevit.targets.module_session import engine_session

        with self._visited(TENSORRT.name) as (connection, facts):
            self._check_is_of_this_board(model)
            info = self._info(facts, TENSORRT.name)
            yield engine_session(connection, facts, self._tools(facts), info, model, options)

    @contextmanager
    def _trtexec(self) -> Iterator[TrtexecProgram]:
        """What builds and times engines on the connected host."""
        from edgevit.targets.trtexec_program import program_on

        with self._visited(TENSORRT.name) as (connection, facts):
            yield program_on(connection, facts, self._tools(facts))

    @contextmanager
    def _visited(self, runtime: str) -> Iterator[tuple[Connection, HostFacts]]:
        """The connected host, whose lock is held, and its facts, which are those that `describe` has given."""
        self._check_runs(runtime)
        if self._target in _connected:
            yield _connected[self._target]
            return
        before = known(self._target)
        with connected(self._target, self._say) as connection, connection.locked():
            facts = connection.call(partial(keep_facts, self._target))
            now = self._info(facts, runtime)
            if before is not None:
                self._check_is_the_same(self._info(before, runtime), now)
            for gap in asked(self._config, facts):
                if gap.is_fault:
                    self._say(f"note: {self.name}: {gap.name}: {gap.found}; {gap.mend}")
            _connected[self._target] = connection, facts
            try:
                yield connection, facts
            finally:
                del _connected[self._target]

    def _check_is_the_same(self, before: TargetInfo, now: TargetInfo) -> None:
        """Raise TargetError if the fingerprint has changed since it entered the keys of stages."""
        if now != before:
            changed = {**now.versions, **now.hardware}
            differences = [
                f"{name}: {value} and {changed.get(name)}"
                for name, value in {**before.versions, **before.hardware}.items()
                if changed.get(name) != value
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
        """The fingerprint: what decides outputs and latencies there. A fact that was not told is no other fact."""
        self._check_is_told(facts, runtime)
        hardware: Json = {
            "model": facts.model,
            "processor": facts.processor,
            "architecture": facts.system.machine,
            "cpus": facts.system.cpus,
            "power_mode": facts.power_mode and facts.power_mode.name,
        }
        if runtime == TENSORRT.name:
            check_one_kind(self.name, facts.gpus)
            hardware |= {
                "module": facts.module,
                "gpus": list(facts.gpus),
                "compute_capability": facts.compute_capability,
                "sm_count": facts.sm_count,
                "is_stand_in": facts.is_stand_in,
            }
            own = {
                **self._tools(facts).versions,
                "cuda": facts.cuda,
                "l4t": facts.l4t,
                "driver": facts.driver,
                "jetpack": facts.jetpack,
            }
            return TargetInfo(name=self.name, runtime=runtime, versions=own, hardware=hardware)
        versions = {runtime: self._runtime_version(facts), "python": facts.system.python}
        return TargetInfo(name=self.name, runtime=runtime, versions=versions, hardware=hardware)

    def _check_is_told(self, facts: HostFacts, runtime: str) -> None:
        """Raise TargetError if a program that tells a part of the fingerprint has not answered in time."""
        silent = [name for name in facts.silent if runtime == TENSORRT.name or name == NVPMODEL.arguments[0]]
        if silent:
            raise TargetError(
                "the target does not say what its fingerprint needs",
                where=self.name,
                got=f"no answer of {', '.join(silent)} in time",
                next="run the same command again; if that does not help, restart the target",
            )

    def _runtime_version(self, facts: HostFacts) -> str:
        if self._config.onnxruntime != INSTALLED:
            return self._wheels(facts).versions[ONNXRUNTIME.package]
        if installed := facts.system.onnxruntime:
            return installed[1]
        raise TargetError(
            "ONNX Runtime is not installed on the target",
            where=self.name,
            got=f"{INSTALLED} in targets.yaml, and none in {facts.system.executable}",
            next="leave onnxruntime out, so that edgevit brings it along",
        )

    def _tools(self, facts: HostFacts) -> TensorrtTools:
        return tools_of(facts, self._config.tensorrt, self.name)

    def _check_is_of_this_board(self, model: Artifact) -> None:
        """Raise TargetError if an engine was built on another GPU, or under other software that does not run it."""
        built, now, options = model.model_file.bound_to, self.describe(TENSORRT.name), model.model_file.options
        assert isinstance(options, TensorrtOptions)
        if built is None:
            return
        if changes := differences(options, built, now):
            raise TargetError(
                "the engine was built for another machine",
                where=model.id,
                got="; ".join(changes),
                expected=f"the machine as it was when '{built.name}' built it",
                next=f"compile it again with target: {self.name}",
            )
        if runs_elsewhere(built, now):
            self._say(
                f"note: {model.id} was compared with its ONNX file under TensorRT {built.versions.get(TENSORRT.name)}. "
                f"{self.name} has {now.versions.get(TENSORRT.name)} now."
            )

    def _check_runs(self, runtime: str) -> None:
        if runtime not in self.runtimes:
            advice = "export the model first" if runtime == "torch" else f"set runtime: {ONNXRUNTIME.name}"
            raise TargetError(
                f"{runtime} does not run on {self.name}",
                expected=f"{' or '.join(self.runtimes)} there",
                next=f"{advice}, or target: {LOCAL_CPU}",
            )

    def _check_is_portable(self, model: Artifact) -> None:
        built = model.model_file.bound_to
        if built is not None and (changes := graph_differences(built, self.describe(ONNXRUNTIME.name))):
            raise TargetError(
                "the model was compiled for another machine",
                where=model.id,
                got="; ".join(changes),
                expected=f"the machine as it was when '{built.name}' compiled it",
                next=f"compile it again with target: {self.name}",
            )

    @property
    def _config(self) -> MachineTarget:
        return self._target.machine
