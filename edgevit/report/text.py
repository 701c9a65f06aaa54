"""Numbers and sentences for people: the summary at the end of a run, and report.md."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgevit.configs.runtimes import RUNTIMES
from edgevit.profiling.energy import EnergyRecord
from edgevit.profiling.latency_record import LatencyRecord, Percentile
from edgevit.profiling.scenarios import MOST_LATE, FrameStream, LoadgenResult, Throughput
from edgevit.profiling.statistics import FEWEST_RUNS
from edgevit.terminal import points, printable

WIDTH = 80
MOST_CLASSES = 50  # rows of a table
LONGEST_CLASS = 16  # characters of a name in the table of classes of report.md
CLASSES_NOTE = (
    "The lowest recall comes first. Recall is the share of the images of a class that the model recognizes. Precision "
    "is the share of right predictions among the predictions of the class."
)
PRECISIONS = {
    "float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "float8": "FP8", "int8": "INT8", "int4": "INT4",
}  # fmt: skip
NOT_MEASURED = "–"
THROUGHPUT_HEADER = ("batch", "images/s", "95% interval", "p50 of a batch")
NOT_OFFICIAL = (
    "timed by edgevit, not by LoadGen; random images, any model, no accuracy run and no review of a submission"
)
MOST_IMAGES = 0.5  # of the test images: with so many learned from, the accuracy says little about new images
FEW_SHOT_HEADER = ("method", "mean top-1", "95% interval", "lowest", "highest")
ENERGY_HEADER = ("model", "energy", "95% interval", "power of the runs", "at rest")
MARKS = re.compile(r"`|<(?=[A-Za-z/!?])|(?<=\])\(")  # of code, HTML and links
# Beginnings of headings, lists, quotations, tables and code blocks.
BLOCKS = re.compile(r"^( *\d*)(?=#{1,6}(?:\s|$)|[-+*](?:\s|$)|>|\||[=-]+$|~~~|(?<=\d)[.)]\s)")
LEARNED_FROM_NOTE = (
    "The data sets of this recipe that a model and its teachers learned from, with labels or without, or were "
    "calibrated on. The data of pretrained weights is not included. Compare accuracies with this in mind: models on "
    "different lines learned from different data."
)


def top1_sentence(top1: Mapping[str, Any]) -> str:
    """A top-1 accuracy with its interval and number of images."""
    return f"top-1 {top1['value']:.2%}, 95% interval {top1['low']:.2%} to {top1['high']:.2%}, {top1['n']} images"


def corruption_sentence(mean: Mapping[str, Any]) -> str:
    """The mean top-1 under corruption, with its interval."""
    return f"under corruption {mean['value']:.2%}, 95% interval {mean['low']:.2%} to {mean['high']:.2%}"


def few_shot_rows(by_method: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each method, under FEW_SHOT_HEADER."""
    return [
        (
            method,
            f"{top1['value']:.2%}",
            NOT_MEASURED if top1["low"] is None else f"{top1['low']:.2%} to {top1['high']:.2%}",
            f"{top1['min']:.1%}",
            f"{top1['max']:.1%}",
        )
        for method, top1 in by_method.items()
    ]


def latency_sentence(latency: LatencyRecord) -> str:
    """The percentiles of a latency in ms, each with its interval. It says if they are replayed."""
    replayed = "" if latency.label == "measured" else f"{latency.label}, not measured: "
    texts = []
    for percent, percentile in latency.percentiles.items():
        name, unit = ("95% interval ", " ms") if percent == 50 else ("", "")
        interval = "" if percentile.low_ms is None else f" ({name}{_from_to(percentile)})"
        texts.append(f"p{percent} {percentile.ms:.3g}{unit}{interval}")
    return f"{replayed}{', '.join(texts)}"


def latency_interval(latency: LatencyRecord) -> str:
    """The 95% interval of the median in ms."""
    return _from_to(latency.percentiles[50])


def _from_to(percentile: Percentile) -> str:
    return f"{percentile.low_ms:.3g} to {percentile.high_ms:.3g}"


def latency_facts(latency: LatencyRecord) -> list[tuple[str, str]]:
    """Labels and values of what was measured beside the percentiles."""
    return list(_latency_facts(latency))


