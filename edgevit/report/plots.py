"""Figures as inline SVG. Colors are the page's CSS variables, for light and dark themes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from edgevit.checking.timed_layers import TimedModel
from edgevit.profiling.scenarios import Throughput
from edgevit.profiling.telemetry import Telemetry
from edgevit.report.text.numbers import significant
from edgevit.report.variants import Variant
from edgevit.terminal import printable_line

# matplotlib needs real colors. They are replaced by the page's variables in the finished SVG.
INK, MUTED, GRID, ACCENT, SECOND, BAD = (f"#0a000{i}" for i in range(1, 7))
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", ACCENT: "--accent", SECOND: "--second", BAD: "--bad"}
MARKERS = "osD^vP*X"
SENSORS = {"temperature_c": "Temperature", "clock_mhz": "Clock", "power_mw": "Power"}
LINE_COLORS = (ACCENT, SECOND, BAD, MUTED, INK)
LINE_DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))
DPI = 72
MOST_CLASSES_WITH_NUMBERS = 20
MOST_CLASSES_WITH_NAMES = 45
RUN_ORDER_POINTS = 120
LINE_PX, NAME_PX = 15.0, 120.0

Samples = NDArray[np.float64]
Curve = Sequence[Mapping[str, Any]]


def accuracy_latency(
    variants: Sequence[Variant], deployed: Variant, budget_ms: float | None, width_px: int
) -> str | None:
    """Top-1 over p50 latency with 95% intervals, a marker shape for each target; None if no variant has both."""
    shown = list(_placed(variants))
    if not shown:
        return None
    targets = list(dict.fromkeys(point.target for point in shown))
    with _figure(f"accuracy-latency-{width_px}", width_px, 340) as (figure, svg):
        axes = figure.add_subplot()
        for point in shown:
            _variant_marker(axes, point, MARKERS[targets.index(point.target) % len(MARKERS)], point.id == deployed.id)
        _scale(axes, shown, budget_ms)
        if len(targets) > 1:
            for index, target in enumerate(targets):
                axes.plot([], [], MARKERS[index % len(MARKERS)], color=MUTED, label=target)
            axes.legend(loc="lower right", frameon=False)
        _name_variants(axes, figure, shown, deployed.id)
    return svg()


def selection_front(name: str, selection: Mapping[str, Any], width_px: int) -> str:
    """Top-1 over p50 of the models of a selection, with intervals; a line along the Pareto front."""
    rows = {model["id"]: model for model in selection["models"]}
    shown = [_placed_model(model) for model in rows.values()]
    with _figure(f"selection-{name}-{width_px}", width_px, 320) as (figure, svg):
        axes = figure.add_subplot()
        for point in shown:
            _variant_marker(axes, point, "o" if rows[point.id]["on_front"] else "x", point.id == selection["winner"])
        front = sorted((point.x_ms, point.y_percent) for point in shown if rows[point.id]["on_front"])
        axes.step(
            *zip(*front, strict=True), where="post", color=SECOND, linewidth=1.2, linestyle=LINE_DASHES[2], zorder=2
        )
        _scale(axes, shown, selection["limits"]["latency_ms"])
        _name_variants(axes, figure, shown, selection["winner"])
    return svg()


def accuracy_by_severity(name: str, group: Mapping[str, Any], width_px: int) -> str:
    """Mean top-1 over all kinds of corruption against severity, a line for each model; 0 is without corruption."""
    severities = [0, *group["severities"]]
    with _figure(f"{name}-{width_px}", width_px, 280) as (figure, svg):
        axes = figure.add_subplot()
        for index, model in enumerate(group["models"]):
            shares = [model["top1"], *(model["by_severity"][str(severity)] for severity in group["severities"])]
            color = LINE_COLORS[index % len(LINE_COLORS)]
            dashes = LINE_DASHES[index // len(LINE_COLORS) % len(LINE_DASHES)]
            axes.plot(
                severities, [100 * share["value"] for share in shares], color=color, linestyle=dashes, linewidth=1.6,
                marker=MARKERS[index % len(MARKERS)], markersize=5, label=_shortened(model["id"]),
            )  # fmt: skip
        axes.set_xticks(severities)
        axes.set_xlabel("severity (0: no corruption)")
        axes.set_ylabel("mean top-1, %")
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        figure.legend(loc="outside upper left", frameon=False, ncols=4 if width_px > 600 else 2)
    return svg()


def latency_histogram(samples_ms: Samples, percentiles: Mapping[str, float]) -> str:
    """A histogram of latencies up to a little beyond p99. The axis label counts slower runs."""
    limit = percentiles["p99"] * 1.15
    slower = int((samples_ms > limit).sum())
    with _figure("latency-histogram", 460, 250) as (figure, svg):
        axes = figure.add_subplot()
        axes.hist(samples_ms[samples_ms <= limit], bins=50, color=ACCENT, alpha=0.75)
        for (name, value), height in zip(percentiles.items(), (0.98, 0.86, 0.74), strict=True):
            axes.axvline(value, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
            axes.annotate(
                f"{name} {significant(value)}", (value, height), xycoords=("data", "axes fraction"), xytext=(3, 0),
                textcoords="offset points", va="top", fontsize=11,
            )  # fmt: skip
        axes.margins(x=0.12)
        axes.set_xlabel("latency, ms" + (f" ({slower:,} slower runs not shown)" if slower else ""))
        axes.set_ylabel("runs")
    return svg()


def run_order(samples_ms: Samples) -> str:
    """Median and range of latency over the course of the measurement, which show drift, throttling and other load."""
    parts = np.array_split(samples_ms, min(RUN_ORDER_POINTS, len(samples_ms)))
    middle = np.cumsum([len(part) for part in parts]) - np.array([len(part) / 2 for part in parts])
    with _figure("run-order", 460, 250) as (figure, svg):
        axes = figure.add_subplot()
        low, high = ([float(function(part)) for part in parts] for function in (np.min, np.max))
        axes.fill_between(middle, low, high, color=ACCENT, alpha=0.25, linewidth=0, label="fastest to slowest")
        axes.plot(middle, [float(np.median(part)) for part in parts], color=ACCENT, linewidth=1.3, label="median")
        axes.set_ylim(0, float(np.percentile(high, 98)) * 1.3)
        axes.set_xlim(0, len(samples_ms))
        axes.set_xlabel(f"run, in order ({max(1, len(samples_ms) // len(parts))} runs a point)")
        axes.set_ylabel("latency, ms")
        axes.legend(loc="upper right", frameon=False, ncols=2, fontsize=10)
    return svg()


def throughput(batches: Sequence[Throughput]) -> str:
    """Images a second by batch size, with 95% intervals. Invalid ones have a cross."""
    sizes = [str(batch.batch_size) for batch in batches]
    rates = np.array([batch.images_per_s for batch in batches])
    bounds = [(batch.low or batch.images_per_s, batch.high or batch.images_per_s) for batch in batches]
    with _figure("throughput", 460, 250) as (figure, svg):
        axes = figure.add_subplot()
        errors = np.abs(np.transpose(bounds) - rates)
        axes.errorbar(sizes, rates, errors, color=ACCENT, linewidth=1.3, marker="o", capsize=4)
        if invalid := [place for place, batch in enumerate(batches) if batch.invalid]:
            crosses = [sizes[place] for place in invalid], rates[invalid]
            axes.plot(*crosses, "x", color=BAD, markersize=11, label="invalid")
            axes.legend(loc="lower right", frameon=False, fontsize=10)
        axes.set_ylim(0)
        axes.margins(x=0.12)
        axes.set_xlabel("images in a batch")
        axes.set_ylabel("images a second")
    return svg()


def over_the_run(telemetry: Telemetry) -> str | None:
    """Temperature, clock and power of the device over the run, a panel each; None if nothing was sampled.

    The time of the counted runs is shaded.
    """
    power = (telemetry.of("power_mw", name) for name in ("total", "gpu", "cpu"))
    sensors = (
        (telemetry.watched, "°C", 1.0, BAD),
        (telemetry.of("clock_mhz", "gpu") or telemetry.of("clock_mhz", "cpu"), "MHz", 1.0, ACCENT),
        (next(filter(None, power), None), "W", 1e-3, SECOND),
    )
    shown = [(series, unit, scale, color) for series, unit, scale, color in sensors if series and series.values]
    if not shown:
        return None
    with _figure("over-the-run", 460, 60 + 100 * len(shown)) as (figure, svg):
        for index, (series, unit, scale, color) in enumerate(shown):
            axes = figure.add_subplot(len(shown), 1, index + 1)
            axes.axvspan(*telemetry.window, color=MUTED, alpha=0.15, linewidth=0)
            values = [value * scale for value in series.values]
            axes.plot(series.time_s, values, color=color, linewidth=1.6, marker="o" if len(values) < 3 else None)
            axes.set_xlim(0, telemetry.seconds)
            axes.margins(y=0.25)
            axes.set_title(f"{SENSORS[series.kind]} ({series.name}), {unit}", loc="left")
            axes.yaxis.set_major_locator(MaxNLocator(3))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axes.tick_params(labelbottom=index == len(shown) - 1)
        axes.set_xlabel("seconds (shaded: the counted runs)")
    return svg()


def roofline(timed: TimedModel, width_px: int, name: str = "") -> str:
    """The rate of each layer with products over its operations a byte, under the roofs, log by log.

    The area of a point is its share of the time. A layer above the slope has its data from caches.
    """
    peaks = timed.peaks
    assert peaks is not None
    placed = [(layer, layer.placement) for layer in timed.layers if layer.placement and layer.macs]
    used = list(dict.fromkeys(layer.precision for layer, _ in placed)) or list(peaks.gflops)[:1]
    ridges = [peaks.ridge(precision) for precision in used]
    intensities = [place.intensity for _, place in placed]
    low, high = min([*intensities, *ridges]) / 3, max([*intensities, *ridges]) * 3
    with _figure(f"roofline-{name}-{width_px}", width_px, 340) as (figure, svg):
        axes = figure.add_subplot()
        axes.set_xscale("log")
        axes.set_yscale("log")
        for index, precision in enumerate(used):
            color, title = (ACCENT, SECOND)[index % 2], {"int8": "INT8"}.get(precision, precision)
            ridge, peak = peaks.ridge(precision), peaks.gflops[precision]
            axes.plot([ridge, high], [peak, peak], color=color, linewidth=1.6)
            label = f"{title}: {significant(peak)} GFLOP/s"
            axes.annotate(label, (high, peak), xytext=(0, 4), textcoords="offset pixels", ha="right", color=color)
            points = [(layer, place) for layer, place in placed if layer.precision == precision]
            axes.scatter(
                [place.intensity for _, place in points],
                [place.gflops for _, place in points],
                [12 + 600 * timed.share(layer.ms) for layer, _ in points],
                color=color, marker=MARKERS[index], alpha=0.6, linewidths=0, zorder=3,
            )  # fmt: skip
        bandwidth = peaks.bandwidth_gb_s
        axes.plot([low, max(ridges)], [bandwidth * low, bandwidth * max(ridges)], color=MUTED, linewidth=1.6)
        axes.annotate(
            f"{significant(bandwidth)} GB/s",
            (low, bandwidth * low),
            xytext=(16, 0),
            textcoords="offset pixels",
            va="center",
            color=MUTED,
        )
        axes.set_xlim(low, high)
        axes.margins(y=0.15)
        axes.set_xlabel("operations a byte (log scale)")
        axes.set_ylabel("GFLOP/s (log scale)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
    return svg()


def training_curve(name: str, lines: Curve) -> str:
    """Loss over steps, and validation accuracy if it was measured."""
    losses = [(float(line["step"]), float(line["loss"])) for line in lines if line.get("loss") is not None]
    accuracies = [
        (float(line["step"]), 100 * float(line["val_top1"])) for line in lines if line.get("val_top1") is not None
    ]
    panels = [(losses, "training loss", ACCENT), (accuracies, "validation top-1, %", SECOND)]
    panels = [panel for panel in panels if panel[0]]
    with _figure(f"training-{name}", 460, 210) as (figure, svg):
        for index, (values, title, color) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), index + 1)
            axes.plot(*zip(*values, strict=True), color=color, linewidth=1.6, marker="o" if len(values) < 3 else None)
            axes.set_title(title, loc="left")
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(5))
    return svg()


def confusion_matrix(confusion: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Rows are labels, columns predictions. A darker cell is a larger share of its row."""
    size = len(classes)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    with _figure("confusion", 460, 460) as (figure, svg):
        axes = figure.add_subplot()
        for row, column in np.argwhere(confusion > 0):
            color = ACCENT if row == column else BAD
            axes.add_patch(
                mpl.patches.Rectangle(
                    (column - 0.5, row - 0.5), 1, 1, color=color, alpha=0.12 + 0.6 * shares[row, column], linewidth=0
                )
            )
            if size <= MOST_CLASSES_WITH_NUMBERS:
                axes.text(
                    column, row, str(confusion[row, column]), ha="center", va="center", fontsize=11 if size <= 12 else 8
                )
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.grid(False)
        names = [_shortened(name) for name in classes] if size <= MOST_CLASSES_WITH_NAMES else []
        ticks = range(len(names))
        fontsize = 11 if size <= MOST_CLASSES_WITH_NUMBERS else 7
        axes.set_yticks(ticks, names, fontsize=fontsize)
        axes.set_xticks(ticks, names, rotation=0 if max(map(len, names), default=0) <= 2 else 90, fontsize=fontsize)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted")
        axes.set_ylabel("label")
    return svg()


