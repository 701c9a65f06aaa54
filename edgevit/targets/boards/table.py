"""Facts about Jetson boards: one row each. Peaks are theoretical: dense, of the GPU alone, at its highest clock.

Sources: NVIDIA's data sheets of the modules; module numbers as `/proc/device-tree/compatible` names them; SM counts and
masks of power modes from the nvpmodel.conf files of L4T 35 and 36. A peak is None where no figure is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Soc:
    """A system on a chip.

    Attributes:
        compute_capability: of its GPU, as TensorRT names it.
        tpcs: bits of its mask of TPCs that are switched off, of two SMs each; 0 where no power mode switches any off;
            None where that is not known.
        last_jetpack: the newest major JetPack that NVIDIA makes for it; None while that goes on.
    """

    name: str
    compute_capability: str
    tpcs: int | None
    last_jetpack: int | None


@dataclass(frozen=True)
class Peaks:
    """What the hardware can do at most. TFLOPS and TOPS are dense."""

    gpu_mhz: int
    bandwidth_gb_s: float
    fp16_tflops: float | None
    int8_tops: float | None
    fp8_tops: float | None = None


@dataclass(frozen=True)
class Board:
    """A Jetson module.

    Attributes:
        modules: module numbers (SKUs) with these facts. Device trees of Nano, TX2 and AGX Xavier name the developer
            kit instead.
        soc: its key in `SOCS`.
        sm_count: SMs of the GPU with every TPC on.
        peaks: in its fastest ordinary power mode; None where they are not known.
        super_peaks: in the mode MAXN_SUPER; None where it has none.
        dla: deep learning accelerators.
        total_rails: the power rail of the whole module. Several rails: the module has none for the whole, and its
            power is the sum of all rails.
    """

    name: str
    modules: tuple[str, ...]
    soc: str
    cuda_cores: int
    sm_count: int
    peaks: Peaks | None
    super_peaks: Peaks | None
    dla: int
    total_rails: tuple[str, ...]


SOCS = {
    "tegra210": Soc("Tegra X1", "5.3", tpcs=0, last_jetpack=4),
    "tegra186": Soc("Tegra X2", "6.2", tpcs=0, last_jetpack=4),
    "tegra194": Soc("Xavier", "7.2", tpcs=4, last_jetpack=5),
    "tegra234": Soc("Orin", "8.7", tpcs=8, last_jetpack=None),
    "tegra264": Soc("Thor", "11.0", tpcs=None, last_jetpack=None),
}

_XAVIER_RAILS = ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")
_ORIN_RAILS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
_AGX_ORIN = Peaks(1300, 205, 42.5, 85)

BOARDS = (
    Board(
        "Jetson Nano", ("p3448-0000", "p3448-0002", "p3448-0003", "p3450-0000", "p3542-0000"), "tegra210", 128, 1,
        Peaks(922, 25.6, 0.47, None), None, 0, ("POM_5V_IN",),
    ),
    Board(
        "Jetson TX2", ("p3310-1000", "p3489-0000", "p3489-0888", "p3636-0001", "p2771-0000"), "tegra186", 256, 2,
        Peaks(1300, 59.7, 1.33, None), None, 0, ("VDD_IN",),
    ),
    Board(
        "Jetson Xavier NX", ("p3668-0000", "p3668-0001", "p3668-0003"), "tegra194", 384, 6,
        Peaks(1100, 59.7, 6.8, 13.5), None, 2, ("VDD_IN",),
    ),
    Board(
        "Jetson AGX Xavier", ("p2888-0001", "p2888-0004", "p2888-0005", "p2972-0000"), "tegra194", 512, 8,
        Peaks(1377, 136.5, 11.3, 22.6), None, 2, _XAVIER_RAILS,
    ),
    Board(
        "Jetson Orin Nano 4GB", ("p3767-0004",), "tegra234", 512, 4,
        Peaks(625, 34, 5.1, 10.2), Peaks(1020, 51, 8.4, 16.7), 0, ("VDD_IN",),
    ),
    Board(
        "Jetson Orin Nano 8GB", ("p3767-0003", "p3767-0005"), "tegra234", 1024, 8,
        Peaks(625, 68, 10.2, 20.5), Peaks(1020, 102, 16.7, 33.4), 0, ("VDD_IN",),
    ),
    Board(
        "Jetson Orin NX 8GB", ("p3767-0001",), "tegra234", 1024, 8,
        None, None, 1, ("VDD_IN",),
    ),
    Board(
        "Jetson Orin NX 16GB", ("p3767-0000",), "tegra234", 1024, 8,
        Peaks(918, 102, 15, 30), Peaks(1173, 102, 19.2, 38), 2, ("VDD_IN",),
    ),
    Board(
        "Jetson AGX Orin 32GB", ("p3701-0004",), "tegra234", 1792, 14,
        Peaks(930, 205, 26.7, 53), None, 2, _ORIN_RAILS,
    ),
    Board(
        "Jetson AGX Orin 64GB", ("p3701-0005",), "tegra234", 2048, 16,
        _AGX_ORIN, None, 2, _ORIN_RAILS,
    ),
    Board(  # the first developer kit has the whole GPU with 32 GB of memory
        "Jetson AGX Orin Developer Kit 32GB", ("p3701-0000",), "tegra234", 2048, 16,
        _AGX_ORIN, None, 2, _ORIN_RAILS,
    ),
    Board(
        "Jetson Thor T5000", ("p3834-0008",), "tegra264", 2560, 20,
        Peaks(1575, 273, 257, None, fp8_tops=517), None, 0, ("VIN",),
    ),
    Board(
        "Jetson Thor T4000", ("p3834-0000",), "tegra264", 1536, 12,
        None, None, 0, ("VIN",),
    ),
)  # fmt: skip

_BY_MODULE = {module: board for board in BOARDS for module in board.modules}


def board_of(modules: Iterable[str]) -> tuple[str, Board] | None:
    """The first known module number and its board; None if no number is known."""
    return next(((module, _BY_MODULE[module]) for module in modules if module in _BY_MODULE), None)


_OLDEST_WITH_FP8 = (8, 9)  # compute capability of Ada


def has_fp8(compute_capability: str | None) -> bool | None:
    """Whether the tensor cores of a GPU have FP8, as those of Ada and later do; None if the capability is unknown."""
    return None if compute_capability is None else compute_numbers(compute_capability) >= _OLDEST_WITH_FP8


def compute_numbers(compute_capability: str) -> tuple[int, int]:
    """The numbers of a compute capability: 8.7 is (8, 7)."""
    major, _, minor = compute_capability.partition(".")
    return int(major), int(minor)


def active_sm_count(soc: Soc, sm_count: int, tpc_pg_mask: int) -> int:
    """The SMs that a mask of switched-off TPCs leaves on. A bit that is 1 is a TPC that is off.

    A board with fewer SMs than its chip may also report TPCs as on that it does not have: its own count bounds them.
    """
    is_on = [not tpc_pg_mask >> bit & 1 for bit in range(soc.tpcs or 0)]
    return min(sm_count, 2 * sum(is_on))


# The boards for which latency is predicted, by the name that `estimate` takes: the name in BOARDS, and the power mode
# of the peaks. MAXN_SUPER is that of `super_peaks`.
BOARD_NAMES = {
    "nano": ("Jetson Nano", "MAXN"),
    "tx2": ("Jetson TX2", "MAXN"),
    "xavier-nx": ("Jetson Xavier NX", "20W"),
    "agx-xavier": ("Jetson AGX Xavier", "MAXN"),
    "orin-nano-4gb": ("Jetson Orin Nano 4GB", "10W"),
    "orin-nano-4gb-super": ("Jetson Orin Nano 4GB", "MAXN_SUPER"),
    "orin-nano-8gb": ("Jetson Orin Nano 8GB", "15W"),
    "orin-nano-8gb-super": ("Jetson Orin Nano 8GB", "MAXN_SUPER"),
    "orin-nx-8gb": ("Jetson Orin NX 8GB", "20W"),
    "orin-nx-16gb": ("Jetson Orin NX 16GB", "25W"),
    "orin-nx-16gb-super": ("Jetson Orin NX 16GB", "MAXN_SUPER"),
    "agx-orin-32gb": ("Jetson AGX Orin 32GB", "MAXN"),
    "agx-orin-64gb": ("Jetson AGX Orin 64GB", "MAXN"),
    "agx-orin-devkit-32gb": ("Jetson AGX Orin Developer Kit 32GB", "MAXN"),
    "thor-t5000": ("Jetson Thor T5000", "MAXN"),
    "thor-t4000": ("Jetson Thor T4000", "MAXN"),
}


def board_named(name: str) -> tuple[Board, Peaks | None, str]:
    """A board, its peaks and their power mode, by a name in BOARD_NAMES. The peaks are None where they are not known.

    Raises:
        KeyError: there is no such name.
    """
    title, mode = BOARD_NAMES[name]
    board = next(board for board in BOARDS if board.name == title)
    return board, board.super_peaks if mode == "MAXN_SUPER" else board.peaks, mode
