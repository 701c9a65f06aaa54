"""The calibration of `edgevit estimate`: the set, the fit, and the errors of rows that were held out.

    python -m benchmarks.latency_model table LATENCIES.csv    rewrites benchmarks/published_latencies
    python -m benchmarks.latency_model                        fits, writes constants.json, publishes the errors

LATENCIES.csv has the columns device, model, task, resolution, batch, precision, runtime, latency_ms and source.
Networks are built with timm or torchvision with random weights, exported, and their kernels counted. Networks whose
kernels are in the table already are not built again. Fitting takes a minute, building all networks half an hour.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import statistics
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from scipy.optimize import least_squares
from scipy.stats import spearmanr

import edgevit.latency_model
from benchmarks.common import publish
from benchmarks.latency_calibration import (
    KERNELS,
    PUBLISHED,
    USUAL,
    Calibration,
    Fit,
    Group,
    HeldOut,
    Published,
    digest_of_set,
    group_of,
    published_kernels,
    published_rows,
)
from edgevit.checking.shapes import for_one_image
from edgevit.graphs.graph import Graph
from edgevit.latency_model.boards import board_rates
from edgevit.latency_model.kernels import Kernel, kernels_of
from edgevit.latency_model.roofline import work_of

FITTED = Path(edgevit.latency_model.__file__).parent / "constants.json"
BOARDS = {
    "Jetson Nano": "nano", "Jetson Nano 4GB": "nano", "Jetson TX2": "tx2", "Jetson Xavier NX": "xavier-nx",
    "Jetson AGX Xavier": "agx-xavier", "Jetson Orin Nano 8GB": "orin-nano-8gb",
    "Jetson Orin Nano 8GB Super": "orin-nano-8gb-super", "Jetson Orin NX 16GB": "orin-nx-16gb",
    "Jetson AGX Orin": "agx-orin-64gb", "Jetson AGX Orin 64GB": "agx-orin-64gb",
}  # fmt: skip
# Names of published networks: library, name, and classes where they are not 1,000.
IN_TIMM = {
    "EfficientViT-B1": "efficientvit_b1", "EfficientViT-B3": "efficientvit_b3", "RegNetY-200MF": "regnety_002",
    "RegNetY-600MF": "regnety_006", "MobileNetV3-large": "mobilenetv3_large_100",
    "MobileNetV3-small": "mobilenetv3_small_100", "EfficientFormer-l1": "efficientformer_l1", "MixNet-s": "mixnet_s",
    "MixNet-m": "mixnet_m", "MixNet-l": "mixnet_l", "ViT-tiny": "vit_tiny_patch16_224",
    "clip-vit-base-patch16": "vit_base_patch16_clip_224", "vit-base-patch16-224": "vit_base_patch16_224",
    "DINOv2-base-patch14": "vit_base_patch14_dinov2", "EfficientFormer-L1": "efficientformer_l1",
}  # fmt: skip
IN_TORCHVISION = {
    "ResNet18": "resnet18", "ResNet50": "resnet50", "ResNet-50 v1.5": "resnet50", "MobileNetV2": "mobilenet_v2",
    "MobileNetV2 (onnx v2-7)": "mobilenet_v2",
}  # fmt: skip
# Who published, by a part of the address, and what is inside the time.
SOURCES = {
    "mit-han-lab/efficientvit": ("efficientvit", "transfer"), "torch2trt": ("torch2trt", "python_loop"),
    "Nota-NetsPresso": ("netspresso", "compute"), "Deci-AI": ("super-gradients", "compute"),
    "mlcommons": ("mlperf", "host"), "jetson-generative-ai": ("nvidia", "compute"),
    "kentaroy47": ("kentaroy47", "host_unstated"), "snap-research": ("snap-research", "compute"),
    "intro-to-distillation": ("jetson-distillation", "compute"),
}  # fmt: skip
REJECTED = {
    "do-not-calibrate": "contradicts the authors' figure by a factor of 10",
    "p90": "the mean of the same run is taken",
    "Triton": "includes a server",
    "MaxQ": "the clocks of this power mode are not known",
}
WINOGRAD = 2.25  # the most that a 3 × 3 convolution saves
LEVELS = (0.8, 0.9)
LEAST_ROWS, LEAST_SOURCES = 8, 2  # of a board that is known in a precision
# What the fits have not seen. A row of a source that is left out is predicted as `edgevit estimate` predicts.
LEFT_OUT: dict[str, tuple[Group, ...]] = {
    "architecture": ("architecture",), "network": ("network",), "source_network": ("source", "network"),
    "board": ("board",), "board_source_network": ("board", "source", "network"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", nargs="?", choices=("table", "fit"), default="fit")
    parser.add_argument("latencies", nargs="?", type=Path, help="the published latencies, for `table`")
    asked = parser.parse_args()
    if asked.step == "table":
        write_tables(list(csv.DictReader(asked.latencies.read_text(encoding="utf-8").splitlines())))
    else:
        fit_and_publish()


def write_tables(latencies: Sequence[dict[str, str]]) -> None:
    """Write published.csv and kernels.csv from the classification rows of published latencies."""
    rows = [_row(row) for row in latencies if row["task"] in ("classification", "vit")]
    networks = published_kernels() if KERNELS.is_file() else {}
    for row in rows:
        if not row["rejected"] and row["network"] not in networks:
            networks[row["network"]] = kernels_of_network(row["library"], row["network"])
            _write_kernels(networks)
    for row in rows:
        row["rejected"] = row["rejected"] or _below_the_roofline(row, networks[row["network"]])
    with PUBLISHED.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def kernels_of_network(library: str, network: str) -> list[Kernel]:
    """Build a network with random weights, export it, and count its kernels."""
    architecture, side, classes = _parts(network)
    if library == "timm":
        import timm

        resized: dict[str, Any] = {"img_size": side} if "dinov2" in architecture else {}
        module = timm.create_model(architecture, num_classes=classes, **resized).eval()
    else:
        import torchvision

        module = getattr(torchvision.models, architecture)(num_classes=classes).eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        file = Path(folder) / "model.onnx"
        torch.onnx.export(module, (torch.zeros(1, 3, side, side),), str(file), dynamo=False, opset_version=17)
        return list(kernels_of(Graph(for_one_image(onnx.load(file)))).kernels)


def fit_and_publish() -> None:
    """Fit, hold rows out, write constants.json and results/latency_model.json."""
    rows = published_rows()
    networks = published_kernels()
    calibration = Calibration(rows, networks)
    whole = calibration.fit(rows)
    held_out = {name: calibration.held_out(*groups) for name, groups in LEFT_OUT.items()}
    by_network, by_board = held_out["network"], held_out["board"]
    stored = {
        "set_sha256": digest_of_set(), "rows": len(rows), "constants": whole.constants, "boards": _factors(rows, whole),
        "known": _known_boards(rows), "intervals": _intervals(held_out),
    }  # fmt: skip
    rounded = json.loads(json.dumps(stored), parse_float=lambda text: float(f"{float(text):.4g}"))
    FITTED.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
    publish("latency_model", {
        "rows": len(rows), "networks": len({row.network for row in rows}),
        "architectures": len({row.architecture for row in rows}),
        "network_families": len({row.network_family for row in rows}),
        "constants": len(USUAL), "fitted_values": sum(len(values) for values in asdict(whole).values()),
        "rejected": _rejected(), "fit": asdict(whole),
        "errors": _errors(rows, networks, calibration.published_ms(whole, rows), held_out),
        "coverage_of_90": _coverage(_of_known_boards(held_out)),
        "rank_by_board": _ranks(rows, [of.published_ms for of in by_network]),
        "boards_left_out": _by(rows, [of.published_ms for of in by_board], lambda row: row.board_family),
        "int8": _by(rows, [of.estimated_ms for of in held_out["source_network"]], lambda row: row.precision)["int8"],
        "orin_nano_to_super": _super_ratios(rows, calibration, whole),
        "held_out": [
            {**asdict(row), "predicted_ms": {name: _predicted_ms(name, held_out[name][index]) for name in LEFT_OUT}}
            for index, row in enumerate(rows)
        ],
    })  # fmt: skip


def _row(row: dict[str, str]) -> dict[str, Any]:
    model, _, classes = row["model"].partition(" (nc=")
    side, runtime = row["resolution"].split("x")[0], row["runtime"]
    is_timm = model in IN_TIMM or bool(classes)
    name = IN_TIMM.get(model) or IN_TORCHVISION.get(model, model)
    count = classes.rstrip(")") or ("0" if "dinov2" in name else "1000")
    by, boundary = next(known for part, known in SOURCES.items() if part in row["source"])
    power = re.search(r"power=([^;]*)", runtime)
    rejected = next((why for mark, why in REJECTED.items() if mark in runtime), "")
    return {
        "board": BOARDS[row["device"]],
        "architecture": name,
        "library": "timm" if is_timm else "torchvision",
        "network": f"{name}@{side}/{count}",
        "batch": row["batch"],
        "precision": {"FP16": "float16", "FP32": "float32", "INT8": "int8"}[row["precision"].split()[0]],
        "latency_ms": row["latency_ms"],
        "measured_by": by,
        "boundary": "transfer" if "production" in runtime else boundary,
        "power_mode": power[1].strip() if power else "not stated",
        "assumed": " ".join(name for name in ("resolution", "precision") if "(assumed)" in row[name]),
        "source": row["source"].split()[0],
        "rejected": "no classifier" if model in ("SAM2 base", "Grounding DINO") else rejected,
    }


def _parts(network: str) -> tuple[str, int, int]:
    architecture, _, rest = network.partition("@")
    side, _, classes = rest.partition("/")
    return architecture, int(side), int(classes)


def _below_the_roofline(row: dict[str, Any], kernels: list[Kernel]) -> str:
    rates, flops = board_rates(row["board"]), 2 * sum(kernel.macs for kernel in kernels) * int(row["batch"])
    peaks = {"float32": rates.fp32_tflops, "float16": rates.fp16_tflops, "int8": rates.int8_tops}
    least_ms = flops / ((peaks[row["precision"]] or math.inf) * 1e9) / WINOGRAD
    return f"faster than the chip's peak: at least {least_ms:.3g} ms" if float(row["latency_ms"]) < least_ms else ""


def _write_kernels(networks: dict[str, list[Kernel]]) -> None:
    names = [field.name for field in fields(Kernel) if field.name != "is_int8"]
    with KERNELS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["network", "count", *names])
        for network, kernels in sorted(networks.items()):
            for kernel, count in Counter(kernels).items():
                writer.writerow([network, count, *(getattr(kernel, name) for name in names)])


def _rejected() -> dict[str, int]:
    with PUBLISHED.open(encoding="utf-8") as file:
        return dict(Counter(row["rejected"] for row in csv.DictReader(file) if row["rejected"]))


def _off(rows: Sequence[Published], predicted: Sequence[float]) -> list[float]:
    """|log(predicted / published)| of each row."""
    return [abs(math.log(value / row.latency_ms)) for row, value in zip(rows, predicted, strict=True)]


def _error(
    rows: Sequence[Published], predicted: Sequence[float], chosen: Callable[[Published], bool] = lambda row: True
) -> dict[str, Any]:
    """Errors as the larger of predicted / published and its inverse, minus 1."""
    pairs = [(row, value) for row, value in zip(rows, predicted, strict=True) if chosen(row)]
    off = [math.exp(error) - 1 for error in _off([row for row, _ in pairs], [value for _, value in pairs])]
    within = sum(error <= 0.2 for error in off) / len(off)
    return {
        "rows": len(off),
        "median": statistics.median(off),
        "p90": float(np.quantile(off, 0.9)),
        "within_20": within,
    }


def _by(rows: Sequence[Published], predicted: Sequence[float], key: Callable[[Published], str]) -> dict[str, Any]:
    names = sorted({key(row) for row in rows})
    return {name: _error(rows, predicted, lambda row, name=name: key(row) == name) for name in names}  # type: ignore[misc]


def _predicted_ms(left_out: str, held_out: HeldOut) -> float:
    return held_out.estimated_ms if "source" in LEFT_OUT[left_out] else held_out.published_ms


def _of_known_boards(held_out: dict[str, list[HeldOut]]) -> list[HeldOut]:
    """Float rows of boards that another source measured too, without their source and family of networks."""
    return [of for of in held_out["source_network"] if of.is_board_known and of.row.precision != "int8"]


def _factors(rows: Sequence[Published], fit: Fit) -> dict[str, float]:
    """The factors of boards with at least LEAST_ROWS rows."""
    counts = Counter(row.board_family for row in rows)
    return {family: factor for family, factor in fit.boards.items() if counts[family] >= LEAST_ROWS}


def _known_boards(rows: Sequence[Published]) -> dict[str, list[str]]:
    """The precisions in which a board is known: with at least LEAST_ROWS rows, from LEAST_SOURCES sources."""
    known: dict[str, list[str]] = {}
    for family, precision in sorted({(row.board_family, row.precision) for row in rows}):
        sources = [row.measured_by for row in rows if (row.board_family, row.precision) == (family, precision)]
        if len(sources) >= LEAST_ROWS and len(set(sources)) >= LEAST_SOURCES:
            known.setdefault(family, []).append(precision)
    return known


def _intervals(held_out: dict[str, list[HeldOut]]) -> dict[str, dict[str, float]]:
    """Factors on both sides of a prediction that hold 80% and 90% of rows, predicted as `edgevit estimate` does."""
    groups = {
        "known_board": _of_known_boards(held_out),
        "int8": [of for of in held_out["source_network"] if of.row.precision == "int8"],
        "new_board": held_out["board_source_network"],
    }
    return {
        name: {f"{level:.0%}": math.exp(_quantile(_errors_of_estimates(rows), level)) for level in LEVELS}
        for name, rows in groups.items()
    }


def _errors_of_estimates(held_out: Sequence[HeldOut]) -> list[float]:
    return _off([of.row for of in held_out], [of.estimated_ms for of in held_out])


def _quantile(errors: Sequence[float], level: float) -> float:
    """The quantile of split conformal prediction: the ⌈(n + 1) · level⌉-th smallest error, at most the largest."""
    place = min(len(errors), math.ceil((len(errors) + 1) * level))
    return sorted(errors)[place - 1]


def _coverage(held_out: Sequence[HeldOut]) -> float:
    """Share of rows inside the 90% interval that rows of other sources and families of networks give."""
    off = _errors_of_estimates(held_out)
    inside = [
        error
        <= _quantile(
            [
                other for its, other in zip(held_out, off, strict=True)
                if its.row.network_family != own.row.network_family and its.row.measured_by != own.row.measured_by
            ],
            0.9,
        )
        for own, error in zip(held_out, off, strict=True)
    ]  # fmt: skip
    return sum(inside) / len(inside)


def _ranks(rows: Sequence[Published], predicted: Sequence[float]) -> dict[str, float]:
    """Spearman's rank correlation within each board with 8 rows or more."""
    ranks = {}
    for board in sorted({row.board for row in rows}):
        pairs = [(row.latency_ms, value) for row, value in zip(rows, predicted, strict=True) if row.board == board]
        if len(pairs) >= 8:
            ranks[board] = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    return ranks


