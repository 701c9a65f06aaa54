"""The boards for which latency is predicted, by name, from the table of boards."""

from __future__ import annotations

import math
import re

from edgevit.errors import RecipeError, TargetError, did_you_mean
from edgevit.latency_model.constants import fitted
from edgevit.latency_model.roofline import GENERATIONS, BoardRates
from edgevit.model_file import TargetInfo
from edgevit.profiling.roofline import Peaks
from edgevit.targets.boards.nvpmodel import plain_name
from edgevit.targets.boards.table import BOARD_NAMES, BOARDS, SOCS, Board, board_named, board_of, compute_numbers
from edgevit.targets.boards.versions import JETPACKS, TENSORRT_RELEASES, version_numbers

FIRST_JETPACK = {"tegra234": 5, "tegra264": 7}  # of the other boards, 4


def board_rates(name: str, where: object = None) -> BoardRates:
    """What a board can do at most.

    Raises:
        RecipeError: there is no board of this name.
        TargetError: no figures of the board are verified.
    """
    if name not in BOARD_NAMES:
        begun = [known for known in BOARD_NAMES if _plain(known).startswith(_plain(name))]
        expected, near = ", ".join(begun or BOARD_NAMES), did_you_mean(name, BOARD_NAMES)
        raise RecipeError("there is no such board", where=where, got=name, expected=expected, next=near)
    board, peaks, _ = board_named(name)
    if peaks is None or peaks.fp16_tflops is None:
        what = f"the clocks and peaks of {board.name} are not verified, so no latency is predicted for it"
        raise TargetError(what, where=where, got=name, next="measure on the board: edgevit devices add")
    return BoardRates(
        name=name,
        family=_family(board),
        compute_capability=compute_numbers(SOCS[board.soc].compute_capability),
        cuda_cores=board.cuda_cores,
        sm_count=board.sm_count,
        gpu_mhz=peaks.gpu_mhz,
        bandwidth_gb_s=peaks.bandwidth_gb_s,
        fp16_tflops=peaks.fp16_tflops,
        int8_tops=peaks.int8_tops,
    )


def peaks_of_machine(machine: TargetInfo) -> Peaks | None:
    """The nominal peaks of a board, with the launch time that was fitted; None if its clocks are not known.

    The power mode is that of the machine; if it tells none, the board's fastest ordinary mode is assumed.
    """
    known = board_of([str(machine.hardware.get("module"))])
    if known is None:
        return None
    try:
        told = machine.hardware.get("power_mode")
        name = name_in_mode(known[1].name, told)
        rates = board_rates(name)
    except (RecipeError, TargetError):
        return None
    teraflops = {"float32": rates.fp32_tflops, "float16": rates.fp16_tflops, "int8": rates.int8_tops}
    thousand_cycles = fitted()["constants"][f"launch_{GENERATIONS[rates.generation]}"]
    return Peaks(
        gflops={precision: 1e3 * peak for precision, peak in teraflops.items() if peak is not None},
        bandwidth_gb_s=rates.bandwidth_gb_s,
        launch_ms=thousand_cycles / rates.gpu_mhz,
        nominal_of=f"{known[1].name} in {power_mode_of(name)}"
        + (", its mode when the engine was built," if told else ", which is assumed, for no mode is told,"),
    )


def _family(board: Board) -> str:
    """The first board of the table with this GPU and memory bandwidth."""
    gpu = board.soc, board.cuda_cores, board.peaks
    return next(other.name for other in BOARDS if (other.soc, other.cuda_cores, other.peaks) == gpu)


def _plain(name: str) -> str:
    """The letters and digits of a board's name: Jetson Orin Nano 8GB and orin-nano-8gb are one."""
    return re.sub("[^a-z0-9]", "", name.lower()).removeprefix("jetson")


def name_in_mode(name: str, power_mode: str | None, where: object = None) -> str:
    """The name of a board in a power mode: orin-nano-8gb in MAXN_SUPER is orin-nano-8gb-super.

    Args:
        name: a name of `BOARD_NAMES`, or the board's name as NVIDIA writes it. An unknown name is given back.

    Raises:
        RecipeError: the clocks of the mode are not known.
    """
    names = {_plain(title): known for known, (title, _) in reversed(BOARD_NAMES.items())}
    names.update({_plain(known): known for known in BOARD_NAMES})
    name = names.get(_plain(name), name)
    if power_mode is None or name not in BOARD_NAMES:
        return name
    title = BOARD_NAMES[name][0]
    modes = {mode: other for other, (own_title, mode) in BOARD_NAMES.items() if own_title == title}
    found = next((other for mode, other in modes.items() if plain_name(mode) == plain_name(power_mode)), None)
    if found is None:
        what = f"the clocks of this power mode of {title} are not known"
        raise RecipeError(what, where=where, got=power_mode, expected=" or ".join(modes))
    return found


def power_mode_of(name: str) -> str:
    """The power mode whose clocks a board's figures are for."""
    return BOARD_NAMES[name][1]


def check_tensorrt(name: str, version: str, where: object = None) -> None:
    """Refuse a version of TensorRT that a board never had.

    Raises:
        RecipeError: this is no version, or the board has no JetPack with it.
    """
    numbers = version.split(".")
    if not 1 < len(numbers) < 5 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise RecipeError("this is no version of TensorRT", where=where, got=version, expected="such as 10.3")
    board, _, _ = board_named(name)
    oldest, newest = _tensorrt_of(board)
    if not oldest <= (int(numbers[0]), int(numbers[1])) <= newest:
        expected = " to ".join(".".join(map(str, limit)) for limit in (oldest, newest))
        raise RecipeError(f"{board.name} never had this TensorRT", where=where, got=version, expected=expected)


def _tensorrt_of(board: Board) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Major and minor of the oldest and the newest TensorRT that a board can have.

    They are those of its JetPacks. A board whose JetPacks go on may also have the newest release that edgevit knows.
    """
    first, last = FIRST_JETPACK.get(board.soc, 4), SOCS[board.soc].last_jetpack
    own = [
        version_numbers(jetpack.tensorrt)[:2]
        for jetpack in JETPACKS
        if first <= version_numbers(jetpack.version)[0] <= (last or math.inf)
    ]
    later = [] if last else [TENSORRT_RELEASES[-1].version]
    return min(own), max([*own, *later])
