"""The times of the modules of a checkpoint in PyTorch on the CPU, by torch's profiler.

A layer is a module without its children: the time of the operators that it calls itself. The time between operators
(Python, calls of modules) is a layer of its own, which belongs to no module.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from edgevit.configs.runtimes import TORCH
from edgevit.configs.targets import LOCAL_CPU
from edgevit.models.modes import eval_mode
from edgevit.profiling import Measurement, Work
from edgevit.profiling.layer_times import LayerTime, LayerTimes, layer_times, mean_and_median, run_profiled
from edgevit.provenance import title_with_version

RANGE, RUN = "edgevit module ", "edgevit run"
OPERATORS_A_MODULE = 8  # about so many times a run does the profiler keep for each module
BETWEEN = "between operators"


def times_in_torch(module: nn.Module, images: torch.Tensor, threads: int, plain: Measurement) -> LayerTimes:
    """The times of the modules, from runs that follow those of `plain`.

    Args:
        images: (N, 3, H, W).
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it writes on stderr that there is no GPU

    def work() -> object:
        with torch.inference_mode():
            return module(images)

    moved, macs = moved_bytes(module, work), own_macs(module, images)
    kept = OPERATORS_A_MODULE * sum(1 for _ in module.modules())
    with _ranges(module), profile(activities=[ProfilerActivity.CPU]) as profiler:

        def one_run() -> None:
            with record_function(RUN):
                work()

        profiled = run_profiled(one_run, plain.plan, plain, kept)
    runs = _times_of_runs(profiler)[-len(profiled.samples_ms) :]
    names = {name for run in runs for name in run}
    kinds = {name: type(one).__name__ for name, one in module.named_modules()}
    layers = [
        _layer(name, kinds, [run.get(name, 0.0) for run in runs], moved.get(name), macs.get(name, 0))
        for name in [*(name for name in kinds if name in names), BETWEEN]
    ]
    runtime = title_with_version(TORCH)
    return layer_times(layers, profiled, plain, LOCAL_CPU, runtime, threads)


def _layer(name: str, kinds: dict[str, str], samples_ms: list[float], moved: int | None, macs: int) -> LayerTime:
    if name == BETWEEN:
        return LayerTime(BETWEEN, *mean_and_median(samples_ms), operator="Python")
    shown = name or kinds[""]
    return LayerTime(
        shown,
        *mean_and_median(samples_ms),
        operator=kinds[name],
        nodes=(shown,),
        bytes=moved,
        macs=macs,
    )


@contextmanager
def _ranges(module: nn.Module) -> Iterator[None]:
    """A range of the profiler around each call of each module."""
    inside = list[record_function]()

    def enter(name: str) -> None:
        inside.append(record_function(f"{RANGE}{name}"))
        inside[-1].__enter__()  # type: ignore[no-untyped-call]

    with _around_modules(module, enter, lambda: inside.pop().__exit__(None, None, None)):
        yield


@contextmanager
def _around_modules(module: nn.Module, enter: Callable[[str], None], leave: Callable[[], object]) -> Iterator[None]:
    """Call `enter` with the path of each module that is called, and `leave` when it returns."""

    def entering(name: str) -> Callable[..., None]:
        return lambda *_: enter(name)

    def leaving(*_: object) -> None:
        leave()

    handles = [
        handle
        for name, one in module.named_modules()
        for handle in (
            one.register_forward_pre_hook(entering(name)),
            one.register_forward_hook(leaving, always_call=True),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _times_of_runs(profiler: profile) -> list[dict[str, float]]:
    """The time (ms) of each module in each run, without its children. Ranges themselves are the time between."""
    runs = dict[int, dict[str, float]]()
    for event in profiler.events() or ():  # type: ignore[no-untyped-call]
        run, path = _place(event)
        if run is not None:
            times = runs.setdefault(run, defaultdict(float))
            times[path] += event.self_cpu_time_total / 1e3
    return list(runs.values())


def _place(event: Any) -> tuple[int | None, str]:
    """The run of an operator and the path of the innermost module around it; BETWEEN for the ranges themselves."""
    is_range = event.name == RUN or event.name.startswith(RANGE)
    path = BETWEEN if is_range else ""
    outer, is_found = event, is_range
    while outer.name != RUN and outer.cpu_parent is not None:
        if not is_found and outer.name.startswith(RANGE):
            path, is_found = outer.name.removeprefix(RANGE), True
        outer = outer.cpu_parent
    return (outer.id if outer.name == RUN else None), path


class _MovedBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes that the operators of each module read and write in one run, without its children.

    An operator that gives back its input, or a view of it, moves none; one that changes its input in place moves all.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inside: list[str] = []
        self.by_module = defaultdict[str, int](int)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read, written = (_tensors(part) for part in ((args, kwargs), result))
        is_alias = {tensor.data_ptr() for tensor in read} & {tensor.data_ptr() for tensor in written}
        is_view = func.is_view or (is_alias and not func._schema.is_mutable)
        if not is_view:
            name = self.inside[-1] if self.inside else ""
            self.by_module[name] += sum(tensor.numel() * tensor.element_size() for tensor in (*read, *written))
        return result


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def moved_bytes(module: nn.Module, work: Work) -> dict[str, int]:
    moved = _MovedBytes()
    with _around_modules(module, moved.inside.append, moved.inside.pop), moved:
        work()
    return moved.by_module


def own_macs(module: nn.Module, images: torch.Tensor) -> dict[str, int]:
    """Multiply-accumulates of each module without its children, for a batch."""
    counter, inside, own = FlopCounterMode(display=False), [""], Counter[str]()
    counted = 0

    def give_to_innermost() -> None:
        nonlocal counted
        own[inside[-1]] += counter.get_total_flops() - counted
        counted = counter.get_total_flops()

    def enter(name: str) -> None:
        give_to_innermost()
        inside.append(name)

    def leave() -> None:
        give_to_innermost()
        inside.pop()

    # With gradients, as `macs_by_module` counts: without, torch may call kernels that the counter does not know.
    with _around_modules(module, enter, leave), eval_mode(module), torch.enable_grad(), counter:
        module(images)
    return {path: flops // 2 for path, flops in own.items() if flops}
