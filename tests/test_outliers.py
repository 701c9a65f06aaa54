"""A ViT with the activations of a pretrained one goes every way that the plain one goes, with the same answers."""

from __future__ import annotations

import copy
import re
import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from numpy.typing import NDArray
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import nn

from benchmarks.outliers import NAME, PRETRAINED, epsilon_of, stream_sizes, with_outliers
from edgevit.artifacts import Artifact
from edgevit.checking.rules import tensorrt_diagnostics
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.errors import ArtifactError, ParityError
from edgevit.graphs.float16 import with_float16
from edgevit.graphs.float16_rounding import rounded_to_float16
from edgevit.graphs.graph import Graph
from edgevit.graphs.walk import sort_nodes
from edgevit.models import model_from_checkpoint, open_checkpoint, save_checkpoint
from edgevit.runtimes.base import preprocessed
from edgevit.runtimes.sessions import session_as_declared
from tests.graphs.norm_graphs import answers as norm_answers
from tests.graphs.norm_graphs import noise_db
from tests.said import Said
from tests.small_models import VIT, checkpoint, workbench

SMALL = {**VIT["model_args"], "img_size": 32, "num_classes": 10}
PLAIN_VITS: dict[str, tuple[str, dict[str, Any]]] = {
    "class token": ("deit_tiny_patch16_224", SMALL),
    "distillation token": ("deit_tiny_distilled_patch16_224", SMALL),
    "mean of tokens": ("vit_tiny_patch16_224", {**SMALL, "global_pool": "avg", "class_token": False}),
    "mean of normed tokens": ("vit_tiny_patch16_224", {**SMALL, "global_pool": "avg", "fc_norm": False}),
    "layer scale and registers": ("vit_tiny_patch16_224", {**SMALL, "init_values": 0.1, "reg_tokens": 2}),
    "position of patches alone": ("vit_tiny_patch16_224", {**SMALL, "no_embed_class": True}),
}
WITHOUT_WEIGHT = partial(nn.LayerNorm, elementwise_affine=False)
WITHOUT_BIAS = partial(nn.LayerNorm, bias=False)
CALIBRATION: dict[str, Any] = {"calibration": "digits.pool", "calibration_images": 32}


@cache
def images() -> NDArray[np.float32]:
    dataset = open_dataset(workbench().made["digits.test"])
    return preprocessed((dataset.image(index) for index in range(64)), checkpoint().io.preprocess)


@cache
def stressed() -> Artifact:
    """The checkpoint of tests.small_models with outliers."""
    module, description, *_ = open_checkpoint(checkpoint())
    changed = with_outliers(module, torch.from_numpy(images()))
    args = {**VIT["model_args"], "of": VIT["model"], "epsilon": epsilon_of(changed)}
    folder = workbench().store.root / "with-outliers"
    folder.mkdir()
    save_checkpoint(changed, description.model_copy(update={"model": NAME, "model_args": args}), folder)
    return workbench().run(
        "load",
        "stressed",
        model=NAME,
        model_args=args,
        image_size=32,
        weights=str(folder / "model.safetensors"),
        classes_of="digits.test",
    )


@cache
def exported(model: str) -> Artifact:
    stressed()
    return workbench().run("export", f"{model}-onnx", model=model)


@cache
def plain_logits() -> NDArray[np.float32]:
    """What the model without outliers answers, in PyTorch."""
    return logits_of(checkpoint())


def logits_of(model: Artifact) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.asarray(model_from_checkpoint(model)(torch.from_numpy(images())))


def answers(model: Artifact) -> NDArray[np.float32]:
    """The file's logits on any CPU: float16 is rounded, and sums of ONNX Runtime's INT8 products do not saturate."""
    if model.model_file.weight_precision == "int8" and model.model_file.options.runtime == "onnxruntime":
        return norm_answers(onnx.load(model.file("model.onnx")), images(), optimized=False)
    session = session_as_declared(model.file("model.onnx"), model.io, model.model_file.options, 1)
    return session.infer({"image": images()})["logits"]


@pytest.mark.parametrize("name", PLAIN_VITS)
def test_outliers_leave_the_function_as_it_is(name: str) -> None:
    architecture, args = PLAIN_VITS[name]
    torch.manual_seed(0)
    model, canvases = timm.create_model(architecture, **args).eval(), torch.from_numpy(images()[:8])
    changed = with_outliers(model, canvases)
    assert max(stream_sizes(model, canvases)) < 10
    sizes = stream_sizes(changed, canvases)
    assert max(sizes) < 2 * PRETRAINED.stream
    assert min(sizes[:-1]) > 0.6 * PRETRAINED.stream
    with torch.no_grad():
        expected = model(canvases)
        assert (changed(canvases) - expected).abs().max() < 1e-4 * expected.abs().max()
        wide, wide_changed = copy.deepcopy(model).double(), with_outliers(model.double(), canvases.double())
        torch.testing.assert_close(wide_changed(canvases.double()), wide(canvases.double()), rtol=0, atol=1e-9)


