"""The calibration of a target of one's own: measured models, fitted unit costs, and the errors of left-out models.

It lies in calibrations/<target>.json beside the targets.yaml that names the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import Field, ValidationError

from edgevit.configs.runtimes import FileRuntime
from edgevit.configs.targets import LOCAL_CPU, LOCAL_GPU, LOCAL_TARGETS
from edgevit.disks import whole_or_not_at_all
from edgevit.errors import ArtifactError, TargetError, shortened
from edgevit.frozen import Frozen, first_problem
from edgevit.latency_model.unit_costs import (
    UNITS,
    MeasuredUnits,
    fitted_costs,
    fitted_int8_costs,
    interval_factor,
    left_out_ms,
)
from edgevit.model_file import TargetInfo
from edgevit.targets.named import named_target, targets_by_name, user_file

FOLDER = "calibrations"
FEWEST_MODELS = 8
LARGEST_BYTES = 2**20

Positive = Annotated[float, Field(gt=0, lt=1e9)]
Precision = Literal["float32", "float16", "int8"]
Threads = Annotated[int, Field(ge=1)]


FormKey = tuple[FileRuntime, Precision, int]


class CalibrationModel(Frozen):
    """A model that was measured on the target.

    Attributes:
        name: such as deit_tiny_patch16_224 at 224 px.
        units: the number of each unit in it, in the order of `UNITS`.
        p50_ms: measured, of one image.
        left_out_ms: predicted by a fit to all other models.
    """

    name: str
    units: tuple[Annotated[float, Field(ge=0, lt=1e15)], ...] = Field(min_length=len(UNITS), max_length=len(UNITS))
    p50_ms: Positive
    left_out_ms: Positive


class CalibratedForm(Frozen):
    """The fit for one runtime, precision and number of threads.

    Attributes:
        info: the target's fingerprint when it was measured.
        costs_ns: of each unit.
    """

    runtime: FileRuntime
    precision: Precision
    threads: Threads
    info: TargetInfo
    costs_ns: dict[str, Positive]
    models: tuple[CalibrationModel, ...] = Field(min_length=FEWEST_MODELS)

    @property
    def key(self) -> FormKey:
        """What a calibration holds one form of."""
        return self.runtime, self.precision, self.threads

    @cached_property
    def ratios(self) -> list[float]:
        """Predicted over measured of each model, by a fit to the others."""
        return [model.left_out_ms / model.p50_ms for model in self.models]

    @property
    def median_error(self) -> float:
        """The median relative error of left-out models: 0.1 is 10%."""
        return float(np.median([abs(ratio - 1) for ratio in self.ratios]))

    @property
    def largest_error(self) -> float:
        """The largest relative error of a left-out model."""
        return max(abs(ratio - 1) for ratio in self.ratios)

    def factor(self, level: float) -> float:
        """The factor on both sides of a prediction that held a share `level` of left-out models."""
        return interval_factor(self.ratios, level)


class Calibration(Frozen):
    """The calibration of a target, a form for each runtime, precision and number of threads."""

    target: str
    forms: tuple[CalibratedForm, ...] = ()

    def form(self, precision: str, runtime: str | None = None, threads: int | None = None) -> CalibratedForm:
        """The form that fits, the first one if several do. Raises TargetError if none does."""
        for form in self.forms:
            if form.precision == precision and runtime in (None, form.runtime) and threads in (None, form.threads):
                return form
        known = (f"{form.precision} in {form.runtime} with threads: {form.threads}" for form in self.forms)
        got = [precision, *([runtime] if runtime else []), *([f"threads: {threads}"] if threads else [])]
        raise TargetError(
            f"the target '{self.target}' is not calibrated for this",
            got=", ".join(got),
            expected="; ".join(known),
            next=f"edgevit devices calibrate {self.target}" + _options(precision, runtime, threads),
        )

    def floats_beside(self, runtime: str, threads: int, info: TargetInfo) -> list[MeasuredUnits]:
        """The models in float32 with this runtime and number of threads, on the machine as it is by `info`."""
        return [
            MeasuredUnits(model.name, np.array(model.units), model.p50_ms)
            for form in self.forms
            if form.key == (runtime, "float32", threads) and form.info == info
            for model in form.models
        ]

    def with_forms(self, forms: Sequence[CalibratedForm]) -> Calibration:
        """The calibration with these forms, each in place of an earlier one of its key."""
        new = {form.key for form in forms}
        return Calibration(target=self.target, forms=(*forms, *(one for one in self.forms if one.key not in new)))


def fitted_form(
    key: FormKey,
    info: TargetInfo,
    models: Sequence[MeasuredUnits],
    floats: Sequence[MeasuredUnits] | None = None,
) -> CalibratedForm:
    """Fit the unit costs to measured models, and predict each model from the others.

    Args:
        key: runtime, precision, threads.
        floats: for INT8 files, models in float32 with the same runtime and threads; None for other precisions.

    Raises:
        TargetError: there are fewer than FEWEST_MODELS models.
    """
    runtime, precision, threads = key
    if len(models) < FEWEST_MODELS:
        what = "too few models were measured to fit a prediction"
        got = f"{len(models)} in {precision} in {runtime} with threads: {threads}"
        raise TargetError(what, where=info.name, got=got, expected=f"at least {FEWEST_MODELS}")
    rows = [
        CalibrationModel(name=model.name, units=model.units.tolist(), p50_ms=model.p50_ms, left_out_ms=other)
        for model, other in zip(models, left_out_ms(models, floats), strict=True)
    ]
    costs = fitted_costs(models) if floats is None else fitted_int8_costs(models, floats)
    return CalibratedForm(
        runtime=runtime, precision=precision, threads=threads, info=info, costs_ns=costs, models=tuple(rows)
    )


def calibration_of(target: str, folder: Path | None = None) -> Calibration | None:
    """The calibration of a target; None if there is none, or no such target.

    It is of the machine that the name means here: it lies beside the targets.yaml that names the target.

    Args:
        folder: the project's folder, whose targets count; by default the current folder.

    Raises:
        ArtifactError: the file is no calibration.
        RecipeError: a file is no valid targets.yaml.
    """
    if target == LOCAL_GPU or target not in targets_by_name(folder):
        return None
    file = _file(target, folder)
    return _read(file, target) if file is not None and file.is_file() else None


def calibration_file(target: str, folder: Path | None = None) -> Path:
    """The file for the calibration of a target: beside the targets.yaml that names it, or the user's.

    Raises:
        TargetError: there is no such target, it is a GPU, or the user has no home folder.
    """
    if target == LOCAL_GPU:
        raise TargetError("the unit costs of a calibration are those of a CPU", got=target, expected=LOCAL_CPU)
    file = _file(target, folder)
    if file is None:
        raise TargetError("you have no home folder here, so a calibration cannot be kept", next="set XDG_CONFIG_HOME")
    return file


def write_calibration(calibration: Calibration, file: Path) -> None:
    """Write a calibration, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_not_at_all(file) as part:
        part.write_text(calibration.model_dump_json(indent=1) + "\n", encoding="utf-8")


