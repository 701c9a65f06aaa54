"""TensorRT engines in turns: one job on their board starts trtexec for each of them, again and again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from edgevit.artifacts import Artifact, Json
from edgevit.profiling import Comparison, Measurement, MeasurePlan, comparisons_of_turns, loop
from edgevit.profiling.telemetry import Telemetry
from edgevit.provenance import version_of
from edgevit.runtimes.base import random_images
from edgevit.targets.agent.turns import REQUEST, RESULT
from edgevit.targets.sampling import conditions_of_telemetry, doubts_of_telemetry, sampled_content, telemetry_in
from edgevit.targets.shipped import TURNS, TURNS_FILE
from edgevit.targets.trtexec.answers import Times, largest_starts, starts_in
from edgevit.targets.trtexec.commands import TimingFiles, timing_arguments
from edgevit.targets.trtexec_program import TrtexecProgram
from edgevit.targets.trtexec_session import RUN_S, TrtexecSession, input_of

# The GPU of a board lowers its clock while trtexec loads an engine. trtexec warms up for as long by default.
SHORTEST_WARMUP_S = 0.2


def race_engines(trtexec: TrtexecProgram, engines: Sequence[Artifact], plan: MeasurePlan) -> tuple[Comparison, ...]:
    """Measure engines in turns on their board. Each of `loop.STARTS` starts runs trtexec once for each of them.

    The times are those of the engines on the GPU, as in `TrtexecSession.measure`. Within a start the engines run one
    after the other, and they change places from start to start.

    Args:
        plan: `duration_s` and `min_runs` are per engine, divided among the starts. Each run warms up anew, for
            SHORTEST_WARMUP_S or longer.

    Raises:
        TargetError: an engine does not take the plan, or trtexec fails.
    """
    starts, own_plan, count = loop.STARTS, _plan_of_a_start(plan), len(engines)
    files = {TURNS: TURNS_FILE}
    with TemporaryDirectory() as name:
        folder = Path(name)
        request: Json = {
            "engines": [
                _turn(TrtexecSession(trtexec, engine), engine, str(index), own_plan, folder, files)
                for index, engine in enumerate(engines)
            ],
            "orders": [one_way_order(start, count) for start in range(starts)],
        }
        files[REQUEST] = folder / REQUEST
        files[REQUEST].write_text(json.dumps(request), encoding="utf-8")
        run = trtexec.run(
            (),
            files,
            folder / "fetched",
            RUN_S + count * starts * (own_plan.warmup_s + own_plan.duration_s),
            outputs={RESULT: largest_starts(own_plan, starts, count)},
            is_repeatable=False,
            started_by=(*trtexec.connection.python, "-B", TURNS),
            is_sampled=True,
        )
        times = starts_in(trtexec.content(run, RESULT), starts, count, own_plan.min_runs, trtexec.where)
        telemetry = telemetry_in(sampled_content(run.files), RESULT, math.inf, trtexec.total_rails)
    return _comparisons(times, plan, own_plan, trtexec, telemetry)


def one_way_order(start: int, engines: int) -> list[int]:
    """The order of the engines in a start, in which each runs once.

    Every second round of starts runs backwards. So each engine follows each other one equally often over two rounds, of
    as many starts as engines. With counts that do not divide half of the starts, this holds nearly.
    """
    order = loop.order_of_start(start, engines)
    return order[::-1] if start // engines % 2 else order


def _plan_of_a_start(plan: MeasurePlan) -> MeasurePlan:
    return replace(
        plan,
        warmup_s=max(plan.warmup_s / loop.STARTS, SHORTEST_WARMUP_S),
        duration_s=plan.duration_s / loop.STARTS,
        min_runs=math.ceil(plan.min_runs / loop.STARTS),
    )


def _turn(
    session: TrtexecSession, model: Artifact, name: str, plan: MeasurePlan, folder: Path, files: dict[str, Path]
) -> Json:
    """One engine for `turns.py`. Its files are added to `files`."""
    session.check_plan(plan)
    names = TimingFiles(f"{name}.engine", f"{name}.raw", f"{name}.json")
    files[names.engine] = model.file(model.model_file.name)
    files[names.input] = folder / names.input
    files[names.input].write_bytes(random_images(session.spec, plan.batch_size).tobytes())
    release = session.trtexec.release
    arguments = timing_arguments(release, input_of(session.spec), plan, session.is_open, names)
    return {"name": model.id, "arguments": list(arguments), "times": names.times}


def _comparisons(
    starts: Sequence[Sequence[Times]],
    plan: MeasurePlan,
    own_plan: MeasurePlan,
    trtexec: TrtexecProgram,
    telemetry: Telemetry | None,
) -> tuple[Comparison, ...]:
    turns = [[times.compute.tolist() for times in start] for start in starts]
    conditions = {
        **trtexec.conditions,
        **conditions_of_telemetry(telemetry),
        "device": "gpu",
        "order": "one after the other, rotated from start to start",
        "warmup_s_of_a_start": own_plan.warmup_s,
        "versions": {"tensorrt": trtexec.version, "edgevit": version_of("edgevit")},
    }
    doubts, (first, *others) = doubts_of_telemetry(telemetry), [_all_of(times) for times in zip(*starts, strict=True)]
    return tuple(
        replace(compared, a=_doubted(compared.a, first), b=_doubted(compared.b, other))
        for compared, other in zip(
            comparisons_of_turns(turns, plan, conditions, trtexec.label, telemetry, doubts), others, strict=True
        )
    )


def _doubted(measured: Measurement, times: Times) -> Measurement:
    return replace(measured, doubts=(*times.doubts, *measured.doubts))


def _all_of(runs: Sequence[Times]) -> Times:
    """The times of several runs as those of one."""
    return Times(
        compute=np.concatenate([run.compute for run in runs]),
        to_gpu=np.concatenate([run.to_gpu for run in runs]),
        to_host=np.concatenate([run.to_host for run in runs]),
        enqueue=np.concatenate([run.enqueue for run in runs]),
        seconds=sum(run.seconds for run in runs),
    )