def _latency_facts(latency: LatencyRecord) -> Iterator[tuple[str, str]]:
    if latency.starts is not None and latency.starts > 1:
        yield "Starts", f"{latency.starts} fresh starts of the model; the intervals hold what varies between them"
    elif latency.starts == 1 and latency.label == "measured":
        yield "Starts", "1: the intervals hold for this start alone; another one may differ by some per cent"
    for percent, percentile in latency.percentiles.items():
        if percentile.low_ms is None and percentile.is_recorded:
            yield f"Interval of p{percent}", _why_no_interval(latency.n, FEWEST_RUNS[percent])
    yield from scenario_facts(latency)
    if latency.parts_ms:
        parts = " → ".join(f"{name} {milliseconds(part_ms)}" for name, part_ms in latency.parts_ms.items())
        yield "Parts", f"{parts} (medians)"
    if latency.cpus_used is not None:
        yield "Processors", f"{latency.cpus_used:.2g} busy on average"
    if isinstance(energy := latency.energy, EnergyRecord):
        yield "Energy", energy_sentence(energy)
        yield "Power", power_sentence(energy)
        yield from (("Energy is doubtful", doubt) for doubt in energy.warnings)
        yield from (("Energy is invalid", reason) for reason in energy.invalid if reason not in latency.invalid)
    elif energy:
        yield "Energy", f"not measured: {energy.reason}"
    if start := latency.start:
        yield "Start", f"{milliseconds(start.load_ms)} to load, {milliseconds(start.first_ms)} for the first run"
        if start.peak_bytes is not None and start.own_bytes is not None:
            own = f"{size(start.own_bytes)} before the model was loaded"
            yield "Memory", f"at most {size(start.peak_bytes)} in a process of its own, {own}"


def energy_sentence(energy: EnergyRecord) -> str:
    """The energy for an image, with its interval and its label. It says if it is invalid."""
    label = "" if energy.label == "measured" else f"{energy.label}, not measured: "
    invalid = "INVALID: " if energy.invalid else ""
    interval = f"95% interval {energy.low_mj:.3g} to {energy.high_mj:.3g}"
    return f"{invalid}{label}{energy.mj:.3g} mJ for an image above rest ({interval})"


def power_sentence(energy: EnergyRecord) -> str:
    """The mean power behind an energy, and what it is of."""
    return f"{energy.power_w:.3g} W during the runs, {energy.idle_w:.3g} W at rest: {energy.boundary}"


def energy_cell(energy: Mapping[str, Any] | None) -> str:
    """The energy for an image in report.json, with its label unless it was measured and is valid."""
    if energy is None:
        return NOT_MEASURED
    label = "" if energy["label"] == "measured" else f" {energy['label']}"
    return f"{significant(energy['mj'])} mJ{label}{' invalid' if energy['invalid'] else ''}"


def scenario_facts(latency: LatencyRecord) -> Iterator[tuple[str, str]]:
    """Labels and values of the scenario `fixed_rate`, and of a result by MLPerf's rules; doubts about batches.

    The first batch is that of the latency itself.
    """
    for batch in latency.offline[1:]:
        yield from ((f"Batch {batch.batch_size} is invalid", reason) for reason in batch.invalid)
        yield from ((f"Batch {batch.batch_size} is doubtful", doubt) for doubt in batch.warnings)
    if latency.fixed_rate:
        yield from _stream_facts(latency.fixed_rate)
    if latency.like_mlperf:
        yield from _loadgen_facts(latency.like_mlperf)


def _stream_facts(stream: FrameStream) -> Iterator[tuple[str, str]]:
    """Whether a rate of frames is kept, the late frames, and the latency from the arrival of a frame."""
    for reason in stream.invalid:
        yield "Fixed rate", f"INVALID: {reason}"
    untold = "not told whether it is kept; a longer duration may tell"
    if stream.invalid:
        untold = "not judged, since it is invalid"
    kept = {True: "kept", False: "NOT kept", None: untold}
    images = f" of {stream.batch_size} images" if stream.batch_size > 1 else ""
    rate, ended = f"{stream.rate_hz:g} frames{images} a second", f"{significant(stream.frames_per_s)} ended in a second"
    yield "Fixed rate", f"{rate}: {kept[stream.is_kept]}; {ended}"
    interval = f"95% interval {stream.late_low:.1%} to {stream.late_high:.1%}"
    yield "Late frames", f"{stream.late:.1%} ({interval}) had not ended when the next one came; {MOST_LATE:.0%} may"
    percentiles = zip((50, 90, 99), (stream.p50_ms, stream.p90_ms, stream.p99_ms), strict=True)
    latencies = ", ".join(f"p{percent} {milliseconds(value)}" for percent, value in percentiles)
    yield "From arrival to end", f"{latencies}, {stream.frames:,} frames"
    yield from (("Fixed rate is doubtful", doubt) for doubt in stream.warnings)


def _loadgen_facts(result: LoadgenResult) -> Iterator[tuple[str, str]]:
    """The result by LoadGen's rules, with what is missing."""
    p90 = "too few queries for p90" if result.p90_ms is None else f"p90 {milliseconds(result.p90_ms)} by early stopping"
    yield "Like MLPerf", f"{p90}, single stream, {result.queries:,} queries in {significant(result.seconds)} s"
    for shortfall in result.shortfalls:
        yield "Not as MLPerf", shortfall
    yield "Not official", NOT_OFFICIAL


def _why_no_interval(runs: int, fewest: int) -> str:
    if runs < fewest:
        return f"none: {runs:,} runs are too few, it needs {fewest:,}"
    return f"none: the {runs:,} runs depend on each other, and count as fewer than {fewest:,} independent ones"


