"""A second output, what enters the classifier, from export to the compiled model."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import nn

from edgevit.artifacts import Artifact, IOSpec, Preprocess
from edgevit.data import open_dataset
from edgevit.errors import RecipeError
from edgevit.exporting import onnx_from_module
from edgevit.graphs.files import artifact_from_onnx
from edgevit.model_file import OnnxruntimeOptions
from edgevit.models import model_from_checkpoint
from edgevit.models.distillation_token import DistillationTokenModel
from edgevit.models.embedding import WithEmbedding, embedding_width
from edgevit.runtimes.base import SessionOptions, preprocessed, random_images
from edgevit.runtimes.onnxruntime.session import OnnxruntimeSession
from edgevit.runtimes.parity import check_sessions_agree, sqnr_db
from edgevit.runtimes.torch.session import TorchSession
from tests.small_models import checkpoint, float_onnx, workbench

both = pytest.mark.parametrize("hybrid", [False, True], ids=["vit", "hybrid"])
SMALL = Preprocess(height=32, width=32)


@cache
def made(stage: str, hybrid: bool = False) -> Artifact:
    """The model with an embedding after one of the stages."""
    bench, name = workbench(), f"embedding-{hybrid:d}-{{}}".format
    if stage == "export":
        return bench.run("export", name("onnx"), model=checkpoint(hybrid).id, embedding=True)
    if stage == "quantize":
        fields = {"calibration": "digits.pool", "calibration_images": 32}
        return bench.run("quantize", name("int8"), model=made("export", hybrid).id, **fields)
    return bench.run("compile", name("engine"), model=made("quantize", hybrid).id)


def outputs(artifact: Artifact, images: np.ndarray) -> dict[str, np.ndarray]:
    session = OnnxruntimeSession(artifact.file("model.onnx"), artifact.io, artifact.model_file.options, 1)
    return session.infer({"image": images})


def classifier_inputs(model: nn.Module, images: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """The mean of what enters the layers of these names, read off by hand."""
    seen: list[torch.Tensor] = []
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        model(torch.from_numpy(images))
    return torch.stack(seen).mean(0).numpy()


@pytest.mark.parametrize(("hybrid", "names"), [(False, ("head",)), (True, ("head.head.l",))])
def test_embedding_is_what_enters_the_classifier(hybrid: bool, names: tuple[str, ...]) -> None:
    artifact = made("export", hybrid)
    model = model_from_checkpoint(checkpoint(hybrid))
    if hybrid and hasattr(model.head, "head_dist"):
        names = (*names, "head.head_dist.l")
    for batch in (1, 3):
        images = random_images(artifact.io, batch, seed=batch)
        found = outputs(artifact, images)
        np.testing.assert_allclose(found["embedding"], classifier_inputs(model, images, names), atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(found["logits"], outputs(float_onnx(hybrid), images)["logits"], atol=1e-5)


@pytest.mark.parametrize("hybrid", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["vit", "hybrid"])
def test_every_file_says_that_it_has_one(hybrid: bool) -> None:
    for stage in ("export", "quantize", "compile"):
        artifact = made(stage, hybrid)
        assert [output.name for output in artifact.io.outputs] == ["logits", "embedding"]
        assert artifact_from_onnx(artifact.file("model.onnx")).io == artifact.io
        (batch, width) = artifact.io.outputs[1].shape
        assert (batch, width) == ("batch", 32 if hybrid else 48)
        assert artifact.io.outputs[1].meaning == "features"
    assert not float_onnx(hybrid).io.has_embedding


def test_re_parameterised_all_but_the_classifiers_norm() -> None:
    operators = [node.op_type for node in onnx.load(made("export", True).file("model.onnx")).graph.node]
    plain = [node.op_type for node in onnx.load(float_onnx(True).file("model.onnx")).graph.node]
    assert operators.count("Conv") == plain.count("Conv")


@both
def test_int8_gives_it_out_as_it_enters_the_rounding(hybrid: bool) -> None:
    graph = onnx.load(made("quantize", hybrid).file("model.onnx")).graph
    maker = {name: node.op_type for node in graph.node for name in node.output}
    assert maker["embedding"] != "DequantizeLinear"
    assert any(node.op_type == "QuantizeLinear" for node in graph.node)
    images = random_images(made("export", hybrid).io, 3)
    for name, found in outputs(made("compile", hybrid), images).items():
        np.testing.assert_allclose(found, outputs(made("quantize", hybrid), images)[name], atol=1e-4)


def test_its_noise_is_recorded_as_directions_see_it() -> None:
    floating, quantized = made("export"), made("quantize")
    assert quantized.metrics["sqnr_db"] > 15
    dataset = open_dataset(workbench().made["digits.pool"])
    order = np.random.default_rng(0).permutation(len(dataset))[32:96]
    images = preprocessed((dataset.image(int(index)) for index in order), floating.io.preprocess)
    got, expected = (outputs(one, images)["embedding"] for one in (quantized, floating))
    centre = expected.mean(0, dtype=np.float64)
    assert quantized.metrics["embedding_sqnr_db"] == pytest.approx(sqnr_db(got - centre, expected - centre), abs=0.1)
    plain = workbench().run(
        "quantize", "plain-int8", model=float_onnx().id, calibration="digits.pool", calibration_images=32
    )
    assert "embedding_sqnr_db" not in plain.metrics
    assert quantized.metrics["sqnr_db"] == pytest.approx(plain.metrics["sqnr_db"], abs=0.1)


def test_measurements_read_the_logits() -> None:
    bench = workbench()
    fields: dict[str, Any] = {"data": "digits.test"}
    top1 = [
        bench.run("evaluate", f"top1-{one.id}", model=one.id, **fields).metrics["top1"]["value"]
        for one in (made("export"), float_onnx())
    ]
    assert top1[0] == top1[1]
    timed = bench.run("profile", "embedding-latency", model=made("compile").id, warmup_s=0, duration_s=0.1, min_runs=5)
    assert timed.metrics["latency_ms"]["n"] >= 5
    bundle = bench.run("bundle", "embedding-bundle", model=made("quantize").id, support="digits.support")
    assert "classes.npz" in bundle.manifest.files
    plain = bench.run("bundle", "embedding-plain-bundle", model=made("quantize").id)
    assert "changeable" not in json.loads(plain.file("bundle.json").read_text())


@pytest.mark.slow
def test_made_again_it_is_the_same() -> None:
    before = made("export")
    again = workbench().run("export", before.id, again=True, model=checkpoint().id, embedding=True)
    assert again.digest == before.digest


@pytest.mark.parametrize(
    ("name", "names", "arguments"),
    [
        ("deit_tiny_distilled_patch16_224", ("head", "head_dist"), {"img_size": 32, "depth": 1}),
        pytest.param(
            "repvit_m0_9",
            ("head.head.l", "head.head_dist.l"),
            {"embed_dim": (8, 16, 24, 32), "depth": (1, 1, 1, 1)},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_heads_give_the_mean_of_what_enters_both(
    name: str, names: tuple[str, ...], arguments: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    if name.startswith("repvit"):
        arguments = {**arguments, "distillation": True}
    model = timm.create_model(name, num_classes=3, **arguments)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):  # so that what enters the two heads differs
            nn.init.normal_(module.weight)
            nn.init.normal_(module.running_mean)
    student = DistillationTokenModel(model).eval()
    width = embedding_width(student, SMALL)
    spec = IOSpec.for_classifier(SMALL, tuple("abc")).with_embedding(width)
    exported = onnx_from_module(student, spec, opset=20, dynamic_batch=True)
    exported.write(tmp_path / "model.onnx")
    session = OnnxruntimeSession(tmp_path / "model.onnx", exported.spec, OnnxruntimeOptions(), 1)
    reference = TorchSession(WithEmbedding(student), exported.spec, "cpu", SessionOptions())
    check_sessions_agree(session, reference, "float32", "here")
    images = random_images(spec, 2)
    expected = classifier_inputs(student.model, images, names)
    np.testing.assert_allclose(session.infer({"image": images})["embedding"], expected, atol=1e-4, rtol=1e-3)


class Net(nn.Module):
    """Pooled pixels and a classifier of some kind, as timm describes one."""

    def __init__(self, head: nn.Module, branch: bool = False, tokens: bool = False) -> None:
        super().__init__()
        self.head, self.branch, self.tokens = head, branch, tokens
        self.pretrained_cfg = {"classifier": "head"}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.branch and images.sum() < -1e9:
            images = -images
        if self.tokens:
            return self.head(images.flatten(2).transpose(1, 2)).mean(1)
        return self.head(images.mean((2, 3)))


@pytest.mark.parametrize(("branch", "exporter"), [(False, "dynamo"), (True, "torchscript")])
@pytest.mark.parametrize("dynamic", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_both_exporters_give_it(branch: bool, exporter: str, dynamic: bool, tmp_path: Path) -> None:
    net = Net(nn.Linear(3, 4), branch).eval()
    spec = IOSpec.for_classifier(SMALL, tuple("abcd")).with_embedding(3)
    exported = onnx_from_module(net, spec, opset=20, dynamic_batch=dynamic)
    exported.write(tmp_path / "model.onnx")
    assert (exported.exporter, exported.dynamic_batch) == (exporter, dynamic)
    images = random_images(spec, 1)
    found = OnnxruntimeSession(tmp_path / "model.onnx", exported.spec, OnnxruntimeOptions(), 1).infer({"image": images})
    np.testing.assert_allclose(found["embedding"], images.mean((2, 3)), atol=1e-5)


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (lambda: Net(nn.Sequential(nn.Linear(3, 4), nn.ReLU())), "not a linear layer"),
        (lambda: Net(nn.Linear(3, 4), tokens=True), "not one vector for each image"),
    ],
)
def test_models_without_a_vector_before_a_linear_classifier_are_refused(
    net: Callable[[], nn.Module], said: str
) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        embedding_width(net().eval(), SMALL)
    assert "embedding: false" in str(caught.value)
