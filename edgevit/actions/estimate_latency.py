"""The predicted latency of an ONNX file on a board that is absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

from edgevit.checking.check import graph_of
from edgevit.checking.shapes import for_batch_of
from edgevit.configs.targets import LOCAL_CPU, LOCAL_GPU
from edgevit.errors import RecipeError
from edgevit.graphs.files import read_onnx
from edgevit.graphs.graph import Graph
from edgevit.graphs.precision import onnx_precision
from edgevit.graphs.tensors import inputs_of
from edgevit.latency_model.boards import board_rates, name_in_mode
from edgevit.latency_model.calibration import CalibratedForm, Precision, calibration_of
from edgevit.latency_model.estimate import Estimate, estimate_of, full_precision
from edgevit.latency_model.kernels import kernels_of
from edgevit.latency_model.own_target import estimate_on_target
from edgevit.targets.boards.table import BOARD_NAMES
from edgevit.targets.local import LocalCpu
from edgevit.targets.named import targets_by_name


def option(argument: str) -> str:
    """An argument as the command line names it: `power_mode` is --power-mode."""
    return "--batch" if argument == "batch_size" else f"--{argument.replace('_', '-')}"


def estimated_latency(
    file: Path,
    board: str,
    *,
    precision: str | None = None,
    tensorrt: str | None = None,
    power_mode: str | None = None,
    batch_size: int | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    folder: Path | None = None,
    place: Callable[[str], str] = option,
) -> Estimate:
    """Predict the latency of an ONNX file on a board, or on a calibrated target. Nothing is measured.

    Args:
        board: a board of the table, or a target that was calibrated, which wins.
        precision: float32, float16 or int8. On a board by default that of the file's Q/DQ pairs, and float16 without
            any. On a calibrated target, it is that of the file.
        tensorrt, power_mode: of a board.
        runtime, threads: of a calibrated target; by default those of its last calibration.
        folder: the project's folder, whose calibrations count; by default the current folder.
        batch_size: 1, or the batch size that the file fixes, by default.
        place: an argument of this function as errors name it: `option` on the command line.

    Raises:
        ArtifactError: the file is no valid ONNX file, a size is open, or arithmetic has no rule.
        RecipeError: an option is wrong, or contradicts the file.
        TargetError: no latency is predicted for this board or precision.
    """
    calibration = calibration_of(board, folder)
    of_board, of_target = {"tensorrt": tensorrt, "power_mode": power_mode}, {"runtime": runtime, "threads": threads}
    given = of_target if calibration is None else of_board
    for argument, value in given.items():
        if value is not None:
            what = f"{'a calibrated target' if calibration else 'a board of the table'} does not take this"
            raise RecipeError(what, where=place(argument), got=value, next="leave it out")
    if calibration is None:  # a wrong name is refused before the file is read
        _check_is_no_target(board, folder, place("board"))
        board_rates(name_in_mode(board, power_mode, place("power_mode")), place("board"))
    model = read_onnx(file)
    first = next((size for value in inputs_of(model) for size in value.type.tensor_type.shape.dim), None)
    fixed = first.dim_value if first is not None and first.HasField("dim_value") else None
    if batch_size is not None and fixed is not None and batch_size != fixed:
        what = "the file fixes another batch size"
        where, next_step = place("batch_size"), "export it with an open batch"
        raise RecipeError(what, where=where, got=batch_size, expected=fixed, next=next_step)
    graph = graph_of(for_batch_of(model, 1), file)
    plan = kernels_of(graph, fixed or 1)
    size = batch_size or fixed or 1
    if calibration is not None:
        own = _checked_own_precision(graph, precision, place("precision"))
        return estimate_on_target(
            plan,
            calibration,
            own,
            batch_size=size,
            runtime=runtime,
            threads=threads,
            now=LocalCpu().describe if board == LOCAL_CPU else None,
            where=file,
        )
    asked = _precision(graph, precision, place("precision"))
    return estimate_of(
        plan, board, asked, batch_size=size, power_mode=power_mode, tensorrt=tensorrt, where=file, place=place
    )


def check_board(board: str, folder: Path | None, where: str, runtime: str, threads: int) -> CalibratedForm | None:
    """The form of a calibrated target by which float32 files are predicted; None of a board of the table.

    Args:
        runtime, threads: of the form.

    Raises:
        RecipeError: there is no such board, or the target is not calibrated.
        TargetError: no figures of the board are verified, or the target is not calibrated in this form.
    """
    calibration = calibration_of(board, folder)
    if calibration is not None:
        return calibration.form("float32", runtime, threads)
    _check_is_no_target(board, folder, where)
    board_rates(board, where)
    return None


def _check_is_no_target(board: str, folder: Path | None, where: str) -> None:
    """Raise RecipeError if the name is that of a target, which is not calibrated."""
    if board == LOCAL_GPU:
        what, next_step = "no latency is predicted for this machine's GPU", f"edgevit profile --target {LOCAL_GPU}"
        raise RecipeError(what, where=where, got=board, next=next_step)
    if board not in BOARD_NAMES and board in targets_by_name(folder):
        next_step = f"edgevit devices calibrate {board}"
        raise RecipeError("the target is not calibrated", where=where, got=board, next=next_step)


def _checked_own_precision(graph: Graph, asked: str | None, where: str) -> str:
    """The precision of the file. Raises RecipeError if another one is asked for."""
    own, known = onnx_precision(graph.model), get_args(Precision)
    if asked is not None and full_precision(asked) not in known:
        what = "no latency is predicted in this precision on a calibrated target"
        raise RecipeError(what, where=where, got=asked, expected=", ".join(known))
    if asked is not None and full_precision(asked) != own:
        next_step = "leave it out, or give a file in this precision"
        raise RecipeError("the file is in another precision", where=where, got=asked, expected=own, next=next_step)
    return own


def _precision(graph: Graph, asked: str | None, where: str) -> str:
    """The precision to predict on a board. Raises RecipeError if the file's Q/DQ pairs say otherwise."""
    own = graph.quantized_precision
    if own is not None and asked is not None and full_precision(asked) != own:
        what = "the file's Q/DQ pairs ask for another precision"
        raise RecipeError(what, where=where, got=asked, expected=own, next="give the float file")
    return asked or own or "float16"
