"""edgevit's INT8 against other quantizers: the same float ONNX file, calibration images, test images and machine.

    python -m benchmarks.compression_peers CIFAR [--onnxruntime PYTHON] [--olive PYTHON] [--modelopt PYTHON]
        [--nncf PYTHON] [--random NAME …] [--students NAME …] [--rounds 20] [--runs runs]

CIFAR is a folder with cifar-10-batches-py. Each PYTHON has what its script under benchmarks/peers/ says in its first
lines; a peer that is not given is left out. OpenVINO is needed here too, for the files of NNCF.

Models: those in benchmarks/models/, which were trained on CIFAR-10 (reference_students.py), and timm models with random
weights at their own size, where accuracy means nothing and the SQNR stands in its place.

edgevit's files come from its own stages: `export`, `quantize` for each runtime, which ships the fastest form that it
measured, and for ONNX Runtime `compile`. Peers quantize that same float file (ModelOpt's PyTorch side the checkpoint
behind it) on the images that `quantize` chooses. A file runs where it was made for: ONNX Runtime's and Olive's in ONNX
Runtime, NNCF's in OpenVINO, ModelOpt's in both, OpenVINO with a static batch, once in float32 and once in bfloat16
beside INT8. All is timed by edgevit's clock in this one
process, on one thread, one image at a time: in every round each file takes one turn, in an order drawn anew, and its
speed-up is the p50 of ONNX Runtime's float turn in that round over its own. Answers are compared one image at a time
too, as deployed: a dynamic quantizer scales each batch anew.

Results of earlier runs stay for models that this one leaves out. `better` names, for each row of edgevit's, what is
faster and also loses less (top-1; dB for random weights).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import RESULTS, conditions, interleaved_p50_ms, models_before, publish, spread
from benchmarks.compression_plot import drop_against_speedup
from benchmarks.reference_students import MODELS, reference_students
from edgevit import pipeline
from edgevit.artifacts import Artifact, IOSpec, Json, sha256_of, sha256_of_file
from edgevit.cli.output import terminal_context
from edgevit.configs import Cifar, Compile, Export, FileRuntime, Load, Quantize
from edgevit.context import Context
from edgevit.data import Dataset, dataset_artifacts, open_dataset
from edgevit.evaluation.paired import paired_drop
from edgevit.model_file import OnnxruntimeOptions, RuntimeOptions
from edgevit.models.checkpoints import DESCRIPTION, WEIGHTS
from edgevit.provenance import version_of
from edgevit.quantization import choose_images
from edgevit.recipe import Recipe
from edgevit.runtimes.base import preprocessed, random_images
from edgevit.runtimes.onnxruntime.session import inference_session
from edgevit.runtimes.parity import sqnr_db
from edgevit.runtimes.sessions import file_session

SCRIPTS = Path(__file__).with_name("peers")
PEERS = {
    "onnxruntime": "onnxruntime_ptq.py",
    "olive": "olive_ptq.py",
    "modelopt": "modelopt_ptq.py",
    "nncf": "nncf_openvino.py",
}
ORT = "onnxruntime"
OPENVINO = {"openvino f32": "f32", "openvino bf16": "bf16"}
OWN: tuple[FileRuntime, ...] = ("onnxruntime", "openvino")  # what edgevit quantizes for
RUNTIMES = {
    "onnxruntime": (ORT,),
    "olive": (ORT,),
    "modelopt": (ORT, *OPENVINO),
    "nncf": tuple(OPENVINO),
}
ANSWER = "answer.json"
NO_TELEMETRY = {"OLIVE_DISABLE_TELEMETRY": "1"}
RANDOM = ("deit_tiny_patch16_224", "tiny_vit_5m_224", "repvit_m0_9")
OURS = "edgevit"
REFERENCE = "float, onnxruntime"

Images = NDArray[np.float32]
Run = Callable[[Images], NDArray[np.float32]]


class Candidate(NamedTuple):
    """One file in one runtime."""

    peer: str
    method: str
    runtime: str
    file: Path
    options: RuntimeOptions = OnnxruntimeOptions()

    @property
    def name(self) -> str:
        return f"{self.peer} {self.method}".strip() + f", {self.runtime}"


class Model(NamedTuple):
    """What all quantizers start from, and what judges them; `labels` is None where the weights are random."""

    name: str
    folder: Path
    spec: IOSpec
    edgevit: tuple[Candidate, ...]
    images: Images
    labels: NDArray[np.int64] | None


class Answer(NamedTuple):
    """What a peer said of its versions, and for each of its methods of a file in `out` or of an error."""

    peer: str
    out: Path
    said: Json


def main() -> None:
    asked = _asked()
    torch.set_num_threads(asked.threads)
    context = terminal_context()
    models = models_before("compression_peers")
    for stage, trained in _loads(asked):
        model = _prepared(stage, trained, asked, context)
        peers = [_quantized_by(name, model, asked) for name in PEERS if getattr(asked, name)]
        rows, failed = _measured([*model.edgevit, *_candidates(peers)], model, asked)
        models[model.name] = {
            "weights": "trained" if trained else "random: top-1 means nothing",
            "image_size": model.spec.preprocess.height,
            "test_images": len(model.images),
            "rounds": asked.rounds,
            "turn_s": asked.turn_s,
            "threads": 1,
            "calibration_images": asked.calibration_images,
            "openvino": version_of("openvino"),
            "conditions": conditions(),
            "peers": {answer.peer: answer.said for answer in peers},
            "failed": failed,
            "better": _better(rows, trained),
            "rows": rows,
        }
        print(_table(model.name, models[model.name]), flush=True)
        publish("compression_peers", {"models": models})
        (RESULTS / "compression_peers.svg").write_text(drop_against_speedup(models))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    for peer in PEERS:
        own = Path(sys.executable) if peer == "onnxruntime" else None
        parser.add_argument(f"--{peer}", type=Path, default=own, metavar="PYTHON")
    parser.add_argument("--random", nargs="*", default=RANDOM, help="timm models with random weights", metavar="NAME")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of trained models")
    parser.add_argument("--students", nargs="*", help="which of them; all by default", metavar="NAME")
    parser.add_argument("--calibration-images", type=int, default=256)
    parser.add_argument("--test-images", type=int, default=10_000, help="for trained models")
    parser.add_argument("--random-test-images", type=int, default=256, help="for random weights")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--turn-s", type=float, default=0.5, help="seconds that a file is timed in each round")
    parser.add_argument("--threads", type=int, default=2, help="while quantizing")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    return parser.parse_args()


def _loads(asked: argparse.Namespace) -> Iterator[tuple[Load, bool]]:
    """The stage that loads each model, and whether it was trained."""
    for name in asked.random:
        yield Load(stage="load", id=name, model=name, classes_of="cifar.train"), False
    for student in reference_students(asked.models):
        if asked.students is None or student.name in asked.students:
            yield student.stage, True


# What is compared -----------------------------------------------------------------------------------------------


def _prepared(load: Load, trained: bool, asked: argparse.Namespace, context: Context) -> Model:
    """Export and quantize a model with edgevit, and lay out what peers start from."""
    export = Export(stage="export", id="onnx", model=load.id)
    quantize = [
        Quantize(
            stage="quantize",
            id=f"int8/{runtime}",
            model="onnx",
            calibration="cifar.train",
            calibration_images=asked.calibration_images,
            runtime=runtime,
        )
        for runtime in OWN
    ]
    compiled = Compile(stage="compile", id="engine/onnxruntime", model="int8/onnxruntime")
    data = {"cifar": Cifar(source="cifar10", path=str(asked.cifar.absolute()))}
    recipe = Recipe(name=f"compression-peers-{load.id}", datasets=data, stages=(load, export, *quantize, compiled))
    made = pipeline.run(recipe, Path.cwd(), asked.runs, context)
    opened = dataset_artifacts(data, Path.cwd(), ["cifar.train", "cifar.test"])
    training, test = (open_dataset(opened[name]) for name in ("cifar.train", "cifar.test"))
    folder = (asked.runs / recipe.name / "peers").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for file in (made[load.id].file(DESCRIPTION), made[load.id].file(WEIGHTS), made["onnx"].file("model.onnx")):
        shutil.copy(file, folder)
    spec = made["onnx"].io
    chosen = choose_images(training, asked.calibration_images, quantize[0].seed, context.progress).calibration
    np.save(folder / "calibration.npy", _images(training, chosen, spec))
    count = asked.test_images if trained else asked.random_test_images
    positions = np.random.default_rng(0).permutation(len(test))[:count]
    assert test.labels is not None
    return Model(
        load.id,
        folder,
        spec,
        tuple(_own_candidates(made)),
        _images(test, positions.tolist(), spec),
        test.labels[positions] if trained else None,
    )


def _own_candidates(made: Mapping[str, Artifact]) -> Iterator[Candidate]:
    """The float file and edgevit's own, in each runtime."""
    yield from (Candidate("float", "", runtime, made["onnx"].file("model.onnx")) for runtime in (ORT, *OPENVINO))
    for runtime, stage in (("onnxruntime", "engine/onnxruntime"), ("openvino", "int8/openvino")):
        form = made[f"int8/{runtime}"].metrics["form"]
        yield Candidate(OURS, form, runtime, made[stage].file("model.onnx"), made[stage].model_file.options)


