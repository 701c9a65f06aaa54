"""export → quantize → compile → evaluate → profile on a tiny ViT and a tiny hybrid."""

import json
from collections import Counter

import numpy as np
import onnx
import pytest

from edgevit.configs import STAGES
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.errors import ArtifactError, DataError, ParityError, TargetError
from edgevit.graphs.files import artifact_from_onnx
from edgevit.model_file import AS_WRITTEN
from edgevit.models import model_from_checkpoint
from edgevit.pipeline import ingredients_of, resolve
from edgevit.provenance import version_of
from edgevit.runtimes.base import random_images
from edgevit.runtimes.onnxruntime.session import OnnxruntimeSession
from edgevit.targets import target_for
from tests.said import Said
from tests.small_models import VIT, artifact_of, checkpoint, engine, float_onnx, int8_onnx, workbench

both = pytest.mark.parametrize("hybrid", [False, True], ids=["vit", "hybrid"])


def outputs(artifact, images):
    session = OnnxruntimeSession(artifact.file("model.onnx"), artifact.io, artifact.model_file.options, 1)
    return session.infer({"image": images})["logits"]


@both
def test_an_exported_file_computes_what_the_checkpoint_does(hybrid):
    import torch

    artifact = float_onnx(hybrid)
    for batch in (1, 5):
        images = random_images(artifact.io, batch, seed=batch)
        with torch.inference_mode():
            expected = model_from_checkpoint(checkpoint(hybrid))(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(outputs(artifact, images), expected, atol=1e-5, rtol=1e-4)


def test_cost_is_that_of_what_is_deployed():
    of = {hybrid: (checkpoint(hybrid).metrics, float_onnx(hybrid).metrics) for hybrid in (False, True)}
    assert all(of[False][0][name] == of[False][1][name] for name in ("params", "macs"))
    assert all(of[True][0][name] > of[True][1][name] for name in ("params", "macs"))
    in_file = artifact_from_onnx(float_onnx(True).file("model.onnx")).metrics["params"]
    assert of[True][1]["params"] == pytest.approx(in_file, rel=0.05)  # the exporter folds the last norms too


def test_the_hybrid_is_re_parameterised():
    operators = Counter(node.op_type for node in onnx.load(float_onnx(True).file("model.onnx")).graph.node)
    assert operators["BatchNormalization"] == 0


def test_a_fixed_batch_is_exported_on_request_and_evaluated():
    artifact = workbench().run("export", "fixed", model=checkpoint().id, dynamic_batch=False)
    assert artifact.io.inputs[0].shape == (1, 3, 32, 32)
    fixed = workbench().run("evaluate", "fixed-accuracy", model="fixed", data="digits.support")
    free = workbench().run("evaluate", "free-accuracy", model=float_onnx().id, data="digits.support", batch_size=7)
    one, other = (np.load(found.file("predictions.npz"))["probabilities"] for found in (fixed, free))
    np.testing.assert_allclose(one, other, atol=1e-6)
    with pytest.raises(TargetError, match="fixed batch"):
        workbench().run("profile", "fixed-latency", model="fixed", batch_size=4)


@both
def test_a_quantized_file_is_int8_smaller_and_close(hybrid):
    floating, quantized = float_onnx(hybrid), int8_onnx(hybrid)
    assert quantized.metrics["precision"] == "int8"
    assert quantized.metrics["size_bytes"] < floating.metrics["size_bytes"]
    assert quantized.metrics["sqnr_db"] > 15
    assert quantized.metrics["calibration_images"] == 32
    before, after = (
        Counter(node.op_type for node in onnx.load(one.file("model.onnx")).graph.node) for one in (floating, quantized)
    )
    dropped = Counter({name: before[name] - after[name] for name in ("Relu", "Clip")})
    told: Counter[str] = Counter(quantized.metrics["quantized_ops"]) + Counter(quantized.metrics["float_ops"])
    assert told == before - dropped
    assert quantized.metrics["quantized_ops"]["Conv"] == before["Conv"]


def test_products_of_two_activations_stay_float():
    assert int8_onnx().metrics["float_ops"]["MatMul"] == 4
    assert int8_onnx().metrics["quantized_ops"]["MatMul"] == 8


@both
def test_an_engine_gives_the_outputs_of_its_onnx(hybrid):
    images = random_images(engine(hybrid).io, 3)
    np.testing.assert_allclose(outputs(engine(hybrid), images), outputs(int8_onnx(hybrid), images), atol=1e-4)
    assert engine(hybrid).metrics["runtime"] == "onnxruntime"
    assert engine(hybrid).model_file.options == AS_WRITTEN
    assert engine(hybrid).model_file.bound_to == target_for("local-cpu", Context()).describe("onnxruntime")


@pytest.mark.parametrize("hybrid", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["vit", "hybrid"])
def test_what_is_made_again_is_the_same(hybrid):
    bench = workbench()
    fields = {
        "export": (float_onnx(hybrid), {"model": checkpoint(hybrid).id}),
        "quantize": (
            int8_onnx(hybrid),
            {"model": float_onnx(hybrid).id, "calibration": "digits.pool", "calibration_images": 32},
        ),
        "compile": (engine(hybrid), {"model": int8_onnx(hybrid).id}),
    }
    for stage, (before, config) in fields.items():
        assert bench.run(stage, before.id, again=True, **config).digest == before.digest, stage  # type: ignore[arg-type]


def test_compiling_a_float_hybrid_is_the_same_each_time():
    digests = {
        workbench().run("compile", "float-engine", model=float_onnx(True).id, again=again).digest
        for again in (False, True, True)
    }
    assert len(digests) == 1


@pytest.mark.parametrize("calibrator", ["entropy", "percentile", "mse"])
def test_other_calibrators_pass_the_gate_too(calibrator):
    fields = {"model": float_onnx().id, "calibration": "digits.pool", "calibration_images": 16}
    assert workbench().run("quantize", calibrator, calibrator=calibrator, **fields).metrics["sqnr_db"] > 15


def test_too_few_calibration_images_are_said():
    said = Said()
    workbench().run(
        "quantize", "few", Context(progress=said), model=float_onnx().id, calibration="digits.support",
        calibration_images=51,
    )  # fmt: skip
    of_images = [line for line in said.lines if "7 bits" not in line]  # which depends on the CPU
    assert of_images == ["digits.support has 50 images to calibrate on; 51 were requested"]


def test_a_quantized_model_below_the_floor_fails():
    with pytest.raises(ParityError, match="the scores of the quantized model are too far") as caught:
        workbench().run("quantize", "strict", model=float_onnx().id, calibration="digits.support", min_sqnr_db=150.0)
    assert caught.value.exit_code == 1
    assert "dB" in caught.value.got


@pytest.mark.parametrize("placement", ["all", "fastest"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "tensorrt"])
def test_what_judged_an_int8_form_is_in_its_key(runtime, placement):
    """Layers stay float by what they cost in the runtime that judges them, wherever the file is to run."""
    judge = "openvino" if runtime == "openvino" else "onnxruntime"
    if version_of(judge) is None:
        pytest.skip(f"{judge} is not installed")
    fields = {"model": float_onnx().id, "calibration": "digits.support", "runtime": runtime, "placement": placement}
    config = STAGES["quantize"].model_validate({"stage": "quantize", "id": "judged", **fields})
    parts = ingredients_of(config, resolve(config, workbench().made), Context())
    assert parts["target"]["versions"] == {judge: version_of(judge)}
    assert config.is_timed == (placement == "fastest" and runtime != "tensorrt")  # type: ignore[attr-defined]


def test_quantizing_twice_is_refused():
    with pytest.raises(ArtifactError, match="quantized already"):
        workbench().run("quantize", "twice", model=int8_onnx().id, calibration="digits.support")


def test_an_export_that_differs_fails(monkeypatch):
    from edgevit.stages import export

    def tampered(module, *arguments, **options):
        exported = onnx_from_module(module, *arguments, **options)
        list(module.parameters())[-1].data += 0.05  # what the file is compared with is no longer what was exported
        return exported

    onnx_from_module = export.onnx_from_module  # type: ignore[attr-defined]
    monkeypatch.setattr(export, "onnx_from_module", tampered)
    with pytest.raises(ParityError, match="'logits' differs"):
        workbench().run("export", "tampered", model=checkpoint().id, again=True)


def test_an_engine_that_differs_fails(tmp_path):
    from edgevit.stages import compile as compile_stage
    from edgevit.targets.base import unchecked
    from edgevit.targets.local import LocalCpu

    model = onnx.load(float_onnx().file("model.onnx"))
    weight = next(one for one in model.graph.initializer if len(one.dims) == 2 and one.data_type == 1)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0] += 1.0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "model.onnx")
    other = artifact_of(tmp_path / "model.onnx", float_onnx())

    class Mistaken(LocalCpu):
        def compile(self, model, out, config, check=unchecked):
            return super().compile(other, out, config, check)

    config = STAGES["compile"].model_validate({"stage": "compile", "id": "mistaken", "model": "float"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compile_stage, "target_for", lambda name, context: Mistaken())
        (tmp_path / "out").mkdir()
        with pytest.raises(ParityError, match="'logits' differs"):
            compile_stage.run(config, {"model": float_onnx()}, Context(), tmp_path / "out")  # type: ignore[arg-type]


def test_accuracy_is_that_of_the_runtimes_own_answers():
    dataset = open_dataset(workbench().made["digits.test"])
    found = workbench().run("evaluate", "accuracy", model=engine().id, data="digits.test")
    table = np.load(found.file("predictions.npz"), allow_pickle=False)
    assert table["sample_ids"].tolist() == list(dataset.sample_ids)
    assert (table["labels"] == dataset.labels).all()
    np.testing.assert_allclose(table["probabilities"].sum(1), 1, atol=1e-5)
    top1 = found.metrics["top1"]
    assert top1["value"] == np.mean(table["predicted"] == table["labels"])
    assert top1["low"] < top1["value"] < top1["high"]
    assert (found.metrics["runtime"], found.metrics["target"]) == ("onnxruntime", "local-cpu")
    summary = json.loads(found.file("evaluation.json").read_text())
    assert sum(one["count"] for one in summary["confusions"]) == round((1 - top1["value"]) * top1["n"])
    confidences = [one["confidence"] for one in summary["wrong"]]
    assert confidences == sorted(confidences, reverse=True)
    for one in summary["wrong"]:
        assert one["label"] != one["predicted"]
        assert found.file(one["file"]).read_bytes().startswith(b"\x89PNG")


def test_a_checkpoint_and_its_onnx_have_the_same_accuracy():
    found = [
        workbench().run("evaluate", f"same-{one.kind}", model=one.id, data="digits.support")
        for one in (checkpoint(), float_onnx())
    ]
    assert found[0].metrics["top1"] == found[1].metrics["top1"]
    assert [one.metrics["runtime"] for one in found] == ["torch", "onnxruntime"]


def test_unlabelled_images_have_no_accuracy():
    with pytest.raises(DataError, match="labelled"):
        workbench().run("evaluate", "unlabelled", model=float_onnx().id, data="digits.pool")


@pytest.mark.parametrize("boundary", ["compute", "end_to_end"])
def test_a_profile_holds_every_sample(boundary):
    said = Said()
    found = workbench().run(
        "profile", f"latency-{boundary}", Context(progress=said), model=engine().id, boundary=boundary,
        warmup_s=0, duration_s=0.2, min_runs=20,
    )  # fmt: skip
    record = json.loads(found.file("latency.json").read_text())
    latency = found.metrics["latency_ms"]
    assert latency["n"] == len(record["samples_ms"]) >= 20
    assert latency["p50"] == np.percentile(record["samples_ms"], 50, method="inverted_cdf")
    assert latency["boundary"] == boundary
    assert found.metrics["precision"] == record["conditions"]["precision"] == "int8"
    assert record["conditions"]["file_sha256"] == {"model.onnx": engine().manifest.files["model.onnx"].sha256}
    assert len(said.lines) == len(latency["warnings"])


def test_a_checkpoint_is_profiled_in_torch():
    found = workbench().run(
        "profile", "torch-latency", model=checkpoint().id, warmup_s=0, duration_s=0.1, min_runs=5, batch_size=2
    )
    assert (found.metrics["runtime"], found.metrics["precision"]) == ("torch", "float32")
    with pytest.raises(TargetError, match="half precision"):
        workbench().run("profile", "half", model=checkpoint().id, precision="float16")
    with pytest.raises(TargetError, match="runs in its own precision"):
        workbench().run("profile", "half-onnx", model=float_onnx().id, precision="float16")


def test_a_new_classifier_is_said(tmp_path):
    said, weights = Said(), str(checkpoint().file("model.safetensors"))
    workbench().run("load", "three", Context(progress=said), weights=weights, classes=["a", "b", "c"], **VIT)
    assert said.lines == [f"{weights} has a classifier of another size: that for 3 classes is new"]
