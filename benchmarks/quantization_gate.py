"""Which images tell what a quantized form loses? The gates of `quantize` against the loss on other test images.

    python -m benchmarks.quantization_gate CIFAR [--threads 1] [--runs runs]

CIFAR is a folder with cifar-10-batches-py. The models are those in models/, which were trained on CIFAR-10. Each is
quantized whole for ONNX Runtime (`placement: all`, minmax, 256 training images). With calibration images of less and
less contrast, the ranges become too narrow and the loss grows. Each form is compared with float:

    sqnr_db      on 64 training images
    pool         answers changed on 1,000 training images, labels unseen
    support      top-1 lost on five training images of each class
    validation   top-1 lost on 1,000 test images, and answers changed on them
    truth        top-1 lost on 2,000 other test images

A gate is right about a form if it refuses the form and the true loss is above the limit of one point, or passes it and
the true loss is not. Forms whose interval of the true loss holds the limit are not counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.common import publish
from benchmarks.quantized_files import quantized_session
from benchmarks.reference_students import ReferenceStudent, reference_students
from edgevit import pipeline
from edgevit.artifacts import Artifact, Json
from edgevit.cli.output import terminal_context
from edgevit.configs import Cifar, Export
from edgevit.configs.stages import MIN_SQNR_DB, TOP1_DROP
from edgevit.data import Dataset, dataset_artifacts, open_dataset
from edgevit.evaluation import wilson_interval
from edgevit.evaluation.accuracy import Share
from edgevit.evaluation.paired import paired_drop
from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.quantization import calibrated
from edgevit.quantization.gate import AnswerChange
from edgevit.recipe import Recipe
from edgevit.runtimes.base import Session, SessionOptions, input_batches
from edgevit.runtimes.parity import quantized_sqnr_db
from edgevit.runtimes.sessions import open_session

LIMIT, FLOOR_DB = TOP1_DROP, MIN_SQNR_DB  # the defaults
CALIBRATION, HELD_OUT, POOL, VALIDATION, TESTED, BATCH = 256, 64, 1000, 1000, 3000, 50
CONTRASTS = (1.0, 0.7, 0.6, 0.5, 0.4, 0.3)
Answers = NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    images = images_of(asked.cifar)
    made = pipeline.run(_recipe(reference_students()), Path.cwd(), asked.runs, terminal_context())
    rows = {
        model.name: list(_rows(made[f"onnx/{model.name}"], images, asked.threads)) for model in reference_students()
    }
    publish("quantization_gate", {"floor_db": FLOOR_DB, "rows": rows, "summary": summary(rows)})


def images_of(cifar: Path) -> dict[str, Dataset]:
    """The images of each part by name. `test` holds the validation images, then the images of the true loss."""
    config = Cifar.model_validate({"source": "cifar10", "path": str(cifar), "few_shot": {"shots": 5, "draw": 0}})
    parts = {"cifar.pool": CALIBRATION + HELD_OUT + POOL, "cifar.support": 50, "cifar.test": TESTED}
    artifacts = dataset_artifacts({"cifar": config}, Path(), list(parts))
    return {
        name.removeprefix("cifar."): open_dataset(artifacts[name]).subset(
            open_dataset(artifacts[name]).shuffled(0)[:count]
        )
        for name, count in parts.items()
    }


def summary(rows: Mapping[str, list[Json]]) -> Json:
    """How well each measure ranks the forms of a model by their true loss, and how often each gate is right."""
    forms = [form for of_model in rows.values() for form in of_model if not _is_unclear(form)]
    measures = ("sqnr_db", "pool", "support", "validation", "validation_changed")
    ranks = {measure: {name: _rank(of_model, measure) for name, of_model in rows.items()} for measure in measures}
    gates = {
        "sqnr": [form["sqnr_db"] < FLOOR_DB for form in forms],
        "support": [form["refused_by_support"] for form in forms],
        "validation": [form["refused_by_validation"] for form in forms],
        "both": [form["sqnr_db"] < FLOOR_DB or form["refused_by_validation"] for form in forms],
    }
    too_lossy = [form["truth"]["value"] > LIMIT for form in forms]
    return {
        "forms": len(forms),
        "unclear": sum(_is_unclear(form) for of_model in rows.values() for form in of_model),
        "too_lossy": sum(too_lossy),
        "passed_by_sqnr": max(form["truth"]["value"] for form in forms if form["sqnr_db"] >= FLOOR_DB),
        "rank_correlation": ranks,
        "gates": {name: _verdicts(refused, too_lossy) for name, refused in gates.items()},
    }


def _is_unclear(form: Json) -> bool:
    """Whether the limit lies inside the interval of the true loss."""
    return bool(form["truth"]["low"] <= LIMIT <= form["truth"]["high"])


def _verdicts(refused: Sequence[bool], too_lossy: Sequence[bool]) -> Json:
    """How many forms a gate judges right, and how many it passes or refuses wrongly."""
    pairs = list(zip(refused, too_lossy, strict=True))
    return {
        "right": sum(refuses == lossy for refuses, lossy in pairs),
        "passes_too_lossy": sum(lossy and not refuses for refuses, lossy in pairs),
        "refuses_good": sum(refuses and not lossy for refuses, lossy in pairs),
    }


def _rank(forms: list[Json], measure: str) -> float:
    """Spearman's rank correlation of a measure with the true loss; the sign of the SQNR is turned."""
    values = [-form[measure] if measure == "sqnr_db" else form[measure]["value"] for form in forms]
    return float(spearmanr(values, [form["truth"]["value"] for form in forms]).statistic)


