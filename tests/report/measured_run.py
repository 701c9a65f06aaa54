"""A finished run without any training: a real store with artifacts in the formats that the stages write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.artifacts import Artifact, Contents, IOSpec, Json, Kind, Manifest, Preprocess, sha256_of
from edgevit.checking.timed_layers import TIMES_FILE, json_of_timed
from edgevit.configs import STAGES, Evaluate, references
from edgevit.evaluation import Predictions, write_corrupted, write_evaluation
from edgevit.evaluation.corruptions import CorruptedPredictions
from edgevit.model_file import OnnxruntimeOptions, model_file_with
from edgevit.store import Store, dotted, ingredients

DIGITS = tuple("0123456789")
SPEC = Preprocess(height=32, width=32)
BESIDE = ("start", "parts_ms", "cpus_used", "energy_mj", "no_energy")  # in the metrics of a latency


@dataclass
class MeasuredRun:
    """Artifacts by id, made one after the other into the store under `folder`."""

    folder: Path
    classes: tuple[str, ...] = DIGITS
    images: int = 400
    made: dict[str, Artifact] = field(default_factory=dict)

    def dataset(self, name: str) -> None:
        manifest = Manifest(
            kind="dataset", id=name, key=name, digest=sha256_of(name)[:40], stage="dataset", stage_version=1, config={}
        )
        self.made[name] = Artifact(self.folder, manifest)

    def checkpoint(
        self,
        name: str,
        stage: str,
        size: int,
        metrics: Json,
        epochs: int = 0,
        advice: Json | None = None,
        **config: Any,
    ) -> None:
        def write(out: Path, _: Path) -> Contents:
            if advice:
                (out / "advice.json").write_text(json.dumps(advice))
            (out / "model.safetensors").write_bytes(name.encode() + bytes(size))
            (out / "model.json").write_text(json.dumps({"model": "x", "num_classes": len(self.classes)}))
            (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _curve(epochs)))
            return Contents("checkpoint", metrics=metrics, logs=("metrics.jsonl",), io=self.spec)

        self._make(name, stage, write, **config)

    def selected(self, name: str, models: Sequence[str], winner: str) -> None:
        """A checkpoint that `select` passes on."""

        def write(out: Path, _: Path) -> Contents:
            (out / "model.safetensors").write_bytes(self.made[winner].file("model.safetensors").read_bytes())
            metrics = {**self.made[winner].metrics, "passes_on": self.made[winner].digest}
            return Contents("checkpoint", metrics, io=self.spec, passed_on=f"models.{models.index(winner)}")

        self._make(name, "select", write, models=models, data="digits.pool")

    def onnx(self, name: str, stage: str, size: int, metrics: Json, **config: Any) -> None:
        def write(out: Path, _: Path) -> Contents:
            (out / "model.onnx").write_bytes(name.encode() + bytes(size))
            model_file = model_file_with(OnnxruntimeOptions(), metrics["precision"])
            kind: Kind = "engine" if stage == "compile" else "onnx"
            return Contents(kind, metrics={**metrics, "size_bytes": size}, io=self.spec, model_file=model_file)

        self._make(name, stage, write, **config)

    def evaluation(
        self, name: str, model: str, accuracy: float, data: str = "digits.test", target: str = "local-cpu"
    ) -> None:
        def write(out: Path, _: Path) -> Contents:
            predictions = _predictions(accuracy, self.images, self.classes, seed=len(name))
            metrics = write_evaluation(predictions, Noise(), out)  # type: ignore[arg-type]
            runtime = _runtime(self.made[model])
            return Contents("evaluation", metrics={**metrics, "runtime": runtime, "target": target})

        self._make(name, "evaluate", write, model=model, data=data, target=target)

    def predicted(self, name: str, model: str, labels: Sequence[int], predicted: Sequence[int], **more: Json) -> None:
        """An evaluation with these predictions, and more metrics."""

        def write(out: Path, _: Path) -> Contents:
            scores = np.eye(len(self.classes), dtype=np.float32)[list(predicted)]
            names = tuple(f"image_{index:04d}" for index in range(len(labels)))
            predictions = Predictions(names, self.classes, np.asarray(labels, np.int64), scores)
            metrics = {**write_evaluation(predictions, Noise(), out), **more}  # type: ignore[arg-type]
            return Contents("evaluation", metrics={**metrics, "runtime": "onnxruntime", "target": "local-cpu"})

        batch_size = 1 + len(self.made)  # another key than that of an evaluation of this model
        self._make(name, "evaluate", write, model=model, data="digits.test", batch_size=batch_size)

    def corrupted(self, name: str, model: str, accuracy: float, images: int | None = None, **options: Any) -> None:
        """An evaluation under corruption: each severity costs a tenth of the accuracy, of fog twice as much."""

        def write(out: Path, _: Path) -> Contents:
            config = Evaluate(stage="evaluate", id="e", model="m", data="d", protocol="corruptions", **options)
            clean = _predictions(accuracy, images or self.images, self.classes, seed=len(name))
            shares = [
                [accuracy * (1 - 0.1 * severity * (2 if kind == "fog" else 1)) for severity in config.severities]
                for kind in config.kinds
            ]
            correct = np.arange(len(clean.labels)) >= np.round((1 - np.array(shares)) * len(clean.labels))[..., None]
            predictions = CorruptedPredictions(clean, config.kinds, config.severities, correct)
            metrics = write_corrupted(predictions, Noise(), out)  # type: ignore[arg-type]
            runtime = _runtime(self.made[model])
            return Contents("evaluation", metrics={**metrics, "runtime": runtime, "target": "local-cpu"})

        self._make(name, "evaluate", write, model=model, data="digits.test", protocol="corruptions", **options)

    def latency(self, name: str, model: str, p50_ms: float, **conditions: Any) -> None:
        def write(out: Path, _: Path) -> Contents:
            samples = p50_ms * (1 + np.random.default_rng(len(name)).gamma(2, 0.03, 2000))
            numbers = {
                **{f"p{rank}": float(np.percentile(samples, rank, method="inverted_cdf")) for rank in (50, 90, 99)},
                "p50_low": p50_ms * 1.03,
                "p50_high": p50_ms * 1.08,
                "n": len(samples),
                "coefficient_of_variation": 0.04,
                "boundary": conditions.get("boundary", "compute"),
                "label": "measured",
                "warnings": conditions.get("warnings", []),
                "invalid": conditions.get("invalid", []),
            }
            if (timed := conditions.get("layers")) is not None:
                (out / TIMES_FILE).write_bytes(json_of_timed(timed))
            receipt = {"device": "cpu", "cpu": {"model": "A CPU"}, "versions": {"onnxruntime": "1.31.0"}}
            (out / "latency.json").write_text(json.dumps({"samples_ms": samples.tolist(), "conditions": receipt}))
            metrics: Json = {
                "latency_ms": numbers,
                "runtime": _runtime(self.made[model]),
                "target": conditions.get("target", "local-cpu"),
                "precision": self.made[model].metrics.get("precision", "float32"),
                "threads": conditions.get("threads", 1),
                "batch_size": 1,
                **{name: conditions[name] for name in BESIDE if name in conditions},
            }
            return Contents("latency", metrics=metrics)

        options = {key: conditions[key] for key in ("target", "threads", "boundary", "duration_s") if key in conditions}
        self._make(name, "profile", write, model=model, **options)

    @property
    def spec(self) -> IOSpec:
        return IOSpec.for_classifier(SPEC, self.classes)

    def of(self, *names: str) -> list[Artifact]:
        return [self.made[name] for name in names]

    def _make(self, name: str, stage: str, write: object, **fields: Any) -> None:
        config = STAGES[stage].model_validate({"stage": stage, "id": name, **fields})
        inputs = {dotted(path): self.made[ref] for path, ref, _ in references(config)}
        parts = ingredients(config, inputs, None, None)
        self.made[name] = Store(self.folder / ".store").make(config, inputs, parts, write)  # type: ignore[arg-type]


def quickstart(folder: Path, classes: tuple[str, ...] = DIGITS) -> MeasuredRun:
    """Teacher → adapted → student → tuned → onnx → int8 → engine, with accuracies and latencies."""
    run = MeasuredRun(folder, classes)
    for name in ("glyphs.train", "digits.support", "digits.pool", "digits.test"):
        run.dataset(name)
    big, small = {"params": 11_200_000, "macs": 37_000_000}, {"params": 1_340_000, "macs": 9_800_000}
    run.checkpoint("teacher", "train", 1_500_000, big, epochs=12, model="resnet18", data="glyphs.train")
    run.checkpoint("adapted", "fewshot", 1_520_000, big, model="teacher", support="digits.support", pool="digits.pool")
    run.checkpoint(
        "student",
        "distill",
        310_000,
        small,
        epochs=20,
        teacher="adapted",
        model="deit_tiny",
        streams=[{"data": "digits.pool"}],
    )
    run.checkpoint(
        "tuned", "fewshot", 310_000, {**small, "val_top1": 0.95}, epochs=5, model="student", support="digits.support"
    )
    run.onnx("onnx", "export", 318_000, {**small, "precision": "float32", "max_difference": 2.4e-6}, model="tuned")
    quantized = {
        **small,
        "precision": "int8",
        "form": "int8 all",
        "forms": [
            {"form": "int8 all", "sqnr_db": 27.42, "speedup": 2.1, "low": 2.0, "high": 2.2},
            {"form": "int8 products", "failed": "8.0 dB"},
        ],
        "sqnr_db": 27.42,
        "quantized_ops": {"Conv": 4, "MatMul": 24},
        "float_ops": {"Softmax": 6},
        "calibration_images": 256,
    }
    run.onnx("int8", "quantize", 96_000, quantized, model="onnx", calibration="digits.pool")
    run.onnx("engine", "compile", 95_000, {**small, "precision": "int8", "runtime": "onnxruntime"}, model="int8")
    run.evaluation("teacher_accuracy", "adapted", 0.965)
    run.evaluation("float_accuracy", "tuned", 0.945)
    run.evaluation("accuracy", "engine", 0.9375)
    run.latency("teacher_latency", "adapted", 4.3)
    run.latency("float_latency", "tuned", 1.9)
    run.latency("latency", "engine", 0.62)
    return run


ALL = ("teacher_accuracy", "float_accuracy", "accuracy", "teacher_latency", "float_latency", "latency")


def _runtime(model: Artifact) -> str:
    return "torch" if model.kind == "checkpoint" else "onnxruntime"


def _curve(epochs: int) -> list[Json]:
    return [
        {"epoch": epoch, "step": 10 * epoch, "loss": 2.3 * 0.85**epoch, "learning_rate": 1e-3, "images_per_s": 900.0}
        | ({"val_top1": 1 - 0.8 * 0.8**epoch} if epoch % 2 else {})
        for epoch in range(1, epochs + 1)
    ]


class Noise:
    """Images of noise, in place of a data set's."""

    def image(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def _predictions(accuracy: float, images: int, classes: Sequence[str], seed: int) -> Predictions:
    """Nested mistakes: the first images are the hard ones, so that two models differ in few of them."""
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % len(classes)
    wrong = np.arange(images) < round((1 - accuracy) * images)
    predicted = np.where(wrong, (labels + 1 + generator.integers(0, 2, images)) % len(classes), labels)
    confidence = np.where(wrong, generator.uniform(0.4, 0.95, images), generator.uniform(0.85, 1.0, images))
    others = (1 - confidence) / (len(classes) - 1)
    probabilities = np.repeat(others[:, None], len(classes), axis=1)
    probabilities[np.arange(images), predicted] = confidence
    names = tuple(f"image_{index:04d}" for index in range(images))
    return Predictions(names, tuple(classes), labels, probabilities.astype(np.float32))
