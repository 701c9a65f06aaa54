"""evaluate, protocols knn and linear: accuracy of heads on a backbone's features, and measures of the features."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sklearn.neighbors import KNeighborsClassifier
from typer.testing import CliRunner

from edgevit.artifacts import LEARNED_TOO, Artifact
from edgevit.cli import app
from edgevit.configs import Augmentation, Budget, Digits, Evaluate
from edgevit.context import Context
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.splits import sample_by_hash
from edgevit.errors import DataError
from edgevit.evaluation.feature_measures import alignment, rankme
from edgevit.inference.frozen_model import FrozenModel
from edgevit.models import model_from_checkpoint
from edgevit.progress import PlainProgress
from edgevit.report.build import write_report
from tests.small_models import checkpoint, float_onnx, workbench

NEIGHBORS: dict[str, Any] = {
    "protocol": "knn", "data": "digits.test", "support": "digits.support", "neighbors": (1, 5, 60),
}  # fmt: skip


@cache
def measured(model: str, name: str = "knn", **changes: Any) -> Artifact:
    return workbench().run("evaluate", f"{name}-{model}", model=model, **{**NEIGHBORS, **changes})


@cache
def linear() -> Artifact:
    return workbench().run(
        "evaluate", "linear-probe", model=checkpoint().id, data="digits.test", support="digits.support",
        protocol="linear", label_shares=(1.0, 0.4), draws=2,
    )  # fmt: skip


@cache
def with_embedding() -> Artifact:
    return workbench().run("export", "features-onnx", model=checkpoint().id, embedding=True)


def features_of(role: str) -> tuple[np.ndarray, np.ndarray]:
    data = open_dataset(workbench().made[role])
    frozen = FrozenModel(model_from_checkpoint(checkpoint()), checkpoint().io.preprocess, torch.device("cpu"))
    return frozen.embeddings(data).numpy().astype(float), data.labels


def test_the_accuracies_are_those_of_scikit_learn_on_the_same_features() -> None:
    (support, known), (test, labels) = features_of("digits.support"), features_of("digits.test")
    heads = measured(checkpoint().id).metrics["heads"]
    assert [head["head"] for head in heads] == ["kNN, k 1, τ 0.07", "kNN, k 5, τ 0.07"]  # 60 are more than 50 images
    for head, k in zip(heads, (1, 5), strict=True):
        peer = KNeighborsClassifier(k, metric="cosine", weights=lambda far: np.exp((1 - far) / 0.07))
        assert head["top1"]["value"] == pytest.approx(peer.fit(support, known).score(test, labels), abs=1 / 896)
        assert (head["support_images"], head["draws"], head["top1"]["n"]) == (50, 1, 896)


def test_a_file_with_an_embedding_answers_as_its_checkpoint_but_gives_no_views() -> None:
    of_file, of_checkpoint = measured(with_embedding().id).metrics, measured(checkpoint().id).metrics
    for ours, theirs in zip(of_file["heads"], of_checkpoint["heads"], strict=True):
        assert ours["top1"]["value"] == pytest.approx(theirs["top1"]["value"], abs=3 / 896)
    assert of_file["features"]["rankme"] == pytest.approx(of_checkpoint["features"]["rankme"], rel=1e-3)
    assert of_file["features"]["alignment"] is None
    assert of_checkpoint["features"]["alignment"] > 0
    assert of_file["output"] == of_checkpoint["output"] == "embedding"


def test_features_that_are_logits_are_named(tmp_path: Path) -> None:
    both = [measured(checkpoint().id), measured(float_onnx().id)]
    (group,) = write_report(both, Budget(), "features", tmp_path)["features"]
    assert [model["are_logits"] for model in group["models"]] == [False, True]
    for name in ("report.html", "report.md"):
        text = " ".join((tmp_path / name).read_text(encoding="utf-8").split())
        assert f"Features of {float_onnx().id}: its logits, as the file has no embedding." in text


def test_the_measures_are_of_the_features_and_of_two_views() -> None:
    features, _ = features_of("digits.test")
    measures = measured(checkpoint().id).metrics["features"]
    assert (measures["images"], measures["dimensions"]) == (896, 48)
    assert measures["rankme"] == pytest.approx(rankme(features), rel=1e-4)
    frozen = FrozenModel(model_from_checkpoint(checkpoint()), checkpoint().io.preprocess, torch.device("cpu"))
    test = open_dataset(workbench().made["digits.test"])
    views = [frozen.embeddings_of_views(test, Augmentation(), view, 0).numpy().astype(float) for view in (0, 1)]
    assert measures["alignment"] == pytest.approx(alignment(*views), rel=1e-4)
    still = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), horizontal_flip=0.0)
    unchanged = measured(checkpoint().id, "still", augmentation=still).metrics["features"]
    assert unchanged["alignment"] == pytest.approx(0, abs=1e-6)


def test_shares_of_the_labels_are_drawn_with_an_interval() -> None:
    whole, part = linear().metrics["heads"]
    assert (whole["label_share"], whole["support_images"], whole["draws"]) == (1.0, 50, 1)
    assert (part["label_share"], part["support_images"], part["draws"]) == (0.4, 20, 2)
    assert part["top1"]["low"] < part["top1"]["value"] < part["top1"]["high"]
    with np.load(linear().file("features.npz"), allow_pickle=False) as arrays:
        assert arrays["predicted_1"].shape == (2, 896)
        assert (arrays["predicted_1"] == arrays["labels"]).mean() == pytest.approx(part["top1"]["value"])


def test_the_images_with_neighbors_are_chosen_by_hash_and_their_neighbors_are_the_nearest() -> None:
    evaluation = measured(checkpoint().id)
    queries = json.loads(evaluation.file("features.json").read_text(encoding="utf-8"))["neighbors"]
    test = open_dataset(workbench().made["digits.test"])
    assert [query["sample_id"] for query in queries] == list(sample_by_hash(test, 6, 0).sample_ids)
    (support, _), (features, _) = features_of("digits.support"), features_of("digits.test")
    directions = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (features, support)]
    cosines = directions[0] @ directions[1].T
    for query in queries:
        row = cosines[test.sample_ids.index(query["sample_id"])]
        assert [each["cosine"] for each in query["neighbors"]] == pytest.approx(sorted(row, reverse=True)[:5], abs=1e-4)
        for each in (query, *query["neighbors"]):
            with Image.open(evaluation.file(each["file"])) as picture:
                assert max(picture.size) <= 72


def test_the_report_has_both_protocols_in_one_table_with_the_constant_guess(tmp_path: Path) -> None:
    knn = measured(checkpoint().id, "shares", label_shares=(1.0, 0.4), draws=2)
    report = write_report([knn, linear()], Budget(), "features", tmp_path)
    (group,) = report["features"]
    rows = [(row["label_share"], row["head"]) for row in group["rows"]]
    assert rows == [
        *((1.0, head) for head in ("kNN, k 1, τ 0.07", "kNN, k 5, τ 0.07", "linear")),
        *((0.4, head) for head in ("kNN, k 1, τ 0.07", "kNN, k 5, τ 0.07", "linear")),
    ]
    (model,) = group["models"]
    assert all(model["top1"])
    page, markdown = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    for text in (page, markdown):
        assert f"{model['top1'][2]['value']:.1%}" in text
        assert f"{group['constant_guess']['value']:.1%}" in text
        assert "RankMe" in text
    assert max(map(len, markdown.splitlines())) <= 80
    assert page.count("data:image/png;base64,") >= 6 * 6
    assert "✗" in page


def test_models_with_other_labels_have_a_table_of_their_own(tmp_path: Path) -> None:
    both = [measured(checkpoint().id), measured(float_onnx().id)]
    other = measured(checkpoint().id, "seed", label_shares=(0.4,), draws=2, seed=3)
    together, alone = write_report([*both, other], Budget(), "features", tmp_path)["features"]
    assert [model["id"] for model in together["models"]] == [checkpoint().id, float_onnx().id]
    assert [model["id"] for model in alone["models"]] == [checkpoint().id]


def test_neighbors_beyond_a_share_of_the_labels_are_said_and_shown(tmp_path: Path) -> None:
    said = io.StringIO()
    context = replace(Context(), progress=PlainProgress(said))
    fields = {**NEIGHBORS, "neighbors": (5, 30), "label_shares": (1.0, 0.04), "draws": 2}
    bench = workbench()
    evaluation = bench.run("evaluate", "left-out", context, model=checkpoint().id, **fields)
    assert [(head["label_share"], head["support_images"]) for head in evaluation.metrics["heads"]] == [
        (1.0, 50), (1.0, 50), (0.04, 10)
    ]  # fmt: skip
    expected = {"label_share": 0.04, "support_images": 10, "draws": 2, "neighbors": [30]}
    assert evaluation.metrics["left_out"] == [expected]
    assert "0.04 of the labels are 10 images; neighbors 30 are left out" in said.getvalue()
    write_report([evaluation], Budget(), "features", tmp_path)
    for name in ("report.html", "report.md"):
        text = " ".join((tmp_path / name).read_text(encoding="utf-8").split())
        assert "fewer labelled images than neighbors: k 30 of 10 labels (4%, 2 draws)." in text


@pytest.mark.slow
def test_alignments_of_different_views_are_not_set_side_by_side(tmp_path: Path) -> None:
    usual, file = measured(checkpoint().id), measured(with_embedding().id)
    gentle = measured(checkpoint(True).id, "gentle", augmentation=Augmentation(scale=(0.9, 1.0)))
    (group,) = write_report([usual, gentle], Budget(), "features", tmp_path)["features"]
    assert not group["same_views"]
    assert all(model["features"]["alignment"] is None for model in group["models"])
    assert all(model["features"]["rankme"] for model in group["models"])
    assert "they are of different random views" in " ".join((tmp_path / "report.md").read_text("utf-8").split())
    (group,) = write_report([gentle, file], Budget(), "features", tmp_path)["features"]  # a file gives no views
    assert group["same_views"]
    assert [model["features"]["alignment"] for model in group["models"]] == [
        gentle.metrics["features"]["alignment"], None
    ]  # fmt: skip


def test_a_support_that_holds_test_images_is_named() -> None:
    said = io.StringIO()
    context, fields = replace(Context(), progress=PlainProgress(said)), {**NEIGHBORS, "support": "digits.test"}
    shared = workbench().run("evaluate", "shared", context, model=checkpoint().id, **fields).metrics
    assert shared["heads"][0]["top1"]["value"] == 1
    assert shared[LEARNED_TOO] == [{"data": "digits.test", "labelled": True, "images": 896, "of": 896}]
    assert "896 of the 896 test images are in the support" in said.getvalue()
    assert LEARNED_TOO not in measured(checkpoint().id).metrics


def test_episodes_on_images_of_the_support_say_so() -> None:
    said = io.StringIO()
    context = replace(Context(), progress=PlainProgress(said))
    fields = {"data": "digits.test", "support": "digits.test", "protocol": "episodes", "episodes": 1, "queries": 2}
    workbench().run("evaluate", "shared-episodes", context, model=checkpoint().id, **fields)
    assert "896 of the 896 test images are in the support" in said.getvalue()


def test_classes_that_the_support_lacks_are_named() -> None:
    bench = workbench()
    few = bench.made["digits.support"].manifest
    config = {**few.config, "dataset": {**few.config["dataset"], "include_classes": ["0", "1", "2"]}}
    bench.made |= dataset_artifacts({"three": Digits.model_validate(config["dataset"])}, Path(), ["three.support"])
    with pytest.raises(DataError, match="the support lacks 7 of the 10 classes"):
        measured(checkpoint().id, "three", support="three.support")


def test_more_neighbors_than_images_are_refused_with_a_number_that_works() -> None:
    with pytest.raises(DataError, match="fewer labelled images than neighbors") as raised:
        measured(checkpoint().id, "many", neighbors=(51,))
    assert "neighbors: [10]" in str(raised.value.next)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"protocol": "knn"}, "needs 'support'"),
        ({"protocol": "linear"}, "needs 'support'"),
        ({"protocol": "linear", "support": "d.train", "neighbors": (3,)}, "'neighbors' goes with protocol: knn"),
        ({"label_shares": (0.1,)}, "goes with protocol: knn or linear"),
        ({"protocol": "knn", "support": "d.train", "label_shares": (0.1,), "draws": 1}, "at least 2 'draws'"),
        ({"protocol": "knn", "support": "d.train", "neighbors": ()}, "'neighbors' is empty"),
        ({"protocol": "knn", "support": "d.train", "temperature": 0}, "range"),
    ],
)
def test_options_that_do_not_fit(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Evaluate.model_validate({"stage": "evaluate", "id": "e", "model": "m", "data": "d.test", **fields})


def test_the_command_prints_each_head_and_the_constant_guess(tmp_path: Path) -> None:
    for role in ("digits.support", "digits.test"):
        data = open_dataset(workbench().made[role])
        for index in range(40):
            folder = tmp_path / role / data.classes[int(data.labels[index])]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.image(index)).save(folder / f"{index}.png")
    arguments = [
        "evaluate", str(with_embedding().path / "model.onnx"), "--data", str(tmp_path / "digits.test"), "--protocol",
        "knn", "--support", str(tmp_path / "digits.support"), "--neighbors", "1,3",
    ]  # fmt: skip
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "kNN, k 3, τ 0.07" in shown.stdout
    assert "always '" in shown.stdout
    assert "RankMe" in shown.stdout
    answer = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert [head["support_images"] for head in answer["heads"]] == [40, 40]
