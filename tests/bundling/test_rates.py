"""What a bundle with classes says of accuracy and of unknown images, against loops and against fresh draws."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevit.artifacts import Artifact
from edgevit.bundling import ClassImages, class_images, write_bundle
from edgevit.bundling.prototypes import FILE, Share, SupportSet, accuracy_of, head_of, rates, read_support, trials
from edgevit.configs import Digits
from edgevit.context import Context
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.errors import DataError
from edgevit.evaluation.accuracy import wilson_interval
from edgevit.provenance import is_traced, learned_from
from tests.bundling.enrolling import data, digits_of_eight, quantized
from tests.bundling.test_enroll import program
from tests.said import Said
from tests.small_models import VIT, workbench

WIDTH, SPREAD = 12, 1.5


def drawn(generator: np.random.Generator, labels: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return (centres[labels] + generator.normal(0, SPREAD, (len(labels), WIDTH))).astype(np.float32)


def support_of(seed: int, shots: int = 5, unseen: int = 0, learned: bool = False) -> tuple[SupportSet, np.ndarray]:
    """Six bundled classes of a world with eight, and the centres of all; what was learned lies near its centre."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(0, 1.5, (8, WIDTH))
    labels, held = np.repeat(np.arange(6), shots), np.repeat(np.arange(6), unseen)
    embeddings = drawn(generator, labels, centres)
    if learned:
        embeddings = (centres[labels] + 0.3 * (embeddings - centres[labels])).astype(np.float32)
    names = tuple(f"class {label}" for label in range(6))
    given = (drawn(generator, held, centres), held) if unseen else None
    return SupportSet.as_bundled(names, embeddings, labels, "0" * 64, learned=learned, unseen=given), centres


def test_unseen_images_are_what_is_measured_where_there_are_any() -> None:
    support, _ = support_of(0, unseen=4, learned=True)
    head, tried = head_of(support), trials(support)
    assert tried.labels.tolist() == support.unseen_labels.tolist()
    np.testing.assert_allclose(tried.cosines, head.cosines(support.unseen), atol=1e-12)
    assert not tried.learned.any()
    right = int((head.cosines(support.unseen).argmax(1) == support.unseen_labels).sum())
    expected = wilson_interval(right, 24)
    said = rates(support).accuracy
    assert (said.value, said.images, said.optimistic) == (pytest.approx(right / 24), 24, False)  # type: ignore[comparison-overlap]
    assert (said.low, said.high) == pytest.approx(expected)


def test_images_that_may_have_been_learned_are_called_optimistic() -> None:
    support, _ = support_of(0, learned=True)
    said = rates(support)
    assert said.accuracy.optimistic
    assert said.known_rejected.optimistic
    assert "may have learned from them" in said.lines()[0]
    assert not rates(replace(support, learned=False)).accuracy.optimistic


def test_enrolled_images_of_a_class_are_measured_before_learned_ones() -> None:
    support, centres = support_of(1, learned=True)
    more = support.with_images("class 2", drawn(np.random.default_rng(5), np.full(3, 2), centres))
    tried = trials(more)
    assert np.bincount(tried.labels).tolist() == [5, 5, 3, 5, 5, 5]
    assert tried.learned[tried.labels != 2].all()
    assert not accuracy_of(more, "class 2").optimistic


def test_each_class_counts_alike() -> None:
    support, centres = support_of(2)
    many = support.with_images("class 7", drawn(np.random.default_rng(5), np.full(60, 7), centres))
    tried = trials(many)
    right = tried.cosines.argmax(1) == tried.labels
    by_class = [right[tried.labels == label].mean() for label in range(7)]
    said = rates(many).accuracy
    assert said.value == pytest.approx(np.mean(by_class))
    effective = 7**2 / (6 / 5 + 1 / 60)
    assert (said.low, said.high) == pytest.approx(wilson_interval(said.value * effective, effective))


@pytest.mark.parametrize("unseen", [0, 5])
def test_a_class_that_lies_scattered_does_not_lower_the_threshold(unseen: int) -> None:
    for seed in range(5):
        support, _ = support_of(seed, unseen=unseen)
        scattered = np.random.default_rng(seed).normal(0, 4, (5, WIDTH)).astype(np.float32)
        after = support.with_images("scattered", scattered)
        bundled = trials(after)
        best = np.sort(bundled.cosines.max(1)[bundled.labels < 6])
        assert head_of(after).threshold == best[1]  # of 30: one is 3.3%, two are more than 5%
        assert after.without("scattered").sha256 == support.sha256
        assert head_of(support.without("class 0")).threshold is not None