def attention_distances(name: str, model: Mapping[str, Any]) -> str:
    """The mean attention distance of each head by layer, with the mean over heads and that of uniform attention."""
    with _figure(name, 460, 230) as (figure, svg):
        axes = figure.add_subplot()
        layers = model["layers"]
        numbers = list(range(1, len(layers) + 1))
        for number, layer in zip(numbers, layers, strict=True):
            distances = layer["distances_px"]
            axes.plot([number] * len(distances), distances, "o", color=ACCENT, markersize=4, alpha=0.7)
        means = [float(np.mean(layer["distances_px"])) for layer in layers]
        axes.plot(numbers, means, color=ACCENT, linewidth=1.4, label="mean of the heads")
        uniform = [layer["uniform_px"] for layer in layers]
        axes.plot(numbers, uniform, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="uniform attention")
        axes.set_ylim(0, max(*uniform, *(max(layer["distances_px"]) for layer in layers)) * 1.3)
        axes.set_xlim(0.5, len(layers) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.set_xlabel("layer")
        axes.set_ylabel("attention distance, px")
        axes.legend(loc="upper left", frameon=False, ncols=2, fontsize=10)
    return svg()


def reliability_diagram(bins: Sequence[Mapping[str, float]]) -> str:
    """Accuracy over confidence. On the diagonal the two are equal."""
    total = sum(bin["n"] for bin in bins)
    with _figure("reliability", 460, 300) as (figure, svg):
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for bin in bins:
            alpha = 0.15 + 0.7 * bin["n"] / total
            width, height = 100 * (bin["high"] - bin["low"]), 100 * bin["accuracy"]
            axes.bar(100 * bin["low"], height, width, align="edge", color=ACCENT, alpha=alpha)
            axes.plot(100 * bin["confidence"], height, "o", color=INK, markersize=3.5)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 102)
        axes.set_xlabel("confidence, % (a darker bar holds more images)")
        axes.set_ylabel("accuracy, %")
    return svg()