def throughput_rows(batches: Sequence[Throughput]) -> list[tuple[str, ...]]:
    """A row for each batch size, under THROUGHPUT_HEADER."""
    return [
        (
            str(batch.batch_size),
            f"{significant(batch.images_per_s, 4)}{' invalid' if batch.invalid else ''}",
            NOT_MEASURED
            if batch.low is None or batch.high is None
            else f"{significant(batch.low, 4)} to {significant(batch.high, 4)}",
            _median(batch.p50_ms, batch.label, bool(batch.invalid)),
        )
        for batch in batches
    ]


def latency_cell(latency: Mapping[str, Any] | None) -> str:
    """The median of a latency in report.json, with its label unless it was measured and is valid."""
    return NOT_MEASURED if latency is None else _median(latency["p50"], latency["label"], bool(latency["invalid"]))


def median_cell(latency: LatencyRecord) -> str:
    """The median of a latency, with its label unless it was measured and is valid."""
    return _median(latency.p50_ms, latency.label, bool(latency.invalid))


def _median(p50_ms: float, label: str, is_invalid: bool) -> str:
    label = "" if label == "measured" else f" {label}"
    return f"{milliseconds(p50_ms)}{label}{' invalid' if is_invalid else ''}"


def accuracy_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """The accuracies in the metrics of an evaluation, a line each: top-1, constant guess, balanced accuracy, recall."""
    balanced, lowest, guess = metrics["balanced_accuracy"], metrics["lowest_recall"], metrics["constant_guess"]
    return [
        top1_sentence(metrics["top1"]),
        f"always answering '{printable(guess['class'])}' gives {guess['value']:.2%}",
        f"balanced accuracy {_share_text(balanced)}, macro-F1 {metrics['macro_f1']:.2%}",
        f"lowest recall {_share_text(lowest)}, {lowest['n']} images: '{printable(lowest['class'])}'",
    ]


def _share_text(share: Mapping[str, float]) -> str:
    return f"{share['value']:.2%}, 95% interval {share['low']:.2%} to {share['high']:.2%}"


def summary(report: Mapping[str, Any]) -> str:
    """The answer of a report.json in a few lines of at most 80 columns. Doubts come first."""
    answer, verdict = report["answer"], report["verdict"]
    reasons = [reason for reason in verdict["reasons"] if reason != answer["verdict"]]
    lines = [line for doubt in verdict["doubts"] for line in (doubt["headline"], f"  {doubt['sentence']}")]
    lines += [answer["verdict"], *(f"  {reason}" for reason in reasons), f"  {answer['deployed']}"]
    lines += [f"  {_point_text(point)}" for point in answer["points"]]
    lines += [f"  Caution: {line}" for line in report["cautions"]]
    return "\n".join(_wrapped(line) for line in lines)


def markdown(report: Mapping[str, Any]) -> str:
    """report.md: the answer and the tables, in at most 80 columns."""
    answer, verdict = report["answer"], report["verdict"]
    texts = [
        f"# {report['name']}",
        *(_paragraph(f"**{doubt['headline']}** {doubt['sentence']}") for doubt in verdict["doubts"]),
        _paragraph(f"**{answer['verdict']}** {answer['deployed']}"),
        "\n".join(_paragraph(f"- {reason}") for reason in verdict["reasons"]),
        *(_paragraph(f"> Caution: {line}") for line in report["cautions"]),
        *_on_device(report["device"]),
        "## In numbers",
        "\n".join(_paragraph(f"- {_point_text(point)}") for point in answer["points"]),
        *_beside_latency(report["latency_facts"]),
        *_throughput(report["offline"]),
        "## All models, from teacher to deployed",
        variants_table(report["variants"]),
        _paragraph(report["table_note"]),
        *_energies(report["variants"]),
        *_every_class(report["classes"]),
        *(text for selection in report["selections"] for text in _selection(selection)),
        *_learned_from(report["learned_from"]),
        *(text for advice in report["advice"] for text in _about_a_support(advice)),
        *(text for group in report["corruptions"] for text in _under_corruption(group)),
        *(text for group in report["episodes"] for text in _over_episodes(group)),
        *(text for group in report["features"] for text in _of_features(group)),
        *(text for group in report["attention"] for text in _attention(group)),
        *(text for timed in report["layer_times"] for text in _times_of_layers(timed)),
        *_before_tensorrt(report["tensorrt"]),
    ]
    return printable("\n\n".join(texts)) + "\n"


def _beside_latency(facts: Sequence[Sequence[str]]) -> Iterator[str]:
    """The list of report.md."""
    if facts:
        yield "Beside the latency of the deployed model:"
        yield "\n".join(_paragraph(f"- {label}: {value}") for label, value in facts)


