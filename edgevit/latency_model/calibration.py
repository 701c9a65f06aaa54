"""The constants of the roofline, fitted to published latencies.

Least squares of log(predicted / published), where large errors weigh less, with a penalty for the distance of each
constant from its usual value. Boards and sources have factors, which the penalty keeps near 1. A source that also times
copies, a Python loop or a load generator adds a time of its own.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Any

import numpy as np

from edgevit.latency_model.boards import board_rates
from edgevit.latency_model.kernels import KINDS, Kernel
from edgevit.latency_model.roofline import PRECISIONS, Constants, Floats, Precision, Work, joined, times_of, work_of

PUBLISHED, KERNELS, FITTED = "published.csv", "published_kernels.csv", "constants.json"
SIZES = ("macs", "positions", "channels", "depth", "activations", "weights")
ROBUST_AT = 0.07  # log error from which an error weighs less
NOISE = 0.1  # usual log error of a published latency

# Usual value and how far, as a log ratio, a constant may lie from it at the cost of one usual error. They were chosen
# with a look at the whole set; only the factors of boards and sources start from 1.
USUAL: dict[str, tuple[float, float]] = {
    "conv_cuda": (0.9, 0.3), "conv_tensor": (0.6, 0.3), "pointwise": (0.8, 0.25), "grouped": (0.3, 0.5),
    "depthwise_pascal": (0.05, 0.5), "depthwise_volta": (0.1, 0.5), "product_cuda": (0.4, 0.3),
    "product_tensor": (0.7, 0.3), "attention": (0.2, 0.5), "depth": (64.0, 1.0), "int8": (0.8, 0.2),
    "bandwidth_cuda_cores": (0.7, 0.25), "bandwidth_volta": (0.75, 0.25), "bandwidth_ampere": (0.85, 0.25),
    "launch_cuda_cores": (17.0, 0.4), "launch_volta": (15.0, 0.4), "launch_ampere": (12.0, 0.4),
}  # fmt: skip
BOUNDARIES = ("transfer", "python_loop", "host", "host_unstated")  # beside "compute", which adds nothing
BOUNDARY_MS, BOUNDARY_SPREAD = 0.1, 1.0
BOARD_SPREAD, SOURCE_SPREAD = 0.15, 0.12


@dataclass(frozen=True)
class Published:
    """A published latency that calibrates.

    Attributes:
        board: a name of `BOARD_NAMES`.
        network: architecture, side and classes, as in the table of kernels.
        architecture: networks of one architecture are left out together.
        measured_by: who published it.
        boundary: what is inside the time: compute, or one of BOUNDARIES.
    """

    board: str
    architecture: str
    network: str
    batch: int
    precision: Precision
    latency_ms: float
    measured_by: str
    boundary: str

    @property
    def cell(self) -> tuple[str, str, int, str]:
        """What the kernels' times depend on."""
        return self.network, self.board, self.batch, self.precision


@dataclass(frozen=True)
class Fit:
    """Fitted constants. Factors of boards and sources are near 1; a board or source without one has 1."""

    constants: Constants
    boards: Constants
    sources: Constants
    boundary_ms: Constants

    def predicted_ms(self, row: Published, kernels_ms: float) -> float:
        """The latency that a source would publish.

        Args:
            kernels_ms: the sum of `times_of` over the kernels.
        """
        factor = self.boards.get(board_rates(row.board).family, 1.0) * self.sources.get(row.measured_by, 1.0)
        return kernels_ms * factor + self.boundary_ms.get(row.boundary, 0.0)


def published_rows() -> list[Published]:
    """The rows of published.csv that calibrate."""
    return [
        Published(
            board=row["board"],
            architecture=row["architecture"],
            network=row["network"],
            batch=int(row["batch"]),
            precision=next(precision for precision in PRECISIONS if precision == row["precision"]),
            latency_ms=float(row["latency_ms"]),
            measured_by=row["measured_by"],
            boundary=row["boundary"],
        )
        for row in csv.DictReader(_text(PUBLISHED).splitlines())
        if not row["rejected"]
    ]


def published_kernels() -> dict[str, list[Kernel]]:
    """The kernels of each network of published.csv."""
    networks: dict[str, list[Kernel]] = {}
    for row in csv.DictReader(_text(KERNELS).splitlines()):
        kind = next(kind for kind in KINDS if kind == row["kind"])
        sizes: dict[str, Any] = {name: int(row[name]) for name in SIZES}
        networks.setdefault(row["network"], []).extend([Kernel(kind, **sizes)] * int(row["count"]))
    return networks


def digest_of_set() -> str:
    """The hash of the calibration set."""
    return sha256((_text(PUBLISHED) + _text(KERNELS)).encode()).hexdigest()


def fitted() -> dict[str, Any]:
    """The fitted constants as they stand in constants.json: `constants`, `boards`, `intervals`, `set_sha256`."""
    stored: dict[str, Any] = json.loads(_text(FITTED))
    return stored


