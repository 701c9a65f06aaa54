"""What do calibration images have to show? Statistics of real sets, and INT8 accuracy by the contrast of images.

    python -m benchmarks.calibration_images ../shared/data

`edgevit.data.image_statistics` takes its thresholds from here. Sets are drawn at random (8, 32 and 100 images) and
from one class. The model is a CIFAR-10 ResNet-20, quantized for ONNX Runtime on 64 images (minmax), tested on 1,000
others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from sklearn.datasets import load_digits

from benchmarks.cifar_resnet import CONFIG, CifarResNet
from benchmarks.common import publish
from edgevit.artifacts import IOSpec, Preprocess
from edgevit.data.image_statistics import image_statistics
from edgevit.data.preprocess import open_image
from edgevit.exporting import onnx_from_module
from edgevit.quantization import calibrated
from edgevit.runtimes.base import preprocessed

Images = NDArray[Any]
DRAWN, CALIBRATION, TESTED = (8, 32, 100), 64, 1000
CONTRASTS = (0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
RULE = Preprocess(height=32, width=32, crop_pct=1.0, mean=CONFIG["mean"], std=CONFIG["std"])


def main(data: Path) -> None:
    images, labels = cifar10(data)
    publish("calibration_images", {"sets": statistics(data), "accuracy": list(accuracies(data, images, labels))})


def statistics(data: Path) -> dict[str, list[dict[str, Any]]]:
    """Surveys of images drawn from each set at random, and of one class each."""
    generator = np.random.default_rng(0)
    rows_of: dict[str, list[dict[str, Any]]] = {}
    for name, (images, labels) in sets(data).items():
        draws = {f"{count} drawn": generator.permutation(len(images))[:count].tolist() for count in DRAWN}
        if labels is not None:
            classes = [np.flatnonzero(np.asarray(labels) == label)[:100] for label in sorted(set(labels))[:20]]
            draws |= {
                f"class {place}": positions.tolist()
                for place, positions in enumerate(classes)
                if len(positions) >= DRAWN[0]
            }
        rows_of[name] = [{"drawn": draw, **surveyed([images[i] for i in chosen])} for draw, chosen in draws.items()]
    return rows_of


def surveyed(images: Sequence[Images]) -> dict[str, Any]:
    return {name: np.asarray(value).round(4).tolist() for name, value in vars(image_statistics(images)).items()}


def sets(data: Path) -> Mapping[str, tuple[Images | Sequence[Images], Sequence[int] | None]]:
    bits = np.load(data / "omniglot" / "omniglot.npz")
    paper = 255 * (1 - np.unpackbits(bits["background_bits"][:2000], axis=-1)[..., :105])
    digits = load_digits()
    lines = [line.split(", ") for line in (data / "grocery" / "train.txt").read_text().splitlines()]
    photos = [open_image(data / "grocery" / path) for path, _, _ in lines[::4]]
    return {
        "CIFAR-10": cifar10(data),
        "Omniglot": (as_rgb(paper), bits["background_labels"][:2000].tolist()),
        "digits": (as_rgb((digits.images * 15.9).astype(np.uint8)), digits.target.tolist()),
        "ImageNet samples": ([open_image(file) for file in sorted((data / "imagenet_samples").glob("*.jpg"))], None),
        "Grocery": (photos, [int(label) for _, label, _ in lines[::4]]),
    }


def cifar10(data: Path) -> tuple[Images, list[int]]:
    """The first 2,000 test images."""
    sys.path.insert(0, str(data))
    import cifar_io  # type: ignore[import-not-found]

    images, labels, _ = cifar_io.load("cifar10", train=False)
    return images[:2000], labels[:2000].tolist()


def as_rgb(grey: NDArray[np.uint8]) -> Images:
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)


def accuracies(data: Path, images: Images, labels: Sequence[int]) -> Iterator[dict[str, Any]]:
    """INT8 accuracy after calibration on each kind of image."""
    model = resnet20(data)
    tested, truth = preprocessed(images[-TESTED:], RULE), np.asarray(labels[-TESTED:])
    float_logits = logits(model, tested)
    yield {"calibration": "float", "accuracy": float((float_logits.argmax(1) == truth).mean())}
    for name, kind in kinds(images[:CALIBRATION]).items():
        inputs = preprocessed(kind, RULE)
        quantized = calibrated(model, partial(list, [inputs]), "minmax", "onnxruntime", 1, "benchmark").quantized()
        accuracy = float((logits(quantized.model, tested).argmax(1) == truth).mean())
        yield {"calibration": name, "accuracy": accuracy, **surveyed(list(kind))}


def kinds(images: Images) -> dict[str, Images]:
    generator, wide = np.random.default_rng(0), images.astype(np.float32)

    def clipped(values: NDArray[Any]) -> Images:
        kept: Images = np.clip(values, 0, 255).astype(np.uint8)
        return kept

    colours = generator.integers(0, 256, (len(images), 1, 1, 3))
    return {
        "as they are": images,
        **{
            f"contrast × {share}": clipped(128 + share * (wide - 128)) for share in (0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
        },
        **{f"light × {share}": clipped(share * wide) for share in (0.5, 0.3, 0.1)},
        **{f"one, noise {size}": clipped(wide[:1] + generator.normal(0, size, wide.shape)) for size in (0, 8, 32)},
        "black": np.zeros_like(images),
        "a colour each": np.broadcast_to(colours, images.shape).astype(np.uint8),
    }


def resnet20(data: Path) -> ModelProto:
    stored = torch.load(data / "weights" / "cifar10_resnet20-12fca82f.th", weights_only=True, map_location="cpu")
    module = CifarResNet(3).eval()
    module.load_state_dict({name.removeprefix("module."): value for name, value in stored["state_dict"].items()})
    spec = IOSpec.for_classifier(RULE, tuple(map(str, range(10))))
    return onnx_from_module(module, spec, 20, dynamic_batch=True).model


def logits(model: ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": batch})[0] for batch in np.split(images, 10)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
