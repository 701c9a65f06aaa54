"""INT8 weights of 8 and of 7 bits on this CPU: accuracy and latency in each runtime.

    python -m benchmarks.weight_range CIFAR WEIGHTS [--seeds 3] [--rounds 10] [--runs runs]

CIFAR and WEIGHTS are as for quantization_accuracy.py. Each model of models/ is quantized for ONNX Runtime and OpenVINO
with all layers as integers, calibrated by minmax on 256 training images that the seed draws; no layer is kept float.
`8` adds products as the runtime does by itself. Where they overflow, `8, exact sums` adds them as edgevit's sessions of
ONNX Runtime do. Accuracy is that of the files on the 10,000 test images. Latencies are p50 of one thread; float and all
forms take turns. The result's name says whether products of 8 bits overflow on the CPU, as they do without VNNI.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import interleaved_p50_ms, publish, spread
from benchmarks.quantized_files import correct_images
from benchmarks.reference_students import deployed, lessons, reference_students
from edgevit import pipeline
from edgevit.artifacts import Artifact, Json
from edgevit.cli.output import terminal_context
from edgevit.configs import Evaluate, Stage
from edgevit.context import usable_cpus
from edgevit.data import Dataset, dataset_artifacts, open_dataset
from edgevit.evaluation.paired import paired_drop
from edgevit.model_file import OnnxruntimeOptions
from edgevit.profiling import MeasurePlan
from edgevit.quantization.overflow import overflows_here
from edgevit.recipe import Recipe
from edgevit.runtimes.base import SessionOptions, for_runtime
from edgevit.runtimes.sessions import open_session

RUNTIMES = ("onnxruntime", "openvino")
BITS = {8: False, 7: True}  # whether the range is reduced
EXACT = "8, exact sums"
TURN_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    taught = lessons(asked.cifar, asked.weights)
    students = {student.name: student.stage for student in reference_students()}
    stages: list[Stage] = list(students.values())
    for student in students:
        for runtime in RUNTIMES:
            for bits, reduce_range in BITS.items():
                for seed in range(asked.seeds):
                    name = f"{student}/{runtime}/{bits}/{seed}"
                    made_by = deployed(name, student, seed, runtime=runtime, reduce_range=reduce_range)
                    stages += [stage for stage in made_by if not isinstance(stage, Evaluate)]
    recipe = Recipe.model_validate({"name": "weight-range", "datasets": taught.datasets, "stages": stages})
    made = pipeline.run(recipe, Path.cwd(), asked.runs, terminal_context())
    test = open_dataset(dataset_artifacts(taught.datasets, Path.cwd(), ["cifar.test"])["cifar.test"])
    overflows = overflows_here("onnxruntime")
    publish(
        f"weight_range_{'without' if overflows else 'with'}_vnni",
        {
            "models": {
                student: {runtime: _result(made, f"{student}/{runtime}", test, asked) for runtime in RUNTIMES}
                for student in students
            },
        },
    )


def _result(made: Mapping[str, Artifact], name: str, test: Dataset, asked: argparse.Namespace) -> Json:
    in_float = for_runtime(made[f"{name}/8/0/float"], name.rpartition("/")[2])
    seeds = [_forms(made, name, seed) for seed in range(asked.seeds)]
    before = _correct(in_float, test)
    rows = {form: [_row(before, _correct(forms[form], test)) for forms in seeds] for form in seeds[0]}
    p50_ms = _p50_ms({"float": in_float, **seeds[0]}, asked.rounds)
    return {
        "float_top1": float(before.mean()),
        "forms": {
            form: {
                "mean_lost": statistics.mean(row["lost"] for row in measured),
                "seeds": measured,
                "speedup": spread([slow / fast for slow, fast in zip(p50_ms["float"], p50_ms[form], strict=True)]),
            }
            for form, measured in rows.items()
        },
        "p50_ms": {form: spread(times) for form, times in p50_ms.items()},
    }


def _forms(made: Mapping[str, Artifact], name: str, seed: int) -> dict[str, Artifact]:
    eight, seven = (made[f"{name}/{bits}/{seed}/int8"] for bits in BITS)
    options = eight.model_file.options
    if not isinstance(options, OnnxruntimeOptions) or not overflows_here(options.runtime):
        return {"8": eight, "7": seven}
    by_itself = eight.model_file.model_copy(update={"options": options.model_copy(update={"exact_sums": False})})
    return {"8": eight.with_model_file(by_itself), EXACT: eight, "7": seven}


def _correct(model: Artifact, test: Dataset) -> NDArray[np.bool_]:
    session = open_session(model, SessionOptions(threads=usable_cpus()))
    return correct_images(session, test)


def _row(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Json:
    return {"top1": float(after.mean()), "lost": paired_drop(before, after).value}


def _p50_ms(models: Mapping[str, Artifact], rounds: int) -> dict[str, list[float]]:
    """The p50 of each round."""
    plan = MeasurePlan()
    works = {form: open_session(model, SessionOptions(threads=1)).work(plan) for form, model in models.items()}
    return interleaved_p50_ms(works, rounds, TURN_S)


if __name__ == "__main__":
    main()
