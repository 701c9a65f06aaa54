"""Results of measurements and of runs, for notebooks and programs."""

from __future__ import annotations

import html
import json
import webbrowser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgevit.api.model import Model
from edgevit.artifacts import MODEL_KINDS, Artifact
from edgevit.errors import ArtifactError, RecipeError, did_you_mean
from edgevit.profiling.energy import EnergyRecord, NoEnergy
from edgevit.profiling.latency_record import LatencyRecord
from edgevit.report.tables import html_table
from edgevit.report.text.accuracy import accuracy_sentences, top1_sentence
from edgevit.report.text.corruptions import corruption_sentence
from edgevit.report.text.energy import energy_sentence
from edgevit.report.text.episodes import FEW_SHOT_HEADER, few_shot_rows
from edgevit.report.text.features import FEATURE_HEADER, head_rows, measures_sentence
from edgevit.report.text.latency import latency_facts, latency_sentence
from edgevit.report.text.report import summary
from edgevit.terminal import printable

PERCENTILES: tuple[Literal[50, 90, 99], ...] = (50, 90, 99)


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The accuracy of a model on labelled images, also under corruption (`protocol="corruptions"`).

    Attributes:
        artifact: predictions and summary, as the stage `evaluate` writes them.
    """

    artifact: Artifact

    @property
    def top1(self) -> float:
        """Share of images whose most likely class is right, 0 to 1."""
        return float(self.artifact.metrics["top1"]["value"])

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of `top1` (Wilson 1927)."""
        top1 = self.artifact.metrics["top1"]
        return float(top1["low"]), float(top1["high"])

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have images, 0 to 1."""
        return float(self.artifact.metrics["balanced_accuracy"]["value"])

    @property
    def constant_guess(self) -> float:
        """Accuracy of always answering the commonest class of the images, 0 to 1."""
        return float(self.artifact.metrics["constant_guess"]["value"])

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """A row for each class: `class`, number of images `n`, `recall` and `precision` with 95% intervals.

        An interval goes from `recall_low` to `recall_high`, and likewise for precision. None where there is no image or
        no prediction.
        """
        rows: list[dict[str, Any]] = self._summary()["per_class"]
        return rows

    @property
    def corruptions(self) -> dict[str, Any] | None:
        """Top-1 under corruption: `mean`, `by_severity`, `by_kind` and `kinds`, as shares from 0 to 1; None without."""
        corruptions: dict[str, Any] | None = self._summary().get("corruptions")
        return corruptions

    def predictions(self) -> dict[str, NDArray[np.generic]]:
        """Arrays by name, one row an image: sample_ids, labels, predicted, confidence, probabilities."""
        from edgevit.evaluation.record import read_predictions

        return read_predictions(self.artifact)

    def __str__(self) -> str:
        corruptions = self.corruptions
        lines = accuracy_sentences(self.artifact.metrics)
        return "\n".join([*lines, *([corruption_sentence(corruptions["mean"])] if corruptions else [])])

    def __repr__(self) -> str:
        return f"<edgevit.Evaluation {top1_sentence(self.artifact.metrics['top1'])}>"

    def _repr_html_(self) -> str:
        rows = [
            (row["class"], row["n"], *(_share(row[name]) for name in ("recall", "precision"))) for row in self.per_class
        ]
        sentences = "".join(f"<p>{html.escape(line)}</p>" for line in str(self).splitlines())
        return sentences + html_table(("class", "images", "recall", "precision"), rows)

    def _summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads(self.artifact.file("evaluation.json").read_text(encoding="utf-8"))
        return summary


@dataclass(frozen=True, repr=False)
class FewShotEvaluation:
    """The accuracy of few-shot heads on a model's features, over many draws of classes and support sets.

    Attributes:
        artifact: every episode and the summary, as the stage `evaluate` writes them with `protocol: episodes`.
    """

    artifact: Artifact

    @property
    def top1(self) -> dict[str, float]:
        """Mean top-1 over the episodes of each method, 0 to 1."""
        return {method: float(top1["value"]) for method, top1 in self._by_method.items()}

    @property
    def interval(self) -> dict[str, tuple[float, float] | None]:
        """95% interval of each mean over the episodes; None for a single episode."""
        return {
            method: None if top1["low"] is None else (float(top1["low"]), float(top1["high"]))
            for method, top1 in self._by_method.items()
        }

    @property
    def _by_method(self) -> dict[str, dict[str, Any]]:
        by_method: dict[str, dict[str, Any]] = self.artifact.metrics["episodes"]
        return by_method

    def __str__(self) -> str:
        rows = few_shot_rows(self._by_method)
        return "\n".join(f"{method}: mean top-1 {mean}, 95% interval {interval}" for method, mean, interval, *_ in rows)

    def __repr__(self) -> str:
        means = ", ".join(f"{method} {mean:.2%}" for method, mean in self.top1.items())
        return f"<edgevit.FewShotEvaluation {means}>"

    def _repr_html_(self) -> str:
        return html_table(FEW_SHOT_HEADER, few_shot_rows(self._by_method))


@dataclass(frozen=True, repr=False)
class FeatureEvaluation:
    """The accuracy of heads that were fitted to a model's frozen features, and measures of the features.

    Attributes:
        artifact: predictions and summary, as the stage `evaluate` writes them with `protocol: knn` or `linear`.
    """

    artifact: Artifact

    @property
    def heads(self) -> list[dict[str, Any]]:
        """A row for each head: `head`, `label_share`, `support_images`, `draws`, and `top1`.

        `top1` holds `value`, 0 to 1, `low` and `high` of its 95% interval, and the number of images `n`.
        """
        heads: list[dict[str, Any]] = self.artifact.metrics["heads"]
        return heads

    @property
    def constant_guess(self) -> float:
        """Accuracy of always answering the commonest class of the images, 0 to 1."""
        return float(self.artifact.metrics["constant_guess"]["value"])

    @property
    def features(self) -> dict[str, Any] | None:
        """`rankme`, `alignment` (None for a file) and `uniformity` of the features; None for linear heads."""
        features: dict[str, Any] | None = self.artifact.metrics.get("features")
        return features

    def __str__(self) -> str:
        rows = head_rows(self.artifact.metrics)
        lines = [
            f"{head}, {labels} labels: top-1 {top1}, 95% interval {interval}"
            for labels, head, top1, interval in rows[:-1]
        ]
        lines.append(f"always answering '{self.artifact.metrics['constant_guess']['class']}': {rows[-1][2]}")
        return "\n".join([*lines, *([measures_sentence(self.features)] if self.features else [])])

    def __repr__(self) -> str:
        return f"<edgevit.FeatureEvaluation {len(self.heads)} heads>"

    def _repr_html_(self) -> str:
        return html_table(FEATURE_HEADER, head_rows(self.artifact.metrics))


@dataclass(frozen=True, repr=False)
class Latency:
    """The latency of a model on a target.

    Attributes:
        artifact: the measurement with its conditions, as the stage `profile` writes it.
    """

    artifact: Artifact

    @cached_property
    def record(self) -> LatencyRecord:
        """Everything that was measured: percentiles with intervals, warnings, the start of the model, memory."""
        return LatencyRecord.of_metrics(self.artifact.metrics)

    @property
    def p50_ms(self) -> float:
        """Median time of one run, in milliseconds."""
        return self.record.p50_ms

    @property
    def interval_ms(self) -> tuple[float, float]:
        """95% interval of `p50_ms`."""
        return self.record.p50_low_ms, self.record.p50_high_ms

    def percentile_ms(self, percent: Literal[50, 90, 99]) -> float:
        """The 50th, 90th or 99th percentile, in milliseconds. Raises RecipeError for another one."""
        if percent not in self.record.percentiles:
            raise RecipeError("this percentile is not recorded", got=percent, expected="50, 90 or 99")
        return self.record.percentiles[percent].ms

    @property
    def energy(self) -> EnergyRecord | NoEnergy | None:
        """The energy for an image, or why it was not measured; None if an older release measured the latency."""
        return self.record.energy

    @property
    def invalid(self) -> list[str]:
        """Reasons why the latency is none of the device in its stated mode, such as throttling; empty without one."""
        return list(self.record.invalid)

    @property
    def conditions(self) -> dict[str, Any]:
        """Target, runtime, threads, batch size, precision, and everything else that was recorded."""
        return {name: value for name, value in self.artifact.metrics.items() if name != "latency_ms"}

    def __str__(self) -> str:
        latency = self.record
        invalid = "".join(f"INVALID, {reason}: " for reason in latency.invalid)
        threads = "" if latency.threads is None else f"threads {latency.threads}, "
        return (
            f"{invalid}{latency_sentence(latency)}; {latency.runtime} on {latency.target}, "
            f"{threads}batch {latency.batch_size}, {latency.precision}"
            f"{f'; {energy_sentence(latency.energy)}' if isinstance(latency.energy, EnergyRecord) else ''}"
        )

    def __repr__(self) -> str:
        return f"<edgevit.Latency {self}>"

    def _repr_html_(self) -> str:
        latency = [(f"p{percent}", f"{value.ms:.3g} ms") for percent, value in self.record.percentiles.items()]
        kind = [("kind of times", self.record.label), *(("INVALID", reason) for reason in self.invalid)]
        names = ("target", "runtime", "threads", "batch_size", "precision")
        conditions = [(name.replace("_", " "), self.artifact.metrics[name]) for name in names]
        return html_table(("latency", ""), [*latency, *kind, *conditions, *latency_facts(self.record)])


@dataclass(frozen=True, repr=False)
class Report:
    """The report of a run.

    Attributes:
        artifact: report.html, report.json and report.md.
    """

    artifact: Artifact

    @property
    def path(self) -> Path:
        """report.html, its hash checked."""
        return self.artifact.file("report.html")

    @property
    def data(self) -> dict[str, Any]:
        """report.json: everything that the page shows; fractions, milliseconds, bytes."""
        data: dict[str, Any] = json.loads(self.artifact.file("report.json").read_text(encoding="utf-8"))
        return data

    @property
    def meets_budget(self) -> bool | None:
        """Whether the deployed model meets the recipe's budget; None where there is none, or it cannot be judged."""
        verdict: bool | None = self.artifact.metrics["meets_budget"]
        return verdict

    @property
    def doubts(self) -> list[str]:
        """Reasons to doubt the numbers of the deployed model, the gravest first; empty if there are none.

        The kinds are those of the doubts in report.json, such as constant_guess, invalid_latency and few_images.
        """
        doubts: list[str] = self.artifact.metrics["doubts"]
        return doubts

    def show(self) -> None:
        """Open the page in a browser; in a notebook, the last expression `run.report` shows its summary."""
        webbrowser.open(self.path.as_uri())

    def __str__(self) -> str:
        return printable(summary(self.data))

    def __repr__(self) -> str:
        verdict = {
            True: "meets its budget",
            False: "misses its budget",
            None: "has no budget, or a budget that cannot be judged",
        }[self.meets_budget]
        return f"<edgevit.Report {self.artifact.id}: the run {verdict}>"

    def _repr_html_(self) -> str:
        page = html.escape(self.path.as_uri(), quote=True)
        return f'<pre>{html.escape(str(self))}</pre><p><a href="{page}">report.html</a></p>'


