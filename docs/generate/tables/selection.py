"""Tables of init's choice of a student."""

from __future__ import annotations

from collections.abc import Iterator

from docs.generate.numbers import fixed, milliseconds, ratio
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