def test_one_token_and_a_few_channels_are_far_above_the_others() -> None:
    model = model_from_checkpoint(stressed())
    entering, normed = torch.empty(0), torch.empty(0)

    def remember(_: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal entering, normed
        entering, normed = inputs[0], output

    model.blocks[1].norm1.register_forward_hook(remember)
    with torch.no_grad():
        model(torch.from_numpy(images()[:8]))
    tokens = entering.abs().mean((0, 2))
    assert tokens.argmax() == 1, "the first patch, behind the class token"
    assert tokens[1] > 2 * tokens.median()
    channels = normed.abs().amax((0, 1))
    assert (channels > 20 * channels.median()).sum() == PRETRAINED.channels


@pytest.mark.parametrize(
    ("name", "args", "reason"),
    [
        ("resnet18", {}, "another kind of model"),
        ("tiny_vit_5m_224", {}, "another kind of model"),
        ("vit_tiny_patch16_224", {**SMALL, "norm_layer": "rmsnorm"}, "norms other than LayerNorm"),
        ("vit_tiny_patch16_224", {**SMALL, "pre_norm": True}, "a norm before the blocks"),
        ("vit_tiny_patch16_224", {**SMALL, "pos_embed": "none"}, "no position embedding"),
        ("vit_tiny_patch16_224", {**SMALL, "global_pool": "map"}, "global_pool map"),
        ("vit_tiny_patch16_224", {**SMALL, "final_norm": False}, "0 norms behind the blocks"),
        ("vit_tiny_patch16_224", {**SMALL, "num_classes": 0}, "a head that is not Linear"),
        ("vit_tiny_patch16_224", {**SMALL, "norm_layer": WITHOUT_WEIGHT}, "norms without weight and bias"),
        ("vit_tiny_patch16_224", {**SMALL, "norm_layer": WITHOUT_BIAS}, "norms without weight and bias"),
        ("vit_tiny_r_s16_p8_224", {"img_size": 64}, "patches from HybridEmbed"),
        ("vitamin_small_224", {}, "patches from HybridEmbed"),
    ],
)
def test_other_models_are_refused_by_name(name: str, args: dict[str, Any], reason: str) -> None:
    model = timm.create_model(name, **args)
    with pytest.raises(ArtifactError, match=f"{type(model).__name__}(.|\n)*{reason}(.|\n)*deit_tiny_patch16_224"):
        with_outliers(model, torch.zeros(1, 3, 32, 32))


def test_the_model_is_built_again_with_its_epsilon() -> None:
    assert epsilon_of(model_from_checkpoint(stressed())) > 1e-3
    assert noise_db(logits_of(stressed()), plain_logits()) > 80


@pytest.mark.parametrize(("precision", "floor_db"), [("float32", 80), ("float16", 45)])
def test_the_exported_file_answers_as_the_plain_model(precision: str, floor_db: float) -> None:
    said = Said()
    context = Context(progress=said)
    made = workbench().run("export", f"stressed-{precision}", context, model=stressed().id, precision=precision)
    assert noise_db(answers(made), plain_logits()) > floor_db
    lines = [line for line in said.lines if "of its tensors stay float32, because their values leave the range" in line]
    assert len(lines) == (precision == "float16")
    diagnostics = tensorrt_diagnostics(Graph(onnx.load(made.file("model.onnx"))))
    assert not [one for one in diagnostics if one.level == "error"]


def written_out(file: Path) -> onnx.ModelProto:
    """The model with outliers in opset 16, which has no LayerNormalization."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model_from_checkpoint(stressed()),
            (torch.from_numpy(images()[:1]),),
            str(file),
            dynamo=False,
            opset_version=16,
            input_names=["image"],
            output_names=["logits"],
        )
    return onnx.load(file)


def test_layer_norms_written_out_in_float16_are_refused_by_layer_and_float16_of_edgevit_is_not(tmp_path: Path) -> None:
    model = written_out(tmp_path / "model.onnx")
    naive = convert_float_to_float16(model, keep_io_types=True)
    sort_nodes(naive)
    refused = [one for one in tensorrt_diagnostics(Graph(naive)) if one.rule == "float16_norm"]
    assert [one.level for one in refused] == ["error"] * 5
    assert [one.node for one in refused][:2] == ["/blocks/blocks.0/norm1/Pow", "/blocks/blocks.0/norm2/Pow"]
    assert {one.next.split(",")[0] for one in refused} == {"export it with opset 17 or later"}
    kept = with_float16(model, "test")
    assert not [one for one in tensorrt_diagnostics(Graph(kept)) if one.level == "error"]
    answered = np.concatenate([norm_answers(rounded_to_float16(kept), image[None]) for image in images()[:8]])
    assert noise_db(answered, plain_logits()[:8]) > 45


FORMS: dict[str, tuple[dict[str, Any], float]] = {
    "onnxruntime": ({}, 27),
    "entropy": ({"calibrator": "entropy"}, 27),
    "percentile": ({"calibrator": "percentile"}, 27),
    "corrected": ({"bias_correction": True}, 27),
    "openvino": ({"runtime": "openvino", "calibrator": "mse"}, 27),
    "tensorrt": ({"runtime": "tensorrt"}, 27),
    "float8": ({"runtime": "tensorrt", "precision": "float8"}, 18),
    "int4": ({"runtime": "tensorrt", "precision": "int4"}, 15),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_quantized_file_answers_as_the_plain_model(form: str) -> None:
    fields, floor_db = FORMS[form]
    said = Said()
    made = int8(f"stressed-{form}", said, **fields)
    assert noise_db(answers(made), plain_logits()) > floor_db
    assert made.metrics["kept_float"] == 0
    named = [line for line in said.lines if "in 5 layers: blocks.0.attn.qkv" in line]
    used = [line for line in said.lines if line.endswith("dB with 0.5 (used)")]
    assert len(named) == len(used) == (made.model_file.weight_precision == "int8"), "FP8 and INT4 are not smoothed"


def test_without_smoothing_the_gate_names_the_layers_and_the_way_out() -> None:
    said = Said()
    made = int8("unsmoothed", said, smoothquant=0)
    assert made.metrics["kept_float"] > 0
    assert noise_db(answers(made), plain_logits()) > 8
    (kept,) = (line.partition("cost most first: ")[2] for line in said.lines if "in float, the layers" in line)
    assert re.findall(r"attn.qkv|mlp.fc1|head", kept), kept
    with pytest.raises(ParityError, match=r"leave smoothquant: 0 out if .*; the layers that cost most are head, "):
        int8("too-strict", Said(), smoothquant=0, min_sqnr_db=90)


COMPRESSIONS: dict[str, dict[str, Any]] = {
    "merge_tokens": {"per_block": 2},
    "factorize": {"keep_macs": 0.8, "data": "digits.pool", "images": 64},
    "prune": {"keep_macs": 0.8, "data": "digits.pool", "images": 64},
}


@pytest.mark.parametrize("stage", COMPRESSIONS)
def test_a_compressed_model_answers_as_the_compressed_plain_model(stage: str) -> None:
    plain, changed = (
        workbench().run(stage, f"{stage}-{model.id}", model=model.id, **COMPRESSIONS[stage])
        for model in (checkpoint(), stressed())
    )
    assert noise_db(logits_of(plain), plain_logits()) < 110, "the stage changes the model"
    assert noise_db(logits_of(changed), logits_of(plain)) > 60


@pytest.mark.slow
def test_training_under_fake_quantization_names_the_layers_and_comes_nearer_than_calibration() -> None:
    said = Said()
    fields = {"epochs": 4, "batch_size": 25, "learning_rate": 1e-3, "augmentation": {"horizontal_flip": 0}}
    taught = workbench().run(
        "qat",
        "stressed-qat",
        Context(progress=said),
        init=stressed().id,
        streams=({"data": "digits.pool"},),
        **fields,
        **CALIBRATION,
    )
    trained, calibrated = (
        int8(f"stressed-{calibrator}", Said(), model.id, calibrator=calibrator, smoothquant=0, min_sqnr_db=-100)
        for model, calibrator in ((taught, "trained"), (stressed(), "minmax"))
    )
    assert noise_db(answers(trained), plain_logits()) > noise_db(answers(calibrated), plain_logits()) + 3
    assert any("in 5 layers: blocks.0.attn.qkv" in line for line in said.lines)


def int8(name: str, said: Said, model: str = "stressed", **fields: Any) -> Artifact:
    """The quantized file of a checkpoint's export."""
    return workbench().run("quantize", name, Context(progress=said), model=exported(model).id, **CALIBRATION, **fields)
