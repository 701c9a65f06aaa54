"""The configuration of DeepStream's Gst-nvinfer, and its file of labels.

Sources: NVIDIA's DeepStream guide, Gst-nvinfer: y = net-scale-factor · (x - offset); nvdsinfer's
parseLabelsFile (a line for each classifier, labels between semicolons) and parseAttributesFromSoftmaxLayers (the label
is the largest number above 0 and above the threshold); NvBufSurfTransform_Inter.
"""

from __future__ import annotations

from edgevit.artifacts import Artifact, IOSpec, Preprocess
from edgevit.bundling.infer import ENGINE
from edgevit.errors import ArtifactError
from edgevit.graphs.class_scores import INDEPENDENT, LOGITS, PROBABILITIES
from edgevit.runtimes.base import fixed_batch

CONFIG, LABELS = "deepstream_nvinfer.txt", "deepstream_labels.txt"
FILTERS = {"nearest": 0, "bilinear": 1, "bicubic": 2}  # 2 is cubic on the GPU, and a filter of 5 taps on Jetson's VIC


def deepstream_files(model: Artifact, engine: Artifact | None) -> dict[str, str]:
    """The configuration and the labels of an engine. Raises ArtifactError if Gst-nvinfer cannot feed or read it."""
    if engine is None:
        raise ArtifactError("DeepStream runs TensorRT engines", where=model.id, next="compiled: true, of an engine")
    _check_fits(engine)
    spec = engine.io
    scale = 1 / (255 * _common_std(spec.preprocess))
    offsets = ";".join(f"{255 * mean:.9g}" for mean in spec.preprocess.mean)
    properties = {
        "gpu-id": 0,
        "gie-unique-id": 1,
        "process-mode": 1,
        "network-type": 1,
        "model-engine-file": ENGINE,
        "labelfile-path": LABELS,
        "batch-size": fixed_batch(spec) or 1,
        "model-color-format": 0,
        "net-scale-factor": f"{scale:.9g}",
        "offsets": offsets,
        "maintain-aspect-ratio": 0,
        "scaling-filter": FILTERS[spec.preprocess.interpolation],
        "classifier-threshold": 0,
    }
    lines = "".join(f"{name}={value}\n" for name, value in properties.items())
    return {CONFIG: f"{_notes(spec)}[property]\n{lines}", LABELS: ";".join(spec.classes) + "\n"}


def _check_fits(engine: Artifact) -> None:
    spec, leave_out = engine.io, "leave deepstream out of serve"
    has_number_for_each = spec.outputs[0].meaning in (LOGITS, PROBABILITIES, INDEPENDENT)
    reasons = (
        (
            "Gst-nvinfer gives float32 planes, and the model takes uint8 images",
            spec.preprocess.normalised_inside,
            f"export it without normalize; or {leave_out}",
        ),
        (
            "Gst-nvinfer reads each output as a classifier, and the model has several",
            len(spec.outputs) > 1,
            f"export it without embedding; or {leave_out}",
        ),
        ("Gst-nvinfer needs a number for each class", not has_number_for_each, leave_out),
        (
            "DeepStream separates labels by semicolons",
            any(";" in name for name in spec.classes),
            f"rename the classes; or {leave_out}",
        ),
    )
    for what, is_so, step in reasons:
        if is_so:
            raise ArtifactError(what, where=engine.id, next=step)


def _common_std(rule: Preprocess) -> float:
    """Gst-nvinfer divides all channels by one number: their mean standard deviation."""
    return sum(rule.std) / len(rule.std)


def _notes(spec: IOSpec) -> str:
    """Comments: where Gst-nvinfer differs from the preprocessing that the accuracy was measured with."""
    rule = spec.preprocess
    error = max(abs(std / _common_std(rule) - 1) for std in rule.std)
    lines = [
        "DeepStream, Gst-nvinfer: a classifier of whole frames. DeepStream needs the TensorRT that built model.engine.",
        "No ONNX file is named here: DeepStream would build an engine of other precisions from it.",
    ]
    if error > 1e-6:
        lines.append(
            f"Gst-nvinfer has one scale for all channels. The values of the input are wrong by up to {error:.2%}."
        )
    if rule.resize == "crop":
        lines.append(
            f"The model was measured on the center of the image ({rule.crop_pct:g} of the shorter side). Gst-nvinfer "
            "resizes the whole frame to the model's shape, and changes its aspect ratio."
        )
    lines.append("DeepStream resizes with other filters than Pillow. No accuracy was measured with DeepStream.")
    if spec.outputs[0].meaning == LOGITS:
        lines.append(
            "The model gives class scores, without softmax. DeepStream's confidence is the best score, and an image "
            "whose scores are all below 0 gets no label."
        )
    return "".join(f"# {line}\n" for line in lines) + "\n"
