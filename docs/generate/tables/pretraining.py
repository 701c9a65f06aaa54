"""Tables of pre-training without labels."""

from __future__ import annotations

from collections.abc import Iterator

from docs.generate.numbers import fixed, percents, points, ranged, whole
from docs.generate.records import Json
from docs.generate.tables.cells import NOTHING, Table, with_extremes

METHODS = {
    "untrained": "random weights",
    "supervised": "all labels",
    "dino": "DINO",
    "esvit": "EsViT",
    "simclr": "SimCLR",
    "moco": "MoCo",
    "pirl": "PIRL",
    "byol": "BYOL",
    "mae": "MAE",
    "fcmae": "FCMAE",
    "sit": "SiT",
    "dino without centering": "DINO without centering",
    "dino without a momentum teacher": "DINO, the student as its own teacher",
}
STARTS = {  # the starts of benchmarks/pretraining_downstream.yaml
    "untrained": "random weights",
    "pretrained": "SimCLR from random weights",
    "imagenet": "ImageNet's weights",
    "simclr": "ImageNet's weights, then SimCLR with `freeze_batch_norm`",
    "new-statistics": "ImageNet's weights, then SimCLR without it",
}

IMAGES = {  # the data sets of benchmarks/pretraining_on_photos.yaml
    "groceries": "phone photos of 10 kinds of groceries",
    "cifar": "CIFAR-10",
}


def pretraining(result: Json) -> Iterator[Table]:
    for name, backbone in result["backbones"].items():
        methods = backbone["methods"]
        passes = [row["passes"] for row in methods.values() if "knn" in row and "passes" in row]
        yield Table(
            name.lower(),
            ("pre-training", "nearest neighbors, %", "points gained", "linear, %", "points gained"),
            tuple(row for method, found in methods.items() for row in _method(method, found)),
            f"{backbone['images']:,} training images, {whole(min(passes))} to {whole(max(passes))} passes of each, "
            f"{len(methods['untrained']['runs'])} seeds. Points are those above random weights, paired by seed, with "
            "their 95% intervals. Methods that cannot use the backbone are left out.",
            title=f"{name}, frozen features",
        )


def _method(name: str, found: Json) -> Iterator[tuple[str, ...]]:
    title = METHODS.get(name, name)
    if "knn" in found:
        gains = {measure: _in_points(found[f"{measure}_gain"]) for measure in ("knn", "linear")}
        shown = gains if name != "untrained" else dict.fromkeys(gains, NOTHING)
        yield title, percents(found["knn"]), shown["knn"], percents(found["linear"]), shown["linear"]
    elif any("stopped" in run for run in found["runs"]):
        yield title, "collapsed", NOTHING, "collapsed", NOTHING


def _in_points(gain: Json) -> str:
    """The mean of paired differences, with its interval if there is one."""
    low, high = gain["interval"] or (None, None)
    return ranged({"mean": gain["mean"], "low": low, "high": high}, points)


def pretraining_downstream(result: Json) -> Iterator[Table]:
    yield Table(
        "starts",
        ("start", "model", "top-1, %", "each draw", "points gained"),
        tuple(
            (
                STARTS[start],
                "few-shot, float" if model == "teacher" else "student, INT8",
                percents(row["mean"]),
                ", ".join(map(percents, row["each"])),
                _in_points(row["gain"]) if "gain" in row else NOTHING,
            )
            for model, starts in result["accuracy"].items()
            for start, row in starts.items()
        ),
        f"{result['draws']} draws of five labelled images a class. Points are paired by draw, with 95% intervals.",
    )


def pretraining_on_photos(result: Json) -> Iterator[Table]:
    yield Table(
        "starts",
        ("images", "ImageNet's weights, %", "then SimCLR, %", "points gained", "each draw"),
        tuple(
            (
                IMAGES[name],
                percents(starts["imagenet"]["mean"]),
                percents(starts["simclr"]["mean"]),
                _in_points(starts["simclr"]["gain"]),
                ", ".join(map(points, starts["simclr"]["gain"]["each"])),
            )
            for name, starts in result["accuracy"].items()
        ),
        f"{result['draws']} draws of five labelled images a class. Points are paired by draw, with 95% intervals.",
    )


def pretraining_speed(result: Json) -> Iterator[Table]:
    methods = result["methods"]
    rounds = len(next(iter(methods.values()))["ratio"]["raw"])
    yield Table(
        "methods",
        ("method", "edgevit, images/s", "lightly, images/s", "edgevit to lightly", "edgevit, MiB", "lightly, MiB"),
        tuple(
            (
                METHODS[method],
                *(fixed(0)(found["images_per_s"][name]["median"]) for name in ("edgevit", "lightly")),
                with_extremes(found["ratio"], fixed(2)),
                *(fixed(0)(found["peak_mib"][name]["median"]) for name in ("edgevit", "lightly")),
            )
            for method, found in methods.items()
        ),
        f"Medians of {rounds} rounds, and the smallest and the largest ratio. A ratio is that of a round. MiB are the "
        "largest memory of the process.",
    )
