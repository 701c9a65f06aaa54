"""Timings of untrained students, and the timings that are kept."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgevit.actions.student_choice import deployed_form
from edgevit.configs import Export, Profile
from edgevit.context import Context
from edgevit.errors import TargetError
from edgevit.models.cost import cost_of
from edgevit.models.creation import create_model
from edgevit.profiling import Measurement, MeasurePlan
from edgevit.profiling.telemetry import Telemetry, Window
from edgevit.runtimes.onnxruntime.session import OnnxruntimeSession
from edgevit.selection import kept, timing
from edgevit.selection.records import DeployedForm, Student
from tests.known_machine import timing as timing_of

STUDENT = Student(model="test_vit", image_size=32, num_classes=3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "timings"


def test_an_untrained_student_is_timed_in_its_deployed_form(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    for name in ("TRIAL", "FINAL"):
        monkeypatch.setattr(timing, name, MeasurePlan(warmup_s=0.01, duration_s=0.05, min_runs=10))
    measured = kept.timed(STUDENT, deployed_form("local-cpu"), Context())
    assert 0 < measured.p50_low_ms <= measured.p50_ms <= measured.p50_high_ms
    built = create_model("test_vit", 3, 32)
    assert {"params": measured.params, "macs": measured.macs} == cost_of(built.module, built.preprocess)
    assert measured.form == "float32" or measured.form.startswith("int8 ")
    monkeypatch.setattr(timing, "time_student", None)  # not called again
    assert kept.timed(STUDENT, deployed_form("local-cpu"), Context()) == measured
    assert len(list(cache.iterdir())) == 1


def test_the_form_that_is_timed_is_within_the_size_where_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRIAL", "FINAL"):
        monkeypatch.setattr(timing, name, MeasurePlan(warmup_s=0.01, duration_s=0.05, min_runs=10))
    slow_int8 = {"float32": 1.0}
    monkeypatch.setattr(timing, "_trial_ms", lambda candidate, target, profile: slow_int8.get(candidate.name, 2.0))
    in_float = kept.timed(STUDENT, deployed_form("local-cpu"), Context())
    assert in_float.form == "float32"
    float_mib = in_float.size_bytes / 2**20
    within = kept.timed(STUDENT, deployed_form("local-cpu", 0.9 * float_mib), Context())
    assert within.form.startswith("int8 ")
    assert within.size_bytes <= 0.9 * in_float.size_bytes
    assert kept.timed(STUDENT, deployed_form("local-cpu", 1e-4), Context()).form == "float32", "none is so small"


def test_a_timing_is_kept_for_its_student_and_form(cache: Path) -> None:
    form = deployed_form("local-cpu")
    kept.keep(STUDENT, form, timing_of(3), Context())
    assert kept.kept_timing(STUDENT, form, Context()) == timing_of(3)
    assert kept.kept_timing(STUDENT.model_copy(update={"image_size": 64}), form, Context()) is None
    two_threads = form.profile.model_copy(update={"threads": 2})
    assert (
        kept.kept_timing(STUDENT, DeployedForm(two_threads, form.export, form.quantize, form.compile), Context())
        is None
    )
    renamed = form.profile.model_copy(update={"id": "other", "duration_s": 9.0})
    assert kept.kept_timing(
        STUDENT, DeployedForm(renamed, form.export, form.quantize, form.compile), Context()
    ) == timing_of(3)


def test_a_damaged_or_old_timing_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = deployed_form("local-cpu")
    kept.keep(STUDENT, form, timing_of(3), Context())
    (file,) = cache.iterdir()
    month = time.time() - kept.VALID_S - 60
    os.utime(file, (month, month))
    assert kept.kept_timing(STUDENT, form, Context()) is None
    kept.keep(STUDENT, form, timing_of(3).model_copy(update={"warnings": ("the runs scatter",)}), Context())
    assert kept.kept_timing(STUDENT, form, Context()) is not None
    monkeypatch.setattr(timing, "time_student", lambda student, form, context: timing_of(2))
    assert kept.timed(STUDENT, form, Context()) != timing_of(2)
    assert kept.timed(STUDENT, form, Context(), disturbed_again=True) == timing_of(2)
    kept.keep(STUDENT, form, timing_of(3).model_copy(update={"warnings": ("the runs scatter",)}), Context())
    hours = time.time() - kept.DISTURBED_VALID_S - 60
    os.utime(file, (hours, hours))
    assert kept.kept_timing(STUDENT, form, Context()) is None
    for text in ("", "{", '{"p50_ms": "fast"}', "x" * (kept.LONGEST_BYTES + 1)):
        file.write_text(text)
        assert kept.kept_timing(STUDENT, form, Context()) is None


def test_timings_are_bounded_and_need_no_folder(monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(kept, "MOST_KEPT", 3)
    form = deployed_form("local-cpu")
    for size in range(32, 32 + 5):
        kept.keep(STUDENT.model_copy(update={"image_size": size}), form, timing_of(size), Context())
    assert len(list(cache.iterdir())) == 3
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "file"))
    kept.keep(STUDENT, form, timing_of(3), Context())
    assert kept.kept_timing(STUDENT, form, Context()) is None


def test_replayed_times_choose_no_student(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times of this machine are taken for replayed ones."""
    real = OnnxruntimeSession.measure
    monkeypatch.setattr(timing, "TRIAL", replace(timing.TRIAL, warmup_s=0.0, duration_s=0.01))
    monkeypatch.setattr(
        OnnxruntimeSession, "measure", lambda session, plan: replace(real(session, plan), label="replayed")
    )
    form = DeployedForm(
        Profile(stage="profile", id="latency", model="onnx"), Export(stage="export", id="onnx", model="student")
    )
    with pytest.raises(TargetError, match="they decide nothing"):
        timing.time_student(STUDENT, form, Context())