def _super_ratios(rows: Sequence[Published], calibration: Calibration, whole: Any) -> dict[str, dict[str, float]]:
    """How much faster ViTs get from Orin Nano to Super: published and predicted."""
    predicted = dict(
        zip(((row.board, row.network) for row in rows), calibration.published_ms(whole, rows), strict=True)
    )
    published = {(row.board, row.network): row.latency_ms for row in rows}
    slow, fast = "orin-nano-8gb", "orin-nano-8gb-super"
    return {
        network: {
            "published": published[slow, network] / published[fast, network],
            "predicted": predicted[slow, network] / predicted[fast, network],
        }
        for board, network in published
        if board == fast
    }


def _errors(
    rows: Sequence[Published], networks: dict[str, list[Kernel]], in_sample: Sequence[float],
    held_out: dict[str, list[HeldOut]],
) -> dict[str, Any]:  # fmt: skip
    """Errors of this model and of simpler ones: on the rows of the fit, and on rows that a fit has not seen."""
    own = {name: _error(rows, [_predicted_ms(name, of) for of in these]) for name, these in held_out.items()}
    compared = {"roofline": {"in_sample": _error(rows, in_sample), **own}}
    for name, features in _simpler(rows, networks).items():
        compared[name] = {
            left_out: _error(rows, _held_out(rows, features, groups)) for left_out, groups in LEFT_OUT.items()
        }
    return compared


