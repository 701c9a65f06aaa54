"""A table of a result, and how its cells are written."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from docs.generate import numbers
from docs.generate.markdown import table
from docs.generate.numbers import fixed, percents, ranged
from docs.generate.records import Json

NOTHING = "–"
WITH_RANGE = "Intervals are 95% intervals."
# Names in results that say too little, or are written otherwise in a sentence.
IN_WORDS = {
    "alpha_tim": "α-TIM",
    "balanced": "balanced class weights",
    "attention": "attention transfer",
    "conv": "ResNet-10",
    "corrected": "INT8 with bias correction",
    "dkd": "DKD",
    "efficientnet_b0": "EfficientNet-B0",
    "efficientnet_lite2": "EfficientNet-Lite2",
    "effective_number": "weights by effective number",
    "float8": "FP8 for TensorRT",
    "further": "INT8 after as much training in float",
    "gaussian_mixture": "Gaussian mixture",
    "hybrid": "CoAtNet",
    "deit": "ViT",
    "imagenet": "teacher, float32",
    "int4": "INT4 weights for TensorRT",
    "int8/body-a": "body a, INT8",
    "int8/body-a-long": "body a after four times as many epochs, INT8",
    "int8/body-b": "body b, INT8",
    "int8/imagenet": "teacher, INT8",
    "knn": "nearest neighbors",
    "label-free": "soft, and further images without labels",
    "laplacian_shot": "LaplacianShot",
    "laplacian_shot, centred": "LaplacianShot, centered",
    "maps": "features of an intermediate layer",
    "mobilenetv2": "MobileNetV2",
    "mobilevit_xxs": "MobileViT-XXS",
    "mobilevitv2_050": "MobileViTv2-0.5",
    "modelopt": "ModelOpt",
    "nncf": "NNCF",
    "olive": "Olive",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino bf16": "OpenVINO, bfloat16",
    "openvino f32": "OpenVINO, float32",
    "patient": "patient and consistent, without labels",
    "prototypical_networks": "ProtoNet",
    "prototypical_networks, centred": "ProtoNet, centered",
    "pseudo-labels": "pseudo-labels of further images",
    "pt_map": "PT-MAP",
    "ptq": "INT8 for ONNX Runtime",
    "qat": "INT8 after `qat`",
    "random": "random weights",
    "sampling": "balanced sampling",
    "scratch": "without a teacher",
    "standardized": "standardized logits",
    "tensorrt": "INT8 for TensorRT",
    "token-hard": "distillation token, hard",
    "token-soft": "distillation token, soft",
}


@dataclass(frozen=True)
class Table:
    """A table of a result.

    Attributes:
        key: its name among the tables of the result, by which pages cite it.
        note: what the numbers are, in sentences.
        title: the heading above it; by default from the key.
    """

    key: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    title: str = ""

    @property
    def heading(self) -> str:
        """The title, or the key with a capital letter."""
        words = self.key.replace("_", " ")
        return self.title or words[0].upper() + words[1:]

    def markdown(self) -> str:
        """The table alone."""
        return table(self.header, self.rows)


def spelled(name: str) -> str:
    """A name of a method or a figure in words; an unknown one with spaces for underscores."""
    return IN_WORDS.get(name, name.replace("_", " "))


def mean_of(values: Sequence[float], shown: numbers.Format) -> str:
    return ranged({"mean": statistics.mean(values), "min": min(values), "max": max(values)}, shown)


def with_extremes(found: Json, shown: numbers.Format) -> str:
    return ranged({"value": numbers.centre(found), "min": found["min"], "max": found["max"]}, shown)


def with_interval(found: Json) -> str:
    """Of a record in points already."""
    return ranged({"value": numbers.centre(found), "low": found["low"], "high": found["high"]}, fixed(1, signed=True))


def points_lost(found: Json | float | None) -> str:
    """Of a drop of top-1 as a fraction, or as a record with its interval."""
    if found is None:
        return NOTHING
    return ranged(found, fixed(2, 100)) if isinstance(found, Mapping) else fixed(2, 100)(found)


def lowest_to_highest(found: Json) -> str:
    return f"{percents(found['min'])} to {percents(found['max'])}"


def draws_in(methods: Json) -> int:
    return max(int(found["n"]) for found in methods.values())


def seconds_table(key: str, seconds: Mapping[str, float]) -> Table:
    rows = tuple((name, fixed(1)(taken)) for name, taken in seconds.items())
    return Table(key, ("stage", "seconds"), rows)
