"""The processes that share a training: each is a rank, works on its rows of every batch, and ends when another dies."""

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
from torch import distributed, nn
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
CAUSE_SHOWS_WITHIN_S = 1.0  # a rank that lost another may say so before the death of the other is seen
# A dead rank is seen by its launcher. Silence alone means that rank 0 validates, or that another loads slowly.
PATIENCE = timedelta(days=1)
PEER_IS_LOST = ("closed by peer", "reset by peer")  # gloo's words; where NCCL loses a rank, it aborts
C = TypeVar("C", bound=Stage)
StageRun = Callable[[C, Mapping[str, Artifact], Context, Path], Contents]
Call = tuple[Callable[..., Contents], Stage, Mapping[str, Artifact], Context]  # of a stage, but for its folder


def on_ranks(run: StageRun[C]) -> StageRun[C]:
    """A stage that trains, on as many ranks as its context says: the decorator of its `run`.

    With one rank `run` is called as it is. With more, each is a new process that calls `run` with the same arguments:
    it opens the data and builds the models itself, and `fit` makes one training of them. The result is rank 0's; the
    others write into a folder that is thrown away. As with all of Python's processes, a script that comes here guards
    its own start by `if __name__ == "__main__"`.

    Under torchrun, on one node or on several that share their files, the ranks are torchrun's: number 0 comes here with
    its recipe, the others come from `follow`.

    Raises:
        TrainingError: a rank died.
        TargetError: there are fewer GPUs than ranks.
        Whatever a rank raises.
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
    """Whether this process is one of several that torchrun has started."""
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
            "a process of the training died: torchrun names it, and stops the others",
            where=f"stage '{context.stage_id}'",
            next=f"the same command goes on {_saved(context)}",
        ) from None


def follow(device: str) -> bool:
    """For a rank of torchrun's above 0: take part in each training that rank 0 comes to, until it dismisses the ranks.

    Gives False for rank 0, and where torchrun plays no part.
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
    """For rank 0, when no training comes any more: let the ranks that torchrun has started end."""
    if started_by_torchrun():
        with _called_together(device):
            pass


def rank() -> int:
    """This process's number among those that share the training, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    """How many processes share the training."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def parallel(forward: nn.Module) -> nn.Module:
    """The model, with gradients that are means over the ranks after each backward pass."""
    if count() == 1:
        return forward
    # Parameters without a gradient (a classifier, where features alone are compared) keep none. Looking for them also
    # keeps DDP's buckets as they are, so that sums have the same order after a resume. Buffers stay each rank's own:
    # to share them in each forward pass, ranks that probe how much fits into memory would have to meet.
    has_new_name = "forward_sync_buffers" in signature(DistributedDataParallel).parameters  # since torch 2.15
    sync_buffers: dict[str, Any] = {"forward_sync_buffers" if has_new_name else "broadcast_buffers": False}
    together: nn.Module = DistributedDataParallel(forward, find_unused_parameters=True, **sync_buffers)
    return together


def unsynchronized(forward: nn.Module) -> AbstractContextManager[None]:
    """Within it, gradients are added up by this rank alone."""
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


@contextmanager
def rank_0_first(device: torch.device) -> Iterator[None]:
    """A block that rank 0 is done with before the others enter it, to find what it has kept. All ranks enter it."""
    if rank():
        summed([0.0], device)
    yield
    if not rank():
        summed([0.0], device)


class _Ranks:
    """The processes of one stage. They end with this block, whatever happens in it."""

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
        """What rank 0 gives."""
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
        with _environment(TORCH_CPP_LOG_LEVEL="ERROR"):  # DDP would warn of what `parallel` asks for
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
        """The ranks that ended without a word."""
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
        """What went wrong first. Where a rank stops, the others lose it, and may say so before it is seen."""
        until = time.monotonic() + CAUSE_SHOWS_WITHIN_S
        while not (cause := self._certain_cause()) and time.monotonic() < until:
            self._hear(LOOK_EVERY_S / 4)
        return cause or next(iter(self._errors.values()), None) or self._death_of(self._dead()[0])

    def _certain_cause(self) -> Exception | None:
        killed = [number for number, process in enumerate(self._processes) if (process.exitcode or 0) < 0]
        if killed:  # NCCL aborts a rank that lost another
            return self._death_of(min(killed, key=lambda number: self._processes[number].exitcode == -signal.SIGABRT))
        return next((error for error in self._errors.values() if not isinstance(error, _AnyError)), None)

    def _death_of(self, number: int) -> TrainingError:
        process = self._processes[number]
        code = process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        memory = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
        return TrainingError(
            "a process of the training died, and the others were stopped",
            where=f"stage '{self._context.stage_id}'",
            got=f"rank {number} of {len(self._processes)} (process {process.pid}) {how}{memory}",
            next=f"the same command goes on {_saved(self._context)}",
        )


def _shared(context: Context, ranks: int) -> Context:
    """For one of the ranks on this machine: its part of the processes that load images."""
    return replace(context, workers=-(-context.workers // ranks))


def _saved(context: Context) -> str:
    step = TrainingState(context).saved_step()
    return "from the start of this stage: nothing had been saved yet" if step is None else f"after step {step}"


def _end(process: SpawnProcess) -> None:
    """End a rank and the processes that load its images."""
    if process.exitcode == 0:
        return
    assert process.pid is not None
    with suppress(ProcessLookupError):  # it does not lead its group yet, or none of it is left
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


@contextmanager
def _environment(**changes: str) -> Iterator[None]:
    """Within it, processes start with these variables, where they are not set."""
    added = {name: value for name, value in changes.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


class _AnyError(RuntimeError):
    """What a rank raised that no user can mend, or that came of losing another rank, with its traceback."""


class _Place(NamedTuple):
    """Which rank this is, of how many, the port at which they meet, and how each starts processes that load images."""

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
    """The life of a rank, which tells the launcher what it does and how it ends."""
    _live_with_parent()
    multiprocessing.set_start_method(place.start_method, force=True)  # a spawned process would spawn, which is slow
    os.dup2(2, 1)  # the answer on stdout is the launcher's alone
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
    """Lead a process group, which the launcher ends as a whole, and end it where the launcher dies first."""
    os.setpgid(0, 0)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _joined(place: _Place, device: str) -> Iterator[None]:
    """Within it, this process is a rank of torch.distributed."""
    torch.set_num_threads(max(1, torch.get_num_threads() // place.ranks))
    store = TCPStore(LOCALHOST, place.port, is_master=False)
    with _group(store, place.number, place.ranks, device, place.number):
        yield


_torchrun = cache(lambda: next(rendezvous("env://", timeout=PATIENCE)))
_calls = count_from(0)


@contextmanager
def _called_together(device: str, call: Call | None = None) -> Iterator[Call | None]:
    """Within it, the processes that torchrun has started are ranks of torch.distributed. Gives what rank 0 calls."""
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
    """Progress that the launcher shows."""

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
