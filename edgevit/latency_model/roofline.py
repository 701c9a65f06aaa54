"""Time of each kernel on a board: its arithmetic at an attainable rate, its traffic at an attainable rate, its launch.

The three add up: kernels of a batch of one image are short, and little of their traffic hides behind arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgevit.latency_model.kernels import KINDS, Kernel

Floats = NDArray[np.float64]
Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Constants = Mapping[str, float]

TILE = 64  # rows and columns of a product that one SM works on at a time
LEAST_SHARE_OF_SMS = 0.1  # a product of few tiles is split along its depth
DENSE = ("spatial_conv", "pointwise_conv", "product")
ON_TENSOR_CORES = (*DENSE, "attention")
QUANTIZED = DENSE  # what INT8 runs in 8 bits
GENERATIONS = ("cuda_cores", "volta", "ampere")  # Maxwell and Pascal; Volta; Ampere and later


@dataclass(frozen=True)
class BoardRates:
    """What a board can do at most, in one power mode.

    Attributes:
        name: such as orin-nano-8gb.
        family: boards with an equal GPU and bandwidth share a factor, whatever their power mode: the first one's name.
        compute_capability: such as (8, 7).
        fp16_tflops: dense, of the tensor cores; of the CUDA cores without them.
        int8_tops: None without INT8.
    """

    name: str
    family: str
    compute_capability: tuple[int, int]
    cuda_cores: int
    sm_count: int
    gpu_mhz: float
    bandwidth_gb_s: float
    fp16_tflops: float
    int8_tops: float | None

    @property
    def generation(self) -> int:
        """The index in GENERATIONS."""
        return 0 if self.compute_capability < (7, 0) else 1 if self.compute_capability < (8, 0) else 2

    @property
    def has_tensor_cores(self) -> bool:
        return self.generation > 0

    @property
    def fp32_tflops(self) -> float:
        """Of the CUDA cores: one fused multiply-add a cycle each."""
        return 2 * self.cuda_cores * self.gpu_mhz / 1e6


@dataclass(frozen=True)
class Work:
    """The kernels of a network on a board, before any constant. Arrays are (kernels,).

    Attributes:
        kind: index in KINDS.
        generation: index in GENERATIONS.
        is_tensor: whether tensor cores run it.
        is_int8: whether tensor cores run it in 8 bits.
        peak_ms: arithmetic at the board's peak, over the share of SMs that have a tile.
        depth: multiply-accumulates for an output element.
        traffic_ms: bytes over the board's bandwidth.
        cycle_ms: a thousand cycles of the GPU.
    """

    kind: NDArray[np.int64]
    generation: NDArray[np.int64]
    is_tensor: NDArray[np.bool_]
    is_int8: NDArray[np.bool_]
    peak_ms: Floats
    depth: Floats
    traffic_ms: Floats
    cycle_ms: Floats

    def __len__(self) -> int:
        return len(self.kind)


def work_of(kernels: Sequence[Kernel], board: BoardRates, precision: Precision, batch: int) -> Work:
    """The work of kernels on a board.

    Args:
        precision: int8 runs products and convolutions with weights in 8 bits, and the rest in float16. A graph with
            Q/DQ pairs says itself which.
    """
    declares = any(kernel.is_int8 for kernel in kernels)
    rows = [_row(kernel, board, precision, batch, declares) for kernel in kernels]
    kind, is_tensor, is_int8, peak_ms, traffic_ms = zip(*rows, strict=True) if rows else ((),) * 5
    return Work(
        kind=np.asarray(kind, np.int64),
        generation=np.full(len(rows), board.generation),
        is_tensor=np.asarray(is_tensor, bool),
        is_int8=np.asarray(is_int8, bool),
        peak_ms=np.asarray(peak_ms, float),
        depth=np.asarray([max(1, kernel.depth) for kernel in kernels], float),
        traffic_ms=np.asarray(traffic_ms, float),
        cycle_ms=np.full(len(rows), 1 / board.gpu_mhz),
    )


def joined(works: Sequence[Work]) -> Work:
    """Several works one after another."""
    return Work(**{name: np.concatenate([getattr(work, name) for work in works]) for name in Work.__annotations__})


@dataclass(frozen=True)
class Times:
    """Milliseconds of each kernel, by what takes them. Arrays are (kernels,)."""

    compute_ms: Floats
    memory_ms: Floats
    launch_ms: Floats

    @property
    def total_ms(self) -> Floats:
        return self.compute_ms + self.memory_ms + self.launch_ms


def times_of(work: Work, constants: Constants) -> Times:
    """The times of kernels, without the factor of the board."""
    dense = {side: constants[f"conv_{side}"] for side in ("cuda", "tensor")}
    rates = {
        side: np.array(
            [
                dense[side], dense[side] * constants["pointwise"], constants["grouped"],
                constants[f"depthwise_{later}"], constants[f"product_{side}"], constants["attention"], 1.0,
            ]
        )
        for side, later in (("cuda", "pascal"), ("tensor", "volta"))
    }  # fmt: skip
    is_later = work.is_tensor | (work.kind == KINDS.index("depthwise_conv")) & (work.generation > 0)
    rate = np.where(is_later, rates["tensor"][work.kind], rates["cuda"][work.kind])
    rate = rate * np.where(work.is_int8, constants["int8"], 1.0)
    is_dense = np.isin(work.kind, [KINDS.index(kind) for kind in DENSE])
    rate = rate * np.where(is_dense, work.depth / (work.depth + constants["depth"]), 1.0)
    bandwidth = np.array([constants[f"bandwidth_{name}"] for name in GENERATIONS])[work.generation]
    cycles = np.array([constants[f"launch_{name}"] for name in GENERATIONS])[work.generation]
    return Times(work.peak_ms / rate, work.traffic_ms / bandwidth, cycles * work.cycle_ms)


def _row(
    kernel: Kernel, board: BoardRates, precision: Precision, batch: int, declares: bool
) -> tuple[int, bool, bool, float, float]:
    """Kind, tensor cores, INT8, arithmetic at peak in ms, traffic at peak in ms."""
    is_quantized = kernel.is_int8 if declares else kernel.kind in QUANTIZED and kernel.weights > 0
    is_eight_bit = precision == "int8" and is_quantized
    is_tensor = board.has_tensor_cores and precision != "float32" and kernel.kind in ON_TENSOR_CORES
    is_int8 = is_eight_bit and is_tensor
    share = 1.0
    if kernel.kind in DENSE:
        tiles = -(-kernel.positions * batch // TILE) * -(-kernel.channels // TILE)
        share = min(1.0, max(LEAST_SHARE_OF_SMS, tiles / board.sm_count))
    flops = 2.0 * kernel.macs * batch
    peak_ms = flops / (_peak_tflops(board, precision, is_tensor, is_int8) * 1e9) / share
    width = 4 if precision == "float32" else 1 if is_eight_bit else 2
    moved = (kernel.activations * batch + kernel.weights) * width
    return KINDS.index(kernel.kind), is_tensor, is_int8, peak_ms, moved / (board.bandwidth_gb_s * 1e6)


def _peak_tflops(board: BoardRates, precision: Precision, is_tensor: bool, is_int8: bool) -> float:
    if not is_tensor:
        return board.fp32_tflops * (1 if precision == "float32" else 2)
    if is_int8:
        assert board.int8_tops is not None  # the caller refuses INT8 on such boards
        return board.int8_tops
    return board.fp16_tflops
