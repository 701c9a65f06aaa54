"""Tables of few-shot heads."""

from __future__ import annotations

from collections.abc import Iterator

from docs.generate.numbers import (
    fixed,
    millions,
    percents,
    plus_minus,
    points,
    ranged,
)
from docs.generate.records import Json
from docs.generate.tables.cells import NOTHING, Table, draws_in, lowest_to_highest, spelled

FOREIGN_BODIES = {  # the bodies of benchmarks/foreign_pictures.yaml
    "imagenet": "the teacher",
    "body/hybrid": "hybrid at 64 px from random weights, features alone",
    "body/mixed": "hybrid, mixup and cutmix",
    "body/logits": "hybrid, standardized logits too",
    "body/augmented": "hybrid, stronger crops and colors",
    "body/convolutional": "a convolutional student",
    "shipped": "the body that comes with edgevit, at 96 px",
    "small": "MobileNetV2 of ImageNet at 96 px, not trained further",
    "body/pretrained": "MobileNetV2 of ImageNet at 96 px, features alone",
}
PHOTO_STUDENTS = {  # the starts of benchmarks/photo_students.yaml
    "body-64": "body at 64 px",
    "body-128": "body at 128 px",
    "body-160": "body at 160 px",
    "random": "the body's network at 160 px, random weights",
    "labels-body": "body at 160 px, taught by the labels alone",
    "labels-random": "its network at 160 px, random weights, taught by the labels alone",
}
ON_HEADS = ("balanced", "effective_number", "logit_adjustment")  # corrections for classes of unequal size


def cifar10_few_shot(result: Json) -> Iterator[Table]:
    rows = [
        (_features(features, result), spelled(method), plus_minus(found, percents), lowest_to_highest(found))
        for features, methods in result["features"].items()
        for method, found in methods["methods"].items()
    ]
    header = ("features", "head", "top-1, %", "lowest to highest draw")
    draws = draws_in(result["features"]["teacher"]["methods"])
    note = f"{draws} draws. The mean ± half of its 95% interval."
    yield Table("heads", header, tuple(rows), note)
    auto = result["auto"]["methods"]
    yield Table(
        "auto",
        ("head", "top-1, %", "lowest to highest draw"),
        tuple(
            (spelled(method), plus_minus(found, percents), lowest_to_highest(found)) for method, found in auto.items()
        ),
        f"The first {draws_in(auto)} of these draws, on the teacher's features. `auto` chooses by cross-validation.",
    )


def _features(name: str, result: Json) -> str:
    """Features in words: those of the teacher carry the network's name."""
    return f"{spelled(result.get('network', 'mobilenetv2'))} of ImageNet" if name == "teacher" else spelled(name)


def cifar10_students(result: Json) -> Iterator[Table]:
    features = result["features"]
    methods = list(next(iter(features.values())))
    note = f"{draws_in(next(iter(features.values())))} draws. The mean ± half of its 95% interval."
    yield Table(
        "heads",
        ("body", *(f"{spelled(method)}, %" for method in methods)),
        tuple(
            (spelled(name), *(plus_minus(found[method], percents) for method in methods))
            for name, found in features.items()
        ),
        note,
    )
    yield Table(
        "gains",
        ("body", *(f"{spelled(method)}, points" for method in methods)),
        tuple(
            (spelled(name), *(plus_minus(found[method], points) for method in methods))
            for name, found in result["gains"].items()
        ),
        "Paired by draw with the nearest centroid of the float teacher.",
    )


def foreign_pictures(result: Json) -> Iterator[Table]:
    bodies = {name: result["bodies"][name] for name in FOREIGN_BODIES if name in result["bodies"]}
    methods = list(next(iter(bodies.values()))["methods"])
    yield Table(
        "bodies",
        ("body", "foreign images × epochs", "MACs", *(f"{spelled(method)}, %" for method in methods)),
        tuple(
            (
                FOREIGN_BODIES[name],
                f"{body['images']:,} × {body['epochs']}" if body["epochs"] else NOTHING,
                millions(body["macs"]),
                *(plus_minus(body["methods"][method], percents) for method in methods),
            )
            for name, body in bodies.items()
        ),
        f"{result['draws']} draws. The mean ± half of its 95% interval.",
    )


def grocery_few_shot(result: Json) -> Iterator[Table]:
    rows = []
    for features, settings in result["features"].items():
        ways = {way: found["methods"] for way, found in settings.items()}
        for method in next(iter(ways.values())):
            cells = (plus_minus(methods[method], percents) for methods in ways.values())
            rows.append((_features(features, result), spelled(method), *cells))
    ways = {way: found["methods"] for way, found in result["features"]["teacher"].items()}
    draws = ", ".join(f"{draws_in(methods)} of {way}" for way, methods in ways.items())
    yield Table(
        "heads",
        ("features", "head", *(f"{way}, %" for way in ways)),
        tuple(rows),
        f"Draws: {draws}. The mean ± half of its 95% interval.",
    )


def few_photos_epochs(result: Json) -> Iterator[Table]:
    images = result["labelled_images"]
    yield Table(
        "epochs",
        ("epochs", "images seen", "top-1, %", "points gained"),
        tuple(
            (
                epochs,
                f"{int(epochs) * images:,}",
                percents(row["mean"]),
                NOTHING if not any(row["gain"]["each"]) else _points_with_draws(row["gain"]),
            )
            for epochs, row in result["epochs"].items()
        ),
        f"{images} labelled photos; the mean of {result['draws']} draws, and the least and the largest gain. "
        f"The teacher has {percents(result['teacher']['mean'])}%.",
    )


