"""The page's JavaScript against the Python that it ports, in Node: preprocessing in equal bytes, and probabilities."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgevit.bundling.runner import PAGE
from edgevit.data.preprocess import fit_to_size, preprocess
from edgevit.graphs import class_scores

NODE = shutil.which("node")
PILLOW = int(PIL.__version__.split(".")[0])
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs Node.js (apt-get install nodejs)")


def test_random_images_are_resized_to_equal_bytes():
    generator = np.random.default_rng(0)
    cases = [random_case(generator) for _ in range(150)]
    assert {(rule["resize"], rule["interpolation"]) for _, rule in cases} == {
        (resize, interpolation) for resize in ("crop", "squash") for interpolation in INTERPOLATIONS
    }
    compare(cases)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_odd_sizes_are_resized_to_equal_bytes(interpolation: str):
    generator = np.random.default_rng(1)
    sizes = [(1, 1), (1, 700), (700, 1), (3, 500), (224, 224), (2, 3), (640, 480), (1031, 17), (333, 1201)]
    rules = [
        rule_of(interpolation, height=224, width=224, crop_pct=0.875),
        rule_of(interpolation, height=33, width=7, crop_pct=0.9),
        rule_of(interpolation, height=5, width=8, crop_pct=1.6),  # the cut is larger than the image: black around it
        rule_of(interpolation, height=31, width=64, resize="squash"),
    ]
    compare([(noise(generator, *size), rule) for size in sizes for rule in rules])


def test_older_versions_of_pillow_resize_rows_first():
    """Each of two resizes along one side is the same in every version of Pillow."""
    image, rule = noise(np.random.default_rng(4), 300, 40), rule_of("bicubic", resize="squash", height=50, width=37)
    (outcome,) = in_node({"images": [as_json(image, rule, pillow=12)]})["images"]
    rows_first = Image.fromarray(image).resize((37, 300), Image.Resampling.BICUBIC)
    expected = np.asarray(rows_first.resize((37, 50), Image.Resampling.BICUBIC))
    assert base64.b64decode(outcome["fitted"]) == expected.tobytes()


def test_a_large_image_is_resized_in_bands_to_equal_bytes():
    image = noise(np.random.default_rng(2), 900, 1300)
    compare([(image, rule_of("bicubic", height=64, width=48, crop_pct=0.95))])


def test_input_tensors_are_equal():
    generator = np.random.default_rng(3)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    plain = rule_of("bilinear", height=9, width=11, mean=mean, std=std)
    cases = [(noise(generator, 20, 30), rule) for rule in (plain, plain | {"normalised_inside": True})]
    outcomes = in_node({"images": [as_json(*case) for case in cases]})["images"]
    for (image, rule), outcome in zip(cases, outcomes, strict=True):
        assert base64.b64decode(outcome["input"]) == preprocess(image, **rule).tobytes()


@pytest.mark.parametrize("problem", [{"resize": "fit"}, {"interpolation": "lanczos"}])
def test_an_unknown_rule_is_refused(problem: dict[str, str]):
    case = as_json(noise(np.random.default_rng(0), 4, 4), rule_of("bilinear") | problem)
    assert next(iter(problem.values())) in in_node_failing({"images": [case]})


MEANINGS = {
    class_scores.LOGITS: [-3.5, 700.25, 699.5, 12.0],
    class_scores.PROBABILITIES: [0.25, 0.5, 0.25],
    class_scores.INDEPENDENT: [0.9, 0.8, 0.1],
    class_scores.ONE_LOGIT: [1.75],
    class_scores.ONE_PROBABILITY: [0.375],
}


def test_probabilities_are_those_of_python():
    cases = [{"values": values, "meaning": meaning} for meaning, values in MEANINGS.items()]
    outcomes = in_node({"scores": cases})["scores"]
    for (meaning, values), outcome in zip(MEANINGS.items(), outcomes, strict=True):
        expected = class_scores.probabilities(np.array([values], np.float32), meaning)[0]
        assert outcome["confidences"] == pytest.approx(expected, abs=1e-12)


def test_the_best_labels_come_first_and_ties_in_the_order_of_the_classes():
    case = {"values": [0.125, 0.25, 0.25, 0.375], "meaning": class_scores.PROBABILITIES, "labels": list("abcd")}
    (outcome,) = in_node({"scores": [case]})["scores"]
    assert [one["label"] for one in outcome["best"]] == ["d", "b", "c"]


def rule_of(interpolation: str, **changes: Any) -> dict[str, Any]:
    standard = {"height": 12, "width": 12, "resize": "crop", "crop_pct": 1.0, "interpolation": interpolation}
    return standard | {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)} | changes


def noise(generator: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Bytes with many zeros and 255: cubic weights overshoot at such edges."""
    pixels = generator.integers(0, 256, (height, width, 3))
    return np.where(generator.random(pixels.shape) < 0.3, np.where(pixels > 127, 255, 0), pixels).astype(np.uint8)


def random_case(generator: np.random.Generator) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    height, width, out_height, out_width = (round(2 ** generator.uniform(0, 7.5)) for _ in range(4))
    rule = rule_of(
        str(generator.choice(INTERPOLATIONS)),
        resize=str(generator.choice(["crop", "squash"])),
        height=out_height,
        width=out_width,
        crop_pct=float(generator.choice([1.0, 0.875, 0.9, 0.95, generator.uniform(0.3, 1.0)])),
    )
    return noise(generator, height, width), rule


def compare(cases: list[tuple[NDArray[np.uint8], dict[str, Any]]]) -> None:
    outcomes = in_node({"images": [as_json(image, rule) for image, rule in cases]})["images"]
    for (image, rule), outcome in zip(cases, outcomes, strict=True):
        names = ("height", "width", "resize", "crop_pct", "interpolation")
        expected = fit_to_size(image, **{name: rule[name] for name in names})
        got = np.frombuffer(base64.b64decode(outcome["fitted"]), np.uint8).reshape(expected.shape)
        assert np.array_equal(got, expected), (image.shape, rule, np.abs(got.astype(int) - expected).max())


def as_json(image: NDArray[np.uint8], rule: dict[str, Any], pillow: int = PILLOW) -> dict[str, Any]:
    height, width, _ = image.shape
    return {
        "width": width,
        "height": height,
        "rgb": base64.b64encode(image.tobytes()).decode(),
        "rule": rule | {"pillow": pillow},
    }


def in_node(cases: dict[str, Any]) -> Any:
    return json.loads(node(cases, check=True).stdout)


def in_node_failing(cases: dict[str, Any]) -> str:
    answer = node(cases, check=False)
    assert answer.returncode != 0
    return answer.stderr


def node(cases: dict[str, Any], check: bool) -> subprocess.CompletedProcess[str]:
    command = [str(NODE), str(Path(__file__).with_name("page_in_node.mjs")), str(PAGE)]
    return subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, timeout=120, check=check)
