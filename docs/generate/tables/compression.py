"""Tables of quantization, of other ways to make a model smaller, and of runtimes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from docs.generate import numbers
from docs.generate.markdown import code
from docs.generate.numbers import (
    decibels,
    fixed,
    mebibytes,
    percent,
    percents,
    ranged,
)
from docs.generate.records import Json
from docs.generate.tables.cells import NOTHING, WITH_RANGE, Table, mean_of, points_lost, spelled, with_extremes

_COMPOSITIONS = {
    "whole": "whole",
    "whole-train": "whole, trained on",
    "merge": "`merge_tokens`, nothing trained",
    "merge-train": "`merge_tokens`, trained",
    "prune-train": "`prune`, trained",
    "prune_blocks_too-train": "`prune` of blocks too, trained",
    "prune-qat": "`prune`, `qat`",
    "prune-train-qat": "`prune`, trained, `qat`",
    "prune_by_magnitude-train": "`prune` by magnitude, trained",
    "factorize-train": "`factorize`, trained",
    "prune-factorize-train": "`prune`, `factorize`, trained",
    "prune-train-factorize-train": "`prune`, trained, `factorize`, trained",
    "prune-merge-train": "`prune`, `merge_tokens`, trained",
    "prune-train-merge-train": "`prune`, trained, `merge_tokens`, trained",
    "shallower-train": "half as deep from the start, trained on",
    "narrower-train": "narrower from the start, trained on",
}


FLOATS = "with outliers: layers in float"
LEAST_TO_RECOVER = 0.003  # of top-1: less is within the interval of 10,000 images


def weight_range(result: Json) -> Iterator[Table]:
    rows = [
        (
            spelled(model),
            spelled(runtime),
            percents(measured["float_top1"]),
            bits,
            mean_of([seed["lost"] for seed in form["seeds"]], fixed(2, 100)),
            with_extremes(form["speedup"], numbers.ratio),
        )
        for model, runtimes in result["models"].items()
        for runtime, measured in runtimes.items()
        for bits, form in measured["forms"].items()
    ]
    yield Table(
        "forms",
        ("model", "runtime", "float, %", "bits of weights", "points lost", "times as fast as float"),
        tuple(rows),
        "Points lost are the mean of the draws of calibration images, with the lowest and the highest; the speed-up is "
        "the median of interleaved rounds, with the slowest and the fastest.",
    )


def kept_sums(result: Json) -> Iterator[Table]:
    rows = [
        (
            spelled(model),
            percents(measured["float_top1"]),
            str(form["bits"]),
            form["rounding"],
            mean_of(form["sqnr_db"], fixed(1)),
            mean_of(form["lost"], fixed(2, 100)),
        )
        for model, measured in result["models"].items()
        for form in measured["forms"]
    ]
    yield Table(
        "forms",
        ("model", "float, %", "bits of weights", "rounding", "SQNR, dB", "points lost"),
        tuple(rows),
        "The mean of the draws of calibration images, with the lowest and the highest.",
    )


def sigmoid_placement(result: Json) -> Iterator[Table]:
    rows = [
        (
            spelled(model),
            with_extremes(measured["float_p50_ms"], numbers.significant(3)),
            code(placement),
            with_extremes(form["speedup"], numbers.ratio),
            decibels(form["sqnr_db"]),
            points_lost(form["lost"]),
        )
        for model, measured in result["models"].items()
        for placement, form in measured["forms"].items()
    ]
    yield Table(
        "forms",
        ("model", "float, ms", "placement", "times as fast as float", "SQNR", "points lost"),
        tuple(rows),
        "Times are medians of interleaved rounds, with the slowest and the fastest. " + WITH_RANGE,
    )


def quantization_accuracy(result: Json) -> Iterator[Table]:
    models = result["models"]
    ways = list(dict.fromkeys(way for found in models.values() for way in found["seeds"][0]))
    rows = [("float: top-1, %", *(_mean_float(found, ways[0]) for found in models.values()))]
    rows += [(spelled(way), *(_lost(found, way) for found in models.values())) for way in ways]
    yield Table(
        "lost",
        ("form", *map(spelled, models)),
        tuple(rows),
        "Points of top-1 that a form loses against the float file; below 0, it gains. With one draw of calibration "
        "images, the 95% interval of the images; with several, the mean and each draw.",
    )
    recovered = [
        (spelled(name), spelled(way), numbers.ratio(share))
        for name, found in models.items()
        if found["mean_lost"]["ptq"] >= LEAST_TO_RECOVER
        for way, share in (found["recovered"] or {}).items()
    ]
    if recovered:
        yield Table(
            "recovered",
            ("model", "way", "share of the lost points that it wins back"),
            tuple(recovered),
        )


def quantization_gate(result: Json) -> Iterator[Table]:
    rows = [
        (
            spelled(model),
            fixed(2)(form["contrast"]),
            decibels(form["sqnr_db"]),
            ranged(form["pool"], percents),
            points_lost(form["support"]),
            points_lost(form["validation"]),
            points_lost(form["truth"]),
        )
        for model, forms in result["rows"].items()
        for form in forms
    ]
    yield Table(
        "forms",
        (
            "model",
            "contrast of the calibration images",
            "SQNR",
            "changed answers, 1,000 training images",
            "points lost, 50 training images",
            "points lost, 1,000 other images",
            "true loss, 2,000 test images",
        ),
        tuple(rows),
        WITH_RANGE,
    )
    gates = {
        "sqnr": f"SQNR, {result['floor_db']:g} dB",
        "support": "top-1 on 50 training images, 1 point",
        "validation": "top-1 on 1,000 other images, 1 point",
        "both": "SQNR, and top-1 on 1,000 other images",
    }
    judged = result["summary"]["gates"]
    yield Table(
        "gates",
        ("gate", "right", "passes a form that loses more than 1 point", "refuses a form that does not"),
        tuple(
            (title, *(str(judged[gate][count]) for count in ("right", "passes_too_lossy", "refuses_good")))
            for gate, title in gates.items()
        ),
        f"{result['summary']['forms']} forms, of which {result['summary']['too_lossy']} lose more than one point. "
        f"{result['summary']['unclear']} further forms, whose interval of the true loss holds one point, are left out.",
    )


def outliers(result: Json) -> Iterator[Table]:
    for name, found in result["models"].items():
        plain, changed = found["forms"]["plain"], found["forms"]["outliers"]
        yield Table(
            name,
            (
                "form",
                *(f"{model}: {what}" for model in ("plain", "with outliers") for what in ("SQNR", "same answers")),
                FLOATS,
            ),
            tuple(
                (
                    form,
                    *_beside_float(plain[form]),
                    *_beside_float(changed[form]),
                    str(changed[form].get("kept_float", NOTHING)),
                )
                for form in plain
                if form != "float32"
            ),
            f"Against the float file of the same model, on {found['images']:,} test images.",
            spelled(name),
        )
    yield Table(
        "stream",
        ("model", "plain", "with outliers"),
        tuple(
            (spelled(name), *(_from_first_to_last(found["stream"][kind]) for kind in ("plain", "outliers")))
            for name, found in result["models"].items()
        ),
        "Largest magnitude that enters the first and the last layer norm, on the calibration images.",
        "Residual stream",
    )


def _beside_float(form: Json) -> tuple[str, str]:
    """The SQNR and the share of equal answers."""
    return ("refused", NOTHING) if "refused" in form else (decibels(form["sqnr_db"]), percent(form["agreement"]))


def _from_first_to_last(sizes: Sequence[float]) -> str:
    return f"{sizes[0]:,.0f} to {sizes[-1]:,.0f}"


def compositions(result: Json) -> Iterator[Table]:
    by_way = {
        way: [row for name, row in result["rows"].items() if name.startswith(f"{way}/")] for way in result["ways"]
    }
    whole = by_way["whole"][0]["macs"]
    yield Table(
        "ways",
        ("way", "MACs", "float: points lost", "times as fast", "INT8: points lost", "times as fast"),
        tuple(
            (
                _COMPOSITIONS[way],
                fixed(0, 100, "%")(statistics.mean(row["macs"] for row in rows) / whole),
                *(cell for form in ("float", "int8") for cell in _composed([row[form] for row in rows])),
            )
            for way, rows in by_way.items()
        ),
        f"Points: the mean of {len(by_way['whole'])} seeds, and each seed; below 0, the way gains. Times as fast as "
        f"the whole float model: the median of {result['rounds']} interleaved rounds of the files of all seeds, the "
        "slowest and the fastest.",
    )


def compression_peers(result: Json) -> Iterator[Table]:
    for name, found in result["models"].items():
        trained = any(row["top1"] is not None for row in found["rows"])
        header = (
            "quantizer",
            "form",
            "runtime",
            "times as fast",
            "points of top-1 lost" if trained else "SQNR against float",
            "file",
        )
        note = (
            f"{found['image_size']} px, {found['weights'].split(':')[0]} weights, {found['test_images']:,} test "
            f"images. Times as fast as ONNX Runtime's float file: the median, the slowest and the fastest of "
            f"{found['rounds']} interleaved rounds, on {found['threads']} thread."
        )
        yield Table(name, header, tuple(_peer_cells(row, trained) for row in found["rows"]), note, code(name))
        yield Table(
            f"{name}, best",
            header,
            tuple(_peer_cells(row, trained) for row in _fastest_and_closest(found["rows"], trained)),
            "Of each quantizer in each runtime, the fastest file and the file that is closest to float.",
            f"{code(name)}: the best of each quantizer",
        )


def tensorrt_plans(result: Json) -> Iterator[Table]:
    summary = result["summary"]
    rows = []
    for form, found in summary["forms"].items():
        asked = f"{found['products_got']:,} of {found['products_asked']:,}" if found["products_asked"] else NOTHING
        shares = (
            with_extremes(found[f"{cost}_over_float16"], numbers.ratio)
            for cost in ("bytes_moved", "kernels", "size_bytes")
        )
        rows.append((form, str(found["models"]), str(found["ok"]), asked, *shares))
    yield Table(
        "forms",
        ("form", "models", "taken", "products in the precision asked for", "bytes moved", "kernels", "file"),
        tuple(rows),
        f"{summary['exported']} models. Costs beside float16: the median, the smallest and the largest.",
    )
    proposals = tuple((form, str(count)) for form, count in summary["proposals"].items())
    yield Table("proposals", ("form that moves the fewest bytes", "models"), proposals)
    yield Table(
        "models",
        ("model", "side, px", "form that moves the fewest bytes"),
        tuple(
            (name, str(found["image_size"]), found.get("proposal") or NOTHING)
            for name, found in result["models"].items()
        ),
    )


def zoo(result: Json) -> Iterator[Table]:
    runtimes = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    rows = []
    for runtime, title in runtimes.items():
        models = [found[runtime] for found in result["models"].values()]
        for key, over in (("speedup", f"{title}'s float"), ("speedup_over_onnxruntime_float", "ONNX Runtime's float")):
            if runtime == "onnxruntime" and key != "speedup":
                continue  # its own float is ONNX Runtime's
            speeds = [one[key]["value"] for one in models]
            changed = [one[key]["value"] for one in models if one["precision"] != "float32"]
            figures = (statistics.median(speeds), min(changed), max(changed))
            rows.append((title, over, *map(fixed(2), figures), str(len(models))))
    yield Table(
        "speed",
        ("runtime", "times as fast as", "median", "least", "most", "models"),
        tuple(rows),
        "Each shipped file beside the float file, in turns, on one thread with one image. Least and most leave out the "
        "models whose float file ships: two sessions of one file are compared there.",
    )
    yield Table("shipped", ("runtime", "form that ships", "models"), tuple(_shipped(result, runtimes)))
    yield Table(
        "models",
        (
            "model",
            "side, px",
            *(f"{title}: {what}" for title in runtimes.values() for what in ("form", "times as fast")),
        ),
        tuple(
            (name, str(found["image_size"]), *(cell for runtime in runtimes for cell in _zoo_cells(found[runtime])))
            for name, found in result["models"].items()
        ),
        f"Times as fast as float in the same runtime. {WITH_RANGE}",
    )


def calibration_images(result: Json) -> Iterator[Table]:
    yield Table(
        "accuracy",
        ("calibration images", "top-1 in INT8", "contrast", "spread", "single color"),
        tuple(
            (
                found["calibration"],
                percent(found["accuracy"]),
                *(fixed(3)(found[key]) if key in found else NOTHING for key in ("contrast", "spread")),
                fixed(0, 100, "%")(found["one_color"]) if "one_color" in found else NOTHING,
            )
            for found in result["accuracy"]
        ),
    )
    yield Table(
        "sets",
        ("data", "images", "contrast", "spread", "single color"),
        tuple(
            (
                name,
                one["drawn"],
                fixed(3)(one["contrast"]),
                fixed(3)(one["spread"]),
                fixed(0, 100, "%")(one["one_color"]),
            )
            for name, found in result["sets"].items()
            for one in found
        ),
    )


def _peer_cells(row: Json, trained: bool) -> tuple[str, ...]:
    return (
        spelled(row["peer"]) if row["peer"] != "edgevit" else "**edgevit**",
        spelled(row["method"]) or "float32",
        spelled(row["runtime"]),
        with_extremes(row["speedup"], numbers.ratio),
        points_lost(row["top1_drop"]) if trained else decibels(row["sqnr_db"]),
        mebibytes(row["size_bytes"]),
    )


def _fastest_and_closest(rows: Sequence[Json], trained: bool) -> list[Json]:
    """Of each quantizer in ONNX Runtime, and in OpenVINO, two rows or one, in the order of the result."""

    def speed(row: Json) -> float:
        return numbers.centre(row["speedup"])

    def closeness(row: Json) -> float:
        return -numbers.centre(row["top1_drop"]) if trained else float(row["sqnr_db"])

    groups: dict[tuple[str, str], list[Json]] = {}
    for row in rows:
        groups.setdefault((row["runtime"].split()[0], row["peer"]), []).append(row)
    return [
        row for group in groups.values() for row in group if row in (max(group, key=speed), max(group, key=closeness))
    ]


def _composed(seeds: Sequence[Json]) -> tuple[str, str]:
    """Points lost and times as fast, of one form of one way."""
    lost, speeds = _each([seed["top1_drop"]["value"] for seed in seeds]), [seed["speedup"] for seed in seeds]
    rounds = [ratio for speed in speeds for ratio in speed["raw"]]
    return lost, with_extremes(
        {"median": statistics.median(rounds), "min": min(rounds), "max": max(rounds)}, numbers.ratio
    )


def _each(lost: Sequence[float]) -> str:
    """The mean of drops of top-1, and each of them, in points."""
    points = fixed(2, 100)
    return f"{points(statistics.mean(lost))} ({', '.join(map(points, lost))})"


def _lost(found: Json, way: str) -> str:
    draws = [seed[way]["lost"] for seed in found["seeds"] if way in seed]
    if not draws:
        return NOTHING
    if len(draws) == 1:
        return points_lost(draws[0])
    return _each([one["value"] for one in draws])


def _mean_float(found: Json, way: str) -> str:
    return percents(statistics.mean(seed[way]["float_top1"] for seed in found["seeds"]))


def _shipped(result: Json, runtimes: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for runtime, title in runtimes.items():
        forms = [str(found[runtime]["form"]) for found in result["models"].values()]
        yield from ((title, form, str(forms.count(form))) for form in sorted(set(forms)))


def _zoo_cells(found: Json) -> tuple[str, str]:
    return str(found["form"]), ranged(found["speedup"], numbers.ratio)
