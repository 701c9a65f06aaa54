"""The processes of one training. Each process is a rank and computes its rows of every batch; if one dies, all end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from functools import cache, wraps
from inspect import signature
from itertools import count as count_from
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import PrefixStore, Store, TCPStore, rendezvous  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Stage
from edgevit.context import Context
from edgevit.errors import EdgevitError, TargetError, TrainingError
from edgevit.progress import Bar, SilentProgress
from edgevit.training.loop.training_state import TrainingState

LOCALHOST = "127.0.0.1"
LOOK_EVERY_S = 0.2
CAUSE_SHOWS_WITHIN_S = 1.0  # a rank may report a lost connection before the launcher sees the other rank's death
# The launcher detects dead ranks. A silent rank may be waiting while rank 0 validates, or may load its data slowly.
PATIENCE = timedelta(days=1)
PEER_IS_LOST = ("closed by peer", "reset by peer")  # gloo's messages; NCCL aborts when it loses a rank
C = TypeVar("C", bound=Stage)
StageRun = Callable[[C, Mapping[str, Artifact], Context, Path], Contents]
Call = tuple[Callable[..., Contents], Stage, Mapping[str, Artifact], Context]  # `run` and its arguments except `out`


def on_ranks(run: StageRun[C]) -> StageRun[C]:
    """Decorator for the `run` of a training stage: runs it on `context.ranks` ranks.

    With one rank, `run` is called directly. With more, each rank is a new process that calls `run` with the same
    arguments and opens the data and builds the models itself; `fit` connects the ranks. Rank 0 gives the result; other
    ranks write into a temporary folder. Processes are spawned, so a script has to guard its start by
    `if __name__ == "__main__"`.

    Under torchrun, on one node or on several nodes with shared files, torchrun starts the ranks: rank 0 calls this
    function, the other ranks call `follow`.

    Raises:
        TrainingError: a rank died.
        TargetError: there are fewer GPUs than ranks.
        Any error that a rank raises.
    """

    @wraps(run)
    def launched(config: C, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
        if distributed.is_initialized():
            return run(config, inputs, context, out)
        if started_by_torchrun():
            return _run_with_followers(launched, config, inputs, context, out)
        if context.ranks == 1:
            return run(config, inputs, context, out)
        if context.device == "cuda" and torch.cuda.device_count() < context.ranks:
            raise TargetError(
                "there are fewer GPUs than ranks",
                where="--ranks",
                got=f"{context.ranks} ranks, {torch.cuda.device_count()} GPUs",
                expected="at most one rank for each GPU",
            )
        with _Ranks(context) as ranks:
            return ranks.result_of(launched, config, inputs, out)

    return launched


def started_by_torchrun() -> bool:
    """Whether torchrun started this process with a world size above 1."""
    return distributed.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


def _run_with_followers(
    run: StageRun[C], config: C, inputs: Mapping[str, Artifact], context: Context, out: Path
) -> Contents:
    context = _shared(context, int(os.environ["LOCAL_WORLD_SIZE"]))
    call = (run, config, inputs, replace(context, progress=SilentProgress()))
    try:
        with _called_together(context.device, call):
            return run(config, inputs, context, out)
    except RuntimeError as error:
        if not any(words in str(error) for words in PEER_IS_LOST):
            raise
        raise TrainingError(
            "a process of the training died: torchrun names it and stops the other processes",
            where=f"stage '{context.stage_id}'",
            next=f"the same command goes on {_saved(context)}",
        ) from None


def follow(device: str) -> bool:
    """Take part in each training of rank 0, until rank 0 calls `dismiss`. For ranks above 0 under torchrun.

    Returns False at once for rank 0, and without torchrun.
    """
    if not started_by_torchrun() or os.environ["RANK"] == "0":
        return False
    while True:
        with _called_together(device) as call, tempfile.TemporaryDirectory() as unused:
            if call is None:
                return True
            run, config, inputs, context = call
            run(config, inputs, context, Path(unused))


def dismiss(device: str) -> None:
    """End the ranks above 0 that torchrun started. Rank 0 calls it after its last training."""
    if started_by_torchrun():
        with _called_together(device):
            pass


def rank() -> int:
    """This process's rank, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    """The number of ranks."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def parallel(forward: nn.Module) -> nn.Module:
    """The model wrapped in DistributedDataParallel: each backward pass averages gradients over the ranks."""
    if count() == 1:
        return forward
    # Parameters without a gradient stay without (such as a classifier, if only features are compared). Looking for
    # unused parameters also keeps DDP's buckets fixed, so that sums have the same order after a resume. Buffers are not
    # shared: ranks that probe how much fits into memory would have to take part in each forward pass of the others.
    has_new_name = "forward_sync_buffers" in signature(DistributedDataParallel).parameters  # since torch 2.15
    sync_buffers: dict[str, Any] = {"forward_sync_buffers" if has_new_name else "broadcast_buffers": False}
    together: nn.Module = DistributedDataParallel(forward, find_unused_parameters=True, **sync_buffers)
    return together


