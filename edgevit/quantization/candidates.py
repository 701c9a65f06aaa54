"""The file that ships: the fastest candidate that is close enough to the float model, or the float model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgevit.artifacts import Artifact, IOSpec, Json
from edgevit.configs import QuantizedPrecision
from edgevit.configs.runtimes import ONNXRUNTIME, OPENVINO
from edgevit.errors import CheckFailed, ModelRefused, ParityError
from edgevit.graphs.files import artifact_from_onnx, write_onnx
from edgevit.model_file import ModelFile, OpenvinoOptions, RuntimeOptions, options_for
from edgevit.profiling import Interval
from edgevit.progress import Progress
from edgevit.quantization.bias_correction import BiasCorrection
from edgevit.quantization.dialects import Placement
from edgevit.quantization.gate import Advice, AnswerChange, Closeness, Validation, refusal
from edgevit.quantization.ptq import CalibratedModel
from edgevit.runtimes.base import HostSession, Session, SessionOptions, fixed_batch
from edgevit.runtimes.parity import embedding_sqnr_db, quantized_sqnr_db
from edgevit.runtimes.sessions import session_as_declared
from edgevit.targets import Target, compare_speed

Bfloat16 = Literal["bfloat16"]

AS_FAST = (
    0.97  # of the highest speed-up. Among candidates this fast INT8 ships first, which is smaller, then the closest
)


@dataclass(frozen=True)
class Candidate:
    """A file that may ship, with its runtime's options.

    Attributes:
        weight_precision: of the quantized weights; in a file without any, of all weights.
        quantized_ops, float_ops: the number of nodes by operator.
        kept_float: the number of layers that stay float, to stay close to the float model.
        floor_db: lowest SQNR at which the file may ship.
        sensitivity: the record of each layer's sensitivity, where it was measured in this precision.
    """

    name: str
    file: Path
    options: RuntimeOptions
    weight_precision: str
    quantized_ops: dict[str, int] = field(default_factory=dict)
    float_ops: dict[str, int] = field(default_factory=dict)
    kept_float: int = 0
    floor_db: float = 0.0
    sensitivity: Sequence[Json] = ()

    @cached_property
    def artifact(self) -> Artifact:
        """The file as an artifact. It is read and hashed once."""
        return artifact_from_onnx(self.file)

    @property
    def is_quantized(self) -> bool:
        """Whether its weights have 8 bits or fewer."""
        return self.weight_precision in get_args(QuantizedPrecision)

    @property
    def model_file(self) -> ModelFile:
        """The record of the file as it ships."""
        return ModelFile(weight_precision=self.weight_precision, options=self.options)


@dataclass(frozen=True)
class Trial:
    """A candidate with its closeness to the float model and its latency.

    Attributes:
        closeness: sqnr_db of the centered logits; embedding_sqnr_db too if the model gives an embedding and passes.
        speedup: p50 of the baseline over p50 of the candidate, measured in turns; None if it was not timed.
        interval: of the speed-up, 95%.
        baseline: name of the candidate that this one was timed with; None if it was not timed.
        failure: why the candidate may not ship; None if it may.
        refused_by: the options of the gates that refuse the candidate.
        is_replayed: whether a stand-in for a board gave the times.
        change: of answers on the validation images; None if they were not compared.
    """

    candidate: Candidate
    closeness: dict[str, float] = field(default_factory=dict)
    speedup: float | None = None
    interval: Interval | None = None
    baseline: str | None = None
    failure: CheckFailed | ModelRefused | None = None
    is_replayed: bool = False
    change: AnswerChange | None = None
    refused_by: Sequence[str] = ()

    @property
    def is_faster(self) -> bool:
        """Whether the candidate was measured to be faster than the baseline, by more than chance explains.

        Replayed times say nothing about the candidate.
        """
        return self.interval is not None and self.interval.low > 1 and not self.is_replayed

    def sentence(self) -> str:
        """The result, for people."""
        if self.failure is not None:
            return f"{self.candidate.name}: {_why(self.failure)}"
        change = f", {self.change.sentence()}" if self.change else ""
        closeness = f"{self.closeness['sqnr_db']:.1f} dB against float{change}"
        if self.interval is None:
            return f"{self.candidate.name}: {closeness}"
        interval = f"{self.interval.low:.2f} to {self.interval.high:.2f}"
        replayed = ", replayed" if self.is_replayed else ""
        return f"{self.candidate.name}: {self.speedup:.2f} times as fast ({interval}{replayed}), {closeness}"

    @property
    def compared(self) -> Json:
        """The record of the comparison with the float model."""
        return {**self.closeness, **(self.change.as_json() if self.change else {})}

    def passed(self) -> Trial:
        """This trial. Raises its failure if there is one."""
        if self.failure is not None:
            raise self.failure
        return self

    def as_json(self) -> Json:
        """The record of the trial in the stage's metrics."""
        timed = (
            {} if self.interval is None else {"speedup": self.speedup, **vars(self.interval), "baseline": self.baseline}
        )
        return {
            "form": self.candidate.name,
            **self.compared,
            **timed,
            **({"label": "replayed"} if self.is_replayed else {}),
            **({"failed": _why(self.failure)} if self.failure else {}),
            **({"refused_by": list(self.refused_by)} if self.refused_by else {}),
        }


