"""Which form of a model ships: the fastest one measured that is close enough to the float model, or the float model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgevit.artifacts import IOSpec, Json
from edgevit.errors import ParityError
from edgevit.graphs.files import write_onnx
from edgevit.profiling import Interval
from edgevit.progress import Progress
from edgevit.quantization.bias_correction import BiasCorrection
from edgevit.quantization.dialects import Placement
from edgevit.quantization.ptq import CalibratedModel
from edgevit.runtimes.base import HostSession, file_runtime, fixed_batch
from edgevit.runtimes.parity import check_quantized, embedding_sqnr_db
from edgevit.runtimes.sessions import file_session, in_turns, session_as_declared

AS_FAST = 0.97  # of the fastest one's speed: of these an INT8 one ships, which is smaller, and the closest to float


@dataclass(frozen=True)
class Form:
    """A file, the session options that go with it, and what became of its operators.

    Attributes:
        precision: of what is quantized, or where nothing is, what the float operators are computed in.
    """

    name: str
    file: Path
    session_options: Json
    precision: str
    quantized_ops: dict[str, int] = field(default_factory=dict)
    float_ops: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """A form, held against the float model.

    Attributes:
        noise: sqnr_db of the centred logits, and embedding_sqnr_db where the model gives an embedding.
        speedup: p50 of the float model over this one's, measured in turns; None where it was not timed.
        interval: 95%, of the speed-up.
        failed: why it may not ship.
    """

    form: Form
    noise: dict[str, float] = field(default_factory=dict)
    speedup: float | None = None
    interval: Interval | None = None
    failed: ParityError | None = None

    @property
    def is_faster(self) -> bool:
        """Than the float model, by more than chance explains."""
        return self.interval is not None and self.interval.low > 1

    def sentence(self) -> str:
        """What was found, for people."""
        if self.failed is not None:
            wanted = f", {self.failed.expected}" if self.failed.expected else ""
            return f"{self.form.name}: {self.failed.got} against float{wanted}"
        closeness = f"{self.noise['sqnr_db']:.1f} dB against float"
        if self.interval is None:
            return f"{self.form.name}: {closeness}"
        interval = f"{self.interval.low:.2f} to {self.interval.high:.2f}"
        return f"{self.form.name}: {self.speedup:.2f} times as fast ({interval}), {closeness}"

    def as_json(self) -> Json:
        timed = {} if self.interval is None else {"speedup": self.speedup, **vars(self.interval)}
        return {
            "form": self.form.name,
            **self.noise,
            **timed,
            **({"failed": str(self.failed.got)} if self.failed else {}),
        }


@dataclass(frozen=True)
class Judge:
    """Holds forms against the float model: their outputs, and their latencies.

    Attributes:
        reference: the model as it was handed in, for outputs.
        float_form: the same for the runtime that forms are written for, for latencies; it ships where none is faster.
        held_out: input batches to compare outputs on.
        floor_db: least SQNR.
        advice: what to do where a form is below it.
        threads: of the timed sessions.
        comparing_threads: of the others.
    """

    reference: HostSession
    float_form: Form
    held_out: Sequence[NDArray[np.float32]]
    floor_db: float
    advice: str
    threads: int
    comparing_threads: int

    def closeness(self, form: Form) -> dict[str, float]:
        """The SQNR of a form in dB. Raises ParityError where it is below the floor, or a value is not finite."""
        found = session_as_declared(form.file, self.reference.spec, form.session_options, self.comparing_threads)
        sessions = found, self.reference
        where = f"{form.name}, against float"
        noise = {"sqnr_db": check_quantized(*sessions, self.held_out, self.floor_db, where, self.advice)}
        if self.reference.spec.has_embedding:
            noise["embedding_sqnr_db"] = embedding_sqnr_db(*sessions, self.held_out)
        return noise

    def judged(self, form: Form) -> Judged:
        """The same, and how many times as fast as the float model it is."""
        try:
            noise = self.closeness(form)
        except ParityError as error:
            return Judged(form, failed=error)
        load_float, load_form = (partial(self._timed_session, one) for one in (self.float_form, form))
        timed = in_turns(load_float, load_form, fixed_batch(self.reference.spec) or 1)
        return Judged(form, noise, timed.ratio, timed.interval)

    def chosen(self, forms: Iterable[Form], progress: Progress) -> tuple[Judged, list[Judged]]:
        """What ships, and every form as it was judged, which is said in a line each."""
        found = []
        for form in forms:
            one = self.judged(form)
            progress.say(f"    {one.sentence()}")
            found.append(one)
        ships = best_of(self.float_form, found)
        if ships.form is self.float_form:
            self.closeness(ships.form)  # in this runtime it may be another than the one handed in
        return ships, found

    def _timed_session(self, form: Form) -> HostSession:
        return file_session(form.file, self.reference.spec, form.session_options, self.threads)


@dataclass(frozen=True)
class FormWriter:
    """Writes the forms of a model into `folder`, for the runtime whose ranges were calibrated.

    Attributes:
        model: as it was handed in.
        precision: of that.
        calibrated: the same, perhaps smoothed, with its ranges.
        correction: of biases, where they are to be corrected.
    """

    model: ModelProto
    precision: str
    calibrated: CalibratedModel
    spec: IOSpec
    folder: Path
    correction: BiasCorrection | None = None

    def forms(self) -> Iterator[Form]:
        """All that may ship in place of the float model: each placement of integers.

        Where OpenVINO can compute the rest in bfloat16, which is faster, so it does; the first placement is tried with
        float32 too, and bfloat16 without integers.
        """
        placements = self.calibrated.placements()
        if self._has_bfloat16():
            yield self.quantized_form(placements[0])
            yield self.float_form("bfloat16")
        for placement in placements:
            yield self.quantized_form(placement, "bfloat16" if self._has_bfloat16() else None)

    def float_form(self, precision: str | None = None) -> Form:
        """The model as it is, computed in its own precision or in another."""
        named = precision or self.precision
        options = _in_precision({"runtime": self._runtime} if self._runtime != "onnxruntime" else {}, precision)
        return Form(named, self._written(self.model, f"float {named}", options), options, named)

    def quantized_form(self, placement: Placement, precision: str | None = None) -> Form:
        """The model quantized at `placement`, the rest computed in its own precision or in another."""
        model = self.correction(self.calibrated, placement) if self.correction else self.calibrated
        made, narrow = model.quantized(placement), model.dialect.precision
        name = f"{narrow} {placement}" + (f", {precision}" if precision else "")
        options = _in_precision(made.session_options, precision)
        file = self._written(made.model, name, options)
        return Form(name, file, options, narrow, made.quantized_ops, made.float_ops)

    def _has_bfloat16(self) -> bool:
        if self._runtime != "openvino":
            return False
        from edgevit.runtimes.openvino.session import has_bfloat16

        return has_bfloat16()

    @property
    def _runtime(self) -> str:
        return file_runtime(self.calibrated.dialect.session_options)

    def _written(self, model: ModelProto, name: str, options: Json) -> Path:
        file = self.folder / f"{name}.onnx"
        write_onnx(model, file, self.spec, options)
        return file


def _in_precision(session_options: Json, precision: str | None) -> Json:
    """Session options by which what is float is computed in this precision; None leaves it to the runtime."""
    return {**session_options, "inference_precision": precision} if precision else session_options


def best_of(float_form: Form, found: Sequence[Judged]) -> Judged:
    """What ships: of the forms that were measured faster than float the fastest, or a smaller or closer one as fast.

    Raises ParityError where no form is close enough to the float model.
    """
    close = [one for one in found if one.failed is None]
    if not close and found[0].failed:
        raise found[0].failed
    faster = [one for one in close if one.is_faster]
    if not faster:
        return Judged(float_form)
    best = max(one.speedup or 0.0 for one in faster)
    as_fast = [one for one in faster if (one.speedup or 0.0) >= AS_FAST * best]
    return max(as_fast, key=lambda one: (one.form.precision == "int8", one.noise["sqnr_db"]))