def _simpler(rows: Sequence[Published], networks: dict[str, list[Kernel]]) -> dict[str, np.ndarray[Any, Any]]:
    """Features of simpler models, (rows, features): a latency is a positive sum of them, times board and source."""
    return {
        "totals": np.array([list(_totals(row, networks[row.network])) for row in rows]),
        "one efficiency": np.array([[sum(list(_totals(row, networks[row.network]))[:3])] for row in rows]),
        "MACs": np.array([[sum(kernel.macs for kernel in networks[row.network]) * row.batch / 1e9] for row in rows]),
        "parameters": np.array([[sum(kernel.weights for kernel in networks[row.network]) / 1e6] for row in rows]),
    }


def _totals(row: Published, kernels: list[Kernel]) -> Iterator[float]:
    """Arithmetic at peak by convolutions, depthwise convolutions and products, traffic at peak, launches; in ms."""
    board = board_rates(row.board)
    work = work_of(kernels, board, row.precision, row.batch)
    kinds = np.array([kernel.kind for kernel in kernels])
    flops = np.array([kernel.macs for kernel in kernels]) * 2e-9 * row.batch
    peak = board.int8_tops or 0.0 if row.precision == "int8" else board.fp16_tflops
    rates = np.where(work.is_tensor, peak, board.fp32_tflops * (1 if row.precision == "float32" else 2))
    for group in (("spatial_conv", "pointwise_conv", "grouped_conv"), ("depthwise_conv",), ("product", "attention")):
        yield float((flops / rates)[np.isin(kinds, group)].sum())
    yield float(work.traffic_ms.sum())
    yield len(kernels) * 1e-3


