"""Latency of a student before its training, in the form that will be deployed.

Random weights do not change the speed, as long as `quantize` leaves no layer in float for accuracy. With pretrained
weights and images, a student that INT8 would take too far from float is timed in float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from edgevit.artifacts import IOSpec, Json, numbers
from edgevit.configs import Calibrator, Export, Profile, Quantize
from edgevit.configs.runtimes import TORCH
from edgevit.context import usable_cpus
from edgevit.exporting import onnx_from_module, with_normalization
from edgevit.graphs.files import artifact_from_onnx, read_onnx, write_onnx
from edgevit.graphs.guard import with_functions_inlined
from edgevit.graphs.tensors import with_stored_constants
from edgevit.models.cost import cost_of
from edgevit.models.creation import BuiltModel, create_model
from edgevit.models.embedding import embedding_width
from edgevit.profiling import Measurement, MeasurePlan
from edgevit.quantization.candidates import Candidate, CandidateWriter
from edgevit.quantization.ptq import CalibratedModel, calibrated
from edgevit.runtimes.base import Session, SessionOptions, fixed_batch, random_images, runtime_options
from edgevit.runtimes.onnxruntime.engine import ENGINE
from edgevit.runtimes.parity import check_quantized
from edgevit.runtimes.sessions import file_session
from edgevit.selection.candidates import ROOM_DB
from edgevit.selection.check_images import Batches, CheckBatches
from edgevit.selection.pretrained import pretrained_model, set_centered_classifier
from edgevit.selection.records import DeployedForm, Pretrained, Student, Timing
from edgevit.targets import target_for, target_info

TRIAL = MeasurePlan(warmup_s=0.15, duration_s=0.5, min_runs=10)  # of each form of the file
FINAL = MeasurePlan(warmup_s=0.3, duration_s=1.0, min_runs=30)  # of the deployed form
MOST_TAKES = 3  # of the final measurement, where other work disturbs it
CALIBRATION_IMAGES = 4  # random ones


@dataclass(frozen=True)
class _Forms:
    """The files that may be deployed, the float file first.

    Attributes:
        sqnr_db: of the quantized file that is furthest from the float file; None if none was compared.
    """

    candidates: Sequence[Candidate]
    sqnr_db: float | None = None


def time_student(student: Student, form: DeployedForm, pretrained: Pretrained | None = None) -> Timing:
    """Build a student, bring it into the deployed form, and time it on the target.

    Args:
        pretrained: weights and images that decide whether INT8 is close enough to float. None takes random weights.

    Raises:
        RecipeError: timm has no such model, or it cannot take this image size.
        ArtifactError: the model cannot be exported, or its weights cannot be read.
        TargetError: the target is not there.
    """
    built = _random_model(student) if pretrained is None else pretrained_model(student, pretrained)
    spec = IOSpec.for_classifier(built.preprocess, numbers(built.description.num_classes))
    if form.export is None:
        return _time_checkpoint(built, spec, form)
    if pretrained is not None:
        set_centered_classifier(built, pretrained.images.batches(spec).calibration)
    with TemporaryDirectory() as folder:
        return _time_file(built, _exported(built, spec, form.export, Path(folder)), form, pretrained)


def _random_model(student: Student) -> BuiltModel:
    return create_model(
        student.model,
        student.num_classes,
        student.image_size,
        student.model_args,
        distillation_token=student.distillation_token,
    )


def _time_checkpoint(built: BuiltModel, spec: IOSpec, form: DeployedForm) -> Timing:
    from edgevit.runtimes.torch.session import TorchSession

    target_info(form.profile.target, TORCH.name)  # refuses a target that is not there
    cost = cost_of(built.module, built.preprocess)
    device: Literal["cpu", "cuda"] = "cuda" if form.profile.target == "local-gpu" else "cpu"
    session = TorchSession(built.module, spec, device, _options(form.profile))
    return _timing(_quietest(session, form.profile), cost, 4 * cost["params"], form.profile.precision)


def _time_file(built: BuiltModel, file: Path, form: DeployedForm, pretrained: Pretrained | None) -> Timing:
    forms = _forms(file, form, pretrained)
    trials_ms = {candidate.name: _trial_ms(candidate, form.profile) for candidate in forms.candidates}
    best = min(forms.candidates, key=lambda candidate: trials_ms[candidate.name])
    deployed, is_float = best.file, best is forms.candidates[0]
    if form.compile is not None:
        compiled = file.parent / "compiled"
        compiled.mkdir()
        target_for(form.compile.target).compile(artifact_from_onnx(best.file), compiled)
        deployed = compiled / ENGINE
    with target_for(form.profile.target).open(artifact_from_onnx(deployed), _options(form.profile)) as session:
        measured = _quietest(session, form.profile)
    timing = _timing(measured, cost_of(built.module, built.preprocess), deployed.stat().st_size, best.name)
    float_ms = None if is_float else trials_ms[forms.candidates[0].name]
    return timing.model_copy(update={"float_p50_ms": float_ms, "sqnr_db": forms.sqnr_db})


def _exported(built: BuiltModel, spec: IOSpec, export: Export, folder: Path) -> Path:
    if export.embedding:
        spec = spec.with_embedding(embedding_width(built.module, spec.preprocess))
    graph = onnx_from_module(built.module, spec, export.opset, export.dynamic_batch)
    model, written = graph.model, graph.spec
    if export.normalize:
        written = written.taking_uint8_images()
        model = with_normalization(model, written)
    write_onnx(model, folder / "exported.onnx", written, runtime_options(export.runtime))
    return folder / "exported.onnx"


# Forms of the file ------------------------------------------------------------------------------------------------


def _forms(file: Path, form: DeployedForm, pretrained: Pretrained | None) -> _Forms:
    """The float file and the quantized files that `quantize` would time."""
    assert form.export is not None
    if form.quantize is None:
        return _Forms([Candidate("float32", file, runtime_options(form.export.runtime), "float32")])
    io = artifact_from_onnx(file).io
    if pretrained is not None:
        return _close_forms(file, form.quantize, pretrained.images.batches(io))
    images = [random_images(io, fixed_batch(io) or CALIBRATION_IMAGES)]
    return _Forms(_written(file, _calibrated(file, images, form.quantize, "minmax"), form.quantize))


def _close_forms(file: Path, quantize: Quantize, images: CheckBatches) -> _Forms:
    """The float file, and the quantized files if all of them are close enough to it.

    Where they are not, `quantize` will leave layers in float. Its file is then at most as slow as the float file,
    because `quantize` takes the float file if that is faster.
    """
    io, threads = artifact_from_onnx(file).io, usable_cpus()
    reference = file_session(file, io, runtime_options(quantize.runtime), threads)
    calibrator = "minmax" if quantize.calibrator == "trained" else quantize.calibrator
    float_form, *quantized = _written(file, _calibrated(file, images.calibration, quantize, calibrator), quantize)

    def sqnr_db(candidate: Candidate) -> float:
        session = file_session(candidate.file, io, candidate.session_options, threads)
        return check_quantized(session, reference, images.held_out, -math.inf, candidate.name)

    least_db = min(map(sqnr_db, quantized))
    are_close = least_db >= quantize.floor_db + ROOM_DB
    return _Forms([float_form, *(quantized if are_close else ())], least_db)


def _calibrated(file: Path, images: Batches, quantize: Quantize, calibrator: Calibrator) -> CalibratedModel:
    source = with_stored_constants(with_functions_inlined(read_onnx(file), quantize.id))
    return calibrated(source, lambda: iter(images), calibrator, quantize.runtime, usable_cpus(), quantize.id)


def _written(file: Path, ready: CalibratedModel, quantize: Quantize) -> list[Candidate]:
    """The float file first, then the quantized files."""
    source = with_stored_constants(with_functions_inlined(read_onnx(file), quantize.id))
    writer = CandidateWriter(source, "float32", ready, artifact_from_onnx(file).io, file.parent)
    if quantize.placement == "fastest":
        return [writer.float_candidate(), *writer.candidates()]
    return [writer.float_candidate(), writer.quantized_candidate(quantize.placement)]


# Measurements -----------------------------------------------------------------------------------------------------


def _trial_ms(candidate: Candidate, profile: Profile) -> float:
    """A quick p50 of one form; the smaller of two, since other work only ever slows."""
    io = artifact_from_onnx(candidate.file).io
    plan = replace(TRIAL, batch_size=profile.batch_size)
    takes = (file_session(candidate.file, io, candidate.session_options, profile.threads) for _ in range(2))
    return min(session.measure(plan).percentile_ms(50) for session in takes)


def _quietest(session: Session, profile: Profile) -> Measurement:
    """The final measurement; where other work disturbs it, the fastest of several: other work only ever slows."""
    plan = replace(FINAL, batch_size=profile.batch_size, boundary=profile.boundary)
    takes = [session.measure(plan)]
    while takes[-1].warnings and len(takes) < MOST_TAKES:
        takes.append(session.measure(plan))
    return min(takes, key=lambda take: take.percentile_ms(50))


def _options(profile: Profile) -> SessionOptions:
    return SessionOptions(profile.threads, profile.precision)


def _timing(measured: Measurement, cost: Json, size_bytes: int, form: str) -> Timing:
    return Timing(
        macs=cost["macs"],
        params=cost["params"],
        size_bytes=size_bytes,
        form=form,
        p50_ms=measured.percentile_ms(50),
        p50_low_ms=measured.p50_interval.low,
        p50_high_ms=measured.p50_interval.high,
        warnings=measured.warnings,
    )