@pytest.mark.parametrize("phase", ["TRIAL", "FINAL"])
def test_invalid_times_choose_no_form_and_doubt_the_student(monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    """The machine is said to throttle in every trial, or in every final measurement."""
    real, throttled = OnnxruntimeSession.measure, Telemetry((), Window(0, 1), 1.0, None, {"heat": 2}, 0.0)
    monkeypatch.setattr(timing, "TRIAL", MeasurePlan(0.0, 0.01, min_runs=10))
    monkeypatch.setattr(timing, "FINAL", MeasurePlan(0.0, 0.01, min_runs=30))
    runs, takes = getattr(timing, phase).min_runs, list[MeasurePlan]()

    def measure(session: OnnxruntimeSession, plan: MeasurePlan) -> Measurement:
        takes.append(plan)
        return replace(real(session, plan), telemetry=throttled if plan.min_runs == runs else None)

    monkeypatch.setattr(OnnxruntimeSession, "measure", measure)
    form = DeployedForm(
        Profile(stage="profile", id="latency", model="onnx"), Export(stage="export", id="onnx", model="student")
    )
    if phase == "TRIAL":
        with pytest.raises(TargetError, match="the timing is invalid"):
            timing.time_student(STUDENT, form, Context())
        return
    timed = timing.time_student(STUDENT, form, Context())
    final = [plan for plan in takes if plan.min_runs == runs]
    assert len(final) == timing.MOST_TAKES
    assert all(plan.is_watched for plan in final)
    assert any("heat" in warning for warning in timed.warnings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "export",
    [
        Export(stage="export", id="onnx", model="student", normalize=True),
        Export(stage="export", id="onnx", model="student", embedding=True),
        Export(stage="export", id="onnx", model="student", dynamic_batch=False),
        None,
    ],
)
def test_other_forms_are_timed_too(export: Export | None) -> None:
    form = DeployedForm(Profile(stage="profile", id="latency", model="onnx"), export)
    measured = timing.time_student(STUDENT, form, Context())
    assert measured.form == "float32"
    assert measured.float_p50_ms is None