def _held_out(rows: Sequence[Published], features: np.ndarray[Any, Any], left_out: Sequence[Group]) -> list[float]:
    """What each row is predicted by a positive sum of features, without the rows that share any of its groups."""
    keys = np.array([[group_of(row, group) for group in left_out] for row in rows])
    published = np.log([row.latency_ms for row in rows])
    families = sorted({row.board_family for row in rows})
    sources = sorted({row.measured_by for row in rows})
    own = np.array(
        [[row.board_family == name for name in families] + [row.measured_by == name for name in sources]
         for row in rows], float,
    )  # fmt: skip
    count = features.shape[1]
    start = np.concatenate([np.log(np.exp(published.mean()) / features.mean(0) / count), np.zeros(own.shape[1])])
    predicted = np.empty(len(rows))
    for key in np.unique(keys, axis=0):
        kept, asked = (keys != key).all(axis=1), (keys == key).all(axis=1)

        def errors(logs: np.ndarray[Any, Any], kept: np.ndarray[Any, Any] = kept) -> np.ndarray[Any, Any]:
            value = np.log(features[kept] @ np.exp(logs[:count])) + own[kept] @ logs[count:] - published[kept]
            return np.concatenate([value, 0.1 * (logs - start) / np.where(np.arange(len(logs)) < count, 2, 0.5)])

        logs = least_squares(errors, start, loss="soft_l1", f_scale=0.1).x
        predicted[asked] = np.exp(np.log(features[asked] @ np.exp(logs[:count])) + own[asked] @ logs[count:])
    return list(map(float, predicted))


if __name__ == "__main__":
    main()
