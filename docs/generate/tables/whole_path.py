"""Tables of whole recipes and of the machine."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence

from docs.generate import numbers
from docs.generate.numbers import (
    fixed,
    mebibytes,
    millions,
    milliseconds,
    percent,
    percents,
    points,
    ranged,
)
from docs.generate.records import Json
from docs.generate.tables.cells import NOTHING, WITH_RANGE, Table, mean_of, seconds_table, spelled, with_extremes

# The models of a recipe: title, name in `accuracy/…` and `latency/…`, stage of the file, stage of the checkpoint.
_MODELS = (
    ("adapted teacher, ONNX", "teacher", "teacher_onnx", "adapted"),
    ("student, ONNX", "student", "onnx", "tuned"),
    ("student, INT8", "int8", "int8", "tuned"),
)
_MODELS_WITH_COMPILE = (  # in results of recipes that compiled the INT8 file and measured the teacher in torch
    ("adapted teacher, torch", "teacher", "teacher", "adapted"),
    ("student, ONNX", "student", "onnx", "tuned"),
    ("student, INT8, compiled for this machine", "engine", "engine", "tuned"),
)
_MEASURED = ("top-1, %", "under corruption, %", "file", "p50")
_EXERCISE = {  # the models that a result does not hold are left out
    "teacher-a": "teacher from the 50 images alone (a)",
    "teacher-b": "teacher by the mixture on images without labels (b)",
    "int8/teacher": "teacher b, INT8",
    "engine/teacher": "teacher b, INT8, compiled",
    "student-a": "student a",
    "int8/a": "student a, INT8",
    "engine/a": "student a, INT8, compiled",
    "head-b": "body b with a mixture of its own",
    "taught-b": "body b taught by both mixtures",
    "student-b": "student b: the same with label propagation",
    "int8/b": "student b, INT8",
    "engine/b": "student b, INT8, compiled",
}
_LONG_STAGE_S = 60
_TIMED_AS = {"teacher-b": "teacher", "student-b": "student"}  # in `latency/…` of the exercise
_ENROLLED = {  # title of a column, and the data of the result
    "digits, perceptron": "digits, unseen images given",
    "groceries, frozen MobileNetV2": "grocery, unseen images given",
    "CIFAR-10, frozen MobileNetV2 at 96 px": "cifar10, unseen images given",
}
_ENROLLMENT_FIGURES = {
    "accuracy": "accuracy",
    "accuracy of the new class": "accuracy on the new class",
    "known_rejected": "images of the classes called unknown",
    "unknown_accepted": "other images not called unknown",
}


def quickstart(result: Json) -> Iterator[Table]:
    draws = result["draws"]
    first = draws[0]
    yield Table(
        "models",
        ("model", "parameters", "top-1, %", "file", "p50"),
        tuple(_quickstart_rows(draws)),
        f"Top-1 is the mean over {len(draws)} draws of the labelled images, with the lowest and the highest draw. "
        "Latency is the median of the draws, on one thread. Files are those of the first draw.",
    )
    yield Table(
        "costs",
        ("the recipe in an empty store, one run", "value"),
        (
            ("seconds", fixed(0)(first["wall_s"])),
            ("largest memory, MiB", fixed(0)(first["peak_rss_mib_so_far"])),
            (
                "points of INT8 above nearest centroid",
                with_extremes(result["int8_points_above_nearest_centroid"], fixed(1)),
            ),
            (
                "points of INT8 below its float model",
                with_extremes(result["int8_points_below_its_float_model"], fixed(2)),
            ),
        ),
        f"Points are the mean over {len(draws)} draws, with the smallest and the largest.",
    )
    yield seconds_table("stages", {name: stage["seconds"] for name, stage in first["stages"].items()})


def _quickstart_rows(draws: Sequence[Json]) -> Iterator[tuple[str, ...]]:
    pixels = [draw["nearest_centroid_on_pixels"] for draw in draws]
    yield "nearest centroid on raw pixels", NOTHING, mean_of(pixels, percents), NOTHING, NOTHING
    first = draws[0]
    for title, name, file, checkpoint in _models_in(first["stages"]):
        yield (
            title,
            _if_there(first.get("params", {}).get(checkpoint), millions),
            mean_of([draw["top1"][f"accuracy/{name}"] for draw in draws], percents),
            _if_there(first.get("size_bytes", {}).get(file), mebibytes),
            milliseconds(statistics.median(draw["p50_ms"][f"latency/{name}"] for draw in draws)),
        )


def _models_in(stages: Collection[str]) -> tuple[tuple[str, str, str, str], ...]:
    return _MODELS_WITH_COMPILE if "engine" in stages else _MODELS


def cifar10_exercise(result: Json) -> Iterator[Table]:
    draws = result["draws"]
    sizes = draws[0]["size_bytes"]
    measured = [draw["p50_ms"] for draw in draws if draw["p50_ms"]]
    rows = [
        (
            title,
            percents(result["top1"][name]["value"]),
            ", ".join(percents(draw["top1"][name]) for draw in draws),
            _if_there(sizes.get(name, sizes.get(f"onnx/{name}")), mebibytes),
            _median_p50(measured, f"latency/{_TIMED_AS.get(name, name)}"),
        )
        for name, title in _EXERCISE.items()
        if name in result["top1"]
    ]
    yield Table(
        "models",
        ("model", "top-1, %: mean", "each draw", "file", "p50"),
        tuple(rows),
        f"{len(draws)} draws. Files are those of the first draw. Latency is "
        f"{'the median of the draws' if measured[1:] else 'that of the first draw'}, on one thread.",
    )
    steps = [
        (*(_EXERCISE[end] for end in reversed(step.split(" - "))), ranged(found, points))
        for step, found in result["steps"].items()
    ]
    yield Table("steps", ("from", "to", "points of top-1"), tuple(steps), f"Paired by draw. {WITH_RANGE}")
    if all("stage_seconds" in draw for draw in draws):
        yield Table(
            "seconds",
            ("draw", "seconds of all stages"),
            tuple((str(draw["draw"]), fixed(0)(draw["stage_seconds"])) for draw in draws),
            "The first draw starts from an empty store. The others share its students' bodies.",
        )


def _median_p50(measured: Sequence[Json], stage: str) -> str:
    found = [p50_ms[stage] for p50_ms in measured if stage in p50_ms]
    return milliseconds(statistics.median(found)) if found else NOTHING


def photos(result: Json) -> Iterator[Table]:
    measured = result["measured"]
    yield Table(
        "models",
        ("model", *_MEASURED),
        tuple(
            (title, *_measured(measured, f"accuracy/{name}", f"shifted/{file}", file, f"latency/{name}"))
            for title, name, file, _ in _models_in(measured)
        ),
        WITH_RANGE,
    )
    yield from stage_costs(result)


def stage_costs(result: Json) -> Iterator[Table]:
    measured = result["measured"]
    yield Table(
        "measured",
        ("stage", *_MEASURED),
        tuple((name, *_measured(measured, *[name] * len(_MEASURED))) for name in measured if measured[name]),
        WITH_RANGE,
    )
    yield Table(
        "costs",
        ("all stages in an empty store, one run", "value"),
        (("seconds", fixed(0)(result["total_s"])), ("largest memory, MiB", fixed(0)(result["peak_rss_mib"]))),
    )
    yield seconds_table("stages", result["seconds"])


def long_run(result: Json) -> Iterator[Table]:
    """Of a run that takes more than an hour."""
    yield from stage_costs(result)
    seconds = result["seconds"]
    longest = {name: taken for name, taken in seconds.items() if taken >= _LONG_STAGE_S}
    shown = dict(sorted(longest.items(), key=lambda item: -item[1]))
    shown |= {"the other stages": result["total_s"] - sum(longest.values()), "all stages": result["total_s"]}
    yield Table(
        "longest", ("stage", "minutes"), tuple((name, fixed(1, 1 / 60)(taken)) for name, taken in shown.items())
    )


def _measured(stages: Json, accuracy: str, corrupted: str, file: str, latency: str) -> tuple[str, str, str, str]:
    """Top-1, top-1 under corruption, size and p50, each of the stage of this name; NOTHING where it has none."""
    return (
        _if_there(stages[accuracy].get("top1"), percents),
        _if_there(stages.get(corrupted, {}).get("corrupted_top1"), percents),
        _if_there(stages[file].get("size_bytes"), mebibytes),
        _if_there(stages[latency].get("latency_ms", {}).get("p50"), milliseconds),
    )


def same_file_twice(result: Json) -> Iterator[Table]:
    yield Table(
        "models",
        ("model", "machine", "intervals that hold 1", "exit status 1", "width of the interval", "p50"),
        tuple(
            (
                name,
                load,
                fixed(0, 100, "%")(found["interval_holds_1"]),
                fixed(0, 100, "%")(found["exit_1"]),
                with_extremes(found["width"], fixed(3)),
                milliseconds(found["p50_ms"]["median"]),
            )
            for name, loads in result["models"].items()
            for load, found in loads.items()
        ),
        f"Comparisons of each row: {result['runs']}. Widths are the median, the smallest and the largest.",
    )


def spreads(result: Json) -> Iterator[Table]:
    """Every spread at the top of a result."""
    rows = [
        (_with_unit(name), with_extremes(found, numbers.significant(3)), str(len(found["raw"])))
        for name, found in result.items()
        if numbers.has_range(found)
    ]
    yield Table("figures", ("figure", "value", "n"), tuple(rows), "The median, the smallest and the largest.")


def enrollment(result: Json) -> Iterator[Table]:
    seconds, rates = result["seconds"], result["rates"]
    yield Table(
        "seconds",
        ("what is timed", "seconds"),
        (
            ("adding a class from 5 images", with_extremes(seconds["enrol_s"], fixed(2))),
            ("removing it", with_extremes(seconds["remove_s"], fixed(2))),
            ("adapting the body to 50 images and a pool", fixed(1)(seconds["adapt_to_50_images_s"])),
        ),
        f"{len(seconds['enrol_s']['raw'])} rounds: the median, the fastest and the slowest.",
    )
    rows = []
    for data, figures in rates["figures"].items():
        for figure, found in figures.items():
            cells = (percents(found["true"]), percents(found["said"]), percent(found["interval_holds_truth"]))
            rows.append((data, spelled(figure), *cells))
    yield Table(
        "rates",
        ("data", "figure", "true, %", "said, %", "intervals that hold the truth"),
        tuple(rows),
        f"Means of {rates['draws']} draws with {rates['shots']} images a class. `said` is what the bundle says.",
    )
    yield Table(
        "unseen",
        ("", *_ENROLLED),
        tuple(_enrollment_rows([rates["figures"][data] for data in _ENROLLED.values()])),
        f"In per cent, before → after an enrollment. Means of {rates['draws']} draws with {rates['shots']} images a "
        "class, where the bundle is given unseen images.",
        "With unseen images",
    )


def _enrollment_rows(columns: Sequence[Json]) -> Iterator[tuple[str, ...]]:
    for figure, words in _ENROLLMENT_FIGURES.items():
        for kind, prefix in (("true", ""), ("said", "the same, as the bundle states it")):
            yield prefix or words, *(_before_and_after(figures, figure, kind) for figures in columns)
    yield "intervals that hold the truth", *(_lowest_to_highest_share(figures) for figures in columns)


def _before_and_after(figures: Json, figure: str, kind: str) -> str:
    names = [name for name in (figure, f"{figure} before", f"{figure} after") if name in figures]
    return " → ".join(percents(figures[name][kind]) for name in names)


def _lowest_to_highest_share(figures: Json) -> str:
    shares = [found["interval_holds_truth"] for found in figures.values()]
    return f"{percents(min(shares))} to {percents(max(shares))}"


def _if_there(figure: Json | float | None, shown: numbers.Format) -> str:
    if figure is None:
        return NOTHING
    return ranged(figure, shown) if isinstance(figure, Mapping) else shown(figure)


def _with_unit(name: str) -> str:
    """`finished run wall, s` for finished_run_wall_s."""
    words, _, unit = name.rpartition("_")
    return f"{spelled(words)}, {unit}" if unit in ("s", "ms") else spelled(name)
