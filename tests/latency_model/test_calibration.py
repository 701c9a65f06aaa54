"""The calibration set, and the fit of constants to it."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.common import RESULTS
from benchmarks.latency_calibration import (
    PUBLISHED,
    USUAL,
    Calibration,
    Fit,
    Published,
    digest_of_set,
    published_kernels,
    published_rows,
)
from docs.generate.records import read_result
from edgevit.latency_model.boards import board_rates
from edgevit.latency_model.constants import fitted
from edgevit.latency_model.kernels import Kernel
from edgevit.latency_model.roofline import Precision, times_of, work_of

ROWS = list(csv.DictReader(PUBLISHED.read_text(encoding="utf-8").splitlines()))


def test_the_constants_are_fitted_to_this_set() -> None:
    assert fitted()["set_sha256"] == digest_of_set()
    assert fitted()["rows"] == len(published_rows())
    assert set(fitted()["constants"]) == set(USUAL)
    result = read_result("latency_model")
    assert (RESULTS / "latency_model.json").is_file()
    for name, value in result["fit"]["constants"].items():
        assert fitted()["constants"][name] == pytest.approx(value, rel=1e-3)


def test_every_row_has_a_source_and_a_reason_where_it_is_rejected() -> None:
    assert len(ROWS) > len(published_rows()) >= 130
    assert all(row["source"].startswith("https://") for row in ROWS)
    assert all(float(row["latency_ms"]) > 0 for row in ROWS)
    networks = published_kernels()
    assert {row.network for row in published_rows()} <= set(networks)
    outlier = next(row for row in ROWS if row["latency_ms"] == "44.3")
    assert "contradicts" in outlier["rejected"]


def test_published_macs_of_well_known_networks() -> None:
    """Multiply-accumulates as torchvision and the papers give them, in G."""
    known = {"resnet50@224/1000": 4.09, "vgg16@224/1000": 15.47, "mobilenet_v2@224/1000": 0.30}
    for network, macs in known.items():
        assert sum(kernel.macs for kernel in published_kernels()[network]) / 1e9 == pytest.approx(macs, rel=0.01)


def made_rows(truth: dict[str, float], factor: float) -> tuple[list[Published], dict[str, list[Kernel]]]:
    """Latencies that the roofline itself gives under known constants, on three boards, without noise."""
    random = np.random.default_rng(0)
    networks, rows = {}, []
    for index in range(12):
        sizes = random.integers(2, 9, 2)
        kernels = [
            Kernel("spatial_conv", int(10 ** random.uniform(7, 9)), 3136, 256, 576, 10**5, 10**4),
            Kernel("depthwise_conv", int(10 ** random.uniform(5, 7)), 3136, 1, 9, int(10 ** random.uniform(5, 6)), 600),
            Kernel("memory", 0, 0, 0, 0, int(10 ** random.uniform(5, 7)), 0),
        ]
        networks[f"n{index}"] = kernels * int(sizes.sum())
        for board in ("nano", "agx-xavier", "orin-nano-8gb"):
            half: Precision = "float16"
            kernels_ms = times_of(work_of(networks[f"n{index}"], board_rates(board), half, 1), truth).total_ms.sum()
            scale = factor if board == "nano" else 1.0
            rows.append(
                Published(
                    board, "abcdefghijkl"[index], f"n{index}", 1, half, float(kernels_ms) * scale, "lab", "compute"
                )
            )
    return rows, networks


def test_a_fit_predicts_a_network_that_it_has_not_seen() -> None:
    truth = {name: value * 1.2 for name, (value, _) in USUAL.items()}
    rows, networks = made_rows(truth, factor=1.1)
    calibration = Calibration(rows, networks)
    predicted = np.array([of.published_ms for of in calibration.held_out("network")])
    off = np.abs(np.log(predicted / [row.latency_ms for row in rows]))
    assert np.median(off) < 0.03
    usual = Fit({name: value for name, (value, _) in USUAL.items()}, {}, {}, {})
    unfitted = np.abs(np.log(np.array(calibration.published_ms(usual, rows)) / [row.latency_ms for row in rows]))
    assert np.median(off) < np.median(unfitted) / 3


def test_rows_that_share_any_held_out_group_are_not_seen() -> None:
    rows, networks = made_rows({name: value for name, (value, _) in USUAL.items()}, factor=1.1)
    rows = [replace(row, measured_by="lab" if index % 2 else "shop") for index, row in enumerate(rows)]
    for of in Calibration(rows[:6], networks).held_out("source", "network"):
        assert of.row.measured_by not in of.fit.sources
        assert of.estimated_ms == pytest.approx(of.kernels_ms * of.fit.boards.get(of.row.board_family, 1.0))


def test_near_twins_are_one_family_of_networks() -> None:
    families = {row.architecture: row.network_family for row in published_rows()}
    assert {families[name] for name in ("vgg11", "vgg11_bn", "vgg19")} == {"vgg"}
    assert families["resnet18"] == families["resnet152"] != families["densenet161"]
    assert families["vit_tiny_patch16_224"] == families["vit_base_patch14_dinov2"]


def test_the_90_percent_interval_holds_nine_rows_in_ten_of_unseen_sources_and_families() -> None:
    """Counted again from the published predictions, with the interval that `estimate` gives."""
    result, known = read_result("latency_model"), fitted()["known"]
    logs = [
        abs(np.log(of["predicted_ms"]["source_network"] / of["latency_ms"]))
        for of in result["held_out"]
        if of["precision"] in known.get(board_rates(of["board"]).family, ())
    ]
    assert len(logs) > 100
    assert np.mean(np.exp(logs) <= fitted()["intervals"]["known_board"]["90%"]) >= 0.88
    assert result["coverage_of_90"] >= 0.88


def test_a_board_is_known_by_rows_of_several_sources() -> None:
    known = fitted()["known"]
    assert set(known) == {
        "Jetson AGX Orin 64GB", "Jetson AGX Xavier", "Jetson Nano", "Jetson Orin Nano 8GB", "Jetson Xavier NX",
    }  # fmt: skip
    assert all(precisions == ["float16"] for precisions in known.values())
    assert "Jetson Orin NX 16GB" not in fitted()["boards"]  # two rows, both in INT8


def test_a_board_that_is_left_out_has_no_factor() -> None:
    rows, networks = made_rows({name: value for name, (value, _) in USUAL.items()}, factor=1.0)
    fit = Calibration(rows, networks).fit([row for row in rows if row.board != "nano"])
    assert "Jetson Nano" not in fit.boards
    row = next(row for row in rows if row.board == "nano")
    assert fit.published_ms(row, 2.0) == pytest.approx(2.0 * fit.sources["lab"])


def test_a_boundary_adds_its_own_time() -> None:
    fit = Fit({}, {}, {}, {"transfer": 0.25})
    row = published_rows()[0]
    assert row.boundary == "transfer"
    assert fit.published_ms(row, 1.0) == pytest.approx(1.25)


def test_constants_are_small_in_number_and_stored_once() -> None:
    assert len(USUAL) <= 20 < len(published_rows()) / 5
