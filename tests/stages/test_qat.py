"""qat → export → quantize: what was trained under fake quantization is what the INT8 file computes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from edgevit.artifacts import Artifact
from edgevit.configs import Qat
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.errors import ArtifactError, ParityError, RecipeError
from edgevit.exporting import onnx_from_module, tensor_ranges
from edgevit.graphs.files import write_onnx
from edgevit.graphs.metadata import trained_ranges_in
from edgevit.model_file import AS_WRITTEN
from edgevit.models import create_model, open_checkpoint, save_checkpoint
from edgevit.models.creation import BuiltModel, folded_model
from edgevit.models.folding import Folded
from edgevit.models.ranges import RANGES, TrainedRanges, trained_ranges
from edgevit.pipeline import resolve
from edgevit.quantization import calibrated
from edgevit.quantization.dialects import DIALECTS
from edgevit.quantization.fake_quantization import FakeQuantization, load_trained
from edgevit.recipe import load_recipe
from edgevit.runtimes.base import preprocessed, random_images
from edgevit.runtimes.onnxruntime.session import OnnxruntimeSession
from edgevit.runtimes.parity import sqnr_db
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.loop.batches import Batch
from edgevit.training.loop.fit import fit
from edgevit.training.objectives import Outputs
from edgevit.training.qat import fake_quantization, quantization_aware_setup
from tests.models.test_folding import with_statistics
from tests.said import Said
from tests.small_models import VIT, checkpoint, workbench

RESIDUAL: dict[str, Any] = {"model": "resnet18", "model_args": {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)}}
TOKEN_VIT: dict[str, Any] = {**VIT, "model": "deit_tiny_distilled_patch16_224"}
AUGMENTATION: dict[str, Any] = {"horizontal_flip": 0, "scale": (0.9, 1.0)}
SHORT: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 25,
    "augmentation": AUGMENTATION,
    "streams": ({"data": "digits.support"},),
}
OUTLIER = 200
CALIBRATION: dict[str, Any] = {"calibration": "digits.pool", "calibration_images": 32}


@cache
def student() -> Artifact:
    """A ViT that has learned a little."""
    fields = {"epochs": 40, "learning_rate": 2e-3, "batch_size": 25, "augmentation": AUGMENTATION}
    return workbench().run("train", "qat-student", **VIT, data="digits.support", **fields)


@cache
def with_outliers() -> Artifact:
    """The same function, two channels of its activations OUTLIER times as large as they were.

    Wide ranges are what post-training quantization of ViTs suffers from.
    """
    module, description, *_ = open_checkpoint(student())
    with torch.no_grad():
        for block in module.blocks:
            for norm, layer in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
                norm.weight[:2] *= OUTLIER
                norm.bias[:2] *= OUTLIER
                layer.weight[:, :2] /= OUTLIER
    folder = workbench().store.root / "outliers"
    folder.mkdir(exist_ok=True)
    save_checkpoint(module, description, folder)
    weights = str(folder / "model.safetensors")
    return workbench().run("load", "outliers", **VIT, weights=weights, classes_of="digits.support")


@cache
def trained(runtime: str = "onnxruntime") -> Artifact:
    """The student after a short qat stage."""
    return qat(f"qat-{runtime}", init=student().id, runtime=runtime)


def qat(name: str, context: Context | None = None, **changes: Any) -> Artifact:
    return workbench().run("qat", name, context, **{**SHORT, **CALIBRATION, **changes})


def int8(name: str, model: Artifact, context: Context | None = None, **changes: Any) -> Artifact:
    """The quantized export of a checkpoint."""
    exported = workbench().run("export", f"{name}-onnx", model=model.id)
    return workbench().run("quantize", name, context, model=exported.id, **{**CALIBRATION, **changes})


def answers(model: Artifact, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = OnnxruntimeSession(model.file("model.onnx"), model.io, model.model_file.options, 1)
    return session.infer({"image": images})["logits"]


def setup_of(name: str, **fields: Any) -> tuple[Qat, Mapping[str, Artifact]]:
    config = Qat.model_validate({"stage": "qat", "id": name, **SHORT, **CALIBRATION, **fields})
    return config, resolve(config, workbench().made)


def lively(like: dict[str, Any]) -> Artifact:
    """A model with the norms of a trained one, and products so large that its answers depend on the image."""
    built = create_model(like["model"], 10, 32, like["model_args"])
    with torch.no_grad():
        for parameter in with_statistics(built.module).parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    folder = workbench().store.root / f"lively-{like['model']}"
    folder.mkdir(exist_ok=True)
    save_checkpoint(built.module, built.description, folder)
    weights = str(folder / "model.safetensors")
    return workbench().run("load", folder.name, **{**like, "image_size": 32}, weights=weights, classes_of="digits.test")


@pytest.mark.parametrize(
    ("like", "runtime", "learn_ranges"),
    [
        pytest.param(VIT, "onnxruntime", True, id="vit"),
        pytest.param(TOKEN_VIT, "tensorrt", False, id="token vit for tensorrt", marks=pytest.mark.slow),
        pytest.param(RESIDUAL, "onnxruntime", False, id="convolutions", marks=pytest.mark.slow),
        pytest.param(VIT, "openvino", True, id="vit for openvino", marks=pytest.mark.slow),
        pytest.param(RESIDUAL, "openvino", True, id="convolutions for openvino", marks=pytest.mark.slow),
    ],
)
def test_the_int8_file_computes_what_was_trained(
    like: dict[str, Any], runtime: str, learn_ranges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums in another order flip a few roundings, so that agreement is no equality.

    In float16 so many flip that the difference is as large as the noise of quantization itself.
    """
    options = AS_WRITTEN if runtime == "openvino" else DIALECTS[runtime].options
    monkeypatch.setitem(DIALECTS, runtime, replace(DIALECTS[runtime], floats="float32", options=options))
    start = lively(like)
    config, inputs = setup_of(
        "agreement", init=start.id, runtime=runtime, learn_ranges=learn_ranges, learning_rate=1e-3
    )
    context = Context(work=tmp_path)
    setup, _, floating = quantization_aware_setup(config, inputs, context)
    rounding = setup.train(config, context, tmp_path)[0].module
    ranges = TrainedRanges(runtime=runtime, layers=load_trained(rounding, floating.module))
    file = tmp_path / "model.onnx"
    exported = onnx_from_module(floating.module, start.io, 20, dynamic_batch=True, keep_branches=True)
    graph, spec = exported.model, exported.spec
    known = tensor_ranges(ranges, graph, exported.layers, "here").tensors
    made = calibrated(graph, lambda: iter(()), "minmax", runtime, 1, "here", known).quantized()  # none is left over
    write_onnx(made.model, file, spec, made.options)
    images = random_images(spec, 32)
    got = OnnxruntimeSession(file, spec, made.options, 1).infer({"image": images})["logits"]
    with torch.no_grad():
        expected, unrounded = (model(torch.from_numpy(images)).numpy() for model in (rounding, floating.module))
    noise_db = sqnr_db(centred(unrounded), centred(expected))
    assert sqnr_db(centred(got), centred(expected)) > max(25, noise_db + 8)
    assert (got.argmax(-1) == expected.argmax(-1)).mean() > 0.9


