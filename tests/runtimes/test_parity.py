"""The gates, by their formulas."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.artifacts import IOSpec, Preprocess
from edgevit.errors import ParityError
from edgevit.runtimes.base import Session, random_images
from edgevit.runtimes.parity import (
    ENGINE_DB,
    NOISELESS_DB,
    EngineCloseness,
    check_engine_agrees,
    check_outputs_agree,
    quantized_sqnr_db,
    sqnr_db,
)

SPEC = IOSpec.for_classifier(Preprocess(height=8, width=8), tuple("abcd"))


class Constant(Session):
    """Gives the same scores whatever the image."""

    spec = SPEC

    def __init__(self, logits):
        self.logits = np.asarray(logits, np.float32)

    def infer(self, inputs):
        return {"logits": np.repeat(self.logits[None], len(inputs["image"]), axis=0)}

    def measure(self, plan):
        raise AssertionError("nothing is timed here")


def agree(got, expected, precision="float32"):
    return check_outputs_agree({"logits": np.asarray(got)}, {"logits": np.asarray(expected)}, precision, "x", SPEC)


@given(st.integers(0, 2**32 - 1), st.floats(-60, 40))
def test_sqnr_is_twenty_log_of_the_amplitude(seed, noise_db):
    signal = np.random.default_rng(seed).normal(0, 5, (16, 4))
    noisy = signal * (1 + 10 ** (noise_db / 20))
    assert sqnr_db(noisy, signal) == pytest.approx(-noise_db, abs=1e-6)


def test_sqnr_without_noise_or_signal_is_still_a_number():
    ones, zeros = np.ones((2, 4)), np.zeros((2, 4))
    assert sqnr_db(ones, ones) == NOISELESS_DB
    assert sqnr_db(ones, zeros) == -NOISELESS_DB


def test_equal_outputs_agree():
    scores = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    found = agree(scores, scores)
    assert (found.max_difference, found.top1_agreement) == (0, 1)


@given(st.integers(0, 2**32 - 1), st.floats(1.1, 100))
def test_a_difference_beyond_the_tolerance_fails_and_within_it_passes(seed, factor):
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(8, 4))
    allowed = 1e-5 + 1e-4 * np.abs(scores).max()
    changed = scores.copy()
    changed[generator.integers(8), generator.integers(4)] += allowed / factor
    assert agree(changed, scores).max_difference == pytest.approx(allowed / factor)
    changed[generator.integers(8), generator.integers(4)] += allowed * (factor + 1)
    with pytest.raises(ParityError, match="output 'logits' differs") as caught:
        agree(changed, scores)
    assert "largest difference" in caught.value.got


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_fails(bad):
    scores = np.ones((2, 4))
    changed = scores.copy()
    changed[0, 0] = bad
    with pytest.raises(ParityError, match="not finite"):
        agree(changed, scores)
    with pytest.raises(ParityError, match="not finite"):
        quantized_sqnr_db(Constant(changed[0]), Constant(scores[0]), [np.zeros((2, 3, 8, 8), np.float32)], "x")


def test_missing_and_reshaped_outputs_fail():
    with pytest.raises(ParityError, match="is missing"):
        check_outputs_agree({}, {"logits": np.ones((2, 4))}, "float32", "x", SPEC)
    with pytest.raises(ParityError, match="another shape"):
        agree(np.ones((2, 5)), np.ones((2, 4)))


def test_the_ratio_is_over_all_batches():
    images = [np.zeros((3, 3, 8, 8), np.float32), np.zeros((2, 3, 8, 8), np.float32)]
    reference, quantized = Constant([10, 0, 0, 0]), Constant([9, 0, 0, 0])
    assert quantized_sqnr_db(quantized, reference, images, "x") == pytest.approx(20)


def test_a_constant_model_is_far_however_large_the_offset_of_its_scores():
    class Varied(Constant):
        def infer(self, inputs):
            return {"logits": self.logits + np.random.default_rng(0).normal(size=(len(inputs["image"]), 4))}

    images, offset = [np.zeros((64, 3, 8, 8), np.float32)], np.full(4, 100.0)
    assert (
        sqnr_db(
            Constant(offset).infer({"image": images[0]})["logits"], Varied(offset).infer({"image": images[0]})["logits"]
        )
        > 30
    )
    assert quantized_sqnr_db(Constant(offset), Varied(offset), images, "x") < 10


def test_a_single_score_is_held_against_itself_not_against_its_mean():
    images = [np.zeros((4, 3, 8, 8), np.float32)]
    assert quantized_sqnr_db(Constant([9]), Constant([10]), images, "x") == pytest.approx(20)
    assert quantized_sqnr_db(Constant([-10]), Constant([10]), images, "x") < 10


def test_a_reference_that_is_not_finite_fails():
    with pytest.raises(ParityError, match="float model' is not finite"):
        quantized_sqnr_db(
            Constant([1, 0, 0, 0]), Constant([np.inf, 0, 0, 0]), [np.zeros((2, 3, 8, 8), np.float32)], "x"
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_close(bad):
    reference = np.ones((2, 3))
    assert sqnr_db(np.where(np.eye(2, 3), bad, reference), reference) < -100


class Scores(Session):
    """Scores (8, classes) of the eight seeded images, which it knows by their pixels; `broken_from` is a batch size."""

    spec = SPEC

    def __init__(self, scores, broken_from=1000):
        self.scores, self.broken_from = np.asarray(scores), broken_from
        self.images, self.sizes = random_images(SPEC, 8), []

    def infer(self, inputs):
        images = inputs["image"]
        self.sizes.append(len(images))
        rows = [int(np.flatnonzero((self.images == image).all((1, 2, 3)))[0]) for image in images]
        return {"logits": self.scores[rows] * (len(images) < self.broken_from)}

    def measure(self, plan):
        raise AssertionError("nothing is timed here")


def scores_of(spread, seed=0):
    """Scores around (3, -1, 1, -3); `spread`: of the images, as a share of it (root mean square)."""
    mean = np.array([3.0, -1.0, 1.0, -3.0])
    images = np.random.default_rng(seed).normal(size=(8, 4))
    images -= images.mean(0)
    images -= images.mean(1, keepdims=True)
    return mean + spread * images * np.sqrt(np.mean(mean**2) / np.mean(images**2))


def noise_of(scores, share, seed=1):
    noise = np.random.default_rng(seed).normal(size=scores.shape)
    noise -= noise.mean(1, keepdims=True)
    return share * noise * np.linalg.norm(scores) / np.linalg.norm(noise)


def engine_agrees(got, expected, precision="int8", sizes=(8,)):
    return check_engine_agrees(Scores(got), Scores(expected), precision, sizes, "x")


def test_an_engine_is_held_against_its_file_by_centered_scores():
    """The share of noise is known: the offset of all scores does not count."""
    scores = scores_of(1)
    closeness = engine_agrees(scores + noise_of(scores, 0.05) + 500, scores)
    assert closeness.sqnr_db == pytest.approx(-20 * np.log10(0.05), abs=0.01)
    with pytest.raises(ParityError, match="'logits' of the engine differs"):
        engine_agrees(scores + noise_of(scores, 0.2), scores)


def test_an_engine_that_ignores_its_input_is_refused():
    """Its answer is the mean of the references, the best constant. It is above the first floor."""
    scores = scores_of(0.08)
    constant = np.broadcast_to(scores.mean(0), scores.shape)
    assert sqnr_db(constant, scores) > ENGINE_DB["int8"]
    for sizes in ((8,), (1, 32), (1, 12)):
        with pytest.raises(ParityError, match="does not follow the images") as caught:
            engine_agrees(constant, scores, sizes=sizes)
        assert re.match(r"-?\d+\.\d dB on seeded images", str(caught.value.got))
    scores = scores_of(0.05)
    with pytest.raises(ParityError, match="does not follow the images"):
        engine_agrees(scores[::-1], scores)  # of other images


@pytest.mark.parametrize(("precision", "share"), [("int8", 0.02), ("float16", 0.002), ("float32", 1e-5)])
def test_an_engine_that_rounds_passes(precision, share):
    """0.02 is the noise of INT8 in a small ViT, 34 dB. Scores differ as little as those of noise images."""
    scores = scores_of(0.08)
    closeness = engine_agrees(scores + noise_of(scores, share), scores, precision)
    assert closeness.sqnr_db == pytest.approx(-20 * np.log10(share), abs=0.01)
    assert closeness.between_images_db == pytest.approx(-20 * np.log10(share / 0.08), abs=1)


def test_images_that_differ_by_rounding_alone_refuse_no_engine():
    scores = scores_of(0.02)
    closeness = engine_agrees(scores + noise_of(scores, 0.03), scores)
    assert closeness.between_images_db is None
    with pytest.raises(ParityError, match="does not follow the images"):
        engine_agrees(scores + noise_of(scores, 0.05), scores_of(0.05))


@pytest.mark.parametrize(("precision", "share"), [("float32", 0.002), ("float16", 0.02), ("int8", 0.2)])
def test_each_precision_has_a_floor_of_its_own(precision, share):
    scores = scores_of(1)
    with pytest.raises(ParityError, match="of the engine differs") as caught:
        engine_agrees(scores + noise_of(scores, share), scores, precision)
    assert caught.value.expected == f"at least {ENGINE_DB[precision]:g} dB"


def test_an_engine_is_run_in_each_batch_size():
    scores = scores_of(1)
    engine = Scores(scores)
    closeness = check_engine_agrees(engine, Scores(scores), "int8", (1, 12, 4, 1), "x")
    assert closeness == EngineCloseness(NOISELESS_DB, NOISELESS_DB)
    assert engine.sizes == [1, 1, 4, 12]
    with pytest.raises(ParityError, match="of the engine differs") as caught:
        check_engine_agrees(Scores(scores, broken_from=12), Scores(scores), "int8", (1, 4, 12), "x")
    assert "in batches of 12" in caught.value.got


@pytest.mark.parametrize("wrong", [[1, 0, 0, 0], [0, 0, 0, 0], [np.nan, 0, 0, 0], [1, 2, 3]])
def test_an_engine_that_is_plainly_wrong_is_refused(wrong):
    with pytest.raises(ParityError):
        check_engine_agrees(Constant(wrong), Scores(scores_of(1)), "int8", (1, 8), "x")
