"""How results of the Python interface are printed: every protocol, short reprs, no control characters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import edgevit
from edgevit.actions.compare_models import NO_LOSS, ComparedModel, LossLimits, ModelComparison, OtherModel
from edgevit.api.model import Prediction
from edgevit.errors import RecipeError
from edgevit.profiling import Comparison, Interval, Measurement, MeasurePlan
from edgevit.profiling.telemetry import Telemetry, Window
from tests.api.test_api import DIGITS, DigitImages

ONE_RUN = {"duration_s": 0.05, "warmup_s": 0.01, "min_runs": 5}


def test_a_standard_evaluation_is_printed(onnx: edgevit.Model) -> None:
    evaluation = edgevit.evaluate(onnx, DigitImages())
    assert str(evaluation).startswith(f"top-1 {evaluation.top1:.2%}, 95% interval ")
    assert repr(evaluation) == f"<edgevit.Evaluation {str(evaluation).splitlines()[0]}>"
    assert evaluation.corruptions is None
    assert evaluation._repr_html_().count("<tr>") == 1 + len(DIGITS)


def test_an_evaluation_under_corruption_is_printed_with_both_accuracies(onnx: edgevit.Model) -> None:
    options = {"kinds": ["noise"], "severities": (np.int64(5),), "max_images": 20}
    evaluation = edgevit.evaluate(onnx, DigitImages(), protocol="corruptions", **options)
    assert evaluation.corruptions is not None
    mean = evaluation.corruptions["mean"]["value"]
    top1, guess, balanced, recall, corrupted = str(evaluation).splitlines()
    assert top1.startswith(f"top-1 {evaluation.top1:.2%}, 95% interval ")
    assert guess.endswith(f"gives {evaluation.constant_guess:.2%}")
    assert balanced.startswith(f"balanced accuracy {evaluation.balanced_accuracy:.2%}, 95% interval ")
    assert recall.startswith(f"lowest recall {min(row['recall'] for row in evaluation.per_class if row['n']):.2%}, ")
    assert corrupted.startswith(f"under corruption {mean:.2%}")
    assert f"under corruption {mean:.2%}" in evaluation._repr_html_()
    assert len(repr(evaluation)) < 120


def test_a_few_shot_evaluation_is_printed_by_method(checkpoint: edgevit.Model) -> None:
    methods = ["nearest_centroid", "ridge"]
    options = {"methods": methods, "ways": 3, "shots": 1, "queries": 2, "episodes": 4}
    evaluation = edgevit.evaluate(checkpoint, DigitImages(), protocol="episodes", **options)
    assert list(evaluation.top1) == methods
    for method, mean in evaluation.top1.items():
        interval = evaluation.interval[method]
        assert interval is not None
        assert interval[0] <= mean <= interval[1]
        assert f"{method}: mean top-1 {mean:.2%}, 95% interval " in str(evaluation)
        assert f"{method} {mean:.2%}" in repr(evaluation)
    assert evaluation._repr_html_().count("<tr>") == 3


def test_one_episode_has_no_interval(checkpoint: edgevit.Model) -> None:
    evaluation = edgevit.evaluate(
        checkpoint, DigitImages(), protocol="episodes", ways=3, shots=1, queries=2, episodes=1
    )
    assert evaluation.interval == {"nearest_centroid": None}
    assert "95% interval –" in str(evaluation)


def test_heads_on_features_are_printed_with_their_labels(checkpoint: edgevit.Model) -> None:
    options = {"neighbors": [1, 3], "label_shares": [1, 0.5], "draws": 2}
    evaluation = edgevit.evaluate(checkpoint, DigitImages(), support=DigitImages(), protocol="knn", **options)
    assert isinstance(evaluation, edgevit.FeatureEvaluation)
    whole, *others = evaluation.heads
    assert (whole["head"], whole["draws"]) == ("kNN, k 1, τ 0.07", 1)
    assert whole["top1"]["value"] == 1  # each image is its own nearest neighbor
    assert [row["label_share"] for row in others] == [1, 0.5, 0.5]
    assert "kNN, k 1, τ 0.07" in str(evaluation)
    assert f"{evaluation.constant_guess:.2%}" in str(evaluation)
    assert "RankMe" in str(evaluation)
    assert evaluation.features is not None
    assert evaluation.features["rankme"] >= 1
    assert repr(evaluation) == "<edgevit.FeatureEvaluation 4 heads>"
    assert evaluation._repr_html_().count("<tr>") == 1 + 4 + 1


def test_a_linear_head_has_no_measures_of_features(onnx: edgevit.Model) -> None:
    evaluation = edgevit.evaluate(onnx, DigitImages(), support=DigitImages(), protocol="linear")
    assert [head["head"] for head in evaluation.heads] == ["linear"]
    assert evaluation.features is None


def test_heads_need_a_support(checkpoint: edgevit.Model) -> None:
    with pytest.raises(edgevit.EdgevitError, match="needs 'support'"):
        edgevit.evaluate(checkpoint, DigitImages(), protocol="knn")  # type: ignore[call-overload]


def test_latencies_and_comparisons_have_a_short_repr(onnx: edgevit.Model) -> None:
    latency = edgevit.profile(onnx, **ONE_RUN)
    assert repr(latency) == f"<edgevit.Latency {latency}>"
    comparison = edgevit.compare(onnx, onnx, duration_s=0.05)
    assert repr(comparison) == f"<edgevit.ModelComparison {str(comparison).splitlines()[2]}>"
    named = comparison.named(("a\x1b[2J", "b\n"))
    assert str(named).count("\n") == 2 + len(named.first.latency.doubts)
    assert "\x1b" not in str(named) + repr(named)


def test_a_prediction_prints_no_control_characters() -> None:
    prediction = Prediction("a\x1b[2J.jpg", (("bolt\nnut\u202e", 0.5),))
    assert str(prediction) == "a\\u001b[2J.jpg: bolt\\u000anut\\u202e 50.0%"


def slower(timed: Measurement, interval: Interval, limits: LossLimits = NO_LOSS) -> ModelComparison:
    """A comparison of two models whose ratio has this interval."""
    other = OtherModel("b", "onnxruntime", timed, Comparison(timed, timed, interval.low, interval))
    return ModelComparison(ComparedModel("a", "onnxruntime", timed), (other,), limits)


def test_an_invalid_comparison_says_so_and_shows_nothing_about_the_models() -> None:
    throttled = Telemetry((), Window(0, 1), 1.0, None, {"heat": 2}, 0.0)
    timed = Measurement(np.full(100, 5.0), MeasurePlan(), telemetry=throttled)
    comparison = slower(timed, Interval(0.4, 0.6))
    assert "INVALID: the machine throttled" in comparison._repr_html_()
    assert comparison.as_json()["other_is_worse"] is False
    assert "the timing is invalid, so neither is shown to be faster" in str(comparison)
    assert "0.50×" not in str(comparison)
    assert not comparison.is_met
    valid = replace(timed, telemetry=None)
    assert slower(valid, Interval(0.4, 0.6)).other_is_worse
    assert slower(valid, Interval(0.9, 1.1)).is_met


@pytest.mark.parametrize(
    ("interval", "speed", "max_slowdown", "is_met"),
    [
        (Interval(1.01, 1.2), "faster", 0, True),
        (Interval(0.99, 1.2), "not told apart", 0, True),
        (Interval(0.90, 0.96), "slower", 0, False),
        (Interval(0.90, 0.96), "slower", 0.05, True),  # 1 / 1.05 is 0.952: the slowdown may be 4.2%
        (Interval(0.90, 0.95), "slower", 0.05, False),
    ],
)
def test_a_slowdown_counts_where_the_whole_interval_is_beyond_the_limit(
    interval: Interval, speed: str, max_slowdown: float, is_met: bool
) -> None:
    timed = Measurement(np.full(100, 5.0), MeasurePlan())
    comparison = slower(timed, interval, LossLimits(max_slowdown))
    (other,) = comparison.others
    assert (other.speed, comparison.is_met) == (speed, is_met)
    assert other.exceeded(comparison.limits) == ([] if is_met else ["max_slowdown"])
    assert (f"exceeds --max-slowdown {max_slowdown:g}" in str(comparison)) is not is_met
    assert {"faster": "is faster than", "slower": "is slower than"}.get(speed, "are not told apart") in str(comparison)


def test_three_models_are_compared_with_the_first_by_intervals_that_hold_together(onnx: edgevit.Model) -> None:
    runtimes = ["onnxruntime", "openvino", "onnxruntime"]
    comparison = edgevit.compare(onnx, onnx, onnx, data=DigitImages(), duration_s=0.05, runtime=runtimes)
    said = str(comparison).splitlines()
    assert said[1].endswith("onnx (2) in OpenVINO")
    together = "the intervals of all speeds, and those of all losses of top-1, hold together with 95% confidence"
    assert together in said
    assert "97.5% interval" in said[3]
    answer = comparison.as_json()
    assert [other["runtime"] for other in answer["others"]] == ["openvino", "onnxruntime"]
    for other in answer["others"]:
        assert other["top1_drop"]["value"] == pytest.approx(0, abs=0.05)
        assert other["speedup"]["confidence"] == pytest.approx(0.975)
    with pytest.raises(RecipeError, match="one runtime for all models, or one for each"):
        edgevit.compare(onnx, onnx, onnx, runtime=["onnxruntime", "openvino"])
    with pytest.raises(RecipeError, match="number of models"):
        edgevit.compare(onnx)


def test_a_latency_in_a_notebook_names_its_kind_and_what_makes_it_invalid(onnx: edgevit.Model) -> None:
    latency = edgevit.profile(onnx, **ONE_RUN)
    assert "<td>measured</td>" in latency._repr_html_()
    artifact = latency.artifact
    hot = {**artifact.metrics["latency_ms"], "invalid": ["the board throttled"]}
    manifest = artifact.manifest.model_copy(update={"metrics": {**artifact.metrics, "latency_ms": hot}})
    html = replace(latency, artifact=replace(artifact, manifest=manifest))._repr_html_()
    assert "INVALID" in html
    assert "the board throttled" in html