def _throughput(batches: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The table of report.md."""
    if batches:
        yield "Throughput of the deployed model, by batch size:"
        yield _aligned([THROUGHPUT_HEADER, *throughput_rows([Throughput.of_json(batch) for batch in batches])])


def device_title(device: Mapping[str, Any]) -> str:
    """`On orin: NVIDIA Jetson AGX Orin`; it says if a stand-in plays the device."""
    played = " (played by a stand-in)" if device["is_stand_in"] else ""
    name = f": {device['name']}" if device["name"] != device["target"] else ""
    return f"On {device['target']}{name}{played}"


def device_rows(device: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each model: its latency and top-1 on the device, then on this machine."""
    return [(row["model"], *_device_cells(row["there"]), *_device_cells(row["here"])) for row in device["rows"]]


def device_header(device: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of `device_rows`."""
    there = device["target"]
    return ("model", f"p50 on {there}", f"top-1 on {there}", "p50 here", "top-1 here")


def _device_cells(cell: Mapping[str, Any] | None) -> tuple[str, str]:
    if cell is None:
        return NOT_MEASURED, NOT_MEASURED
    return latency_cell(cell["latency_ms"]), percent(cell["top1"]["value"]) if cell["top1"] else NOT_MEASURED


def _on_device(device: Mapping[str, Any] | None) -> Iterator[str]:
    """The section of report.md."""
    if device is None:
        return
    yield f"## {_paragraph(device_title(device))}"
    yield "\n".join(_paragraph(f"- {label}: {value}") for label, value in device["facts"])
    if rows := device_rows(device):
        yield from _in_tables([device_header(device), *rows])


def lowest_recall_first(classes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of classes with test images, the lowest recall first, then those of classes without."""
    return sorted(classes, key=lambda row: (row["n"] == 0, row["recall"] or 0.0, -row["n"]))


def _every_class(classes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The section of report.md."""
    if not classes:
        return
    yield "## Every class"
    header = ("class", "images", "recall", "95% interval", "precision", "95% interval")
    rows = [
        (_shortened(row["class"]), str(row["n"]), *_cells(row, "recall"), *_cells(row, "precision"))
        for row in lowest_recall_first(classes)[:MOST_CLASSES]
    ]
    yield _aligned([header, *rows], text_columns=1)
    left = f" The other {len(classes) - MOST_CLASSES:,} are in report.json." if len(classes) > MOST_CLASSES else ""
    yield _paragraph(f"{CLASSES_NOTE}{left}")


def _cells(row: Mapping[str, Any], name: str) -> tuple[str, str]:
    if row[name] is None:
        return NOT_MEASURED, NOT_MEASURED
    return percent(row[name]), interval_percent({"low": row[f"{name}_low"], "high": row[f"{name}_high"]})


def _shortened(name: str) -> str:
    """A class name that makes no HTML, link or code of a cell, at most LONGEST_CLASS characters of it."""
    short = name if len(name) <= LONGEST_CLASS else f"{name[: LONGEST_CLASS - 1]}…"
    return MARKS.sub(r"\\\g<0>", short)


def variants_table(variants: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table with aligned columns. Intervals are left out if the table is wider than 80 columns."""
    header = ("model", "type", "params", "size", "top-1", "p50")
    rows = [
        (
            variant["id"],
            precision_name(variant["precision"]),
            count(variant["params"]),
            size(variant["size_bytes"]),
            percent(variant["top1"]["value"]) if variant["top1"] else NOT_MEASURED,
            latency_cell(variant["latency_ms"]),
        )
        for variant in variants
    ]
    with_intervals = [
        (*row[:4], f"{row[4]} ({interval_percent(variant['top1'])})" if variant["top1"] else row[4], row[5])
        for row, variant in zip(rows, variants, strict=True)
    ]
    table = _aligned([header, *with_intervals])
    return table if len(table.splitlines()[0]) <= WIDTH else _aligned([header, *rows])


def energy_rows(variants: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each variant whose energy was measured, under ENERGY_HEADER."""
    return [
        (
            variant["id"],
            energy_cell(energy),
            f"{energy['low_mj']:.3g} to {energy['high_mj']:.3g}",
            f"{energy['power_w']:.3g} W",
            f"{energy['idle_w']:.3g} W",
        )
        for variant in variants
        if (energy := variant["energy_mj"])
    ]


def energy_note(variants: Sequence[Mapping[str, Any]]) -> str:
    """What the energies are of."""
    boundaries = dict.fromkeys(variant["energy_mj"]["boundary"] for variant in variants if variant["energy_mj"])
    return f"Energy and power are of: {', '.join(boundaries)}. The error of the meter is not in the interval."


def _energies(variants: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The section of report.md."""
    if rows := energy_rows(variants):
        yield "## Energy for an image, above rest"
        yield from _in_tables([ENERGY_HEADER, *rows])
        yield _paragraph(energy_note(variants))


def learned_from_lines(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each group of models that learned from the same data sets."""
    return [f"{', '.join(group['data'])}: {', '.join(group['models'])}" for group in groups]


def _learned_from(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The section of report.md."""
    if groups:
        yield "## Training data"
        yield "\n".join(_paragraph(f"- {line}") for line in learned_from_lines(groups))
        yield _paragraph(LEARNED_FROM_NOTE)


def _about_a_support(advice: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {advice['title']}"
    yield "\n".join(_paragraph(f"- {sentence}") for sentence in advice["sentences"])


def corruption_rows(group: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, float]]]]:
    """The rows of a table of accuracies under corruption, with a column for each model: none, each kind, the mean."""
    models = group["models"]
    return [
        ("none", [model["top1"] for model in models]),
        *((kind, [model["by_kind"][kind] for model in models]) for kind in group["kinds"]),
        ("mean of all kinds", [model["mean"] for model in models]),
    ]


def corruption_note(group: Mapping[str, Any]) -> str:
    severities = ", ".join(map(str, group["severities"]))
    return (
        f"Top-1 on {group['n']:,} images of {group['data']}. Each kind is the mean over the severities {severities}. "
        "Every model saw the same images. The figures cannot be compared with ImageNet-C or CIFAR-10-C."
    )


def _under_corruption(group: Mapping[str, Any]) -> Iterator[str]:
    """The section of report.md."""
    yield "## Under corruption"
    header = ("corruption", *(model["id"] for model in group["models"]))
    rows = [
        header,
        *((name, *(percent(share["value"]) for share in shares)) for name, shares in corruption_rows(group)),
    ]
    yield from _in_tables(rows)
    yield _paragraph(corruption_note(group))


def episode_rows(group: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any] | None]]]:
    """The rows of a table of few-shot accuracies: a method, and its accuracy with each model's features."""
    return [(name, [model["methods"].get(name) for model in group["models"]]) for name in group["methods"]]


