"""An ONNX file, or an engine made from one, in ONNX Runtime on the CPU."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from edgevit.artifacts import IOSpec
from edgevit.disks import check_room
from edgevit.errors import ArtifactError, EdgevitError, TargetError, first_line, is_out_of_memory
from edgevit.model_file import RuntimeOptions, json_of_options
from edgevit.profiling import MeasurePlan
from edgevit.profiling.layer_times import LayerTimes
from edgevit.runtimes.base import Arrays, HostSession
from edgevit.runtimes.loading import PROVIDER, onnxruntime_options, onnxruntime_session

# "[ONNXRuntimeError] : 1 : FAIL : Load model from … failed:", and the C++ line and function of the error
ERROR_ORIGIN = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?"
    r"(\S+\.(cc|h):\d+ .*?\)( const)?( \[with .*?\])? )?"
)
NO_SPINNING = {"session.intra_op.allow_spinning": "0"}
NEWEST_IR = re.compile(r"max supported IR version: (\d+)")

Provider = str | tuple[str, dict[str, str]]  # a name, perhaps with options


class OnnxruntimeSession(HostSession):
    """A loaded ONNX file."""

    def __init__(
        self,
        path: Path,
        spec: IOSpec,
        options: RuntimeOptions,
        threads: int,
        conditions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(spec, conditions)
        self._path, self._options, self._threads = path, options, threads
        self._session = inference_session(path, options, threads)

    def layers(self, plan: MeasurePlan) -> LayerTimes:
        """The time of each kernel by ONNX Runtime's profiler, in runs that follow those of the plan."""
        from edgevit.runtimes.onnxruntime.layer_times import times_in_onnxruntime

        plain = self.measure(plan)
        feed, outputs = self.feed(plan.batch_size), [output.name for output in self.spec.outputs]
        return times_in_onnxruntime(self._path, self._options, self._threads, outputs, feed, plain)

    def _run(self, outputs: list[str], feed: Arrays) -> list[NDArray[Any]]:
        return run_session(self._session, outputs, feed, self._path)


FileSession = OnnxruntimeSession


def run_session(
    session: onnxruntime.InferenceSession, outputs: list[str], feed: Mapping[str, NDArray[Any]], where: object
) -> list[NDArray[Any]]:
    """The named outputs of one run. Raises ArtifactError if ONNX Runtime cannot run the graph on `feed`."""
    with errors_explained("ONNX Runtime cannot run it", where):
        values: list[NDArray[Any]] = session.run(outputs, feed)
    return values


def inference_session(
    path: Path,
    options: RuntimeOptions,
    threads: int,
    optimized_path: Path | None = None,
    spins: bool = True,
    providers: Sequence[Provider] = (PROVIDER,),
    entries: Mapping[str, str] | None = None,
    profile_prefix: Path | None = None,
) -> onnxruntime.InferenceSession:
    """ONNX Runtime's own session, on the CPU alone unless other providers are named.

    Args:
        optimized_path: file for the optimized graph.
        spins: waiting threads keep their cores busy. False if other work alternates with the session's.
        providers: names, some with options. ONNX Runtime leaves out a provider that cannot be loaded: the caller looks.
        entries: further session options by key.
        profile_prefix: beginning of the name of the profiler's file; None without the profiler.
    """
    recorded = json_of_options(options)
    session_options = onnxruntime_options(recorded, threads)
    for key, value in {**({} if spins else NO_SPINNING), **(entries or {})}.items():
        session_options.add_session_config_entry(key, value)
    if optimized_path is not None:
        session_options.optimized_model_filepath = str(optimized_path)
    if profile_prefix is not None:
        session_options.enable_profiling, session_options.profile_file_prefix = True, str(profile_prefix)
    disabled = recorded.get("disabled_optimizers")
    try:
        with errors_explained("ONNX Runtime cannot load it", path):
            session: onnxruntime.InferenceSession = onnxruntime_session(
                path, session_options, providers=list(providers), disabled_optimizers=disabled, enable_fallback=0
            )
    except ArtifactError:
        if optimized_path is not None:  # ONNX Runtime does not report a full disk
            check_room(optimized_path, path.stat().st_size)
        raise
    if tuple(providers) == (PROVIDER,) and session.get_providers() != [PROVIDER]:
        raise TargetError("ONNX Runtime chose other providers", got=session.get_providers(), expected=PROVIDER)
    return session


@contextmanager
def errors_explained(what: str, where: object) -> Iterator[None]:
    """Turn ONNX Runtime's own errors into ArtifactError."""
    try:
        yield
    except (EdgevitError, OSError, MemoryError):
        raise
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        if not isinstance(error, (RuntimeError, ValueError)) and not type(error).__module__.startswith("onnxruntime"):
            raise
        if is_out_of_memory(error):
            raise MemoryError(first_line(error)) from None
        reason = ERROR_ORIGIN.sub("", first_line(error), count=1)
        newest = NEWEST_IR.search(reason)
        next_step = f"save it with ir_version {newest[1]} or lower" if newest else None
        raise ArtifactError(f"{what}: {reason}", where=where, next=next_step) from None
