"""The exporter itself: quiet, fixed where it must be, and honest about what it cannot do."""

import onnx
import pytest
import timm
import torch
from torch import nn

from edgevit import bounds
from edgevit.artifacts import IOSpec, Preprocess
from edgevit.configs import OPSET
from edgevit.errors import ArtifactError
from edgevit.exporting import onnx_from_module
from edgevit.model_file import OnnxruntimeOptions
from edgevit.models.distillation_token import DistillationTokenModel
from edgevit.runtimes.base import SessionOptions, random_images
from edgevit.runtimes.onnxruntime.session import OnnxruntimeSession
from edgevit.runtimes.parity import check_sessions_agree
from edgevit.runtimes.torch.session import TorchSession

SPEC = IOSpec.for_classifier(Preprocess(height=8, width=8), tuple("abc"))


class Means(nn.Module):
    def forward(self, images):
        return images.mean((2, 3))


class OnlyOneImage(nn.Module):
    """A model that cannot be traced with a batch size left open."""

    def forward(self, images):
        if images.shape[0] != 1:
            raise ValueError("one image at a time")
        return images.mean((2, 3))


class OnlyTorchscript(nn.Module):
    """torch.export refuses to branch on values; tracing follows the branch taken."""

    def forward(self, images):
        if images.sum() > -1e9:
            return images.mean((2, 3))
        return images.amax((2, 3))


class Impossible(nn.Module):
    def forward(self, images):
        raise RuntimeError("no way through")


class Antialiased(nn.Module):
    """Antialiasing came with opset 18."""

    def forward(self, images):
        return nn.functional.interpolate(images, size=(4, 4), mode="bilinear", antialias=True).mean((2, 3))


def export(module, path, dynamic=True, opset=20):
    exported = onnx_from_module(module, SPEC, opset=opset, dynamic_batch=dynamic)
    exported.write(path)
    return exported


def test_it_says_nothing(tmp_path, capfd):
    exported = export(Means(), tmp_path / "model.onnx")
    assert (exported.exporter, exported.dynamic_batch) == ("dynamo", True)
    assert exported.spec.inputs[0].shape == ("batch", 3, 8, 8)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("opset", [bounds.OPSET.low, 18, OPSET, bounds.OPSET.high])
def test_the_file_has_the_opset_that_was_asked_for(opset, tmp_path):
    """torch.export converts no mean to opset 17; TorchScript writes opset 17 itself."""
    exported = export(Means(), tmp_path / "model.onnx", opset=opset)
    assert (exported.exporter, exported.dynamic_batch) == ("torchscript" if opset == 17 else "dynamo", True)
    (imported,) = onnx.load(tmp_path / "model.onnx").opset_import
    assert imported.version == opset


def test_a_model_that_an_opset_cannot_hold_is_not_written_in_another(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be exported") as refusal:
        export(Antialiased(), tmp_path / "model.onnx", opset=17)
    assert "dynamo: opset 18 in place of 17" in str(refusal.value)
    assert "try another opset" in str(refusal.value)


def test_a_model_that_takes_one_image_gets_a_fixed_batch(tmp_path):
    exported = export(OnlyOneImage(), tmp_path / "model.onnx")
    assert (exported.exporter, exported.dynamic_batch) == ("dynamo", False)
    assert exported.spec.outputs[0].shape == (1, 3)
    session = OnnxruntimeSession(tmp_path / "model.onnx", exported.spec, OnnxruntimeOptions(), 1)
    reference = TorchSession(OnlyOneImage(), exported.spec, "cpu", SessionOptions())
    check_sessions_agree(session, reference, "float32", "here")


@pytest.mark.parametrize("dynamic", [True, False])
def test_torchscript_takes_what_torch_export_does_not(dynamic, tmp_path, capfd):
    exported = export(OnlyTorchscript(), tmp_path / "model.onnx", dynamic)
    assert (exported.exporter, exported.dynamic_batch) == ("torchscript", dynamic)
    session = OnnxruntimeSession(tmp_path / "model.onnx", exported.spec, OnnxruntimeOptions(), 1)
    check_sessions_agree(
        session, TorchSession(OnlyTorchscript(), exported.spec, "cpu", SessionOptions()), "float32", "x"
    )
    assert capfd.readouterr() == ("", "")


def test_what_no_exporter_can_do_gives_each_ones_reason(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be exported") as caught:
        export(Impossible(), tmp_path / "model.onnx")
    assert "dynamo: " in caught.value.got
    assert "torchscript: no way through" in caught.value.got


def test_the_module_stays_as_it_was(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), Means()).eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    export(module, tmp_path / "model.onnx")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert random_images(SPEC, 2).shape == (2, 3, 8, 8)


@pytest.mark.slow
def test_two_heads_that_timm_would_average_stay_two(tmp_path):
    torch.manual_seed(0)
    sizes = {"embed_dim": (8, 16, 24, 32), "depth": (1, 1, 1, 1)}
    model = timm.create_model("repvit_m0_9", num_classes=3, distillation=True, **sizes)  # type: ignore[arg-type]
    for head in (model.head.head.l, model.head.head_dist.l):
        nn.init.normal_(head.weight)  # type: ignore[arg-type]  # far apart, so that another way of merging them shows
    student = DistillationTokenModel(model).eval()
    spec = IOSpec.for_classifier(Preprocess(height=32, width=32), tuple("abc"))
    exported = onnx_from_module(student, spec, opset=20, dynamic_batch=True)
    exported.write(tmp_path / "model.onnx")
    session = OnnxruntimeSession(tmp_path / "model.onnx", exported.spec, OnnxruntimeOptions(), 1)
    reference = TorchSession(student, exported.spec, "cpu", SessionOptions())
    assert check_sessions_agree(session, reference, "float32", "here").top1_agreement == 1


def test_another_quantizer_takes_the_file(tmp_path):
    """onnxruntime's transposes the classifier's weights, and would trip over a second note of their shape."""
    from onnxruntime.quantization import quantize_dynamic

    exported = export(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), tmp_path / "model.onnx")
    weights = {tensor.name for tensor in exported.model.graph.initializer}
    quantize_dynamic(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    images = random_images(SPEC, 4)
    float_session, dynamic = (
        OnnxruntimeSession(tmp_path / name, SPEC, OnnxruntimeOptions(), threads=1)
        for name in ("model.onnx", "int8.onnx")
    )
    expected, got = (one.infer({SPEC.inputs[0].name: images})["logits"] for one in (float_session, dynamic))
    assert weights
    assert got == pytest.approx(expected, abs=0.1)