def _recipe(models: list[ReferenceStudent]) -> Recipe:
    exports = [Export(stage="export", id=f"onnx/{model.name}", model=model.name) for model in models]
    stages = [*(model.stage for model in models), *exports]
    return Recipe.model_validate({"name": "quantization-gate", "datasets": {}, "stages": stages})


def _rows(model: Artifact, images: Mapping[str, Dataset], threads: int) -> Iterator[Json]:
    """The comparison of each form of a model with the float file."""
    reference, source = open_session(model, SessionOptions(threads=threads)), read_onnx(onnx_file(model))
    pixels = [images["pool"].image(position) for position in range(CALIBRATION + HELD_OUT)]
    held_out = [batch for batch, _ in input_batches(model.io, iter(pixels[CALIBRATION:]), BATCH)]
    expected = {name: _answers(reference, dataset) for name, dataset in images.items()}
    for contrast in CONTRASTS:
        narrow = [_with_contrast(image, contrast) for image in pixels[:CALIBRATION]]
        batches = [batch for batch, _ in input_batches(model.io, iter(narrow), BATCH)]
        form = calibrated(source, partial(iter, batches), "minmax", "onnxruntime", threads, "benchmark").quantized()
        session = quantized_session(form, model, threads)
        sqnr_db = quantized_sqnr_db(session, reference, held_out, "benchmark")
        got = {name: _answers(session, dataset) for name, dataset in images.items()}
        row = {"contrast": contrast, "sqnr_db": sqnr_db, **_compared(expected, got, images)}
        print(model.id, contrast, f"{sqnr_db:.1f} dB", row["truth"], flush=True)
        yield row


def _compared(expected: Mapping[str, Answers], got: Mapping[str, Answers], images: Mapping[str, Dataset]) -> Json:
    pool = slice(CALIBRATION + HELD_OUT, None)
    changes = {
        "pool": _change(expected["pool"][pool], got["pool"][pool], None),
        "support": _change(expected["support"], got["support"], images["support"].labels),
    }
    labels = images["test"].labels
    assert labels is not None
    for name, part in (("validation", slice(VALIDATION)), ("truth", slice(VALIDATION, None))):
        changes[name] = _change(expected["test"][part], got["test"][part], labels[part])
    drops = {name: asdict(change.drop) for name, change in changes.items() if change.drop}
    return {
        "pool": changes["pool"].changed._asdict(),
        "validation_changed": changes["validation"].changed._asdict(),
        **drops,
        "refused_by_support": changes["support"].is_refused,
        "refused_by_validation": changes["validation"].is_refused,
    }


def _change(expected: Answers, got: Answers, labels: Answers | None) -> AnswerChange:
    n, num_changed = len(expected), int((expected != got).sum())
    drop = None if labels is None else paired_drop(expected == labels, got == labels)
    return AnswerChange(Share(num_changed / n, *wilson_interval(num_changed, n)), n, drop, LIMIT)


def _answers(session: Session, dataset: Dataset) -> Answers:
    images = (dataset.image(position) for position in range(len(dataset)))
    scores = [outputs[session.spec.outputs[0].name] for outputs in session.outputs(images, BATCH)]
    return np.asarray(np.concatenate(scores).argmax(-1), np.int64)


def _with_contrast(image: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    return np.asarray(128 + share * (image.astype(np.float32) - 128), np.uint8)


if __name__ == "__main__":
    main()
