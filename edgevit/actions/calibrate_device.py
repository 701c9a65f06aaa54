"""`edgevit devices calibrate`: the unit costs of a target, fitted to models that are measured there.

The models are those of the catalogue, with random weights, spread over its sizes; or ONNX files with their receipts.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
from pydantic import ValidationError

from edgevit.actions.inspect_layers import check_runtime
from edgevit.actions.repeat_profile import Receipt
from edgevit.artifacts import sha256_of_file
from edgevit.checking.check import graph_of
from edgevit.checking.shapes import for_batch_of
from edgevit.configs.runtimes import FileRuntime
from edgevit.context import Context
from edgevit.errors import ArtifactError, ModelRefused, RecipeError, TargetError, shortened
from edgevit.frozen import Frozen, first_problem
from edgevit.graphs.files import read_onnx
from edgevit.graphs.precision import onnx_precision
from edgevit.latency_model.calibration import (
    FEWEST_MODELS,
    CalibratedForm,
    Calibration,
    Positive,
    Precision,
    Threads,
    fitted_form,
)
from edgevit.latency_model.kernels import kernels_of
from edgevit.latency_model.unit_costs import Floats, MeasuredUnits, units_of
from edgevit.model_file import TargetInfo
from edgevit.models import catalogue
from edgevit.models.bodies import is_body
from edgevit.profiling import MeasurePlan
from edgevit.profiling.measure import valid_measurement
from edgevit.runtimes.base import SessionOptions
from edgevit.selection.records import Student
from edgevit.selection.timing import untrained_forms
from edgevit.targets import Target, check_is_measured, target_for

PLAN = MeasurePlan(warmup_s=0.3, most_warmup_s=3.0, duration_s=1.0, min_runs=20, is_watched=True)
RETRY_S = 10.0  # for which a disturbed measurement is repeated
CLASSES = 1000
PRECISIONS: tuple[Precision, ...] = ("float32", "int8")  # of the models of the catalogue
MOST_FAILURES = 2  # in a row: then the target is taken for gone

Models = Mapping[Precision, Sequence[MeasuredUnits]]


class CalibratingReceipt(Frozen):
    """What a receipt tells of the form that it calibrates."""

    runtime: FileRuntime
    precision: Precision
    threads: Threads
    p50_ms: Positive
    file_sha256: dict[str, str]
    versions: dict[str, str | None]
    cpu: dict[str, Any]


def calibrated_forms(
    target: str,
    runtime: FileRuntime,
    threads: int,
    precisions: Sequence[Precision],
    models: Sequence[str],
    context: Context,
    earlier: Calibration,
) -> list[CalibratedForm]:
    """Measure models of the catalogue on a target, and fit its unit costs in each precision.

    A precision with too few models has no form, and a line says so.

    Args:
        precisions: float32 and int8, or one of them.
        models: names of the catalogue.
        earlier: whose models in float32 help to fit INT8, if none are measured now.

    Raises:
        RecipeError: too few models.
        TargetError: as `measured_models`, or too many models are left out in every precision.
    """
    if len(models) < FEWEST_MODELS:
        raise RecipeError("too few models to fit a prediction", got=len(models), expected=f"at least {FEWEST_MODELS}")
    info = target_for(target, context).describe(runtime)
    measured = measured_models(target, runtime, threads, precisions, models, context)
    return _all_fitted([(runtime, threads, info, measured)], earlier, context.progress.say)


def measured_models(
    target: str, runtime: str, threads: int, precisions: Sequence[Precision], models: Sequence[str], context: Context
) -> dict[Precision, list[MeasuredUnits]]:
    """The latencies of models of the catalogue on a target, by precision.

    A model whose measurement stays invalid, that cannot be exported, or on which the target fails, is left out, with a
    line that says so. If the target fails on two in a row, the others are left out too.

    Raises:
        TargetError: the target is not there, does not run the runtime, or replays its times; or it is gone before
            enough models are measured.
    """
    on, measured = target_for(target, context), {precision: list[MeasuredUnits]() for precision in precisions}
    failures = 0
    for place, name in enumerate(models, 1):
        context.progress.say(f"[{place}/{len(models)}] {name}")
        try:
            for precision, row in _measured(name, on, runtime, threads, precisions, context):
                measured[precision].append(row)
            failures = 0
        except (ArtifactError, ModelRefused) as error:
            context.progress.say(f"    left out: {error.what}")
        except TargetError as error:
            failures += 1
            counts = [len(rows) for rows in measured.values()]
            if not any(counts) or (failures == MOST_FAILURES and max(counts) < FEWEST_MODELS):
                raise
            context.progress.say(f"    left out: {error.what}")
            if failures == MOST_FAILURES:
                context.progress.say(f"the target is gone: {place} of {len(models)} models were tried")
                break
    return measured


def forms_of_receipts(folder: Path, earlier: Calibration, say: Callable[[str], None]) -> list[CalibratedForm]:
    """Fit the unit costs of the target of `earlier` to ONNX files with their receipts: NAME.onnx beside NAME.json.

    A receipt is what `edgevit profile NAME.onnx --target TARGET --json` printed. There is a form for each runtime,
    precision and number of threads with enough receipts, and a line about each other one.

    Raises:
        ArtifactError: there are no receipts, or one is of another file or target, or invalid.
        TargetError: the times are replayed, or there are too few receipts in every form.
    """
    target = earlier.target
    rows = defaultdict[tuple[FileRuntime, int], defaultdict[Precision, list[MeasuredUnits]]](lambda: defaultdict(list))
    last: dict[tuple[FileRuntime, int], CalibratingReceipt] = {}
    for file in sorted(folder.glob("*.onnx")):
        told = _checked(Receipt.read(file.with_suffix(".json")), file, target)
        key = told.runtime, told.threads
        rows[key][told.precision].append(MeasuredUnits(file.stem, _units(file), told.p50_ms))
        last[key] = told
    if not rows:
        expected = "NAME.onnx and NAME.json for each model"
        raise ArtifactError("there are no receipts in this folder", where=folder, expected=expected)
    groups = []
    for (runtime, threads), measured in rows.items():
        told = last[runtime, threads]
        info = TargetInfo(name=target, runtime=runtime, versions=told.versions, hardware=told.cpu)
        groups.append((runtime, threads, info, measured))
    return _all_fitted(groups, earlier, say)


def spread_models(count: int) -> list[str]:
    """Names of so many models of the catalogue without the bodies, spread over its sizes."""
    names = [entry.name for entry in catalogue.read() if not is_body(entry.name)]
    places = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return [names[place] for place in places]


def checked_runtime(name: str, where: str) -> FileRuntime:
    """The runtime. Raises RecipeError for one that opens no ONNX file on a CPU."""
    check_runtime(name, where)
    return next(runtime for runtime in get_args(FileRuntime) if runtime == name)


def checked_precisions(names: Sequence[str], where: str) -> list[Precision]:
    """The precisions, each once. Raises RecipeError for one that is not measured."""
    for name in names:
        if name not in PRECISIONS:
            what = "the catalog's models are not measured in this precision"
            raise RecipeError(what, where=where, got=name, expected=" or ".join(PRECISIONS))
    return [precision for precision in PRECISIONS if precision in names]


def _measured(
    name: str, on: Target, runtime: str, threads: int, precisions: Sequence[Precision], context: Context
) -> Iterator[tuple[Precision, MeasuredUnits]]:
    """The model in each precision, as far as its measurement is valid."""
    size = next(entry.default_size for entry in catalogue.read() if entry.name == name)
    student = Student(model=name, image_size=size, num_classes=CLASSES)
    with TemporaryDirectory() as folder:
        for candidate in untrained_forms(student, runtime, precisions, Path(folder)):
            with on.open(candidate.artifact, SessionOptions(threads)) as session:
                taken = valid_measurement(partial(session.measure, PLAN), RETRY_S, context.progress.say)
            check_is_measured(taken.label, "a calibration", "calibrate a target that measures")
            precision: Precision = "int8" if candidate.weight_precision == "int8" else "float32"
            p50_ms = taken.percentile_ms(50)
            if taken.invalid:
                context.progress.say(f"    {precision}: left out, because it stayed invalid: {taken.invalid[0]}")
                continue
            context.progress.say(f"    {precision}: {p50_ms:.3g} ms")
            yield precision, MeasuredUnits(f"{name} at {size} px", _units(candidate.file), p50_ms)


def _units(file: Path) -> Floats:
    model = read_onnx(file)
    return units_of(kernels_of(graph_of(for_batch_of(model, 1), file)), precision=onnx_precision(model))


def _all_fitted(
    groups: Sequence[tuple[FileRuntime, int, TargetInfo, Models]], earlier: Calibration, say: Callable[[str], None]
) -> list[CalibratedForm]:
    """A form for each precision of the models of a runtime and number of threads, where there are enough models.

    Raises:
        TargetError: there are enough in none.
    """
    forms, too_few = list[CalibratedForm](), list[TargetError]()
    for runtime, threads, info, measured in groups:
        floats = measured.get("float32") or earlier.floats_beside(runtime, threads, info)
        for precision, models in measured.items():
            try:
                key = (runtime, precision, threads)
                forms.append(fitted_form(key, info, models, floats if precision == "int8" else None))
            except TargetError as error:
                too_few.append(error)
    if not forms:
        raise too_few[0]
    for one in too_few:
        say(f"left out: {one.what}: {one.got}, expected {one.expected}")
    return forms


def _checked(receipt: Receipt, file: Path, target: str) -> CalibratingReceipt:
    """What a receipt tells, if it calibrates. Raises ArtifactError or TargetError otherwise."""
    latency, where = receipt.latency, file.with_suffix(".json")
    if latency.label != "measured":
        what = "the times of the receipt are replayed by a stand-in: they decide nothing"
        raise TargetError(what, where=where, got=latency.label, next="give receipts of a target that measures")
    told = _told(receipt, where)
    hashes = list(told.file_sha256.values())
    problems = (
        (latency.target != target, "the receipt is of another target", latency.target, target),
        (latency.invalid, "the latency is invalid", "; ".join(map(str, latency.invalid)), "a valid one"),
        (latency.boundary != "compute", "the latency is not of the model alone", latency.boundary, "compute"),
        (latency.batch_size != 1, "the latency is of a batch", latency.batch_size, "batch size 1"),
        (not hashes, "the receipt does not tell the hash of its file", "no file_sha256", file),
        (sha256_of_file(file) not in hashes, "the receipt is of another file", json.dumps(hashes), file),
    )
    for is_wrong, what, got, expected in problems:
        if is_wrong:
            raise ArtifactError(what, where=where, got=got, expected=expected)
    return told


def _told(receipt: Receipt, where: Path) -> CalibratingReceipt:
    latency, conditions = receipt.latency, receipt.conditions
    cpu = conditions.get("cpu")
    content = {
        "runtime": latency.runtime,
        "precision": latency.precision or "float32",
        "threads": latency.threads or 1,
        "p50_ms": latency.p50_ms,
        "file_sha256": conditions.get("file_sha256") or {},
        "versions": conditions.get("versions") or {},
        "cpu": cpu if isinstance(cpu, dict) else {},
    }
    try:
        return CalibratingReceipt.model_validate(content)
    except ValidationError as error:
        got = shortened(first_problem(error))
        raise ArtifactError("the receipt does not calibrate a target", where=where, got=got) from None
