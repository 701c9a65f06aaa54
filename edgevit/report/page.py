"""report.html: one self-contained file, made from report.json and the artifacts behind it."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edgevit.artifacts import SENSITIVITY, Artifact, Json
from edgevit.configs.targets import LOCAL_CPU
from edgevit.evaluation.accuracy import confusion_matrix
from edgevit.evaluation.record import read_predictions
from edgevit.report import plots
from edgevit.report.attention import pictures_beside
from edgevit.report.device import telemetry_of
from edgevit.report.features import neighbors_of
from edgevit.report.layer_times import section, timed_models
from edgevit.report.text.accuracy import answers_against_float
from edgevit.report.text.attention import ATTENTION_NOTE, attention_caption, attention_title
from edgevit.report.text.checks import CHECK_HEADER, check_notes, check_rows
from edgevit.report.text.classes import CLASSES_NOTE, MOST_CLASSES, lowest_recall_first
from edgevit.report.text.corruptions import corruption_note, corruption_rows
from edgevit.report.text.device import device_header, device_rows, device_title
from edgevit.report.text.energy import ENERGY_HEADER, energy_note, energy_rows
from edgevit.report.text.episodes import episode_note, episode_rows
from edgevit.report.text.features import MEASURES_NOTE, feature_measure_rows, feature_note, feature_rows
from edgevit.report.text.latency import latency_sentence
from edgevit.report.text.numbers import (
    count,
    interval_percent,
    milliseconds,
    percent,
    plus_minus,
    precision_name,
    runtime_name,
    significant,
    size,
)
from edgevit.report.text.selection import (
    SELECTION_HEADER,
    SELECTION_NOTE,
    selection_notes,
    selection_rows,
    selection_sentence,
)
from edgevit.report.text.throughput import THROUGHPUT_HEADER, throughput_rows
from edgevit.report.text.training_data import LEARNED_FROM_NOTE, learned_from_lines
from edgevit.report.variants import Lineup, Variant
from edgevit.terminal import printable

HERE = Path(__file__).parent
MOST_CONFUSED = 8
FOLDERS_OF_PICTURES = ("wrong/", "neighbors/", "images/")
LARGEST_CONFUSION_MATRIX = 100
QUANTIZATION_FACTS = {
    "calibrator": "Calibrator",
    "calibration_images": "Calibration images",
    "form": "Shipped form",
    "quantized_ops": "Quantized operators",
    "float_ops": "Operators in float",
}
AGREEMENTS = {
    "max_difference": "largest difference of a logit",
    "sqnr_db": "signal-to-quantization-noise ratio of the logits, dB",
    "engine_sqnr_db": "signal-to-quantization-noise ratio of the outputs on the target, dB",
    "engine_between_images_sqnr_db": "the same ratio for differences between images, dB",
}
NUMBERS = (count, interval_percent, milliseconds, percent, plus_minus, precision_name, runtime_name, significant, size)


def page(report: Mapping[str, Any], lineup: Lineup) -> str:
    """The whole HTML page. Text from data, recipes and files is escaped."""
    deployed = lineup.deployed
    return rendered(
        "report.html.j2",
        report=report,
        roles=_roles(report),
        device=_device(report, deployed),
        overview=_overview(report, lineup),
        energies=energy_rows(report["variants"]),
        energy_header=ENERGY_HEADER,
        energy_note=energy_note(report["variants"]),
        selections=[_selection(number, selection) for number, selection in enumerate(report["selections"])],
        selection_header=SELECTION_HEADER,
        learned_from=learned_from_lines(report["learned_from"]),
        learned_from_note=LEARNED_FROM_NOTE,
        classes=lowest_recall_first(report["classes"])[:MOST_CLASSES],
        classes_note=CLASSES_NOTE,
        latency=_latency(deployed),
        layer_times=[section(timed, name, is_folded=True) for name, timed in timed_models(lineup)],
        curves=list(_training_curves(lineup)),
        confusion=_confusion(deployed),
        mistakes=list(_mistakes(deployed)),
        calibration=_calibration(deployed),
        quantization=_quantization(lineup),
        agreements=list(_agreements(lineup)),
        corruptions=[_under_corruption(number, group) for number, group in enumerate(report["corruptions"])],
        episodes=[_over_episodes(group) for group in report["episodes"]],
        features=[_of_features(group) for group in report["features"]],
        measures_note=MEASURES_NOTE,
        neighbors=[_neighbors(evaluation, queries) for evaluation, queries in neighbors_of(lineup)],
        attention=[_attention(*group) for group in zip(report["attention"], pictures_beside(lineup), strict=True)],
        attention_note=ATTENTION_NOTE,
        check_header=CHECK_HEADER,
        check_rows=check_rows(report["tensorrt"]),
        check_notes=check_notes(report["tensorrt"]),
        provenance=[_provenance(artifact) for artifact in lineup.artifacts],
    )


def rendered(template: str, **values: object) -> str:
    """A page from a template beside this file. Every template has `style` and the filters for numbers."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # Markup stays as it is
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({function.__name__: function for function in NUMBERS})
    environment.filters.update(svg=Markup, json=_pretty)
    style = Markup((HERE / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(style=style, **values)


def _roles(report: Mapping[str, Any]) -> defaultdict[str, str]:
    """The role of each variant in the answer, by its id."""
    roles = ("nearest_centroid", "teacher", "float_student", "deployed")
    return defaultdict(str, {report[role]: role.replace("_", " ") for role in roles})


def _device(report: Mapping[str, Any], deployed: Variant) -> Json | None:
    """The section about the device, with its state over the run as a plot."""
    device, telemetry = report["device"], telemetry_of(deployed.latency)
    if device is None:
        return None
    return {
        "title": device_title(device),
        "plot": plots.over_the_run(telemetry) if telemetry else None,
        "header": device_header(device),
        "rows": device_rows(device),
    }


def _overview(report: Mapping[str, Any], lineup: Lineup) -> Json | None:
    limit_ms = report["budget"]["latency_ms"]
    wide, narrow = (plots.accuracy_latency(lineup.variants, lineup.deployed, limit_ms, width) for width in (960, 380))
    shown = [v.id for v in lineup.variants if v.accuracy and v.timing and v.timing.is_judged]
    missing = [variant.id for variant in lineup.variants if variant.id not in shown]
    return {"wide": wide, "narrow": narrow, "missing": missing} if wide and narrow else None


def _selection(number: int, selection: Json) -> Json:
    """One selection: a sentence, a picture, a row and a reason for each model, and the winner."""
    return {
        "wide": plots.selection_front(str(number), selection, 960),
        "narrow": plots.selection_front(str(number), selection, 380),
        "sentence": selection_sentence(selection),
        "rows": selection_rows(selection),
        "notes": selection_notes(selection),
        "note": SELECTION_NOTE,
        "winner": selection["winner"],
    }


def _latency(deployed: Variant) -> Json | None:
    if deployed.latency is None or deployed.timing is None:
        return None
    recorded = json.loads(deployed.latency.file("latency.json").read_text(encoding="utf-8"))
    samples_ms = np.asarray(recorded["samples_ms"], dtype=np.float64)
    percentiles = {f"p{percent}": value.ms for percent, value in deployed.timing.percentiles.items()}
    return {
        "numbers": deployed.timing.numbers(),
        "sentence": latency_sentence(deployed.timing),
        "histogram": plots.latency_histogram(samples_ms, percentiles),
        "run_order": plots.run_order(samples_ms),
        "throughput_header": THROUGHPUT_HEADER,
        "throughput": throughput_rows(deployed.timing.offline),
        "throughput_plot": plots.throughput(deployed.timing.offline) if len(deployed.timing.offline) > 1 else None,
        "conditions": recorded["conditions"],
    }


def _training_curves(lineup: Lineup) -> Iterator[Json]:
    for artifact in lineup.artifacts:
        if artifact.kind != "checkpoint" or "metrics.jsonl" not in artifact.manifest.files:
            continue
        lines = [json.loads(line) for line in artifact.file("metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        losses = [line["loss"] for line in lines if line.get("loss") is not None]
        if losses:
            plot = plots.training_curve(artifact.id, lines)
            yield {"id": artifact.id, "stage": artifact.manifest.stage, "plot": plot, "last_loss": losses[-1]}


def _confusion(deployed: Variant) -> Json | None:
    if deployed.evaluation is None:
        return None
    recorded = _evaluation_json(deployed.evaluation)
    classes, plot = recorded["classes"], None
    if len(classes) <= LARGEST_CONFUSION_MATRIX:
        table = read_predictions(deployed.evaluation)
        labels, predicted = (np.asarray(table[name], np.int64) for name in ("labels", "predicted"))
        plot = plots.confusion_matrix(confusion_matrix(labels, predicted, len(classes)), classes)
    return {"plot": plot, "pairs": recorded["confusions"][:MOST_CONFUSED]}


def _mistakes(deployed: Variant) -> Iterator[Json]:
    if deployed.evaluation is None:
        return
    for mistake in _evaluation_json(deployed.evaluation)["wrong"]:
        yield {**mistake, "image": _png(deployed.evaluation, mistake["file"])}


def _calibration(deployed: Variant) -> Json | None:
    if deployed.evaluation is None or deployed.accuracy is None:
        return None
    recorded = _evaluation_json(deployed.evaluation)["calibration"]
    mean_confidence = float(read_predictions(deployed.evaluation)["confidence"].mean())
    return {
        "ece": recorded["ece"],
        "confidence": mean_confidence,
        "accuracy": deployed.accuracy.top1.value,
        "plot": plots.reliability_diagram(recorded["bins"]),
    }


def _quantization(lineup: Lineup) -> Json | None:
    """The facts about the quantization of the deployed model."""
    last = next((artifact for artifact in lineup.line if artifact.manifest.stage == "quantize"), None)
    if last is None:
        return None
    known = {"calibrator": last.manifest.config["calibrator"], **last.metrics}
    facts = [(label, _fact(known[name])) for name, label in QUANTIZATION_FACTS.items() if name in known]
    forms = [{**form, "answers": answers_against_float(form)} for form in last.metrics.get("forms", [])]
    if answers := answers_against_float(last.metrics):
        learned = last.metrics.get("validation_learned_by")
        note = f", which '{learned}' learned from" if learned else ""
        facts.append(("Answers against float", f"{answers}. Measured on {last.manifest.inputs['validation'].id}{note}"))
    baseline = next((form["baseline"] for form in forms if "baseline" in form), "float")
    quantized = last.metrics["precision"] if last.metrics["quantized_ops"] else last.manifest.config["precision"]
    return {
        "id": last.id,
        "calibration": last.manifest.inputs["calibration"].id,
        "facts": facts,
        "forms": forms,
        "has_answers": any(form["answers"] for form in forms),
        "baseline": baseline,
        "target": last.manifest.config.get("target", LOCAL_CPU),
        "is_replayed": any(form.get("label") == "replayed" for form in forms),
        "ships": last.metrics.get("form"),
        "precision": precision_name(quantized),
        "is_float": not last.metrics["quantized_ops"],
        "sensitivity": _sensitivity(last),
    }


def _sensitivity(quantized: Artifact) -> list[Json]:
    """The closeness to float with each layer alone quantized, the most sensitive first; empty if not measured."""
    if SENSITIVITY not in quantized.manifest.files:
        return []
    layers: list[Json] = json.loads(quantized.file(SENSITIVITY).read_text(encoding="utf-8"))
    return layers


def _agreements(lineup: Lineup) -> Iterator[Json]:
    """The closeness of each model to its source, as the parity gates measured it."""
    for variant in lineup.variants:
        for name, label in AGREEMENTS.items():
            if name in variant.model.metrics:
                yield {
                    "id": variant.id,
                    "parent": variant.parent_id,
                    "label": label,
                    "value": variant.model.metrics[name],
                }


def _under_corruption(number: int, group: Mapping[str, Any]) -> Json:
    wide, narrow = (plots.accuracy_by_severity(f"corruption-{number}", group, width) for width in (960, 380))
    return {
        "models": [model["id"] for model in group["models"]],
        "rows": corruption_rows(group),
        "note": corruption_note(group),
        "wide": wide,
        "narrow": narrow,
    }


def _over_episodes(group: Mapping[str, Any]) -> Json:
    return {
        "title": f"Few-shot accuracy, {group['ways']}-way {group['shots']}-shot",
        "models": [model["id"] for model in group["models"]],
        "rows": episode_rows(group),
        "note": episode_note(group),
    }


def _of_features(group: Mapping[str, Any]) -> Json:
    return {
        "support": group["support"],
        "models": [model["id"] for model in group["models"]],
        "rows": feature_rows(group),
        "guess": group["constant_guess"],
        "measures": feature_measure_rows(group),
        "note": feature_note(group),
    }


def _neighbors(evaluation: Artifact, queries: Sequence[Json]) -> Json:
    """Images with their nearest neighbors, as pictures."""
    return {
        "id": evaluation.manifest.inputs["model"].id,
        "support": evaluation.manifest.inputs["support"].id,
        "queries": [
            {
                **query,
                "image": _png(evaluation, query["file"]),
                "neighbors": [
                    {**each, "image": _png(evaluation, each["file"]), "is_right": each["label"] == query["label"]}
                    for each in query["neighbors"]
                ],
            }
            for query in queries
        ],
    }


def _attention(group: Mapping[str, Any], pictures: Sequence[Json]) -> Json:
    """Models beside each other, each with its maps and the distances of its heads."""
    return {
        "title": attention_title(group),
        "models": [
            {
                **shown,
                "id": model["id"],
                "caption": attention_caption(model),
                "plot": plots.attention_distances(f"attention-{number}", model) if model["layers"] else None,
                "mean_px": [sum(layer["distances_px"]) / len(layer["distances_px"]) for layer in model["layers"]],
            }
            for number, (model, shown) in enumerate(zip(group["models"], pictures, strict=True))
        ],
    }


def _png(artifact: Artifact, name: str) -> str:
    """A PNG file of an artifact as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(artifact.file(name).read_bytes()).decode('ascii')}"


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(item)}" for name, item in value.items()) or "none"
    return significant(value) if isinstance(value, float) else str(value)


def _provenance(artifact: Artifact) -> Json:
    manifest = artifact.manifest
    return {
        "id": artifact.id,
        "stage": manifest.stage,
        "kind": artifact.kind,
        "key": manifest.key,
        "digest": manifest.digest,
        "inputs": {name: f"{ref.id} ({ref.digest[:12]})" for name, ref in manifest.inputs.items()},
        "config": manifest.config,
        "metrics": manifest.metrics,
        "provenance": manifest.provenance,
        "files": {
            name: entry.sha256 for name, entry in manifest.files.items() if not name.startswith(FOLDERS_OF_PICTURES)
        },
    }


def _evaluation_json(evaluation: Artifact) -> Json:
    recorded: Json = json.loads(evaluation.file("evaluation.json").read_text(encoding="utf-8"))
    return recorded


def _pretty(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)