def episode_note(group: Mapping[str, Any]) -> str:
    queries = "all other images" if group["queries"] is None else f"{group['queries']} images of each class"
    unlabelled = group["pool"] or "the test images"
    shares = "" if group["imbalance"] is None else f", in shares drawn from Dirichlet({group['imbalance']:g})"
    return (
        f"{group['episodes']:,} episodes. Each takes {group['ways']} classes and {group['shots']} labelled images of "
        f"each class from {group['support'] or group['data']}, and tests on {queries} of {group['data']}{shares}. "
        f"Transductive methods also learn from {unlabelled}, without labels. The table shows the mean top-1 with its "
        "95% interval over the episodes, and the lowest and highest episode. "
        "All models and methods have the same episodes."
    )


def plus_minus(share: Mapping[str, Any] | None) -> str:
    """A mean and half of its interval: 67.1% ± 0.8."""
    if share is None:
        return NOT_MEASURED
    half = "" if share["low"] is None else f" ± {50 * (share['high'] - share['low']):.1f}"
    return f"{percent(share['value'])}{half}"


def _over_episodes(group: Mapping[str, Any]) -> Iterator[str]:
    """The section of report.md."""
    yield f"## Few-shot accuracy, {group['ways']}-way {group['shots']}-shot"
    header = ("method", *(model["id"] for model in group["models"]))
    rows = [header, *((name, *map(plus_minus, shares)) for name, shares in episode_rows(group))]
    yield from _in_tables(rows)
    yield _paragraph(episode_note(group))


ATTENTION_NOTE = (
    "Images: as the model sees them. Maps: attention of the query to each patch in the last layer, from 0 (dark) to "
    "the largest value of the map (bright). Distances: mean pixels between a patch and the patches that it attends "
    "to, a point a head (Dosovitskiy et al. 2021, figure 11). Position embeddings: a tile a patch, with its cosines "
    "with those of all patches, from -1 (dark) to 1 (bright) (figure 7). Filters: gray is 0. Attention does not prove "
    "what decides an answer."
)


def attention_title(group: Mapping[str, Any]) -> str:
    return f"Attention on {group['images']:,} images of {group['data']}"


def attention_caption(model: Mapping[str, Any]) -> str:
    """The layer and the query of a model's maps, and the size of its input."""
    if not model["layers"]:
        return "No layer with attention between all patches can be read."
    last, (rows, columns) = model["layers"][-1], model["layers"][-1]["grid"]
    heads = len(last["distances_px"])
    height, width = model["input_px"]
    return (
        f"Layer {last['name']}, {heads} heads, {rows} × {columns} patches of {width} × {height} px in all. "
        f"Query: {model['query']}."
    )


def _attention(group: Mapping[str, Any]) -> Iterator[str]:
    """The section of report.md: the mean distance of each layer, as a share, because the inputs differ in size."""
    models = [model for model in group["models"] if model["layers"]]
    if not models:
        return
    yield f"## {attention_title(group)}"
    yield _paragraph(
        "Mean distance between a patch and the patches that it attends to, in shares of the mean distance of uniform "
        "attention:"
    )
    depth = max(len(model["layers"]) for model in models)
    rows = [
        (f"layer {number + 1}", *(_mean_distance(model["layers"], number) for model in models))
        for number in range(depth)
    ]
    yield from _in_tables([("layer", *(model["id"] for model in models)), *rows])
    yield "The attention maps are in report.html."


