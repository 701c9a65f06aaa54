"""Tables of the choice of a student by init and select."""

from __future__ import annotations

from collections.abc import Iterator

from docs.generate.numbers import fixed, milliseconds, percent, percents, ranged, ratio
from docs.generate.records import Json
from docs.generate.tables.cells import NOTHING, Table


def selection(result: Json) -> Iterator[Table]:
    yield Table(
        "students",
        ("student", "init's p50", "deployed p50", "deployed over init's"),
        tuple(
            (
                student["student"],
                milliseconds(student["predicted"]["p50_ms"]),
                milliseconds(student["deployed"]["p50"]),
                ratio(student["deployed_over_predicted"]),
            )
            for student in result["students"]
        ),
        "init times an untrained student; the deployed model goes through a recipe's stages. One thread, one image.",
    )
    yield Table(
        "budgets",
        (
            "budget",
            "student",
            "deployed p50",
            "timed students",
            "larger, within it, left out",
        ),
        tuple(_budget(row) for row in result["budgets"]),
        "Since this run, init also times students that are expected up to a quarter above the limit.",
    )


def _budget(row: Json) -> tuple[str, ...]:
    deployed = row.get("deployed")
    return (
        fixed(1, unit=" ms")(row["budget_ms"]),
        row["student"] or "none",
        NOTHING if deployed is None else milliseconds(deployed["p50"]),
        str(len(row["timed"])),
        ", ".join(row.get("left_out_within", ())) or NOTHING,
    )


def selection_exhaustive(result: Json) -> Iterator[Table]:
    every = result["exhaustive"]
    yield Table(
        "budgets",
        ("budget", "students within it", "selected", "its rank", "points below the best", "cost", "trainings alone"),
        tuple(
            (
                fixed(2, unit=" ms")(row["budget_ms"]),
                str(row["within"]),
                row["winner"],
                str(row["rank"]) if row["met_budget"] else "over the budget",
                fixed(1)(row["points_below_best"]) if row["met_budget"] else NOTHING,
                percent(row["cost"]),
                percent(row["cost_without_timings"]),
            )
            for row in result["budgets"]
        ),
        f"Rank and points are those of a run that trains all {len(every['students'])} students for {result['epochs']} "
        f"epochs, by {result['validation']:,} validation images. The last round ends after {_last_epochs(result)}. "
        "Cost: CPU seconds over those of that run, with and without the timings of untrained students.",
    )
    yield Table(
        "students",
        ("student", "p50", "top-1"),
        tuple(
            (name, ranged(model["p50_ms"], milliseconds), percents(model["top1"]["value"]))
            for name, model in sorted(every["models"].items(), key=lambda item: item[1]["p50_ms"]["value"])
        ),
        "The INT8 files of the run that trains all students.",
    )


def _last_epochs(result: Json) -> int:
    epochs: int = result["budgets"][0]["rounds"]["rounds"][-1]["epochs"]
    return epochs


def selection_rounds(result: Json) -> Iterator[Table]:
    sets = result["sets"]
    yield Table(
        "lengths",
        ("training images", "epochs", "images seen", "rank correlation", "place of the best student"),
        tuple(
            (
                f"{one['images']:,}",
                str(training["epochs"]),
                f"{training['epochs'] * one['images']:,}",
                fixed(2)(training["rank_correlation"]),
                str(training["rank_of_best"]),
            )
            for one in sets
            for training in one["trainings"][:-1]
        ),
        f"{len(sets[0]['trainings'][0]['top1'])} students, by top-1 on {result['validation']:,} validation images. "
        "Correlation (Spearman) and place are by the longest training: "
        + " and ".join(f"{one['trainings'][-1]['epochs']} epochs of {one['images']:,} images" for one in sets)
        + ".",
    )