def test_unknown_images_are_counted_where_they_are_given() -> None:
    support, centres = support_of(3)
    assert rates(support).unknown_accepted is None
    assert rates(support).lines()[2].endswith("not measured")
    unknown = drawn(np.random.default_rng(5), np.repeat([6, 7], 20), centres)
    given = replace(support, unknown=unknown)
    head = head_of(given)
    accepted = int((head.cosines(unknown).max(1) >= head.threshold).sum())
    said = rates(given).unknown_accepted
    low, high = wilson_interval(accepted, 40)
    assert said == Share(pytest.approx(accepted / 40), pytest.approx(low), pytest.approx(high), 40)  # type: ignore[arg-type]


@pytest.mark.parametrize("unseen", [0, 10])
def test_what_is_said_is_true_of_fresh_images(unseen: int) -> None:
    """Of 60 worlds at least 50 intervals hold the truth: 57 ± 1.7 are expected where each image is independent."""
    held = {"accuracy": 0, "known_rejected": 0}
    for seed in range(60):
        support, centres = support_of(seed, unseen=unseen, learned=unseen > 0)
        labels = np.repeat(np.arange(6), 300)
        head, said = head_of(support), rates(support)
        cosines = head.cosines(drawn(np.random.default_rng(seed + 1000), labels, centres))
        truth = {
            "accuracy": (cosines.argmax(1) == labels).mean(),
            "known_rejected": (cosines.max(1) < head.threshold).mean(),
        }
        for name, value in truth.items():
            share = getattr(said, name)
            held[name] += share.low <= value <= share.high
    assert min(held.values()) >= 50, held


# What was learned ----------------------------------------------------------------------------------------------


@cache
def datasets() -> dict[str, Artifact]:
    config = {"digits": Digits.model_validate({"source": "digits", "few_shot": {"shots": 5}})}
    config["again"] = config["digits"]
    names = ["digits", "digits.train", "digits.test", "digits.support", "digits.pool", "again.support"]
    return dataset_artifacts(config, Path(), names)


@cache
def adapted() -> Artifact:
    """A model whose classifier a stage fitted to digits.support, exported with its embedding."""
    bench = workbench()
    bench.run("load", "body", classes_of="digits.test", **VIT)
    bench.run("fewshot", "adapted", model="body", support="digits.support", method="nearest_centroid")
    return bench.run("export", "adapted-onnx", model="adapted", embedding=True)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("digits.support", "adapted"),
        ("digits.train", "adapted"),
        ("digits", "adapted"),
        ("again.support", "adapted"),
        ("digits.pool", None),
        ("digits.test", None),
    ],
)
def test_manifests_say_what_was_learned(name: str, stage: str | None) -> None:
    assert learned_from(adapted(), datasets()[name]) == stage


def test_a_file_alone_says_nothing_of_what_was_learned() -> None:
    assert is_traced(adapted())
    assert not is_traced(quantized())
    inputs = {"model": adapted(), "support": datasets()["digits.support"], "unseen": datasets()["digits.test"]}
    assert class_images(inputs, in_recipe=True).learned
    fresh = {**inputs, "model": workbench().run("export", "body-onnx", model="body", embedding=True)}
    assert not class_images(fresh, in_recipe=True).learned
    assert class_images(fresh, in_recipe=False).learned
    assert class_images({"model": adapted()}, in_recipe=True) is None


def test_unseen_images_that_were_learned_are_refused(tmp_path: Path) -> None:
    inputs = {"model": adapted(), "support": datasets()["digits.support"], "unseen": datasets()["digits.train"]}
    with pytest.raises(DataError, match="stage 'adapted' learned from them"):
        class_images(inputs, in_recipe=True)
    support = data("eight.support")
    with pytest.raises(DataError, match="40 of the unseen images are in the support"):
        write_bundle(quantized(), tmp_path, ClassImages(support, unseen=support))


def test_a_bundle_says_its_rates(tmp_path: Path) -> None:
    bench, said = digits_of_eight(), Said()
    made = bench.run(
        "bundle",
        "rated",
        Context(progress=said),
        model=quantized().id,
        support="eight.support",
        unseen="eight.test",
        unknown="others.train",
    )
    support, measured = read_support(made.file(FILE)), made.metrics["nearest_class"]
    assert (len(support.unseen), len(support.unknown)) == (len(data("eight.test")), len(data("others.train")))
    assert measured == json.loads((made.path / "bundle.json").read_text())["nearest_class"]
    assert measured["accuracy"]["images"] == len(support.unseen)
    assert not measured["accuracy"]["optimistic"]
    assert measured["unknown_accepted"]["images"] == len(support.unknown)
    assert [line for line in said.lines if "called unknown" in line] == rates(support).lines()[1:]
    assert "images of the classes called unknown: " in (listed := program(made.path, "enroll.py", "--list").stdout)
    assert "optimistic" not in listed
    image = tmp_path / "image.png"
    Image.fromarray(open_dataset(bench.made["others.test"]).image(0)).save(image)
    answer = program(made.path, "infer.py", "--unknown", image)
    assert answer.stderr.splitlines() == rates(support).lines()[1:]