def _images(dataset: Dataset, positions: Sequence[int], spec: IOSpec) -> Images:
    return preprocessed((dataset.image(position) for position in positions), spec.preprocess)


def _quantized_by(peer: str, model: Model, asked: argparse.Namespace) -> Answer:
    """Kept under --runs for the same script, float file and images."""
    script = SCRIPTS / PEERS[peer]
    given = (script, SCRIPTS / "contract.py", model.folder / "model.onnx", model.folder / "calibration.npy")
    out = model.folder / peer / sha256_of([sha256_of_file(file) for file in given])[:16]
    if not (out / ANSWER).is_file():
        environment = {**os.environ, **NO_TELEMETRY, "OMP_NUM_THREADS": str(asked.threads)}
        environment.pop("PYTHONPATH", None)
        subprocess.run([getattr(asked, peer), script, model.folder, out], check=True, env=environment)
    return Answer(peer, out, json.loads((out / ANSWER).read_text()))


def _candidates(answers: Sequence[Answer]) -> Iterator[Candidate]:
    for peer, out, said in answers:
        for method, outcome in said["methods"].items():
            if "file" in outcome:
                for runtime in RUNTIMES[peer]:
                    yield Candidate(peer, method, runtime, out / outcome["file"])


# How it is measured ---------------------------------------------------------------------------------------------