Result = Model | Evaluation | FewShotEvaluation | FeatureEvaluation | Latency | Report | Artifact


class Run(Mapping[str, Result]):
    """The results of a recipe by the ids of its stages.

    Checkpoints, ONNX files, compiled files and bundles are a `Model`. Evaluations, latencies and reports have types of
    their own. Other results are an `Artifact`.

    Attributes:
        dropped: the stages without a result: a training diverged, and its model dropped out of a selection.
    """

    def __init__(
        self, name: str, folder: Path, artifacts: Mapping[str, Artifact], dropped: tuple[str, ...] = ()
    ) -> None:
        self.name, self.folder, self.dropped = name, folder, dropped
        self._artifacts = dict(artifacts)

    def __getitem__(self, stage_id: str) -> Any:  # a model here, a measurement there: callers know their recipe
        if stage_id in self.dropped:
            raise KeyError(f"stage '{stage_id}' has no result: a training diverged, and it dropped out of a selection")
        if stage_id not in self._artifacts:
            hint = did_you_mean(stage_id, self._artifacts) or f"stages: {', '.join(self._artifacts)}"
            raise KeyError(f"there is no stage '{stage_id}'. {hint}")
        return _result(self._artifacts[stage_id], self.folder / stage_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._artifacts)

    def __len__(self) -> int:
        return len(self._artifacts)

    @property
    def report(self) -> Report:
        """The last report of the run.

        Raises:
            ArtifactError: the recipe has no stage report.
        """
        reports = [artifact for artifact in self._artifacts.values() if artifact.kind == "report"]
        if not reports:
            raise ArtifactError("the recipe has no stage report", where=self.name, next="add {stage: report, of: […]}")
        return Report(reports[-1])

    def __repr__(self) -> str:
        return f"<edgevit.Run {self.name}: {', '.join(self)}>"

    def _repr_html_(self) -> str:
        return html_table(("stage", "result"), [(name, artifact.kind) for name, artifact in self._artifacts.items()])


def _result(artifact: Artifact, folder: Path) -> Result:
    if artifact.kind == "bundle":
        from edgevit.graphs.files import artifact_from_onnx

        return Model(artifact_from_onnx(artifact.file("model.onnx")), bundle=folder)
    if artifact.kind in MODEL_KINDS:
        return Model(artifact)
    if artifact.kind == "evaluation":
        return evaluation_of(artifact)
    if artifact.kind == "latency":
        return Latency(artifact)
    return Report(artifact) if artifact.kind == "report" else artifact


def evaluation_of(artifact: Artifact) -> Evaluation | FewShotEvaluation | FeatureEvaluation:
    """The result of a stage `evaluate`, by its protocol."""
    if "heads" in artifact.metrics:
        return FeatureEvaluation(artifact)
    return FewShotEvaluation(artifact) if "episodes" in artifact.metrics else Evaluation(artifact)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
