"""The boards for which latency is predicted, by name, from the table of boards."""

from __future__ import annotations

from edgevit.errors import RecipeError, TargetError, did_you_mean
from edgevit.latency_model.roofline import BoardRates
from edgevit.targets.boards.nvpmodel import plain_name
from edgevit.targets.boards.table import BOARD_NAMES, SOCS, board_named, version_of_compute

# The last TensorRT of each JetPack that ended, and the first of Thor.
LAST_TENSORRT = {4: (8, 2), 5: (8, 5)}
FIRST_TENSORRT = {"tegra264": (10, 13)}


def board_rates(name: str, where: object = None) -> BoardRates:
    """What a board can do at most.

    Raises:
        RecipeError: there is no board of this name.
        TargetError: no figures of the board are verified.
    """
    if name not in BOARD_NAMES:
        expected, near = ", ".join(BOARD_NAMES), did_you_mean(name, BOARD_NAMES)
        raise RecipeError("there is no such board", where=where, got=name, expected=expected, next=near)
    board, peaks, _ = board_named(name)
    if peaks is None or peaks.fp16_tflops is None:
        what = f"the clocks and peaks of {board.name} are not verified, so no latency is predicted for it"
        raise TargetError(what, where=where, got=name, next="measure on the board: edgevit devices add")
    return BoardRates(
        name=name,
        family=board.name,
        compute_capability=version_of_compute(SOCS[board.soc]),
        cuda_cores=board.cuda_cores,
        sm_count=board.sm_count,
        gpu_mhz=peaks.gpu_mhz,
        bandwidth_gb_s=peaks.bandwidth_gb_s,
        fp16_tflops=peaks.fp16_tflops,
        int8_tops=peaks.int8_tops,
    )


def name_in_mode(name: str, power_mode: str | None, where: object = None) -> str:
    """The name of a board in a power mode: orin-nano-8gb in MAXN_SUPER is orin-nano-8gb-super.

    Raises:
        RecipeError: the clocks of the mode are not known.
    """
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
    asked = int(numbers[0]), int(numbers[1])
    board, _, _ = board_named(name)
    last = LAST_TENSORRT.get(SOCS[board.soc].last_jetpack or 0)
    first = FIRST_TENSORRT.get(board.soc)
    if last is not None and asked > last:
        expected = f"at most {last[0]}.{last[1]}, that of its last JetPack"
        raise RecipeError(f"{board.name} never had this TensorRT", where=where, got=version, expected=expected)
    if first is not None and asked < first:
        raise RecipeError(
            f"{board.name} never had this TensorRT",
            where=where,
            got=version,
            expected=f"{first[0]}.{first[1]} or later",
        )
