"""`edgevit devices calibrate`: the unit costs of a target, fitted to models that are measured there.

The models are those of the catalogue, with random weights, spread over its sizes; or ONNX files with their receipts.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from edgevit.actions.repeat_profile import Receipt
from edgevit.artifacts import sha256_of_file
from edgevit.checking.check import graph_of
from edgevit.checking.shapes import for_batch_of
from edgevit.context import Context
from edgevit.errors import ArtifactError, ModelRefused, RecipeError, TargetError
from edgevit.graphs.files import read_onnx
from edgevit.latency_model.calibration import FEWEST_MODELS, CalibratedForm, fitted_form
from edgevit.latency_model.kernels import kernels_of
from edgevit.latency_model.unit_costs import Floats, MeasuredUnits, units_of
from edgevit.model_file import TargetInfo
from edgevit.models import catalogue
from edgevit.profiling import MeasurePlan
from edgevit.profiling.latency_record import LatencyRecord
from edgevit.profiling.measure import valid_measurement
from edgevit.runtimes.base import SessionOptions
from edgevit.selection.records import Student
from edgevit.selection.timing import untrained_forms
from edgevit.targets import Target, check_is_measured, target_for

PLAN = MeasurePlan(warmup_s=0.3, most_warmup_s=3.0, duration_s=1.0, min_runs=20, is_watched=True)
RETRY_S = 10.0  # for which a disturbed measurement is repeated
CLASSES = 1000
PRECISIONS = ("float32", "int8")


def calibrated_forms(
    target: str, runtime: str, threads: int, precisions: Sequence[str], models: Sequence[str], context: Context
) -> list[CalibratedForm]:
    """Measure models of the catalogue on a target, and fit its unit costs in each precision.

    Args:
        precisions: float32 and int8, or one of them.
        models: names of the catalogue.

    Raises:
        RecipeError: too few models.
        TargetError: as `measured_models`, or too many models are left out.
    """
    if len(models) < FEWEST_MODELS:
        raise RecipeError("too few models to fit a prediction", got=len(models), expected=f"at least {FEWEST_MODELS}")
    info = target_for(target, context).describe(runtime)
    measured = measured_models(target, runtime, threads, precisions, models, context)
    return _fitted(runtime, threads, info, measured)


def measured_models(
    target: str, runtime: str, threads: int, precisions: Sequence[str], models: Sequence[str], context: Context
) -> dict[str, list[MeasuredUnits]]:
    """The latencies of models of the catalogue on a target, by precision.

    A model whose measurement stays invalid, or that cannot be exported, is left out, with a line that says so.

    Raises:
        TargetError: the target is not there, does not run the runtime, or replays its times.
    """
    on, measured = target_for(target, context), {precision: list[MeasuredUnits]() for precision in precisions}
    for place, name in enumerate(models, 1):
        context.progress.say(f"[{place}/{len(models)}] {name}")
        try:
            for precision, row in _measured(name, on, runtime, threads, precisions, context):
                measured[precision].append(row)
        except (ArtifactError, ModelRefused) as error:
            context.progress.say(f"    left out: {error.what}")
    return measured


def forms_of_receipts(target: str, folder: Path) -> list[CalibratedForm]:
    """Fit the unit costs of a target to ONNX files with their receipts: NAME.onnx beside NAME.json.

    A receipt is what `edgevit profile NAME.onnx --target TARGET --json` printed. There is a form for each runtime,
    precision and number of threads.

    Raises:
        ArtifactError: there are no receipts, or one is of another file or target, or invalid.
        TargetError: the times are replayed, or there are too few receipts.
    """
    rows = defaultdict[tuple[str, int], defaultdict[str, list[MeasuredUnits]]](lambda: defaultdict(list))
    versions: dict[tuple[str, int], dict[str, str | None]] = {}
    for file in sorted(folder.glob("*.onnx")):
        receipt = Receipt.read(file.with_suffix(".json"))
        latency = _checked(receipt, file, target)
        key = latency.runtime, latency.threads or 1
        rows[key][latency.precision or "float32"].append(MeasuredUnits(file.stem, _units(file), latency.p50_ms))
        versions[key] = receipt.conditions.get("versions") or {}
    if not rows:
        expected = "NAME.onnx and NAME.json for each model"
        raise ArtifactError("there are no receipts in this folder", where=folder, expected=expected)
    return [
        form
        for (runtime, threads), measured in rows.items()
        for form in _fitted(
            runtime,
            threads,
            TargetInfo(name=target, runtime=runtime, versions=versions[runtime, threads], hardware={}),
            measured,
        )
    ]


def spread_models(count: int) -> list[str]:
    """Names of so many models of the catalogue, spread over its sizes."""
    names = [entry.name for entry in catalogue.read()]
    places = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return [names[place] for place in places]


def checked_precisions(names: Sequence[str], where: str) -> list[str]:
    """The precisions, each once. Raises RecipeError for one that is not measured."""
    for name in names:
        if name not in PRECISIONS:
            what = "the catalog's models are not measured in this precision"
            raise RecipeError(what, where=where, got=name, expected=" or ".join(PRECISIONS))
    return list(dict.fromkeys(names))


def _measured(
    name: str, on: Target, runtime: str, threads: int, precisions: Sequence[str], context: Context
) -> Iterator[tuple[str, MeasuredUnits]]:
    """The model in each precision, as far as its measurement is valid."""
    size = next(entry.default_size for entry in catalogue.read() if entry.name == name)
    student = Student(model=name, image_size=size, num_classes=CLASSES)
    with TemporaryDirectory() as folder:
        for candidate in untrained_forms(student, runtime, precisions, Path(folder)):
            with on.open(candidate.artifact, SessionOptions(threads)) as session:
                taken = valid_measurement(partial(session.measure, PLAN), RETRY_S, context.progress.say)
            check_is_measured(taken.label, "a calibration", "calibrate a target that measures")
            precision, p50_ms = candidate.weight_precision, taken.percentile_ms(50)
            if taken.invalid:
                context.progress.say(f"    {precision}: left out, because it stayed invalid: {taken.invalid[0]}")
                continue
            context.progress.say(f"    {precision}: {p50_ms:.3g} ms")
            yield precision, MeasuredUnits(f"{name} at {size} px", _units(candidate.file), p50_ms)


def _units(file: Path) -> Floats:
    return units_of(kernels_of(graph_of(for_batch_of(read_onnx(file), 1), file)))


def _fitted(
    runtime: str, threads: int, info: TargetInfo, measured: Mapping[str, Sequence[MeasuredUnits]]
) -> list[CalibratedForm]:
    """A form for each precision of the measured models."""
    floats = measured.get("float32", ())
    return [
        fitted_form((runtime, precision, threads), info, models, floats if precision == "int8" else None)
        for precision, models in measured.items()
    ]


def _checked(receipt: Receipt, file: Path, target: str) -> LatencyRecord:
    """The latency of a receipt, if it calibrates. Raises ArtifactError or TargetError otherwise."""
    latency, where = receipt.latency, file.with_suffix(".json")
    if latency.label != "measured":
        what = "the times of the receipt are replayed by a stand-in: they decide nothing"
        raise TargetError(what, where=where, got=latency.label, next="give receipts of a target that measures")
    hashes = (receipt.conditions.get("file_sha256") or {}).values()
    problems = (
        (latency.target != target, "the receipt is of another target", latency.target, target),
        (latency.invalid, "the latency is invalid", "; ".join(latency.invalid), "a valid one"),
        (latency.boundary != "compute", "the latency is not of the model alone", latency.boundary, "compute"),
        (latency.batch_size != 1, "the latency is of a batch", latency.batch_size, "batch size 1"),
        (hashes and sha256_of_file(file) not in hashes, "the receipt is of another file", json.dumps([*hashes]), file),
    )
    for is_wrong, what, got, expected in problems:
        if is_wrong:
            raise ArtifactError(what, where=where, got=got, expected=expected)
    return latency
