"""Tables of the prediction of latencies on boards that are absent."""

from __future__ import annotations

from collections.abc import Iterator

from docs.generate.numbers import fixed, percent, significant
from docs.generate.records import Json
from docs.generate.tables.cells import Table, spelled

LEFT_OUT = {
    "architecture": "an architecture left out",
    "network": "a family of networks left out",
    "source_network": "a source and a family left out",
    "board": "a board left out",
    "board_source_network": "a board, a source and a family left out",
}
NAMES = {"roofline": "edgevit: a roofline of each kernel", "totals": "totals of the graph, added up"}


CPU_MODELS = {
    "unit_costs": "edgevit: unit costs",
    "macs_alone": "MACs alone",
    "parameters_alone": "parameters alone",
}


def latency_cpu(result: Json) -> Iterator[Table]:
    forms = {name: form for name, form in result.items() if name != "conditions"}
    yield Table(
        "errors",
        ("runtime and precision", "model", "median error", "90th percentile", "within 20%", "rank correlation"),
        tuple(
            (
                _runtime_and_precision(name),
                title,
                *(percent(form["errors"][model][key]) for key in ("median", "p90", "within_20")),
                fixed(3)(form["errors"][model]["rank"]),
            )
            for name, form in forms.items()
            for model, title in CPU_MODELS.items()
        ),
        "Each half of the catalog predicted by a fit to the other half. Error: the difference from measured, relative.",
    )
    yield Table(
        "coverage",
        ("runtime and precision", "models", "in their 90% interval", "factors of the interval"),
        tuple(
            (
                _runtime_and_precision(name),
                str(form["models"]),
                percent(form["coverage_of_90"]),
                " and ".join(fixed(2)(factor) for factor in form["factors_of_90"]),
            )
            for name, form in forms.items()
        ),
        "The interval is that of the left-out models of the half that predicts.",
    )


def _runtime_and_precision(form: str) -> str:
    runtime, precision = form.split("_")
    return f"{spelled(runtime)}, {precision.replace('int8', 'INT8')}"


def latency_model(result: Json) -> Iterator[Table]:
    yield Table(
        "errors",
        ("model", "held out", "median error", "90th percentile", "within 20%"),
        tuple(
            (NAMES.get(model, f"{model} alone"), words, *_cells(errors[group]))
            for model, errors in result["errors"].items()
            for group, words in LEFT_OUT.items()
        ),
        "Error: predicted over published or its inverse, whichever is larger, minus 1. All rows of the calibration "
        "set, each predicted by a fit that has not seen rows of the same group. "
        "A board or source that is left out has no factor.",
    )
    yield Table(
        "rank",
        ("board", "rank correlation"),
        tuple((board, fixed(3)(rank)) for board, rank in result["rank_by_board"].items()),
        "Spearman's correlation of predicted and published latencies; each family of networks predicted by a fit "
        "that has not seen it. Boards with 8 rows or more. The rows of a board come from several sources.",
    )
    yield Table(
        "boards",
        ("board left out", "rows", "median error", "90th percentile", "within 20%"),
        tuple((board, str(errors["rows"]), *_cells(errors)) for board, errors in result["boards_left_out"].items()),
        "Each board predicted by a fit that has not seen it.",
    )
    yield Table(
        "super",
        ("network", "published", "predicted"),
        tuple(
            (network, *(fixed(2, unit="×")(ratio[kind]) for kind in ("published", "predicted")))
            for network, ratio in result["orin_nano_to_super"].items()
        ),
        "Latency on Orin Nano 8GB over latency in MAXN_SUPER.",
    )
    yield Table(
        "constants",
        ("constant", "value"),
        tuple((name.replace("_", " "), significant(3)(value)) for name, value in result["fit"]["constants"].items()),
        "Rates are shares of the peak; above 1, Winograd's convolutions and the cache save work that is counted. "
        "Launches are in thousands of cycles.",
    )
    yield Table(
        "rejected",
        ("why a row is left out", "rows"),
        tuple((why, str(count)) for why, count in result["rejected"].items()),
    )


def interval_coverage(result: Json) -> Iterator[Table]:
    yield Table(
        "coverage",
        (
            "runs depend on each other as",
            "runs",
            "percentile",
            "intervals that cover it",
            "measurements with an interval",
        ),
        tuple(
            (process, runs, name, _share(one["covered"]), percent(one["given"]))
            for process, lengths in result["coverage"].items()
            for runs, percentiles in lengths.items()
            for name, one in percentiles.items()
        ),
        f"{result['simulations']} simulated measurements of each kind. An interval promises 95%.",
    )
    yield Table(
        "coverage over five starts",
        ("speeds of the starts", "runs", "percentile", "intervals over starts that cover it", "of one start"),
        tuple(
            (speeds, runs, name, *map(_share, (one["covered"], one["covered_by_one_start"])))
            for speeds, lengths in result["coverage_over_starts"].items()
            for runs, percentiles in lengths.items()
            for name, one in percentiles.items()
            if one["covered"] is not None
        ),
        "Runs within a start depend on each other as in AR(1), 0.5. The truth is the percentile over very many starts.",
    )
    for title, key in (
        ("declared invalid", "declared_invalid"),
        ("declared invalid, over five starts", "declared_invalid_over_starts"),
    ):
        yield Table(
            title,
            ("the latency changes by", *next(iter(result[key].values()))),
            tuple((change, *map(percent, shares.values())) for change, shares in result[key].items()),
            "The share of measurements of 600 runs that are declared invalid.",
        )


def _share(share: float | None) -> str:
    return "–" if share is None else percent(share)


def energy_coverage(result: Json) -> Iterator[Table]:
    yield Table(
        "coverage",
        ("readings depend on each other as", "seconds of runs", "intervals that cover it", "median width"),
        tuple(
            (process, seconds, percent(one["covered"]), percent(one["width"]))
            for process, lengths in result["coverage"].items()
            for seconds, one in lengths.items()
        ),
        f"{result['simulations']} simulated measurements of each kind. An interval promises 95%. The width is a share "
        "of the energy, for power that scatters by 10% of its mean.",
    )


def _cells(errors: Json) -> tuple[str, str, str]:
    return percent(errors["median"]), percent(errors["p90"]), percent(errors["within_20"])