def photo_students(result: Json) -> Iterator[Table]:
    rows = [("teacher", millions(result["teacher"]["params"]), percents(result["teacher"]["mean"]), NOTHING, NOTHING)]
    rows += [
        (
            PHOTO_STUDENTS[name],
            millions(row["params"]),
            percents(row["float"]["mean"]),
            percents(row["int8"]["mean"]),
            _points_with_interval(row["behind"]),
        )
        for name, row in result["students"].items()
    ]
    yield Table(
        "students",
        ("model", "parameters", "top-1, %", "INT8, %", "points behind the teacher"),
        tuple(rows),
        f"The mean of {result['draws']} draws; of the points, its 95% interval too. Points are those of INT8.",
    )


def _points_with_interval(behind: Json) -> str:
    """The mean in points, with its 95% interval over the draws."""
    low, high = behind["interval"]
    return ranged({"mean": behind["mean"], "low": low, "high": high}, fixed(1))


def _points_with_draws(gain: Json) -> str:
    """The mean in points, with the least and the largest of the draws."""
    shown = fixed(1, signed=True)
    return f"{shown(gain['mean'])} ({shown(min(gain['each']))} to {shown(max(gain['each']))})"


def unbalanced_classes(result: Json) -> Iterator[Table]:
    for measure, title in (("balanced_accuracy", "balanced accuracy"), ("top1", "top-1")):
        yield Table(
            f"heads_{measure}",
            (
                "images",
                "largest class / smallest",
                "head",
                f"{title}, %",
                *(f"{spelled(name)}, points" for name in ON_HEADS),
            ),
            tuple(_corrected_heads(result["heads"], measure)),
            f"Heads on frozen features: {title} without a correction, and the paired gain of each correction. The mean "
            "± half of its 95% interval.",
            title=f"Heads, {title}",
        )
    for images, ratios in result["training"].items():
        for ratio, corrections in ratios.items():
            yield Table(
                "training",
                ("correction", "balanced accuracy, %", "gain, points", "top-1, %", "recall of the worst class, %"),
                tuple(_corrected_training(corrections)),
                f"{images}, largest class / smallest = {ratio}, {corrections['none']['top1']['n']} seeds. The mean ± "
                "half of its 95% interval; the gain is paired by seed.",
            )


def _corrected_heads(images: Json, measure: str) -> Iterator[tuple[str, ...]]:
    for name, ratios in images.items():
        for ratio, heads in ratios.items():
            for head, corrections in heads.items():
                gains = [
                    plus_minus(corrections[correction][measure]["gain"], points)
                    if correction in corrections
                    else NOTHING
                    for correction in ON_HEADS
                ]
                yield name, ratio, spelled(head), plus_minus(corrections["none"][measure], percents), *gains


def _corrected_training(corrections: Json) -> Iterator[tuple[str, ...]]:
    for name, measures in corrections.items():
        gain = measures["balanced_accuracy"].get("gain")
        shown = (plus_minus(measures[measure], percents) for measure in ("balanced_accuracy", "top1", "worst_recall"))
        accuracy, top1, worst = shown
        yield spelled(name), accuracy, NOTHING if gain is None else plus_minus(gain, points), top1, worst


def omniglot_episodes(result: Json) -> Iterator[Table]:
    rows = []
    for setting, found in result["settings"].items():
        for transductive in (False, True):
            methods = _methods(found["methods"], transductive)
            ours, theirs = (_best(methods, side) for side in ("edgevit", "EasyFSL"))
            gain = methods[ours]["gain"]
            rows.append(
                (
                    f"{setting}{', transductive' if transductive else ''}",
                    f"{fixed(2, 100)(methods[ours]['value'])} ({_without_side(ours)})",
                    f"{fixed(2, 100)(methods[theirs]['value'])} ({_without_side(theirs)})",
                    plus_minus(gain, fixed(2, 100, signed=True)),
                )
            )
    yield Table(
        "best",
        ("episodes", "edgevit, %", "EasyFSL, %", "paired difference, points"),
        tuple(rows),
        "The best method of each side; `auto`, which chooses one of the others, is left out. The difference is paired "
        "by episode, over the episodes that both have run. edgevit's method is paired with EasyFSL's best.",
    )
    for setting, found in result["settings"].items():
        yield Table(
            setting,
            ("method", "sees", "episodes", "top-1, %", "ms an episode"),
            tuple(
                (
                    spelled(name),
                    "the queries" if one["transductive"] else "one query",
                    str(one["n"]),
                    plus_minus(one, fixed(2, 100)),
                    fixed(1)(one["ms_per_episode"]),
                )
                for name, one in found["methods"].items()
            ),
            "The mean ± half of its 95% interval.",
        )


def _methods(methods: Json, transductive: bool) -> Json:
    wanted = {name: found for name, found in methods.items() if found["transductive"] is transductive}
    return {name: found for name, found in wanted.items() if name != "edgevit auto"}


def _best(methods: Json, side: str) -> str:
    return max((name for name in methods if name.startswith(side)), key=lambda name: methods[name]["value"])


def _without_side(name: str) -> str:
    return spelled(name.partition(" ")[2])