# Drawing ------------------------------------------------------------------------------------------------------


@contextmanager
def _figure(name: str, width_px: int, height_px: int) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """A figure, and a function that returns its SVG after the block."""
    style: dict[Any, Any] = {
        "svg.hashsalt": name,
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.size": 12,
        "axes.titlesize": 12,
        "axes.titlecolor": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": GRID,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "text.color": INK,
        "xtick.color": GRID,
        "ytick.color": GRID,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.labelsize": 11,
        "ytick.labelsize": 11,
        "legend.fontsize": 11,
    }
    text: list[str] = []
    with mpl.rc_context(style):
        figure = Figure(figsize=(width_px / DPI, height_px / DPI), dpi=DPI, layout="constrained")
        yield figure, lambda: text[0]
        with warnings.catch_warnings():
            # The browser chooses the font that has the glyph; matplotlib's own fonts only set the layout.
            warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
            stream = StringIO()
            figure.savefig(
                stream,
                format="svg",
                transparent=True,
                metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
            )
        text.append(_for_the_page(stream.getvalue()))


@dataclass(frozen=True)
class _Placed:
    """A variant as a point with its 95% intervals."""

    id: str
    target: str | None
    x_ms: float
    x_range: tuple[float, float]
    y_percent: float
    y_range: tuple[float, float]


