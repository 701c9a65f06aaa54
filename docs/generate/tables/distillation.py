"""Tables of distillation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from docs.generate import numbers
from docs.generate.numbers import (
    fixed,
    percent,
    percents,
    ranged,
)
from docs.generate.records import Json
from docs.generate.tables.cells import NOTHING, WITH_RANGE, Table, points_lost, spelled, with_extremes, with_interval

PRECISIONS = ("float32", "bfloat16")
WAYS = ("by_default", "kept")


def distillation_accuracy(result: Json) -> Iterator[Table]:
    scratch = next(iter(result["methods"]))
    rows = [
        (
            spelled(name),
            percents(found["top1"]["mean"]),
            NOTHING if name == scratch else with_interval(found["top1_points_above_scratch"]),
            percents(found["corrupted_top1"]["mean"]),
            NOTHING if name == scratch else with_interval(found["corrupted_top1_points_above_scratch"]),
        )
        for name, found in result["methods"].items()
    ]
    seeds = len({row["seed"] for row in result["rows"]})
    yield Table(
        "methods",
        ("method", "top-1, %", "points above", "under corruption, %", "points above"),
        tuple(rows),
        f"{result['epochs']} epochs, {result['images_per_class']} labelled images a class, {seeds} seeds. Points are "
        f"above the same student without a teacher, paired by seed. {WITH_RANGE}",
    )
    teacher = (("clean", result["teacher_top1"]), ("corrupted", result["teacher_corrupted_top1"]))
    yield Table(
        "teacher",
        ("images", "top-1 of the teacher"),
        tuple((images, ranged(found, percent)) for images, found in teacher),
        WITH_RANGE,
    )


def second_cycle(result: Json) -> Iterator[Table]:
    rows = [
        (
            spelled(name),
            *map(str, trained["epochs"]),
            *(ranged(top1, percents) for top1 in trained["top1"]),
            points_lost(trained["gained"]),
        )
        for name, trained in result["students"].items()
    ]
    header = ("student", "epochs", "further epochs", "top-1 before, %", "top-1 after, %", "points gained")
    yield Table("students", header, tuple(rows), WITH_RANGE)


def reference_students(result: Json) -> Iterator[Table]:
    rows = [
        (
            spelled(name),
            numbers.fixed(2, 1e-6)(found["params"]),
            numbers.fixed(1, 1e-6)(found["macs"]),
            f"{found['image_size']}",
            found["teacher"].removeprefix("cifar_").replace("resnet", "ResNet-"),
            f"{found['epochs']}",
            ranged(found["top1"], percents),
        )
        for name, found in result["students"].items()
    ]
    yield Table(
        "students",
        ("student", "million parameters", "million MACs", "px", "teacher", "epochs", "top-1, %"),
        tuple(rows),
        "Top-1 on the 10,000 test images of CIFAR-10, with its 95% interval.",
    )


def training_precision(result: Json) -> Iterator[Table]:
    is_tried = all("trial" in found for found in result["networks"].values())
    rows = [
        (
            name,
            f"{found['image_size']}",
            *(with_extremes(found["images_per_s"][precision], numbers.significant(3)) for precision in PRECISIONS),
            with_extremes(found["over_float32"], numbers.significant(2)),
            *((with_extremes(found["trial"], numbers.significant(2)), _taken(found["auto"])) if is_tried else ()),
        )
        for name, found in result["networks"].items()
    ]
    of_trial = ("speedup in the trial", "`auto` takes") if is_tried else ()
    yield Table(
        "speed",
        ("network", "px", "float32, images/s", "bfloat16, images/s", "bfloat16 over float32", *of_trial),
        tuple(rows),
        "Interleaved rounds: the median, the slowest and the fastest.",
    )


def _taken(answers: Sequence[str]) -> str:
    """The answers of all trials: `bfloat16`, or `bfloat16 2, float32 1`."""
    counts = Counter(answers)
    return ", ".join(counts if len(counts) == 1 else (f"{name} {count}" for name, count in counts.items()))


def kept_memory(result: Json) -> Iterator[Table]:
    rows = [
        (
            f"{name}, {kind}",
            f"{found['image_size']}",
            *(with_extremes(found["images_per_s"][way], numbers.significant(3)) for way in WAYS),
            with_extremes(found["kept_over_default"], numbers.ratio),
            *(f"{found['peak_rss_mib'][way]['median'] / 1024:.1f} GiB" for way in WAYS),
        )
        for kind, several in (("training", result["trainings"]), ("embeddings", result["embeddings"]))
        for name, found in several.items()
    ]
    yield Table(
        "speed",
        (
            "network",
            "px",
            "given back, images/s",
            "kept, images/s",
            "times as fast",
            "memory, given back",
            "memory, kept",
        ),
        tuple(rows),
        "Interleaved rounds: the median, the slowest and the fastest. The memory is the largest of the process.",
    )


def distillation_speed(result: Json) -> Iterator[Table]:
    rows = [
        (
            name,
            with_extremes(found, fixed(0)),
            with_extremes(result["over_timm"][name], numbers.ratio) if name != "timm" else "1",
        )
        for name, found in result["images_per_s"].items()
    ]
    rounds = len(next(iter(result["images_per_s"].values()))["raw"])
    yield Table(
        "speed",
        ("loop", "images/s", "times as fast as timm"),
        tuple(rows),
        f"{rounds} interleaved rounds: the median, the slowest and the fastest.",
    )
