"""The constants of the roofline, fitted to published latencies.

Least squares of log(predicted / published), where large errors weigh less, with a penalty for the distance of each
constant from its usual value. Boards and sources have factors, which the penalty keeps near 1. A source that also times
copies, a Python loop or a load generator adds a time of its own.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.optimize import least_squares

from edgevit.latency_model.boards import board_rates
from edgevit.latency_model.kernels import KINDS, Kernel
from edgevit.latency_model.roofline import PRECISIONS, Constants, Floats, Precision, Work, joined, times_of, work_of

PUBLISHED, KERNELS = (Path(__file__).parent / "published_latencies" / name for name in ("published.csv", "kernels.csv"))
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


Group = Literal["board", "source", "network", "architecture"]


@dataclass(frozen=True)
class Published:
    """A published latency that calibrates.

    Attributes:
        board: a name of `BOARD_NAMES`.
        network: architecture, side and classes, as in the table of kernels.
        architecture: such as resnet50.
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
    def network_family(self) -> str:
        """The letters that the architecture begins with: vgg of vgg11_bn. Families are held out as a whole."""
        return re.split("[^a-z]", self.architecture)[0]

    @property
    def board_family(self) -> str:
        return board_rates(self.board).family

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

    def published_ms(self, row: Published, kernels_ms: float) -> float:
        """The latency that a source would publish.

        Args:
            kernels_ms: the sum of `times_of` over the kernels.
        """
        factor = self.sources.get(row.measured_by, 1.0)
        return self.estimated_ms(row, kernels_ms) * factor + self.boundary_ms.get(row.boundary, 0.0)

    def estimated_ms(self, row: Published, kernels_ms: float) -> float:
        """The latency that `estimate` would say: without the factor and the boundary of a source."""
        return kernels_ms * self.boards.get(row.board_family, 1.0)


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
        for row in csv.DictReader(PUBLISHED.read_text(encoding="utf-8").splitlines())
        if not row["rejected"]
    ]


def published_kernels() -> dict[str, list[Kernel]]:
    """The kernels of each network of published.csv."""
    networks: dict[str, list[Kernel]] = {}
    for row in csv.DictReader(KERNELS.read_text(encoding="utf-8").splitlines()):
        kind = next(kind for kind in KINDS if kind == row["kind"])
        sizes: dict[str, Any] = {name: int(row[name]) for name in SIZES}
        networks.setdefault(row["network"], []).extend([Kernel(kind, **sizes)] * int(row["count"]))
    return networks


def digest_of_set() -> str:
    """The hash of the calibration set."""
    return sha256((PUBLISHED.read_text(encoding="utf-8") + KERNELS.read_text(encoding="utf-8")).encode()).hexdigest()


class Calibration:
    """Rows with the work of their kernels, to fit constants to all of them or to a part."""

    def __init__(self, rows: Sequence[Published], networks: dict[str, list[Kernel]]) -> None:
        self.rows = list(rows)
        self._work = {
            row.cell: work_of(networks[row.network], board_rates(row.board), row.precision, row.batch) for row in rows
        }

    def fit(self, rows: Sequence[Published]) -> Fit:
        """The constants that fit these rows best."""
        problem = _Problem(rows, self._work)
        solved = least_squares(problem.errors, problem.usual, max_nfev=30, xtol=1e-4, ftol=1e-4)
        return problem.fit_of(solved.x)

    def kernels_ms(self, fit: Fit, rows: Iterable[Published]) -> list[float]:
        """The time of the kernels of each row."""
        return [float(times_of(self._work[row.cell], fit.constants).total_ms.sum()) for row in rows]

    def published_ms(self, fit: Fit, rows: Sequence[Published]) -> list[float]:
        """What a fit predicts that the sources of rows publish."""
        return [fit.published_ms(row, own) for row, own in zip(rows, self.kernels_ms(fit, rows), strict=True)]

    def held_out(self, *groups: Group) -> list[HeldOut]:
        """Each row by a fit without the rows that share its group, such as its board or its source.

        Args:
            groups: what is held out; a row that shares any of them is.
        """
        keys = [tuple(group_of(row, group) for group in groups) for row in self.rows]
        fits = {
            key: self.fit(
                [
                    row for row, other in zip(self.rows, keys, strict=True)
                    if all(own != its for own, its in zip(key, other, strict=True))
                ]
            )
            for key in sorted(set(keys))
        }  # fmt: skip
        return [
            HeldOut(row, fits[key], *self.kernels_ms(fits[key], [row]))
            for row, key in zip(self.rows, keys, strict=True)
        ]


@dataclass(frozen=True)
class HeldOut:
    """A row, a fit that has not seen it, and the time of its kernels under this fit."""

    row: Published
    fit: Fit
    kernels_ms: float

    @property
    def published_ms(self) -> float:
        return self.fit.published_ms(self.row, self.kernels_ms)

    @property
    def estimated_ms(self) -> float:
        return self.fit.estimated_ms(self.row, self.kernels_ms)

    @property
    def is_board_known(self) -> bool:
        """Whether the fit has a factor of the board."""
        return self.row.board_family in self.fit.boards


class _Problem:
    """A vector of logs of constants, and the errors of a set of rows under it."""

    def __init__(self, rows: Sequence[Published], works: dict[tuple[str, str, int, str], Work]) -> None:
        self._families = sorted({row.board_family for row in rows})
        self._sources = sorted({row.measured_by for row in rows})
        cells = sorted({row.cell for row in rows})
        self._work = joined([works[cell] for cell in cells])
        self._starts = np.cumsum([0, *(len(works[cell]) for cell in cells)])[:-1]
        self._cell = np.array([cells.index(row.cell) for row in rows])
        self._family = np.array([self._families.index(row.board_family) for row in rows])
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


def group_of(row: Published, group: Group) -> str:
    """The name of a row's board, source, family of networks or architecture."""
    names = {"board": row.board_family, "source": row.measured_by, "network": row.network_family}
    return names.get(group, row.architecture)
