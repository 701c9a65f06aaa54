"""Check that a bundle predicts as the model does that it was made from: here, and on the board of its engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from edgevit.artifacts import EMBEDDING, Artifact
from edgevit.bundling.prototypes import FILE as CLASSES
from edgevit.bundling.prototypes import head_of, read_support
from edgevit.bundling.runner import environment
from edgevit.context import Context
from edgevit.data.preprocess import open_image, preprocess
from edgevit.errors import MissingDependency, ParityError, TargetError, shortened
from edgevit.graphs.class_scores import probabilities
from edgevit.runtimes.base import Session, SessionOptions, fixed_batch
from edgevit.runtimes.sessions import open_session
from edgevit.targets.agent_host import AgentHost
from edgevit.targets.named import named_target

# For one image in two processes with the same kernels: only float32 rounding may differ.
TOLERANCE = 1e-4
INFER_S = 600  # for infer.py on a board, which loads the engine
LONGEST_REASON = 400  # characters of what it says there: paths are in it


def check_bundle(model: Artifact, bundle: Path, work: Path) -> None:
    """Label one seeded image with the bundle's `infer.py`, in its own process, and with the model here; compare.

    Of a bundle with an engine, its ONNX file is compared; see `check_engine_bundle`.

    Args:
        work: a folder for the image.

    Raises:
        ParityError: the two do not agree, or the bundle does not run.
    """
    image = _seeded_image(work)
    answer = _run(bundle, "infer.py", "--verify", "--onnx", "--json", str(image))
    expected = _prediction_by(open_session(model, SessionOptions()), bundle, image)
    _check_agrees(_prediction_in(answer, bundle), expected, bundle)
    if (bundle / CLASSES).is_file():
        _run(bundle, "enroll.py", "--list")


def check_engine_bundle(engine: Artifact, bundle: Path, context: Context) -> None:
    """Label one seeded image with the bundle's `infer.py` and engine on their board; compare with the engine there.

    Where that cannot be done, the bundle is not wrong, and a line says the reason: the board is not there or has
    changed, or its Python has no TensorRT module.

    Raises:
        ParityError: the two do not agree, or infer.py does not run there.
    """
    built_by = engine.model_file.bound_to
    assert built_by is not None
    image = _seeded_image(context.work)
    try:
        board = AgentHost(named_target(built_by.name, context.folder), context.progress.say)
        with board.open(engine, SessionOptions()) as session:
            files = {file.name: file for file in (*bundle.iterdir(), image) if file.is_file()}
            ended = board.run_beside_module(("infer.py", "--json", image.name), files, INFER_S)
            expected = _prediction_by(session, bundle, image)
    except (TargetError, MissingDependency) as error:
        context.progress.say(f"note: infer.py was not run on {built_by.name}: {error.what}")
        return
    where = f"{bundle}, on {built_by.name}"
    if ended.status != 0:
        got = shortened(ended.stderr.strip(), LONGEST_REASON) or f"exit status {ended.status}"
        raise ParityError("the bundle's infer.py does not run", where=where, got=got)
    _check_agrees(_prediction_in(ended.stdout, where), expected, where)
    context.progress.say(f"infer.py was run on {built_by.name}: it answers as the engine does there")


class _Prediction(NamedTuple):
    """The best label and its confidence; in a bundle with classes.npz also the cosine with the nearest class."""

    label: str
    numbers: tuple[float, ...]

    def __str__(self) -> str:
        return f"'{self.label}' at " + ", ".join(f"{number:.4f}" for number in self.numbers)


def _seeded_image(folder: Path) -> Path:
    image = folder / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((320, 240)).save(image)
    return image


def _prediction_in(answer: str, where: object) -> _Prediction:
    """The prediction in what infer.py has printed with --json. Raises ParityError if there is none."""
    try:
        prediction = json.loads(answer)
        best = prediction["labels"][0]
        cosines = [float(prediction["cosine"])] if "cosine" in prediction else []
        return _Prediction(str(best["label"]), (float(best["confidence"]), *cosines))
    except (ValueError, TypeError, LookupError):
        raise ParityError("the bundle's infer.py gives no answer", where=where, got=shortened(answer)) from None


def _run(bundle: Path, program: str, *arguments: str) -> str:
    # -B: no __pycache__ beside the files that are about to be recorded.
    command = [sys.executable, "-B", str(bundle / program), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment(), check=False)
    if ended.returncode != 0:
        raise ParityError(f"the bundle's {program} does not run", where=bundle, got=ended.stderr.strip())
    return ended.stdout


def _check_agrees(got: _Prediction, expected: _Prediction, where: object) -> None:
    differences = np.abs(np.subtract(got.numbers, expected.numbers))
    if got.label != expected.label or not (differences <= TOLERANCE).all():  # false for NaN
        raise ParityError(
            "the bundle's infer.py does not agree with the model it was made from",
            where=where,
            got=str(got),
            expected=str(expected),
        )


def _prediction_by(session: Session, bundle: Path, image: Path) -> _Prediction:
    spec = session.spec
    pixels = preprocess(open_image(image), **spec.preprocess.model_dump())
    images = np.repeat(pixels[np.newaxis], fixed_batch(spec) or 1, axis=0)
    outputs = session.infer({spec.inputs[0].name: images})
    confidence = probabilities(outputs[spec.outputs[0].name][:1], spec.outputs[0].meaning)[0]
    best = int(confidence.argmax())
    numbers = [float(confidence[best])]
    if (bundle / CLASSES).is_file():
        head = head_of(read_support(bundle / CLASSES))
        numbers.append(float(head.cosines(outputs[EMBEDDING][:1]).max()))
    return _Prediction(spec.classes[best], tuple(numbers))