def _why(failure: CheckFailed | ModelRefused) -> str:
    """The reason of a failure in a few words."""
    if isinstance(failure, ParityError):
        return f"refused: {failure.got}{f', expected {failure.expected}' if failure.expected else ''}"
    return f"{failure.what}{f': {failure.got}' if failure.got else ''}"


def _file_of(candidate: Candidate) -> Artifact:
    return candidate.artifact


@dataclass(frozen=True)
class TrialRunner:
    """Compares candidates: their outputs with those of the float model, and their latencies with that of a baseline.

    Attributes:
        reference: the input model of the stage, for outputs.
        held_out: input batches for the comparison of outputs.
        advice: gives the next step for a candidate that gates refuse.
        target: where the candidates are timed.
        gate_on_target: compare outputs there, too, since a processor may round otherwise.
        validation: images on which answers are compared, once for each form, where it will run; None for no images.
        threads: of the timed sessions.
        comparing_threads: of the sessions whose outputs are compared.
        deployed: the model that runs on the target: the candidate's file, or the engine that is built from it.
        most_bytes: the largest size of the deployed model; None for any size.
    """

    reference: HostSession
    held_out: Sequence[NDArray[np.float32]]
    advice: Advice
    target: Target
    threads: int
    comparing_threads: int
    gate_on_target: bool = False
    validation: Validation | None = None
    deployed: Callable[[Candidate], Artifact] = _file_of
    most_bytes: float | None = None

    def compared(self, candidate: Candidate) -> Trial:
        """The comparison of a candidate with the float model. The trial's failure says why a gate refuses it."""
        try:
            session = session_as_declared(
                candidate.file, self.reference.spec, candidate.options, self.comparing_threads
            )
            validation = None if self.gate_on_target else self.validation
            change = partial(validation.change_of_file, candidate.file) if validation else None
            here = self._compared_by(session, candidate, f"{candidate.name}, against float", change)
            if here.failure is not None or not self.gate_on_target:
                return here
            with self.target.open(self.deployed(candidate), SessionOptions(threads=None)) as there:
                where = f"{candidate.name} on the target, against float"
                return self._compared_by(there, candidate, where, self.validation.change if self.validation else None)
        except (CheckFailed, ModelRefused) as error:
            return Trial(candidate, failure=error)

    def _compared_by(
        self, session: Session, candidate: Candidate, where: str, change: Callable[[Session], AnswerChange] | None
    ) -> Trial:
        db = quantized_sqnr_db(session, self.reference, self.held_out, where)
        closeness = Closeness(db, candidate.floor_db, change(session) if change else None)
        failure, measured = refusal(where, closeness, self.advice), {"sqnr_db": db}
        if failure is None and self.reference.spec.has_embedding:
            measured["embedding_sqnr_db"] = embedding_sqnr_db(session, self.reference, self.held_out)
        return Trial(candidate, measured, failure=failure, change=closeness.change, refused_by=closeness.refused_by)

    def trial(self, candidate: Candidate, baseline: Candidate | None) -> Trial:
        """The comparison with float and, if it is passed, the speed-up over the baseline, where there is one.

        Raises TargetError if the two cannot be timed: this is no fault of the candidate.
        """
        trial = self.compared(candidate)
        if trial.failure is not None or baseline is None:
            return trial
        models, batch_size = (self.deployed(baseline), self.deployed(candidate)), fixed_batch(self.reference.spec) or 1
        timed = compare_speed(self.target, *models, self.threads, batch_size)
        return replace(
            trial,
            speedup=timed.ratio,
            interval=timed.interval,
            baseline=baseline.name,
            is_replayed=timed.is_replayed,
        )

    def best_of(
        self, candidates: Iterable[Candidate], progress: Progress, baseline: Trial | None = None
    ) -> tuple[Trial, list[Trial]]:
        """The trial of the candidate that ships, and the trials of all candidates. Each trial is reported in a line.

        Args:
            baseline: the model that all candidates are timed with. It ships if none is faster, unless it is too large.
                By default, the baseline is the first candidate that is close enough.
        """
        trials = []
        for candidate in candidates:
            trial = self.trial(candidate, None if baseline is None else baseline.candidate)
            progress.say(f"    {trial.sentence()}")
            trials.append(trial)
            if baseline is None and trial.failure is None:
                baseline = trial
        best = best_trial(baseline, trials, self._fits)
        if not self._fits(best.candidate):
            progress.say(f"    no form is within size_mib: {best.candidate.name} ships")
        elif best is not (without_limit := best_trial(baseline, trials)):
            progress.say(f"    {best.candidate.name} ships: {without_limit.candidate.name} exceeds size_mib")
        if any(trial.is_replayed for trial in trials):
            progress.say(f"    a stand-in has replayed these times: they decide nothing. {best.candidate.name} ships")
        return best if best.closeness else self._checked(best), trials

    def _fits(self, candidate: Candidate) -> bool:
        if self.most_bytes is None:
            return True
        model = self.deployed(candidate)
        return model.file(model.model_file.name).stat().st_size <= self.most_bytes

    def _checked(self, baseline: Trial) -> Trial:
        """A float baseline that ships, with its change of answers if it runs in another runtime than the reference."""
        is_reference = baseline.candidate.options.runtime == ONNXRUNTIME.name
        runner = replace(self, validation=None) if is_reference else self
        return replace(baseline, change=runner.compared(baseline.candidate).passed().change)