def unsynchronized(forward: nn.Module) -> AbstractContextManager[None]:
    """Context in which gradients accumulate on this rank, without synchronization."""
    return forward.no_sync() if isinstance(forward, DistributedDataParallel) else nullcontext()


def summed(values: list[float], device: torch.device) -> list[float]:
    """The sum over all ranks of each value. All ranks have to call it."""
    if count() == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return [float(value) for value in total]


def from_rank_0(values: list[float], device: torch.device) -> list[float]:
    """Rank 0's values. All ranks have to call it."""
    return summed(values if rank() == 0 else [0.0] * len(values), device)


def decided_by_rank_0(decide: Callable[[], bool], device: torch.device) -> bool:
    """Rank 0's decision, which all ranks take. All ranks have to call it; the others decide nothing."""
    return from_rank_0([float(rank() == 0 and decide())], device) == [1.0]


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of a tensor over the ranks, without gradients. All ranks have to call it."""
    if count() == 1:
        return tensor.detach()
    total = tensor.detach().clone()
    distributed.all_reduce(total)
    return total / count()


def gathered_rows(own: Tensor) -> Tensor:
    """The rows of all ranks, (ranks · n, …), in the order of the ranks; each has the same number of rows.

    The gradient of a row is the sum over the ranks. All ranks have to call it, and its backward pass.
    """
    gathered: Tensor = own if count() == 1 else _GatheredRows.apply(own)
    return gathered


class _GatheredRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(count())]
        distributed.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(count())[rank()]


@contextmanager
def rank_0_first(device: torch.device) -> Iterator[None]:
    """Context that rank 0 leaves before other ranks enter, so that they read its caches. All ranks have to enter it."""
    if rank():
        summed([0.0], device)
    yield
    if not rank():
        summed([0.0], device)


class _Ranks:
    """The processes of one stage. They end when the context ends, also after an error."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._spawn = multiprocessing.get_context("spawn")
        self._processes: list[SpawnProcess] = []
        self._open: dict[Connection, int] = {}
        self._results: dict[int, Contents] = {}
        self._errors: dict[int, Exception] = {}
        self._bar = ExitStack()

    def __enter__(self) -> _Ranks:
        self._store = TCPStore(LOCALHOST, 0, is_master=True, wait_for_workers=False)
        self._unused = tempfile.TemporaryDirectory(prefix="edgevit-ranks-")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        for process in self._processes:
            _end(process)
        self._unused.cleanup()

    def result_of(self, run: StageRun[C], config: C, inputs: Mapping[str, Artifact], out: Path) -> Contents:
        """Start the ranks and wait for them; returns rank 0's result."""
        for number in range(self._context.ranks):
            self._start(number, run, config, inputs, out)
        while len(self._results) < self._context.ranks:
            self._hear(LOOK_EVERY_S)
            if self._errors or self._dead():
                raise self._cause()
        for process in self._processes:
            process.join()
        return self._results[0]

    def _start(self, number: int, run: StageRun[C], config: C, inputs: Mapping[str, Artifact], out: Path) -> None:
        heard, told = self._spawn.Pipe(duplex=False)
        place = _Place(number, self._context.ranks, self._store.port, multiprocessing.get_start_method())
        context = replace(_shared(self._context, place.ranks), progress=SilentProgress())
        if number > 0:
            out = Path(self._unused.name, str(number))
            out.mkdir()
        process = self._spawn.Process(target=_work, args=(place, told, run, config, inputs, context, out))
        with _environment(TORCH_CPP_LOG_LEVEL="ERROR"):  # DDP would warn about `find_unused_parameters`
            process.start()
        told.close()
        self._processes.append(process)
        self._open[heard] = number

    def _hear(self, timeout_s: float) -> None:
        for connection in wait(list(self._open), timeout_s):
            assert isinstance(connection, Connection)
            try:
                kind, *what = connection.recv()
            except (EOFError, ConnectionError):
                del self._open[connection]
            else:
                self._take(self._open[connection], kind, what)

    def _take(self, number: int, kind: str, what: list[Any]) -> None:
        if kind == "result":
            self._results[number] = what[0]
        elif kind == "error":
            self._errors[number] = what[0]
        elif kind == "say":
            self._context.progress.say(what[0])
        elif kind == "curves":
            self._context.progress.curves(what[0])
        elif kind == "bar":
            self._shown: Bar = self._bar.enter_context(self._context.progress.bar(*what))
        elif kind == "advance":
            self._shown.advance(what[0], **what[1])
        else:
            self._bar.close()

    def _dead(self) -> list[int]:
        """The ranks that ended without a result or an error."""
        heard = {
            *self._results,
            *self._errors,
            *(number for connection, number in self._open.items() if connection.poll()),
        }
        return [
            number
            for number, process in enumerate(self._processes)
            if process.exitcode is not None and number not in heard
        ]

    def _cause(self) -> Exception:
        """The first error. A rank that stops breaks the others' connections, and their errors may arrive first."""
        until = time.monotonic() + CAUSE_SHOWS_WITHIN_S
        while not (cause := self._certain_cause()) and time.monotonic() < until:
            self._hear(LOOK_EVERY_S / 4)
        return cause or next(iter(self._errors.values()), None) or self._death_of(self._dead()[0])

    def _certain_cause(self) -> Exception | None:
        killed = [number for number, process in enumerate(self._processes) if (process.exitcode or 0) < 0]
        if killed:  # SIGABRT comes last: NCCL aborts a rank that lost its connection
            return self._death_of(min(killed, key=lambda number: self._processes[number].exitcode == -signal.SIGABRT))
        return next((error for error in self._errors.values() if not isinstance(error, _AnyError)), None)

    def _death_of(self, number: int) -> TrainingError:
        process = self._processes[number]
        code = process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        memory = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
        return TrainingError(
            "a process of the training died, and the others were stopped",
            where=f"stage '{self._context.stage_id}'",
            got=f"rank {number} of {len(self._processes)} (process {process.pid}) {how}{memory}",
            next=f"the same command goes on {_saved(self._context)}",
        )


