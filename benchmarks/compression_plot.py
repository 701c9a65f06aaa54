"""The plot of compression_peers.py: what each file loses against how much faster it is.

python -m benchmarks.compression_plot      (from results/compression_peers.json)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.common import RESULTS

COLORS = {
    "edgevit": "#c2410c",
    "float": "#6b7280",
    "onnxruntime": "#2563eb",
    "olive": "#7c3aed",
    "modelopt": "#15803d",
    "nncf": "#0891b2",
}
MARKERS = {"onnxruntime": "o", "openvino": "^", "openvino f32": "s", "openvino bf16": "D"}
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "compression-peers",
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
}
COLUMNS, PANEL_INCHES, LEGEND_COLUMNS = 3, (4.2, 3.4), 2
LEAST_LOST_POINTS, MOST_DB = 20.0, 60.0


def main() -> None:
    models = json.loads((RESULTS / "compression_peers.json").read_text())["models"]
    (RESULTS / "compression_peers.svg").write_text(drop_against_speedup(models))


def drop_against_speedup(models: Mapping[str, Any]) -> str:
    """An SVG with a panel a model. Up is closer to float, right is faster: nothing should lie beyond edgevit's."""
    columns = min(COLUMNS, len(models))
    rows = -(-len(models) // columns)
    width, height = PANEL_INCHES
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width * columns, height * rows + 0.6), layout="constrained")
        for number, (name, result) in enumerate(models.items(), 1):
            _panel(figure.add_subplot(rows, columns, number), name, result)
        _legend(figure, models, columns)
        stream = StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def _panel(axes: Axes, name: str, result: Mapping[str, Any]) -> None:
    trained = result["rows"][0]["top1_drop"] is not None
    for row in result["rows"]:
        speed = row["speedup"]
        height, error = _lost(row["top1_drop"]) if trained else (min(row["sqnr_db"], MOST_DB), None)
        axes.errorbar(
            speed["median"],
            height,
            xerr=[[speed["median"] - speed["min"]], [speed["max"] - speed["median"]]],
            yerr=error,
            color=COLORS[row["peer"]],
            fmt=MARKERS[row["runtime"]],
            markersize=7,
            elinewidth=0.8,
            zorder=4 if row["peer"] == "edgevit" else 3,
        )
    axes.set_title(name, loc="left")
    axes.set_xlabel("times as fast as float in ONNX Runtime")
    axes.set_ylabel("top-1, points against float" if trained else "SQNR, dB (random weights)")


def _lost(drop: Mapping[str, float]) -> tuple[float, list[list[float]]]:
    """Points gained (below 0: lost), at worst -20, with its 95% interval as matplotlib wants it."""
    height = max(-100 * drop["value"], -LEAST_LOST_POINTS)
    below, above = 100 * (drop["high"] - drop["value"]), 100 * (drop["value"] - drop["low"])
    return height, [[max(0, below)], [max(0, above)]]


def _legend(figure: Figure, models: Mapping[str, Any], columns: int) -> None:
    rows = [row for result in models.values() for row in result["rows"]]
    peers, runtimes = ({row[key] for row in rows} for key in ("peer", "runtime"))
    axes = figure.axes[0]
    for peer in COLORS:
        if peer in peers:
            axes.plot([], [], "o", color=COLORS[peer], label=peer)
    for runtime, marker in MARKERS.items():
        if runtime in runtimes:
            axes.plot([], [], marker, color="#9ca3af", label=f"in {runtime}")
    figure.legend(loc="outside lower center", ncols=LEGEND_COLUMNS * columns, frameon=False)


if __name__ == "__main__":
    main()