@dataclass(frozen=True)
class CandidateWriter:
    """Writes the candidates of a model into `folder`, for the runtime whose ranges were calibrated.

    Attributes:
        model: the input model of the stage.
        weight_precision: of the input model.
        calibrated: the input model with its ranges, perhaps smoothed.
        floor_db: lowest SQNR of a candidate that may ship.
        sensitivity: the record of each layer's sensitivity in the precision of `calibrated`.
        correction: of biases; None if they stay as they are.
    """

    model: ModelProto
    weight_precision: str
    calibrated: CalibratedModel
    spec: IOSpec
    folder: Path
    floor_db: float
    sensitivity: Sequence[Json] = ()
    correction: BiasCorrection | None = None

    def candidates(self) -> Iterator[Candidate]:
        """The candidates to try against the float model: one for each placement of integers.

        Where OpenVINO has bfloat16, which is faster, the float operators are computed in it. Two more candidates are
        tried there: the first placement with float32, and bfloat16 without integers.
        """
        placements = self.calibrated.placements()
        if self._has_bfloat16():
            yield self.quantized_candidate(placements[0])
            yield self.float_candidate("bfloat16")
        for placement in placements:
            yield self.quantized_candidate(placement, "bfloat16" if self._has_bfloat16() else None)

    def float_candidate(self, precision: Bfloat16 | None = None) -> Candidate:
        """The input model, computed in `precision`; None for its own precision. For TensorRT, the model in float16."""
        if self.calibrated.dialect.floats == "float16":
            options = options_for(self._runtime)
            file = self._written(self.calibrated.in_float16(), "float16", options)
            return self._with_floor(Candidate("float16", file, options, "float16"))
        label = precision or self.weight_precision
        options = _in_precision(options_for(self._runtime), precision)
        file = self._written(self.model, f"float {label}", options)
        return self._with_floor(Candidate(label, file, options, self.weight_precision))

    def quantized_candidate(self, placement: Placement, precision: Bfloat16 | None = None) -> Candidate:
        """The model quantized at `placement`, with float operators computed in `precision`; None for their own."""
        model = self.correction(self.calibrated, placement) if self.correction else self.calibrated
        quantized, quantized_precision = model.quantized(placement), model.dialect.precision
        name = f"{quantized_precision} {placement}" + (f", {precision}" if precision else "")
        options = _in_precision(quantized.options, precision)
        file = self._written(quantized.model, name, options)
        counts = (quantized.quantized_ops, quantized.float_ops, len(model.kept_float))
        return self._with_floor(Candidate(name, file, options, quantized_precision, *counts))

    def _with_floor(self, candidate: Candidate) -> Candidate:
        return replace(candidate, floor_db=self.floor_db, sensitivity=self.sensitivity)

    def _has_bfloat16(self) -> bool:
        if self._runtime != OPENVINO.name:
            return False
        from edgevit.runtimes.openvino.session import has_bfloat16

        return has_bfloat16()

    @property
    def _runtime(self) -> str:
        return self.calibrated.dialect.options.runtime

    def _written(self, model: ModelProto, name: str, options: RuntimeOptions) -> Path:
        file = self.folder / f"{name}.onnx"
        write_onnx(model, file, self.spec, options)
        return file