def _mean_distance(layers: Sequence[Mapping[str, Any]], number: int) -> str:
    if number >= len(layers):
        return NOT_MEASURED
    distances = layers[number]["distances_px"]
    return f"{sum(distances) / len(distances) / layers[number]['uniform_px']:.2f}"


FEATURE_HEADER = ("labels", "head", "mean top-1", "95% interval")
MEASURES = {
    "rankme": "RankMe",
    "alignment": "alignment",
    "uniformity": "uniformity",
}  # of features
MEASURES_NOTE = (
    "RankMe: number of dimensions that the features fill (Garrido et al. 2023). Alignment: mean squared distance of "
    "two random views of an image; lower is better. Uniformity: logarithm of the mean potential of pairs of images; "
    "lower is better (both Wang and Isola 2020). None uses labels, and none alone says that features are good."
)


def head_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each head of an evaluation by `knn` or `linear`, and the constant guess, under FEATURE_HEADER."""
    guess = metrics["constant_guess"]
    rows = [
        (
            labels_text(head),
            head["head"],
            f"{head['top1']['value']:.2%}",
            f"{head['top1']['low']:.2%} to {head['top1']['high']:.2%}",
        )
        for head in metrics["heads"]
    ]
    return [*rows, (NOT_MEASURED, f"always '{printable(guess['class'])}'", f"{guess['value']:.2%}", NOT_MEASURED)]


def labels_text(head: Mapping[str, Any], unit: str = "") -> str:
    """The number of labels that a head was fitted to: `851`, or `9 (1%, 5 draws)`. A `unit` follows the number."""
    share = "" if head["label_share"] == 1 else f" ({100 * head['label_share']:.3g}%, {head['draws']} draws)"
    return f"{head['support_images']:,}{unit}{share}"


def measure_rows(features: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of the measures of features."""
    named = {name: features.get(name) for name in MEASURES}
    return [
        (MEASURES[name], NOT_MEASURED if value is None else f"{value:.3g}".replace("-", "−"))
        for name, value in named.items()
    ]


def measures_sentence(features: Mapping[str, Any]) -> str:
    """The measures of features in one line."""
    values = ", ".join(f"{name} {value}" for name, value in measure_rows(features))
    return f"features of {features['images']:,} images in {features['dimensions']:,} dimensions: {values}"


def feature_rows(group: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any] | None]]]:
    """The rows of a table of heads on features: labels and head, and the accuracy on each model's features."""
    return [
        (f"{labels_text(row, ' labels')}, {row['head']}", [model["top1"][number] for model in group["models"]])
        for number, row in enumerate(group["rows"])
    ]


