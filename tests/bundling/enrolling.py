"""A bundle of an INT8 model that knows eight of the ten digits, made through the stages, and images of the others."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.neural_network import MLPClassifier

from edgevit.artifacts import Artifact, IOSpec, Preprocess
from edgevit.configs import Digits
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.dataset import Dataset
from edgevit.data.preprocess import preprocess
from edgevit.graphs.files import artifact_from_onnx, write_onnx
from tests.small_models import Workbench, workbench

KNOWN = tuple("01235678")
HIDDEN = 64


@cache
def digits_of_eight() -> Workbench:
    """The workbench with the digits that the model knows ("eight") and those it does not ("others")."""
    bench = workbench()
    few_shot = {"shots": 5}
    configs = {
        "eight": Digits.model_validate({"source": "digits", "include_classes": KNOWN, "few_shot": few_shot}),
        "others": Digits.model_validate({"source": "digits", "include_classes": ("4", "9")}),
        "three": Digits.model_validate({"source": "digits", "include_classes": ("0", "1", "2")}),
    }
    names = ["eight.train", "eight.support", "eight.pool", "eight.test", "others.train", "others.test", "three.train"]
    bench.made.update(dataset_artifacts(configs, Path(), names))
    return bench


@cache
def quantized() -> Artifact:
    """A perceptron with one hidden layer, trained by scikit-learn, as INT8: the hidden layer is the embedding."""
    float_perceptron()
    options = {"calibration": "eight.pool", "calibration_images": 64}
    return digits_of_eight().run("quantize", "eight-int8", model="eight-onnx", **options)


@cache
def float8() -> Artifact:
    """The perceptron as FP8."""
    float_perceptron()
    bench, options = digits_of_eight(), {"runtime": "tensorrt", "precision": "float8", "calibration_images": 64}
    return bench.run("quantize", "eight-fp8", model="eight-onnx", calibration="eight.pool", **options)


@cache
def float_perceptron() -> Artifact:
    """The perceptron in float, an ONNX file of the workbench."""
    bench = digits_of_eight()
    bench.made["eight-onnx"] = perceptron(Path(tempfile.mkdtemp(dir=bench.store.root)), data("eight.train"))
    return bench.made["eight-onnx"]


def perceptron(folder: Path, digits: Dataset) -> Artifact:
    """pixels → hidden layer → ReLU: embedding → logits, as an ONNX file with its IOSpec."""
    assert digits.labels is not None
    rule = Preprocess(height=8, width=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    pixels = np.stack([preprocess(digits.image(index), **rule.model_dump()) for index in range(len(digits))])
    fitted = MLPClassifier((HIDDEN,), random_state=0, learning_rate_init=0.01, max_iter=500, tol=1e-3)
    fitted.fit(pixels.reshape(len(pixels), -1), digits.labels)
    nodes = [
        helper.make_node("Flatten", ["image"], ["pixels"]),
        helper.make_node("Gemm", ["pixels", "weight0", "bias0"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["embedding"]),
        helper.make_node("Gemm", ["embedding", "weight1", "bias1"], ["logits"]),
    ]
    spec = IOSpec.for_classifier(rule, digits.classes).with_embedding(HIDDEN)
    values = {"weight0": fitted.coefs_[0], "weight1": fitted.coefs_[1]}
    values |= {"bias0": fitted.intercepts_[0], "bias1": fitted.intercepts_[1]}
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info(one.name, TensorProto.FLOAT, list(one.shape)) for one in spec.outputs],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    write_onnx(model, folder / "model.onnx", spec)
    return artifact_from_onnx(folder / "model.onnx")


@cache
def made_bundle() -> Artifact:
    """The bundle as it lies in the store."""
    return digits_of_eight().run("bundle", "eight-bundle", model=quantized().id, support="eight.support")


def copied_bundle(folder: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(made_bundle().path, folder))


def digit_files(folder: Path, label: str, count: int, start: int = 0, role: str = "others.train") -> list[Path]:
    """PNG files of one digit."""
    dataset = data(role)
    assert dataset.labels is not None
    chosen = [i for i in range(len(dataset)) if dataset.classes[dataset.labels[i]] == label][start : start + count]
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{label}-{index:04d}.png" for index in chosen]
    for index, file in zip(chosen, files, strict=True):
        Image.fromarray(dataset.image(index)).save(file)
    return files


def data(role: str) -> Dataset:
    """A data set of the workbench."""
    return open_dataset(digits_of_eight().made[role])
