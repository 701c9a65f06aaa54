"""Latency of an untrained student in the form that will be deployed.

The weights are random: they do not change the speed, as long as `quantize` leaves no layer in float for accuracy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from edgevit.artifacts import IOSpec, Json, numbers
from edgevit.configs import Export, Profile, Quantize
from edgevit.configs.runtimes import TORCH
from edgevit.configs.targets import LOCAL_CPU, LOCAL_GPU
from edgevit.context import Context, usable_cpus
from edgevit.exporting import onnx_from_module, with_normalization
from edgevit.graphs.files import artifact_from_onnx, read_onnx, write_onnx
from edgevit.graphs.guard import with_functions_inlined
from edgevit.graphs.tensors import with_stored_constants
from edgevit.model_file import ONNX_FILE, options_for
from edgevit.models.cost import cost_of
from edgevit.models.creation import BuiltModel, create_model
from edgevit.models.embedding import embedding_width
from edgevit.profiling import Measurement, MeasurePlan
from edgevit.quantization.candidates import Candidate, CandidateWriter
from edgevit.quantization.ptq import calibrated
from edgevit.runtimes.base import Session, SessionOptions, fixed_batch, random_images
from edgevit.selection.records import DeployedForm, Student, Timing
from edgevit.targets import Target, check_is_measured, invalid_choice, target_for, target_info

TRIAL = MeasurePlan(warmup_s=0.15, duration_s=0.5, min_runs=10)  # of each form of the file
FINAL = MeasurePlan(warmup_s=0.3, duration_s=1.0, min_runs=30)  # of the deployed form
MOST_TAKES = 3  # of the final measurement, where other work disturbs it
CALIBRATION_IMAGES = 4


def time_student(student: Student, form: DeployedForm, context: Context) -> Timing:
    """Build a student with random weights, bring it into the deployed form, and time it on the target.

    Raises:
        RecipeError: timm has no such model, or it cannot take this image size.
        ArtifactError: the model cannot be exported.
        TargetError: the target is not there, a stand-in replays its times, or the times stay invalid.
    """
    built = create_model(
        student.model,
        student.num_classes,
        student.image_size,
        student.model_args,
        distillation_token=student.distillation_token,
    )
    spec = IOSpec.for_classifier(built.preprocess, numbers(student.num_classes))
    if form.export is None:
        return _time_checkpoint(built, spec, form, context)
    with TemporaryDirectory() as folder:
        return _time_file(built, spec, form, form.export, Path(folder), context)


def untrained_forms(student: Student, runtime: str, precisions: Collection[str], folder: Path) -> Iterator[Candidate]:
    """The files of a student with random weights: in float32, and in INT8 where `quantize` reaches most.

    Args:
        precisions: float32 and int8, or one of them.
        folder: where the files lie. It lasts as long as they are used.

    Raises:
        ArtifactError: the model cannot be exported.
    """
    built = create_model(student.model, student.num_classes, student.image_size)
    spec = IOSpec.for_classifier(built.preprocess, numbers(student.num_classes))
    export = Export.model_validate({"stage": "export", "id": "onnx", "model": "model", "runtime": runtime})
    quantize = {"stage": "quantize", "id": "int8", "model": "onnx", "calibration": "images", "placement": "all"}
    file = _exported(built, spec, export, folder)
    if "int8" not in precisions:
        yield Candidate("float32", file, options_for(runtime), "float32")
        return
    for candidate in _forms(file, Quantize.model_validate({**quantize, "runtime": runtime}), folder):
        if candidate.weight_precision in precisions:
            yield candidate


def _time_checkpoint(built: BuiltModel, spec: IOSpec, form: DeployedForm, context: Context) -> Timing:
    from edgevit.runtimes.torch.session import TorchSession

    target_info(form.profile.target, TORCH.name, context)  # refuses a target that is not there
    cost = cost_of(built.module, built.preprocess)
    device: Literal["cpu", "cuda"] = "cuda" if form.profile.target == LOCAL_GPU else "cpu"
    session = TorchSession(built.module, spec, device, _options(form.profile))
    return _timing(_quietest(session, form.profile), cost, 4 * cost["params"], form.profile.precision)


def _time_file(
    built: BuiltModel, spec: IOSpec, form: DeployedForm, export: Export, folder: Path, context: Context
) -> Timing:
    target = target_for(form.profile.target, context)
    file = _exported(built, spec, export, folder)
    candidates = [Candidate("float32", file, options_for(export.runtime), "float32")]
    if form.quantize is not None:
        candidates = list(_forms(file, form.quantize, folder))
    trials_on = target_for(form.quantize.target, context) if form.quantize else target
    trials_ms = {candidate.name: _trial_ms(candidate, trials_on, form.profile) for candidate in candidates}
    best = min(_small_enough(candidates, form.quantize), key=lambda candidate: trials_ms[candidate.name])
    deployed = artifact_from_onnx(best.file)
    if form.compile is not None:
        (folder / "compiled").mkdir()
        on = target_for(form.compile.target, context)
        compiled = on.compile(deployed, folder / "compiled", form.compile).file
        deployed = artifact_from_onnx(folder / "compiled" / ONNX_FILE).with_model_file(compiled)
    with target.open(deployed, _options(form.profile)) as session:
        measured = _quietest(session, form.profile, is_watched=form.profile.target == LOCAL_CPU)
    float_ms = trials_ms[candidates[0].name] if best is not candidates[0] else None
    size_bytes = deployed.file(deployed.model_file.name).stat().st_size
    return _timing(measured, cost_of(built.module, built.preprocess), size_bytes, best.name, float_ms)


def _exported(built: BuiltModel, spec: IOSpec, export: Export, folder: Path) -> Path:
    if export.embedding:
        spec = spec.with_embedding(embedding_width(built.module, spec.preprocess))
    graph = onnx_from_module(built.module, spec, export.opset, export.dynamic_batch)
    model, written = graph.model, graph.spec
    if export.normalize:
        written = written.taking_uint8_images()
        model = with_normalization(model, written)
    write_onnx(model, folder / "exported.onnx", written, options_for(export.runtime))
    return folder / "exported.onnx"


def _forms(file: Path, quantize: Quantize, folder: Path) -> Iterator[Candidate]:
    """The float file first, then the quantized files that `quantize` would time."""
    source = with_stored_constants(with_functions_inlined(read_onnx(file), quantize.id))
    io = artifact_from_onnx(file).io
    images = [random_images(io, fixed_batch(io) or CALIBRATION_IMAGES)]
    ready = calibrated(
        source,
        lambda: iter(images),
        "minmax",
        quantize.runtime,
        usable_cpus(),
        quantize.id,
        reduce_range=quantize.reduce_range,
    )
    writer = CandidateWriter(source, "float32", ready, io, folder, quantize.floor_db)
    yield writer.float_candidate()
    if quantize.placement == "fastest":
        yield from writer.candidates()
    else:
        yield writer.quantized_candidate(quantize.placement)


def _small_enough(candidates: Sequence[Candidate], quantize: Quantize | None) -> Sequence[Candidate]:
    """The candidates within the size that `quantize` asks for; all if none is."""
    most_bytes = quantize.most_bytes if quantize else None
    if most_bytes is None:
        return candidates
    return [candidate for candidate in candidates if candidate.file.stat().st_size <= most_bytes] or candidates


def _trial_ms(candidate: Candidate, target: Target, profile: Profile) -> float:
    """A quick p50 of one form; the smaller of two, since other work only ever slows."""
    model, plan = candidate.artifact, replace(TRIAL, batch_size=profile.batch_size)
    takes_ms = []
    for _ in range(2):
        with target.open(model, _options(profile)) as session:
            takes_ms.append(_valid(session, plan).percentile_ms(50))
    return min(takes_ms)


def _valid(session: Session, plan: MeasurePlan) -> Measurement:
    """A valid measurement, at most `MOST_TAKES` tried. Raises TargetError if they stay invalid."""
    for _ in range(MOST_TAKES):
        take = _measured(session, plan)
        if not take.invalid:
            return take
    raise invalid_choice(take.invalid)


def _quietest(session: Session, profile: Profile, is_watched: bool = False) -> Measurement:
    """The final measurement; where other work disturbs it, the fastest of several: other work only ever slows.

    Args:
        is_watched: the state of this machine is sampled meanwhile. If it was disturbed in all of them, the fastest is
            returned all the same, as invalid: a student that meets a budget beside other work also meets it alone.

    Raises:
        TargetError: all of them are invalid on another machine.
    """
    plan = replace(FINAL, batch_size=profile.batch_size, boundary=profile.boundary, is_watched=is_watched)
    takes = [_measured(session, plan)]
    while (takes[-1].warnings or takes[-1].invalid) and len(takes) < MOST_TAKES:
        takes.append(_measured(session, plan))
    valid = [take for take in takes if not take.invalid]
    if not valid and not is_watched:
        raise invalid_choice(takes[-1].invalid)
    return min(valid or takes, key=lambda take: take.percentile_ms(50))


def _measured(session: Session, plan: MeasurePlan) -> Measurement:
    """A measurement. Raises TargetError if a stand-in for a board replays it."""
    measured = session.measure(plan)
    check_is_measured(measured.label, "a student chosen by its latency", "choose it for a target that measures")
    return measured


def _options(profile: Profile) -> SessionOptions:
    return SessionOptions(profile.threads, profile.precision)


def _timing(measured: Measurement, cost: Json, size_bytes: int, form: str, float_ms: float | None = None) -> Timing:
    return Timing(
        macs=cost["macs"],
        params=cost["params"],
        size_bytes=size_bytes,
        form=form,
        p50_ms=measured.percentile_ms(50),
        p50_low_ms=measured.p50_interval.low,
        p50_high_ms=measured.p50_interval.high,
        float_p50_ms=float_ms,
        warnings=(*measured.invalid, *measured.warnings),
    )