def feature_measure_rows(group: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The rows of a table of measures, with a column for each model; empty if none was measured."""
    if not any(model["features"] for model in group["models"]):
        return []
    columns = [dict(measure_rows(model["features"] or {})) for model in group["models"]]
    dimensions = [
        str(model["features"]["dimensions"]) if model["features"] else NOT_MEASURED for model in group["models"]
    ]
    rows = [(name, [column[name] for column in columns]) for name in MEASURES.values()]
    return [("dimensions", dimensions), *rows]


def feature_note(group: Mapping[str, Any]) -> str:
    guess = group["constant_guess"]
    of_logits = [model["id"] for model in group["models"] if model["are_logits"]]
    left_out = "; ".join(
        f"k {', '.join(map(str, row['neighbors']))} of {labels_text(row, ' labels')}" for row in group["left_out"]
    )
    return (
        f"Top-1 on {group['images']:,} images of {group['data']}, by heads that were fitted to the frozen features of "
        f"labelled images of {group['support']}. kNN: votes of the k nearest images, each weighted by exp(cosine/τ). "
        "Linear: logistic regression; held-out images of the support choose its penalty. The intervals are for new "
        f"images, and over several draws for new draws too. Always answering '{guess['class']}' gives "
        f"{percent(guess['value'])}."
        + (f" Left out, because there are fewer labelled images than neighbors: {left_out}." if left_out else "")
        + (f" Features of {', '.join(of_logits)}: its logits, as the file has no embedding." if of_logits else "")
        + ("" if group["same_views"] else " The alignments are not shown: they are of different random views.")
    )


def _of_features(group: Mapping[str, Any]) -> Iterator[str]:
    """The section of report.md."""
    yield f"## Heads on frozen features, fitted to {group['support']}"
    models = tuple(model["id"] for model in group["models"])
    rows = [(name, *map(_with_interval, shares)) for name, shares in feature_rows(group)]
    guess = percent(group["constant_guess"]["value"])
    yield from _in_tables([("labels and head", *models), *rows, ("constant guess", *(guess for _ in models))])
    yield _paragraph(feature_note(group))
    if measures := feature_measure_rows(group):
        yield from _in_tables([("measure", *models), *((name, *values) for name, values in measures)])
        yield _paragraph(MEASURES_NOTE)


def _with_interval(top1: Mapping[str, Any] | None) -> str:
    return NOT_MEASURED if top1 is None else f"{percent(top1['value'])} ({interval_percent(top1)})"


SELECTION_HEADER = ("model", "top-1", "p50", "size", "front")
SELECTION_NOTE = (
    "Front: no other model within the limits is as accurate and as fast, by the point values. Intervals are of 95%. "
    "The top-1 of the chosen model is the best of several on the same images, so it is too high on average."
)


def selection_sentence(selection: Mapping[str, Any]) -> str:
    """What a `select` stage chose, from how many models, by which images, on which target, within which limits."""
    named = {"latency_ms": "ms", "size_mib": "MiB"}
    limits = [f"{limit:g} {named[name]}" for name, limit in selection["limits"].items() if name in named and limit]
    count, timed = len(selection["models"]) + len(selection["dropped"]), len(selection["models"])
    return (
        f"'{selection['id']}' took {selection['winner']}, one of {count} models. The budget: "
        f"{' and '.join(limits) or 'no limit'}. Top-1 was measured on {selection['data']} ({selection['n']:,} images), "
        f"and p50{' in turns' if timed > 1 else ''} on {selection['target']}."
    )


def selection_rows(selection: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each model of a selection, under SELECTION_HEADER; a mark for the Pareto front."""
    return [
        (
            model["id"],
            f"{model['top1']['value']:.1%} ({model['top1']['low']:.1%} to {model['top1']['high']:.1%})",
            f"{milliseconds(model['p50_ms']['value'])} ({model['p50_ms']['low']:.3g} to {model['p50_ms']['high']:.3g})",
            size(model["size_bytes"]),
            "yes" if model["on_front"] else "no",
        )
        for model in selection["models"]
    ]


def selection_notes(selection: Mapping[str, Any]) -> list[str]:
    """Why the winner won and each other model did not, the winner first; and who learned from the images."""
    models = sorted(selection["models"], key=lambda model: model["id"] != selection["winner"])
    reasons = [f"{model['id']}: {model['reason']}." for model in models]
    dropped = [f"{model['id']} dropped out: {model['reason']}." for model in selection["dropped"]]
    learned = [
        f"'{stage}' learned from {selection['data']}, so its top-1 there is higher than on new images."
        for stage in selection["learned_by"]
    ]
    return [*reasons, *dropped, *learned]


def _selection(selection: Mapping[str, Any]) -> Iterator[str]:
    """The section of report.md."""
    yield "## Selection"
    yield _paragraph(selection_sentence(selection))
    yield from _in_tables([SELECTION_HEADER, *selection_rows(selection)])
    yield "\n".join(_paragraph(f"- {note}") for note in selection_notes(selection))
    yield _paragraph(SELECTION_NOTE)


PART_HEADER = ("part", "ms", "of the time", "of known MACs")
CHECK_HEADER = ("model", "verdict", "kernels", "moved", "quantized", "attention fused")


def check_rows(checks: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each checked model, under CHECK_HEADER."""
    return [
        (
            check["id"],
            check["verdict"],
            NOT_MEASURED if check["kernels"] is None else str(check["kernels"]),
            NOT_MEASURED if check["bytes_moved"] is None else size(check["bytes_moved"]),
            _share(check["quantized_got"], check["quantized_asked"]) if check["built"] else NOT_MEASURED,
            _share(check["attentions_fused"], check["attentions"]) if check["built"] else NOT_MEASURED,
        )
        for check in checks
    ]


def check_notes(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Notes on the builder, on problems, and on older boards."""
    builders = dict.fromkeys(check["builder"] for check in checks if check["builder"])
    notes = [
        f"Built by {builder} on the machine of this report, without a GPU, for one image. Moved is the data that all "
        "kernels read and write, weights included. The check shows whether the model is accepted and in which "
        "precision it runs, not its speed on a board."
        for builder in builders
    ]
    for check in checks:
        if check["not_asked"]:
            notes.append(f"{check['id']}: checked by rules and tables only. {check['not_asked'].splitlines()[0]}.")
        notes += [f"{check['id']}, refused: {reason}" for reason in check["refused"]]
        if check["fell_back"]:
            notes.append(f"{check['id']}, in more bits than asked for: {', '.join(check['fell_back'])}.")
        if check["diagnostics"]:
            notes.append(f"{check['id']}, broken rules: {', '.join(check['diagnostics'])}.")
    by_verdict: dict[tuple[str, str], list[str]] = {}
    for check in checks:
        for parser, verdict in check["older_parsers"].items():
            by_verdict.setdefault((parser, verdict), []).append(check["id"])
    notes += [
        f"TensorRT {parser}, by its table: {verdict}: {', '.join(ids)}."
        for (parser, verdict), ids in by_verdict.items()
    ]
    return notes


def _share(count: int, total: int) -> str:
    return f"{count} of {total}" if total else NOT_MEASURED


def _times_of_layers(timed: Mapping[str, Any]) -> Iterator[str]:
    """The section of report.md."""
    yield f"## Times of the layers of {timed['model']}"
    yield _paragraph(f"{timed['headline']}:")
    yield "\n".join(_paragraph(f"- {sentence}") for sentence in timed["sentences"])
    yield _aligned([PART_HEADER, *(row["cells"] for row in timed["parts"])], text_columns=1)


def _before_tensorrt(checks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The section of report.md."""
    if checks:
        yield "## TensorRT check"
        yield _aligned([CHECK_HEADER, *check_rows(checks)])
        yield "\n".join(_paragraph(f"- {note}") for note in check_notes(checks))


def _in_tables(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table, or several tables if the columns do not fit 80 characters."""
    first = 1
    while first < len(rows[0]):
        last = first + 1
        while last < len(rows[0]) and _fits([(row[0], *row[first : last + 1]) for row in rows]):
            last += 1
        yield _aligned([(row[0], *row[first:last]) for row in rows], text_columns=1)
        first = last


def _fits(rows: Sequence[Sequence[str]]) -> bool:
    return len(_aligned(rows, text_columns=1).splitlines()[0]) <= WIDTH


# Numbers ------------------------------------------------------------------------------------------------------


def milliseconds(value: float) -> str:
    """Three significant digits, never an exponent: 0.0843 ms, 12.3 ms, 1,230 ms."""
    return f"{significant(value)} ms"


def significant(value: float, digits: int = 3) -> str:
    """`digits` significant digits in plain notation."""
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}"


def size(size_bytes: float) -> str:
    """MiB, or KiB below one."""
    mib = size_bytes / 2**20
    return f"{significant(mib)} MiB" if mib >= 1 else f"{significant(size_bytes / 2**10)} KiB"


def count(value: float | None) -> str:
    """5.42 M, 812 k, 96; a dash if it is unknown."""
    if value is None:
        return NOT_MEASURED
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{significant(value / factor)} {unit}"
    return f"{value:.0f}"


def percent(fraction: float) -> str:
    return f"{fraction:.1%}"


def interval_percent(top1: Mapping[str, float]) -> str:
    return f"{100 * top1['low']:.1f}–{100 * top1['high']:.1f}"


def answers_against_float(compared: Mapping[str, Any]) -> str | None:
    """The loss of top-1 of a quantized form with its limit; without labels, the share of changed answers.

    None if answers were not compared.
    """
    if drop := compared.get("top1_drop"):
        interval = f"{points(drop['low'])} to {points(drop['high'])}"
        is_refused = "max_top1_drop" in compared.get("refused_by", ())
        doubt = ", and more is not ruled out" if drop["high"] > drop["limit"] and not is_refused else ""
        limit = f"the limit is {100 * drop['limit']:g}{doubt}"
        return f"{points(drop['value'])} points of top-1 lost ({interval}, n {drop['n']:,}); {limit}"
    if changed := compared.get("changed_answers"):
        interval = f"{percent(changed['low'])} to {percent(changed['high'])}"
        return f"{percent(changed['value'])} changed ({interval}, n {changed['n']:,})"
    return None


def ratio(value: float) -> str:
    """How many times: 12.3×, 1.08×."""
    return f"{significant(value)}×"


def runtime_name(runtime: str | None) -> str:
    return RUNTIMES[runtime].title if runtime in RUNTIMES else runtime or NOT_MEASURED


def precision_name(precision: str) -> str:
    return PRECISIONS.get(precision, precision)


def _point_text(point: Mapping[str, Any]) -> str:
    return " ".join([f"{point['title']}: {point['value']}.", *point["sentences"], point["conditions"]]).rstrip()


def _aligned(rows: Sequence[Sequence[str]], text_columns: int = 2) -> str:
    rows = [[" ".join(cell.split()).replace("|", r"\|") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    are_numbers = [column >= text_columns for column in range(len(widths))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, are_numbers, strict=True)
        )
        return f"| {' | '.join(cells)} |"

    rules = [
        "-" * (width + 1) + (":" if is_number else "-") for width, is_number in zip(widths, are_numbers, strict=True)
    ]
    return "\n".join([line(rows[0]), f"|{'|'.join(rules)}|", *map(line, rows[1:])])


def _wrapped(text: str) -> str:
    indent = text[: len(text) - len(text.lstrip())]
    hanging = "> " if text.startswith("> ") else indent + "  " if text.lstrip().startswith("- ") or indent else ""
    return textwrap.fill(text.strip(), WIDTH, initial_indent=indent, subsequent_indent=hanging, break_on_hyphens=False)


def _paragraph(text: str) -> str:
    """Wrapped Markdown. Marks in names are escaped, so that they make no HTML, link, code or block."""
    marker = next((mark for mark in ("- ", "> ") if text.startswith(mark)), "")
    plain = BLOCKS.sub(r"\1\\", MARKS.sub(r"\\\g<0>", text.removeprefix(marker)))
    first, *others = _wrapped(marker + plain).split("\n")
    quote = "> " if marker == "> " else ""
    return "\n".join([first, *(quote + BLOCKS.sub(r"\1\\", line.removeprefix(quote)) for line in others)])