def _in_precision(options: RuntimeOptions, precision: Bfloat16 | None) -> RuntimeOptions:
    """Options that compute float operators in `precision`, in OpenVINO; with None the runtime decides."""
    return OpenvinoOptions(inference_precision=precision) if precision else options


def _any_size(candidate: Candidate) -> bool:
    return True


def best_trial(baseline: Trial | None, trials: Sequence[Trial], fits: Callable[[Candidate], bool] = _any_size) -> Trial:
    """The trial of the candidate that ships: the fastest that is faster than the baseline, or one as fast and smaller.

    Among candidates within 3% of the highest speed-up, those in 8 bits or fewer are preferred, then the highest SQNR.
    If none is faster, or the times are replayed, the baseline ships. If the baseline is too large, the best one that is
    not ships, whatever its speed.

    Args:
        fits: whether a candidate is small enough. Where neither the baseline nor a candidate is, sizes decide nothing.

    Raises the failure of the first candidate if every candidate has failed.
    """
    close = [trial for trial in trials if trial.failure is None]
    if not close and trials[0].failure:
        raise trials[0].failure
    small = [trial for trial in close if fits(trial.candidate)]
    is_small = baseline is not None and fits(baseline.candidate)
    if small and not is_small:
        eligible = [trial for trial in small if not trial.is_replayed]
    else:
        eligible = [trial for trial in (small if is_small else close) if trial.is_faster]
    if not eligible:
        assert baseline is not None
        return baseline
    highest = max(trial.speedup or 0.0 for trial in eligible)
    as_fast = [trial for trial in eligible if (trial.speedup or 0.0) >= AS_FAST * highest]
    return max(as_fast, key=lambda trial: (trial.candidate.is_quantized, trial.closeness["sqnr_db"]))
