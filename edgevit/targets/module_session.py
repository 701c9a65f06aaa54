"""A TensorRT engine on another machine whose outputs TensorRT's Python module computes there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import Artifact
from edgevit.model_file import TargetInfo
from edgevit.runtimes.base import Arrays, SessionOptions
from edgevit.targets.boards import HostFacts
from edgevit.targets.connection import Connection
from edgevit.targets.remote_session import RemoteSession
from edgevit.targets.remote_worker import RemoteWorker
from edgevit.targets.tensorrt_tools import TensorrtTools
from edgevit.targets.trtexec_program import TrtexecProgram, program_on
from edgevit.targets.trtexec_session import TrtexecSession


class ModuleSession(TrtexecSession):
    """An engine that the worker loads once for many images, which travel as bytes. Timings are those of the program."""

    def __init__(self, trtexec: TrtexecProgram, worker: RemoteWorker, model: Artifact, options: SessionOptions) -> None:
        super().__init__(trtexec, model)
        self._remote = RemoteSession(worker, model, options)

    def outputs(self, images: Iterable[NDArray[np.uint8]], batch_size: int) -> Iterator[Arrays]:
        return self._remote.outputs(images, batch_size)

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        return self._remote.infer(inputs)

    def infer_each(self, batches: Iterable[NDArray[Any]]) -> Iterator[Arrays]:
        return self._remote.infer_each(batches)


def engine_session(
    connection: Connection,
    facts: HostFacts,
    tools: TensorrtTools,
    info: TargetInfo,
    model: Artifact,
    options: SessionOptions,
) -> TrtexecSession:
    """An engine on a connected machine. The Python module computes its outputs where it is there, else trtexec."""
    program = program_on(connection, facts, tools)
    if not tools.has_module:
        return TrtexecSession(program, model)
    worker = RemoteWorker(connection, info, facts.system.cpus, facts.label, packages=None)
    return ModuleSession(program, worker, model, options)
