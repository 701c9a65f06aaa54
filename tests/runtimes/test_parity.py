"""The gates, by their formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.artifacts import IOSpec, Preprocess
from edgevit.errors import ParityError
from edgevit.runtimes.base import Session
from edgevit.runtimes.parity import (
    ENGINE_DB,
    NOISELESS_DB,
    check_engine_agrees,
    check_outputs_agree,
    check_quantized,
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
        check_quantized(Constant(changed[0]), Constant(scores[0]), [np.zeros((2, 3, 8, 8), np.float32)], -500, "x")


def test_missing_and_reshaped_outputs_fail():
    with pytest.raises(ParityError, match="is missing"):
        check_outputs_agree({}, {"logits": np.ones((2, 4))}, "float32", "x", SPEC)
    with pytest.raises(ParityError, match="another shape"):
        agree(np.ones((2, 5)), np.ones((2, 4)))


def test_the_floor_is_over_all_batches():
    images = [np.zeros((3, 3, 8, 8), np.float32), np.zeros((2, 3, 8, 8), np.float32)]
    reference, quantized = Constant([10, 0, 0, 0]), Constant([9, 0, 0, 0])
    assert check_quantized(quantized, reference, images, 19.9, "x") == pytest.approx(20)
    with pytest.raises(ParityError, match="too far") as caught:
        check_quantized(quantized, reference, images, 20.1, "x")
    assert caught.value.got == "20.0 dB"


def test_a_constant_model_fails_however_large_the_offset_of_its_scores():
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
    with pytest.raises(ParityError, match="too far"):
        check_quantized(Constant(offset), Varied(offset), images, 10, "x")


def test_a_single_score_is_held_against_itself_not_against_its_mean():
    images = [np.zeros((4, 3, 8, 8), np.float32)]
    assert check_quantized(Constant([9]), Constant([10]), images, 10, "x") == pytest.approx(20)
    with pytest.raises(ParityError, match="too far"):
        check_quantized(Constant([-10]), Constant([10]), images, 10, "x")


def test_a_reference_that_is_not_finite_fails():
    with pytest.raises(ParityError, match="float model' is not finite"):
        check_quantized(
            Constant([1, 0, 0, 0]), Constant([np.inf, 0, 0, 0]), [np.zeros((2, 3, 8, 8), np.float32)], -500, "x"
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_close(bad):
    reference = np.ones((2, 3))
    assert sqnr_db(np.where(np.eye(2, 3), bad, reference), reference) < -100


def test_an_engine_is_held_against_its_file_by_centered_scores():
    """The share of noise is known: the offset of all scores does not count."""
    scores = np.array([3.0, -1.0, 1.0, -3.0])
    noise = np.array([1.0, -1.0, -1.0, 1.0])  # its mean is 0, as that of the scores
    for share, is_right in ((0.05, True), (0.2, False)):
        noisy = scores + share * noise * np.linalg.norm(scores) / np.linalg.norm(noise)
        if is_right:
            closeness = check_engine_agrees(Constant(noisy + 500), Constant(scores), "x")
            assert closeness == pytest.approx(-20 * np.log10(share), abs=0.01)
        else:
            with pytest.raises(ParityError, match="'logits' of the engine differs"):
                check_engine_agrees(Constant(noisy), Constant(scores), "x")


@pytest.mark.parametrize("wrong", [[1, 0, 0, 0], [0, 0, 0, 0], [np.nan, 0, 0, 0]])
def test_an_engine_that_is_plainly_wrong_is_refused(wrong):
    with pytest.raises(ParityError):
        check_engine_agrees(Constant(wrong), Constant([0.5, 2.0, -3.0, 0.1]), "x")
    assert check_engine_agrees(Constant([1, 2, 3, 5]), Constant([1, 2, 3, 5]), "x") == NOISELESS_DB > ENGINE_DB
