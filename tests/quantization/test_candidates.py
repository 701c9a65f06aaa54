"""The file that ships: the fastest candidate that is close enough, or the float model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.artifacts import Artifact
from edgevit.errors import ModelRefused, ParityError, TargetError, listed
from edgevit.graphs.files import read_onnx
from edgevit.model_file import OnnxruntimeOptions
from edgevit.profiling import Comparison, Interval, MeasurePlan, loop
from edgevit.quantization.candidates import AS_FAST, Candidate, Trial, TrialRunner, best_trial
from edgevit.runtimes.base import Session, SessionOptions, random_images
from edgevit.runtimes.onnxruntime.session import OnnxruntimeSession
from edgevit.targets import base as targets
from edgevit.targets.local import LocalCpu
from tests.said import Said
from tests.small_models import float_onnx, int8_onnx, workbench

FLOAT = Trial(Candidate("float32", Path("float.onnx"), OnnxruntimeOptions(), "float32"))


def trial(name: str, speedup: float, db: float, precision: str = "int8", width: float = 0.0) -> Trial:
    candidate = Candidate(name, Path(f"{name}.onnx"), OnnxruntimeOptions(), precision)
    return Trial(candidate, {"sqnr_db": db}, speedup, Interval(speedup - width, speedup + width))


def failed(name: str) -> Trial:
    error = ParityError("too far", got="3 dB", expected="10 dB")
    return Trial(Candidate(name, Path(name), OnnxruntimeOptions(), "int8"), failure=error)


def test_the_fastest_ships() -> None:
    assert best_trial(FLOAT, [trial("a", 1.5, 40), trial("b", 2.0, 20), trial("c", 0.9, 50)]).candidate.name == "b"


def test_of_those_as_fast_int8_ships_and_of_these_the_closest() -> None:
    trials = [trial("a", 2.0, 20), trial("b", 1.99, 30), trial("bfloat16", 2.01, 45, "bfloat16")]
    assert best_trial(FLOAT, trials).candidate.name == "b"
    trials[-1] = trial("bfloat16", 2.3, 45, "bfloat16")
    assert best_trial(FLOAT, trials).candidate.name == "bfloat16"


def test_float_ships_where_nothing_is_faster_beyond_chance() -> None:
    assert best_trial(FLOAT, [trial("a", 1.02, 40, width=0.03), trial("b", 0.8, 40)]).candidate is FLOAT.candidate


def test_replayed_times_decide_nothing() -> None:
    replayed = [replace(trial("a", 2.0, 40), is_replayed=True), replace(trial("b", 3.0, 40), is_replayed=True)]
    assert best_trial(FLOAT, replayed).candidate is FLOAT.candidate
    assert best_trial(FLOAT, [replace(one, is_replayed=False) for one in replayed]).candidate.name == "b"


def small(*names: str) -> Callable[[Candidate], bool]:
    return lambda candidate: candidate.name in names


def test_if_float_is_too_large_the_fastest_form_that_is_not_ships_though_it_is_slower() -> None:
    trials = [trial("a", 0.7, 40), trial("b", 0.9, 20), trial("large", 0.95, 50), trial("c", 0.88, 30)]
    assert best_trial(FLOAT, trials).candidate is FLOAT.candidate
    assert best_trial(FLOAT, trials, small("a", "b", "c")).candidate.name == "c"
    assert best_trial(FLOAT, trials, small("a", FLOAT.candidate.name)).candidate is FLOAT.candidate
    assert best_trial(FLOAT, [*trials, failed("tiny")], small("tiny")).candidate is FLOAT.candidate, "it is refused"


def test_no_form_that_is_too_large_ships_beside_one_that_is_not() -> None:
    trials = [trial("large", 3.0, 40), trial("a", 1.5, 20)]
    assert best_trial(FLOAT, trials, small("a", FLOAT.candidate.name)).candidate.name == "a"
    assert best_trial(FLOAT, trials, small(FLOAT.candidate.name)).candidate is FLOAT.candidate
    assert best_trial(FLOAT, trials, small()).candidate.name == "large", "no size decides where none is small enough"


def test_of_forms_whose_times_are_replayed_none_ships_for_its_size() -> None:
    replayed = [replace(trial("a", 3.0, 20), is_replayed=True), replace(trial("b", 2.0, 40), is_replayed=True)]
    assert best_trial(FLOAT, replayed, small("a", "b")).candidate is FLOAT.candidate


def test_of_engines_the_first_form_is_the_baseline_and_may_be_too_large() -> None:
    float16 = Trial(Candidate("float16", Path("float16.onnx"), OnnxruntimeOptions(), "float16"), {"sqnr_db": 60.0})
    trials = [float16, trial("a", 0.9, 20)]
    assert best_trial(float16, trials).candidate.name == "float16"
    assert best_trial(float16, trials, small("a")).candidate.name == "a"


class SlowTarget(LocalCpu):
    """Every form is measured to be half as fast as the float model."""

    def race(self, models: Sequence[Artifact], options: SessionOptions, plan: MeasurePlan) -> tuple[Comparison, ...]:
        raced = super().race(models, options, plan)
        return tuple(replace(compared, ratio=0.5, interval=Interval(0.45, 0.55)) for compared in raced)


@pytest.mark.parametrize(("share", "ships"), [(None, "float32"), (0.5, "int8 all"), (0.01, "float32"), (2, "float32")])
def test_the_size_of_the_file_decides_where_the_limit_lies_between_float_and_int8(
    share: float | None, ships: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "CHOICE", replace(targets.CHOICE, duration_s=0.02))
    monkeypatch.setattr(loop, "STARTS", 6)
    floating, quantized = (
        Candidate(name, made.file("model.onnx"), made.model_file.options, precision)
        for name, made, precision in (("float32", float_onnx(), "float32"), ("int8 all", int8_onnx(), "int8"))
    )
    reference = OnnxruntimeSession(floating.file, float_onnx().io, floating.options, 1)
    images = [random_images(float_onnx().io, 2)]
    most_bytes = None if share is None else share * floating.file.stat().st_size
    runner = TrialRunner(reference, images, listed, SlowTarget(), 1, 1, most_bytes=most_bytes)
    said = Said()
    best, _ = runner.best_of([quantized], said, Trial(floating))
    assert best.candidate.name == ships
    assert any("exceeds size_mib" in line for line in said.lines) == (ships == "int8 all")
    assert any("no form is within size_mib" in line for line in said.lines) == (share == 0.01)


class BusyTarget(LocalCpu):
    """A target on which no timing succeeds, and whose runtime refuses one form."""

    def race(self, models: Sequence[Artifact], options: SessionOptions, plan: MeasurePlan) -> tuple[Comparison, ...]:
        raise TargetError("the system stopped the program")

    @contextmanager
    def open(self, model: Artifact, options: SessionOptions) -> Iterator[Session]:
        if model.id == "refused":
            raise ModelRefused("the runtime does not take the model")
        with super().open(model, options) as session:
            yield session


def test_a_failed_timing_is_no_failure_of_a_candidate(tmp_path: Path) -> None:
    for name in ("good", "refused"):
        shutil.copyfile(float_onnx().file("model.onnx"), tmp_path / f"{name}.onnx")
    good, refused = (
        Candidate(name, tmp_path / f"{name}.onnx", OnnxruntimeOptions(), "float32") for name in ("good", "refused")
    )
    reference = OnnxruntimeSession(good.file, float_onnx().io, good.options, 1)
    images = [random_images(float_onnx().io, 2)]
    runner = TrialRunner(reference, images, listed, BusyTarget(), 1, 1, gate_on_target=True)
    assert isinstance(runner.trial(refused, good).failure, ModelRefused)
    with pytest.raises(TargetError, match="the system stopped the program"):
        runner.trial(good, good)


def test_each_candidate_has_a_floor_of_its_own() -> None:
    file = int8_onnx().file("model.onnx")
    reference = OnnxruntimeSession(float_onnx().file("model.onnx"), float_onnx().io, OnnxruntimeOptions(), 1)
    images = [random_images(float_onnx().io, 2)]
    runner = TrialRunner(reference, images, listed, LocalCpu(), 1, 1)
    low = Candidate("low", file, int8_onnx().model_file.options, "int8")
    assert runner.trial(low, None).failure is None
    assert isinstance(runner.trial(replace(low, floor_db=90.0), None).failure, ParityError)


def test_what_is_too_far_from_float_never_ships_and_where_all_are_it_is_an_error() -> None:
    assert best_trial(FLOAT, [failed("a"), trial("b", 1.2, 20)]).candidate.name == "b"
    assert best_trial(FLOAT, [failed("a"), trial("b", 0.9, 20)]).candidate is FLOAT.candidate
    with pytest.raises(ParityError, match="too far"):
        best_trial(FLOAT, [failed("a"), failed("b")])


@given(st.lists(st.tuples(st.floats(0.1, 5), st.floats(10, 60), st.sampled_from(["int8", "bfloat16"])), min_size=1))
def test_nothing_slower_than_float_ships_and_nothing_much_slower_than_the_best(
    figures: list[tuple[float, float, str]],
) -> None:
    best = best_trial(FLOAT, [trial(str(index), *values) for index, values in enumerate(figures)])
    fastest = max(speedup for speedup, _, _ in figures)
    if best is FLOAT:
        assert fastest <= 1
    else:
        assert best.speedup is not None
        assert best.speedup > 1
        assert best.speedup >= AS_FAST * fastest


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_model_is_measured_and_the_answer_follows_from_the_figures(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "CHOICE", replace(targets.CHOICE, duration_s=0.05))
    monkeypatch.setattr(loop, "STARTS", 6)
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="edgevit[openvino] is not installed")
    made = workbench().run(
        "quantize", f"fastest-{runtime}", model=float_onnx(True).id, calibration="digits.pool", calibration_images=32,
        placement="fastest", runtime=runtime,
    )  # fmt: skip
    forms = made.metrics["forms"]
    assert {"int8 all", "int8 products"} <= {form["form"].removesuffix(", bfloat16") for form in forms}
    faster = [form for form in forms if form["low"] > 1]
    assert all(form["sqnr_db"] > 10 and form["low"] <= form["speedup"] <= form["high"] for form in forms)
    assert (made.metrics["precision"] == "float32") == (not faster)
    assert made.metrics["form"] in ("float32", *(form["form"] for form in faster))
    assert made.metrics["params"] == float_onnx(True).metrics["params"]


def test_where_float_ships_it_is_the_float_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threshold is raised to one that nothing reaches; all else is real."""
    monkeypatch.setattr(targets, "CHOICE", replace(targets.CHOICE, duration_s=0.05))
    monkeypatch.setattr(loop, "STARTS", 6)
    monkeypatch.setattr(Trial, "is_faster", property(lambda self: self.speedup > 1e6))
    made = workbench().run(
        "quantize", "held", model=float_onnx().id, calibration="digits.pool", calibration_images=16,
        placement="fastest",
    )  # fmt: skip
    assert made.metrics["precision"] == "float32"
    assert made.metrics["quantized_ops"] == {}
    images = np.zeros((2, 3, made.io.preprocess.height, made.io.preprocess.width), np.float32)
    outputs = [
        OnnxruntimeSession(one.file("model.onnx"), one.io, one.model_file.options, 1).infer({"image": images})
        for one in (made, float_onnx())
    ]
    np.testing.assert_array_equal(outputs[0]["logits"], outputs[1]["logits"])
    assert len(read_onnx(made.file("model.onnx")).graph.node) == len(
        read_onnx(float_onnx().file("model.onnx")).graph.node
    )