class Calibration:
    """Rows with the work of their kernels, to fit constants to all of them or to a part."""

    def __init__(self, rows: Sequence[Published], networks: dict[str, list[Kernel]]) -> None:
        self.rows = list(rows)
        self._work = {
            row.cell: work_of(networks[row.network], board_rates(row.board), row.precision, row.batch) for row in rows
        }

    def fit(self, rows: Sequence[Published]) -> Fit:
        """The constants that fit these rows best."""
        from scipy.optimize import least_squares

        problem = _Problem(rows, self._work)
        solved = least_squares(problem.errors, problem.usual, max_nfev=30, xtol=1e-4, ftol=1e-4)
        return problem.fit_of(solved.x)

    def predicted_ms(self, fit: Fit, rows: Iterable[Published]) -> list[float]:
        """What a fit predicts for rows."""
        kernels_ms = {cell: float(times_of(work, fit.constants).total_ms.sum()) for cell, work in self._work.items()}
        return [fit.predicted_ms(row, kernels_ms[row.cell]) for row in rows]

    def held_out_ms(self, group: str) -> list[float]:
        """What each row is predicted by a fit without its group: `architecture`, or `family` of the board."""
        groups = [_group_of(row, group) for row in self.rows]
        predicted = [math.nan] * len(self.rows)
        for name in sorted(set(groups)):
            fit = self.fit([row for row, own in zip(self.rows, groups, strict=True) if own != name])
            inside = [index for index, own in enumerate(groups) if own == name]
            values = self.predicted_ms(fit, [self.rows[index] for index in inside])
            for index, value in zip(inside, values, strict=True):
                predicted[index] = value
        return predicted


class _Problem:
    """A vector of logs of constants, and the errors of a set of rows under it."""

    def __init__(self, rows: Sequence[Published], works: dict[tuple[str, str, int, str], Work]) -> None:
        self._families = sorted({_group_of(row, "family") for row in rows})
        self._sources = sorted({row.measured_by for row in rows})
        cells = sorted({row.cell for row in rows})
        self._work = joined([works[cell] for cell in cells])
        self._starts = np.cumsum([0, *(len(works[cell]) for cell in cells)])[:-1]
        self._cell = np.array([cells.index(row.cell) for row in rows])
        self._family = np.array([self._families.index(_group_of(row, "family")) for row in rows])
        self._source = np.array([self._sources.index(row.measured_by) for row in rows])
        self._boundary = np.array([("compute", *BOUNDARIES).index(row.boundary) for row in rows])
        self._published = np.log([row.latency_ms for row in rows])
        sizes = (len(self._families), len(self._sources))
        self.usual: Floats = np.log(
            [*(value for value, _ in USUAL.values()), *[BOUNDARY_MS] * len(BOUNDARIES), *[1.0] * sum(sizes)]
        )
        self._spread = np.array(
            [*(spread for _, spread in USUAL.values()), *[BOUNDARY_SPREAD] * len(BOUNDARIES),
             *[BOARD_SPREAD] * sizes[0], *[SOURCE_SPREAD] * sizes[1]]
        )  # fmt: skip

    def errors(self, logs: Floats) -> Floats:
        """Errors of the rows, in usual errors and softened, then the distances of the constants."""
        constants, boundaries, boards, sources = self._parts(np.exp(logs))
        kernels_ms = times_of(self._work, constants).total_ms
        cells_ms = np.add.reduceat(kernels_ms, self._starts)
        added = np.array([0.0, *boundaries])[self._boundary]
        predicted = cells_ms[self._cell] * boards[self._family] * sources[self._source] + added
        error, soft = (np.log(predicted) - self._published) / NOISE, ROBUST_AT / NOISE
        softened = np.sign(error) * soft * np.sqrt(2 * (np.sqrt(1 + (error / soft) ** 2) - 1))
        return np.concatenate([softened, (logs - self.usual) / self._spread])

    def fit_of(self, logs: Floats) -> Fit:
        constants, boundaries, boards, sources = self._parts(np.exp(logs))
        return Fit(
            constants,
            boards=dict(zip(self._families, map(float, boards), strict=True)),
            sources=dict(zip(self._sources, map(float, sources), strict=True)),
            boundary_ms=dict(zip(BOUNDARIES, map(float, boundaries), strict=True)),
        )

    def _parts(self, values: Floats) -> tuple[dict[str, float], Floats, Floats, Floats]:
        ends = np.cumsum([len(USUAL), len(BOUNDARIES), len(self._families)])
        own, boundaries, boards, sources = np.split(values, ends)
        return dict(zip(USUAL, map(float, own), strict=True)), boundaries, boards, sources


def _group_of(row: Published, group: str) -> str:
    return row.architecture if group == "architecture" else board_rates(row.board).family


def _text(name: str) -> str:
    return files("edgevit.latency_model").joinpath(name).read_text(encoding="utf-8")