def _shared(context: Context, ranks: int) -> Context:
    """The context of one rank: the workers of this machine are divided among its ranks."""
    return replace(context, workers=-(-context.workers // ranks))


def _saved(context: Context) -> str:
    step = TrainingState(context).saved_step()
    return "from the start of this stage: nothing had been saved yet" if step is None else f"after step {step}"


def _end(process: SpawnProcess) -> None:
    """Kill a rank and its data workers."""
    if process.exitcode == 0:
        return
    assert process.pid is not None
    with suppress(ProcessLookupError):  # the rank leads no group yet, or the whole group has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


@contextmanager
def _environment(**changes: str) -> Iterator[None]:
    """Context that sets environment variables which are not set yet."""
    added = {name: value for name, value in changes.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


class _AnyError(RuntimeError):
    """An unexpected error of a rank, with its traceback. It may follow from the loss of another rank."""


class _Place(NamedTuple):
    """A rank's number, the number of ranks, the port of the store, and the start method of data workers."""

    number: int
    ranks: int
    port: int
    start_method: str


def _work(
    place: _Place,
    told: Connection,
    run: Callable[..., Any],
    config: Stage,
    inputs: Mapping[str, Artifact],
    context: Context,
    out: Path,
) -> None:
    """The main function of a rank. It sends progress, and its result or error, to the launcher."""
    _live_with_parent()
    multiprocessing.set_start_method(place.start_method, force=True)  # a spawned process defaults to spawn: slow
    os.dup2(2, 1)  # only the launcher writes to stdout
    try:
        if place.number == 0:
            context = replace(context, progress=_ToldProgress(told))
        with _joined(place, context.device):
            contents = run(config, inputs, context, out)
        told.send(("result", contents))
    except (EdgevitError, OSError) as error:
        error.add_note(traceback.format_exc())
        told.send(("error", error))
    except Exception:  # noqa: BLE001 - the launcher raises it again
        told.send(("error", _AnyError(f"rank {place.number}: {traceback.format_exc()}")))


def _live_with_parent() -> None:
    """Lead a process group, which the launcher kills as a whole. If the launcher dies first, the group ends itself."""
    os.setpgid(0, 0)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _joined(place: _Place, device: str) -> Iterator[None]:
    """Context in which this process is a rank of torch.distributed."""
    torch.set_num_threads(max(1, torch.get_num_threads() // place.ranks))
    store = TCPStore(LOCALHOST, place.port, is_master=False)
    with _group(store, place.number, place.ranks, device, place.number):
        yield


_torchrun = cache(lambda: next(rendezvous("env://", timeout=PATIENCE)))
_calls = count_from(0)


@contextmanager
def _called_together(device: str, call: Call | None = None) -> Iterator[Call | None]:
    """Context in which torchrun's processes are ranks of torch.distributed. Yields the call that rank 0 passed."""
    store, number, ranks = _torchrun()
    local = int(os.environ["LOCAL_RANK"])
    with _group(PrefixStore(f"edgevit-{next(_calls)}", store), number, ranks, device, local):
        told = [call]
        distributed.broadcast_object_list(told)
        yield told[0]


@contextmanager
def _group(store: Store, number: int, ranks: int, device: str, gpu: int) -> Iterator[None]:
    if device == "cuda":
        torch.cuda.set_device(gpu)
    backend = "nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=number, world_size=ranks, timeout=PATIENCE)
    yield
    distributed.destroy_process_group()


class _ToldProgress:
    """Progress of a rank, shown by the launcher."""

    def __init__(self, told: Connection) -> None:
        self._told = told

    def say(self, line: str) -> None:
        self._told.send(("say", line))

    def curves(self, curves: Mapping[str, Sequence[float]]) -> None:
        self._told.send(("curves", curves))

    @contextmanager
    def bar(self, title: str, total: int, unit: str = "it") -> Iterator[Bar]:
        self._told.send(("bar", title, total, unit))
        yield _ToldBar(self._told)
        self._told.send(("bar ends",))


class _ToldBar:
    def __init__(self, told: Connection) -> None:
        self._told = told

    def advance(self, count: int = 1, **values: float) -> None:
        self._told.send(("advance", count, values))