def _measured(
    candidates: Sequence[Candidate], model: Model, asked: argparse.Namespace
) -> tuple[list[Json], dict[str, str]]:
    """A row for each candidate that runs, and the reasons of those that do not."""
    runs: dict[str, Run] = {}
    failed = {}
    for candidate in candidates:
        try:
            runs[candidate.name] = _loaded(candidate, model.spec)
        except Exception as error:  # noqa: BLE001 - that a runtime refuses a peer's file is a result
            failed[candidate.name] = str(error).splitlines()[0]
    scores = {name: np.concatenate([run(image[None]) for image in model.images]) for name, run in runs.items()}
    image = random_images(model.spec, 1)
    p50_ms = interleaved_p50_ms({name: partial(run, image) for name, run in runs.items()}, asked.rounds, asked.turn_s)
    return [_row(candidate, scores, p50_ms, model.labels) for candidate in candidates if candidate.name in runs], failed


def _loaded(candidate: Candidate, spec: IOSpec) -> Run:
    """One thread, one image at a time."""
    if candidate.peer == OURS:
        own = file_session(candidate.file, spec, candidate.options, threads=1)
        return lambda images: own.infer({spec.inputs[0].name: images})[spec.outputs[0].name]
    if candidate.runtime in OPENVINO:
        return _loaded_in_openvino(candidate.file, spec, OPENVINO[candidate.runtime])
    session = inference_session(candidate.file, candidate.options, threads=1)
    image, logits = session.get_inputs()[0].name, session.get_outputs()[0].name
    return lambda images: np.asarray(session.run([logits], {image: images})[0])


def _loaded_in_openvino(file: Path, spec: IOSpec, precision: str) -> Run:
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    model.reshape([1, *spec.inputs[0].shape[1:]])
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda images: np.array(request.infer({0: images})[0])


def _row(
    candidate: Candidate,
    scores: Mapping[str, NDArray[np.float32]],
    p50_ms: Mapping[str, list[float]],
    labels: NDArray[np.int64] | None,
) -> Json:
    name = candidate.name
    own, exact = (scores[file] - scores[file].mean(1, keepdims=True) for file in (name, REFERENCE))
    right, float_right = own.argmax(1) == labels, exact.argmax(1) == labels
    ratios = [reference_ms / own_ms for reference_ms, own_ms in zip(p50_ms[REFERENCE], p50_ms[name], strict=True)]
    return {
        "name": name,
        "peer": candidate.peer,
        "method": candidate.method,
        "runtime": candidate.runtime,
        "size_bytes": sum(file.stat().st_size for file in _files(candidate.file)),
        "top1": float(right.mean()) if labels is not None else None,
        "top1_drop": asdict(paired_drop(float_right, right)) if labels is not None else None,
        "sqnr_db": sqnr_db(own, exact),
        "top1_agreement": float((own.argmax(1) == exact.argmax(1)).mean()),
        "p50_ms": spread(p50_ms[name]),
        "speedup": spread(ratios),
    }


def _files(file: Path) -> list[Path]:
    """An ONNX file, or OpenVINO's graph with the weights beside it."""
    return [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]


def _better(rows: Sequence[Json], trained: bool) -> dict[str, list[str]]:
    """For each row of edgevit's, the others that are faster and closer to float; bfloat16 without INT8 is one."""

    def faster_and_closer(other: Json, own: Json) -> bool:
        if other["speedup"]["median"] <= own["speedup"]["median"]:
            return False
        if trained:
            return bool(other["top1_drop"]["value"] < own["top1_drop"]["value"])
        return bool(other["sqnr_db"] > own["sqnr_db"])

    others = [row for row in rows if row["peer"] != OURS]
    return {
        own["name"]: [other["name"] for other in others if faster_and_closer(other, own)]
        for own in rows
        if own["peer"] == "edgevit"
    }


def _table(title: str, result: Json) -> str:
    lines = [title]
    for row in sorted(result["rows"], key=lambda row: -row["speedup"]["median"]):
        drop = row["top1_drop"]
        lost = f"{100 * drop['value']:+6.2f} points" if drop else " " * 13
        speed = row["speedup"]
        lines.append(
            f"  {row['name']:<50} {speed['median']:5.2f}× ({speed['min']:.2f} to {speed['max']:.2f}) "
            f"{row['sqnr_db']:6.1f} dB {100 * row['top1_agreement']:6.1f}% agree {lost}"
        )
    return "\n".join([*lines, *(f"  {name}: {reason}" for name, reason in result["failed"].items())])


if __name__ == "__main__":
    main()