def remove_calibration(target: str, targets: Path) -> None:
    """Remove the calibration of a target that was removed from a targets.yaml, if there is one."""
    _beside(targets, target).unlink(missing_ok=True)


def _file(target: str, folder: Path | None) -> Path | None:
    """Where the calibration of a target lies; None of a built-in target without a home folder."""
    file = None if target in LOCAL_TARGETS else named_target(target, folder).file
    file = file or user_file()
    return _beside(file, target) if file is not None else None


def _options(precision: str, runtime: str | None, threads: int | None) -> str:
    """The options of the command that calibrates a form."""
    if precision not in get_args(Precision):
        return ""
    given = {"--runtime": runtime, "--threads": threads, "--precision": precision}
    if precision == "float16":  # which the models of the catalogue are not exported in
        given = {"--receipts": "FOLDER"}
    return "".join(f" {option} {value}" for option, value in given.items() if value is not None)


def _beside(targets: Path, target: str) -> Path:
    return targets.parent / FOLDER / f"{target}.json"


def _read(file: Path, target: str) -> Calibration:
    try:
        if file.stat().st_size > LARGEST_BYTES:
            raise ValueError(f"{file.stat().st_size:,} bytes")
        calibration = Calibration.model_validate_json(file.read_bytes())
        if calibration.target != target or any(set(form.costs_ns) != set(UNITS) for form in calibration.forms):
            raise ValueError("of another target, or of another release of edgevit")
    except ValidationError as error:
        raise _unreadable(file, target, first_problem(error)) from None
    except (OSError, ValueError) as error:
        raise _unreadable(file, target, str(error)) from None
    return calibration


def _unreadable(file: Path, target: str, got: str) -> ArtifactError:
    what, next_step = "the calibration cannot be read", f"edgevit devices calibrate {target}"
    return ArtifactError(what, where=file, got=shortened(got), next=f"remove the file, then {next_step}")