def _placed(variants: Sequence[Variant]) -> Iterator[_Placed]:
    for variant in variants:
        if (accuracy := variant.accuracy) and (timing := variant.timing) and timing.is_judged:
            yield _Placed(
                variant.id,
                variant.target,
                timing.p50_ms,
                (timing.p50_low_ms, timing.p50_high_ms),
                100 * accuracy.top1.value,
                (100 * accuracy.top1.low, 100 * accuracy.top1.high),
            )


def _placed_model(model: Mapping[str, Any]) -> _Placed:
    """A model in the record of a selection."""
    top1, p50_ms = model["top1"], model["p50_ms"]
    y_range = 100 * top1["low"], 100 * top1["high"]
    x_range = p50_ms["low"], p50_ms["high"]
    return _Placed(model["id"], None, p50_ms["value"], x_range, 100 * top1["value"], y_range)


def _scale(axes: Axes, shown: Sequence[_Placed], budget_ms: float | None) -> None:
    """Axes of top-1 over p50, and a line at the budget."""
    times_ms = [point.x_ms for point in shown]
    axes.set_xscale("log")
    if budget_ms is not None:
        times_ms.append(budget_ms)
        _budget_line(axes, budget_ms)
    axes.set_xlim(min(times_ms) / 1.6, max(times_ms) * 2.2)
    axes.margins(y=0.12)
    axes.set_xlabel("p50 latency, ms (log scale; left is faster)")
    axes.set_ylabel("top-1 accuracy, %")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _for_the_page(svg: str) -> str:
    """Only the <svg> element, sized by the page, with CSS variables for colors and the page's font."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<style[^>]*>.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub(r'<g id="[A-Za-z0-9_.]+"', "<g", svg)
    svg = re.sub(r'(<[^<>]*style="[^"]*?)font: (?:[a-z]+ )?([0-9.]+px) [^;"]+', r"\1font-size: \2", svg)
    # As later versions of matplotlib write it.
    svg = re.sub(r'(<[^<>]*style="[^"]*?)font-family: [^;"]+;? ?', r"\1", svg)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg


def _variant_marker(axes: Axes, point: _Placed, marker: str, is_deployed: bool) -> None:
    axes.errorbar(
        point.x_ms,
        point.y_percent,
        xerr=np.abs([[point.x_ms - point.x_range[0]], [point.x_range[1] - point.x_ms]]),
        yerr=np.abs([[point.y_percent - point.y_range[0]], [point.y_range[1] - point.y_percent]]),
        fmt=marker,
        color=ACCENT if is_deployed else MUTED,
        markersize=9 if is_deployed else 6.5,
        elinewidth=1.3,
        zorder=3,
    )


def _name_variants(axes: Axes, figure: Figure, shown: Sequence[_Placed], deployed_id: str) -> None:
    """Write each name beside its marker, moved up where names would overlap."""
    figure.draw_without_rendering()
    taken: list[tuple[float, float]] = []
    for point in sorted(shown, key=lambda point: point.y_percent):
        x, y = axes.transData.transform((point.x_ms, point.y_percent))
        name_y = y + 10
        while any(abs(x - other_x) < NAME_PX and abs(name_y - other_y) < LINE_PX for other_x, other_y in taken):
            name_y += LINE_PX
        taken.append((x, name_y))
        axes.annotate(
            point.id,
            (point.x_ms, point.y_percent),
            xytext=(8, name_y - y),
            textcoords="offset pixels",
            va="center",
            fontweight="bold" if point.id == deployed_id else "normal",
            color=ACCENT if point.id == deployed_id else INK,
        )


def _budget_line(axes: Axes, budget_ms: float) -> None:
    axes.axvline(budget_ms, color=BAD, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.annotate(
        f"budget {budget_ms:g} ms",
        (budget_ms, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -4),
        textcoords="offset pixels",
        color=BAD,
        va="top",
        fontsize=11,
    )


def _shortened(name: str, length: int = 18) -> str:
    one_line = printable_line(" ".join(name.split()))
    return one_line if len(one_line) <= length else one_line[: length - 1] + "…"
