"""Ranges against numpy, thresholds against onnxruntime's own calibrator."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxruntime.quantization.calibrate import HistogramCollector
from scipy.special import ndtr

from edgevit.errors import DataError
from edgevit.quantization import activation_ranges
from edgevit.quantization.calibration import BINS, LEVELS, entropy_range, mse_range, percentile_range


def squares() -> onnx.ModelProto:
    """image → square = image² → logits = square - 1."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["image", "image"], ["square"]),
            helper.make_node("Sub", ["square", "one"], ["logits"]),
        ],
        "squares",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3, 2, 2])],
        [onnx.numpy_helper.from_array(np.asarray(np.float32(1)), "one")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_minmax_is_the_range_of_all_images_at_once(seed, batches):
    images = np.random.default_rng(seed).normal(0, 3, (batches * 2, 3, 2, 2)).astype(np.float32)
    found = activation_ranges(
        squares(), ["image", "square", "logits"], lambda: np.split(images, batches), "minmax", threads=1
    )
    everything = {"image": images, "square": images**2, "logits": images**2 - 1}
    for name, values in everything.items():
        assert found[name] == pytest.approx((values.min(), values.max()), rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_refused(bad):
    images = np.ones((2, 3, 2, 2), np.float32)
    images[1, 1, 0, 0] = bad
    with pytest.raises(DataError, match="NaN or infinite") as caught:
        activation_ranges(squares(), ["square"], lambda: [images], "minmax", threads=1)
    assert "square" in caught.value.where


def test_no_images_are_refused():
    with pytest.raises(DataError, match="no calibration images"):
        activation_ranges(squares(), ["square"], lambda: [], "minmax", threads=1)


def histogram_of(values):
    largest = float(np.abs(values).max())
    full = float(values.min()), float(values.max())
    return np.histogram(values, BINS, range=(-largest, largest))[0].astype(np.int64), full


@given(st.integers(0, 2**32 - 1), st.floats(-2, 2))
@settings(max_examples=30)
def test_percentile_is_numpys_to_within_a_bin(seed, centre):
    values = np.random.default_rng(seed).standard_t(3, 50_000) + centre
    histogram, full = histogram_of(values)
    low, high = percentile_range(histogram, full)
    width = 2 * max(map(abs, full)) / BINS
    expected = np.percentile(values, [0.005, 99.995])
    # between two neighbouring samples any value has the same share below it
    ordered = np.sort(values)
    gaps = np.diff(ordered)
    assert abs(low - expected[0]) <= width + gaps[:5].max()
    assert abs(high - expected[1]) <= width + gaps[-5:].max()


def test_entropy_cuts_outliers_off_as_onnxruntimes_does(capsys):
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(0, 1, 100_000), [25.0, -25.0]]).astype(np.float32)
    histogram, full = histogram_of(values)
    low, high = entropy_range(histogram, full)
    assert low == pytest.approx(-high)
    collector = HistogramCollector("entropy", True, BINS, LEVELS, None, "same")
    collector.collect({"values": values})
    theirs = float(collector.compute_collection_result()["values"][1])
    capsys.readouterr()
    assert 2 < high < 8
    assert high == pytest.approx(theirs, rel=0.35)


def test_entropy_never_leaves_the_range_that_was_seen():
    values = np.abs(np.random.default_rng(1).normal(0, 1, 20_000))
    histogram, full = histogram_of(values)
    low, high = entropy_range(histogram, full)
    assert low == full[0] >= 0
    assert high <= full[1]


def test_entropy_spends_all_levels_of_unsigned_integers_on_values_above_zero():
    images = np.random.default_rng(2).standard_normal((1024, 3, 2, 2)).astype(np.float32)

    def error(symmetric):
        ranges = activation_ranges(
            squares(), ["square"], lambda: [images], "entropy", 1, is_symmetric=lambda name, bounds: symmetric
        )
        step = ranges["square"][1] / 255
        return np.mean((np.clip(np.round(images**2 / step), 0, 255) * step - images**2) ** 2)

    assert error(False) < 0.8 * error(True)


def test_a_tensor_of_zeros_has_an_empty_range():
    for calibrator in ("minmax", "entropy", "percentile", "mse"):
        images = np.zeros((2, 3, 2, 2), np.float32)
        found = activation_ranges(squares(), ["square"], lambda images=images: [images], calibrator, threads=1)  # type: ignore[misc]
        assert found["square"] == (0.0, 0.0)


def test_exact_zeros_cost_no_range_of_mse_anything():
    values = np.abs(np.random.default_rng(0).standard_t(4, (32, 3, 2, 2))).astype(np.float32)
    sparse = np.concatenate([values, np.zeros((1000, 3, 2, 2), np.float32)])
    dense_range, sparse_range = (
        activation_ranges(squares(), ["image"], lambda images=images: [images], "mse", threads=1)["image"]  # type: ignore[misc]
        for images in (values, sparse)
    )
    assert sparse_range == dense_range


@given(st.integers(0, 2**32 - 1), st.floats(0, 40), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_mse_rounds_the_values_themselves_nearly_as_well_as_any_cut(seed, outlier, behind_gelu, symmetric):
    values = np.append(np.random.default_rng(seed).standard_normal(20_000), outlier)
    values = values * ndtr(values) if behind_gelu else values
    histogram, full = histogram_of(values)

    def error(share):
        low, high = share * full[0], share * full[1]
        step = (2 * max(-low, high) if symmetric else high - low) / 255
        rounded = np.round(np.clip(values, low, high) / step) * step
        return np.mean((rounded - values) ** 2)

    low, high = mse_range(histogram, full, symmetric)
    assert low / full[0] == pytest.approx(high / full[1])
    # not spread evenly within a step where most values crowd together, as behind a GELU
    assert error(low / full[0]) <= (1.5 if behind_gelu else 1.1) * min(map(error, np.linspace(0.05, 1, 60)))