def centred(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Without what all images share."""
    wide = logits.astype(np.float64)
    found: NDArray[np.float64] = wide - wide.mean(0)
    return found


@pytest.mark.slow
def test_training_recovers_what_post_training_quantization_lost() -> None:
    fields: dict[str, Any] = {"min_sqnr_db": -100, "smoothquant": 0}
    start = with_outliers()
    post = int8("outliers-post", start, **fields)
    taught = qat(
        "outliers-qat", init=start.id, streams=({"data": "digits.pool"},), epochs=6, learning_rate=5e-4, batch_size=50,
        smoothquant=0,
    )  # fmt: skip
    after = int8("outliers-trained", taught, calibrator="trained", **fields)
    floating = workbench().run("export", "outliers-float", model=start.id)
    dataset = open_dataset(workbench().made["digits.test"])
    images = preprocessed((dataset.image(index) for index in range(500)), start.io.preprocess)
    expected = answers(floating, images).argmax(-1)
    lost_before, lost_after = (np.mean(answers(one, images).argmax(-1) != expected) for one in (post, after))
    assert lost_before > 0.2
    assert lost_after < 0.8 * lost_before  # 0.50 to 0.64 over five seeds


def smoothed_student(said: Said, work: Path, **fields: Any) -> tuple[BuiltModel, FakeQuantization]:
    config, inputs = setup_of("smoothing", init=with_outliers().id, **fields)
    start = folded_model(open_checkpoint(with_outliers()))
    return fake_quantization(start, config, inputs, Context(progress=said, work=work))


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("tensorrt", marks=pytest.mark.slow)])
def test_outlier_channels_are_smoothed_before_the_training(runtime: str, tmp_path: Path) -> None:
    said, before = Said(), open_checkpoint(with_outliers()).module
    images = torch.from_numpy(random_images(with_outliers().io, 8))
    sqnrs_db = []
    with torch.no_grad():
        expected, embedding = before(images), before.forward_head(before.forward_features(images), pre_logits=True)
        for fields in ({}, {"smoothquant": 0.5}, {"smoothquant": 0}):
            student, found = smoothed_student(said, tmp_path, runtime=runtime, **fields)
            module = student.module
            torch.testing.assert_close(module(images), expected, rtol=1e-3, atol=1e-3)
            same = module.forward_head(module.forward_features(images), pre_logits=True)
            torch.testing.assert_close(same, embedding, rtol=1e-3, atol=1e-3)
            found.apply(module, images[:1])
            sqnrs_db.append(sqnr_db(module(images).numpy(), expected.numpy()))
    assert sqnrs_db[0] == pytest.approx(sqnrs_db[1], abs=0.1)
    assert sqnrs_db[0] > sqnrs_db[2] + 6  # 10 to 20 more over four draws of images
    (line,) = (line for line in said.lines if "without smoothquant" in line)
    assert re.search(r"smoothing: SQNR: -?[\d.]+ dB without smoothquant, [\d.]+ dB with 0.5 \(used\)", line)


def test_a_training_that_goes_on_keeps_the_decision_to_smooth(tmp_path: Path) -> None:
    said = Said()
    (tmp_path / "smoothed.json").write_text("false")
    plain, _ = smoothed_student(said, tmp_path)
    assert torch.equal(
        plain.module.blocks[0].norm1.weight, open_checkpoint(with_outliers()).module.blocks[0].norm1.weight
    )
    assert not any("without smoothquant" in line for line in said.lines)


def test_a_model_without_layer_norms_cannot_be_smoothed(tmp_path: Path) -> None:
    config, inputs = setup_of("no-norms", init=lively(RESIDUAL).id, smoothquant=0.5)
    with pytest.raises(ArtifactError, match="nothing to smooth"):
        quantization_aware_setup(config, inputs, Context(work=tmp_path))


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("tensorrt", marks=pytest.mark.slow)])
def test_ranges_travel_from_the_checkpoint_through_the_file_into_the_integers(runtime: str) -> None:
    model = trained(runtime)
    ranges = trained_ranges(model)
    assert ranges is not None
    assert ranges.runtime == runtime
    assert model.metrics["rounded_layers"] == len(ranges.layers)
    said = Said()
    made = int8(f"carried-{runtime}", model, Context(progress=said), calibrator="trained", runtime=runtime)
    assert not [line for line in said.lines if "7 bits" not in line]
    carried = trained_ranges_in(onnx.load(workbench().made[f"carried-{runtime}-onnx"].file("model.onnx")), "x")
    constants = {one.name: numpy_helper.to_array(one) for one in onnx.load(made.file("model.onnx")).graph.initializer}
    for tensor, (low, high) in carried.tensors.items():
        step = (high - low) / 255 if runtime == "onnxruntime" else max(-low, high) / 127
        assert float(constants[f"{tensor}_scale"]) == pytest.approx(step, rel=1e-3 if runtime == "tensorrt" else 1e-6)
    assert {layer.input for layer in ranges.layers.values()} <= set(carried.tensors.values())


def test_the_checkpoint_is_one_like_any_other() -> None:
    model = trained()
    opened = open_checkpoint(model)
    before = open_checkpoint(student()).module.state_dict()
    state = opened.module.state_dict()
    assert state.keys() == before.keys()
    assert not torch.equal(state["blocks.0.attn.qkv.weight"], before["blocks.0.attn.qkv.weight"])
    assert opened.description.change(Folded)
    assert RANGES in model.manifest.files
    assert workbench().run("evaluate", "qat-float", model=model.id, data="digits.support").metrics["top1"]["value"] > 0
    further = workbench().run("train", "after-qat", init=model.id, data="digits.support", epochs=0)
    assert RANGES not in further.manifest.files


@pytest.mark.slow
def test_a_folded_hybrid_exports_with_an_embedding_and_keeps_its_ranges() -> None:
    model = qat("qat-hybrid", init=checkpoint(True).id, epochs=0)
    exported = workbench().run("export", "qat-hybrid-embedding", model=model.id, embedding=True)
    made = workbench().run("quantize", "qat-hybrid-int8", model=exported.id, **CALIBRATION, calibrator="trained")
    assert made.metrics["sqnr_db"] > 15
    assert made.io.has_embedding


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_run_that_was_broken_off_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    config, inputs = setup_of(
        "broken", init=student().id, epochs=3, ema_decay=0.9, drop_path_rate=0.1
    )  # fmt: skip
    calls = 0

    def made(folder: Path, killed_at: int | None = None) -> tuple[dict[str, bytes], str]:
        folder.mkdir(exist_ok=True)
        context = Context(work=folder, workers=0)
        setup, _, floating = quantization_aware_setup(config, inputs, context)

        def objective(outputs: Outputs, batch: Batch) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == killed_at:
                raise Killed
            return learner.objective(outputs, batch)

        learner = setup.learner
        assert isinstance(learner, ClassifierLearner)
        killed = ClassifierLearner(learner.model, objective, learner.preprocess)
        model, _ = fit(killed, setup.streams, config, context, out=folder, save_every_s=0.0)
        ranges = load_trained(model, floating.module)
        weights = {name: value.numpy().tobytes() for name, value in floating.module.state_dict().items()}
        return weights, TrainedRanges(runtime="onnxruntime", layers=ranges).model_dump_json()

    unbroken = made(tmp_path / "unbroken")
    calls = 0
    with pytest.raises(Killed):
        made(tmp_path / "broken", killed_at=4)
    assert (tmp_path / "broken" / "last.pt").is_file()
    assert made(tmp_path / "broken") == unbroken


@pytest.mark.slow
def test_made_again_it_is_the_same() -> None:
    digests = {qat("qat-again", init=student().id, runtime="tensorrt").digest, trained("tensorrt").digest}
    workbench().made.pop("qat-again")
    digests.add(workbench().run("qat", "qat-again", again=True, **SHORT, **CALIBRATION, init=student().id,
                                runtime="tensorrt").digest)  # fmt: skip
    assert len(digests) == 1


@pytest.mark.slow
def test_two_ranks_train_one_model() -> None:
    model = qat("qat-ranks", Context(ranks=2, workers=0), init=student().id, again=True)
    ranges, alone = trained_ranges(model), trained_ranges(trained())
    assert ranges is not None
    assert alone is not None
    for path, layer in alone.layers.items():
        assert ranges.layers[path].input == pytest.approx(layer.input, rel=0.05)


def test_a_weight_that_is_no_layers_own_is_said_and_calibrated(tmp_path: Path) -> None:
    class Functional(nn.Module):
        """Uses the weight of a layer that it never calls, as BEiT's attention does."""

        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(values, self.layer.weight, self.layer.bias)  # type: ignore[arg-type]

    config, inputs = setup_of("functional", init=student().id)
    built = open_checkpoint(student())
    built.module.set_submodule("blocks.0.mlp.fc1", Functional(built.module.get_submodule("blocks.0.mlp.fc1")))
    said = Said()
    _, found = fake_quantization(built, config, inputs, Context(progress=said, work=tmp_path))
    assert "blocks.0.mlp.fc1.layer" not in found.layers
    assert len(found.layers) == 9
    assert any("1 matrix products or convolutions use a weight that belongs to no layer" in line for line in said.lines)


def test_trained_ranges_that_are_not_there_are_asked_for_by_name() -> None:
    with pytest.raises(ArtifactError, match="no trained ranges"):
        int8("untrained", student(), calibrator="trained")


def test_ranges_of_another_runtime_are_taken_and_said() -> None:
    said = Said()
    made = int8("crossed", trained("onnxruntime"), Context(progress=said), calibrator="trained", runtime="tensorrt")
    assert made.metrics["precision"] == "int8"
    assert any("trained for onnxruntime" in line for line in said.lines)


def test_a_gate_that_is_not_met_says_what_training_means_for_it() -> None:
    with pytest.raises(ParityError) as caught:
        int8("gated", trained(), calibrator="trained", min_sqnr_db=90)
    assert "lower min_sqnr_db" in str(caught.value.next)


@pytest.mark.slow
def test_a_token_student_is_taught_at_each_head_it_answers_with() -> None:
    token = workbench().run(
        "distill",
        "qat-token",
        **TOKEN_VIT,
        distillation_token=True,
        teacher=student().id,
        streams=SHORT["streams"],
        epochs=0,
    )
    with pytest.raises(RecipeError, match="class head") as caught:
        qat("token-idle", init=token.id)
    assert "cross_entropy" in str(caught.value.next)
    both = ({"loss": "cross_entropy"}, {"loss": "hard"})
    assert qat("token-taught", init=token.id, teacher=student().id, objectives=both).metrics["rounded_layers"] == 11


RECIPE = """\
name: small
datasets: {{digits: {{source: digits, few_shot: {{shots: 5}}}}}}
stages:
  - {{stage: load, id: student, model: deit_tiny_patch16_224, classes_of: digits.support}}
  - {{stage: qat, id: trained, init: student, streams: [{{data: digits.pool}}], calibration: digits.pool{qat}}}
  - {{stage: export, id: onnx, model: {model}{export}}}
  - {{stage: quantize, id: int8, model: onnx, calibration: digits.pool, calibrator: trained}}
"""


def recipe(folder: Path, qat: str = "", model: str = "trained", export: str = "") -> Path:
    file = folder / "recipe.yaml"
    file.write_text(RECIPE.format(qat=qat, model=model, export=export))
    return file


def test_a_recipe_of_one_line_more_is_valid(tmp_path: Path) -> None:
    stage = load_recipe(recipe(tmp_path)).stages[1]
    assert isinstance(stage, Qat)
    assert json.loads(stage.model_dump_json())["objectives"][0]["loss"] == "soft"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "student"}, "recipe.yaml:7: calibrator: trained needs the ranges of a qat stage"),
        ({"export": ", precision: float16"}, "recipe.yaml:7: calibrator: trained needs the ranges"),
        ({"qat": ", runtime: tflite"}, "recipe.yaml:5: 'runtime' of stage 'qat'"),
        ({"qat": ", model: deit_tiny_patch16_224"}, "'model' is no key of stage 'qat'"),
        ({"qat": ", objectives: [{loss: cross_entropy}]"}, "no term learns from the teacher"),
        ({"qat": ", teacher: student, teachers: [{model: student}]"}, "or neither: then 'init' teaches"),
    ],
    ids=["no qat", "float16", "runtime", "model", "labels alone", "two kinds of teachers"],
)
def test_recipes_that_cannot_run_are_refused(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(recipe(tmp_path, **changes))
