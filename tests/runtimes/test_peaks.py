"""The peaks of a runtime here, and how they are kept. No test rests on their size."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from edgevit.profiling.roofline import Peaks
from edgevit.runtimes import peaks as room
from edgevit.runtimes.peaks import (
    CHAIN,
    DISTURBED_VALID_S,
    SMALL,
    VALID_S,
    largest_cache,
    measured_peaks,
    peaks_here,
    small_chain,
)
from tests.runtimes.test_fused_products import NodesIn, nodes_in_onnxruntime, nodes_in_openvino

MEASURED = Peaks({"float32": 100.0}, 10.0, 0.001, {"threads": 1})


@pytest.fixture
def measurings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Each measuring is noted and takes no time: these tests are about what is kept."""
    calls: list[tuple[str, int]] = []

    def measured(runtime: str, threads: int, conditions: object) -> Peaks:
        calls.append((runtime, threads))
        return MEASURED

    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path))
    monkeypatch.setattr(room, "measured_peaks", measured)
    return calls


def here(runtime: str = "onnxruntime", threads: int = 1) -> Peaks:
    return peaks_here(runtime, threads, lambda line: None)


def test_peaks_are_measured_once(measurings: list[tuple[str, int]]) -> None:
    said: list[str] = []
    assert peaks_here("onnxruntime", 1, said.append) == peaks_here("onnxruntime", 1, said.append) == MEASURED
    assert measurings == [("onnxruntime", 1)]
    assert said == ["measuring once what ONNX Runtime reaches on this CPU (some seconds)"]


def test_other_conditions_are_measured_anew(measurings: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    here()
    here(threads=2)
    here("openvino")
    monkeypatch.setattr(room, "version_of", lambda package: "0.1")
    here()
    monkeypatch.setattr(room, "cpu", lambda: {"model": "another"})
    here()
    assert len(measurings) == 5
    here()
    assert len(measurings) == 5


@pytest.mark.parametrize(("warnings", "valid_s"), [((), VALID_S), (("disturbed",), DISTURBED_VALID_S)])
def test_old_peaks_are_measured_anew(
    warnings: tuple[str, ...], valid_s: int, measurings: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    here()
    (file,) = (tmp_path / "peaks").iterdir()
    file.write_text(json.dumps({**replace(MEASURED, warnings=warnings).to_json()}), encoding="utf-8")
    for age_s, count in ((valid_s - 60, 1), (valid_s + 60, 2)):
        os.utime(file, (time.time() - age_s,) * 2)
        here()
        assert len(measurings) == count


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        '{"gflops": {}}',
        "[" * 100_000,
        '{"gflops": {"float32": 0}, "bandwidth_gb_s": 1, "launch_ms": 0}',
        '{"gflops": {"float32": 1}, "bandwidth_gb_s": NaN, "launch_ms": 0}',
    ],
)
def test_a_damaged_file_is_replaced(content: str, measurings: list[tuple[str, int]], tmp_path: Path) -> None:
    here()
    (file,) = (tmp_path / "peaks").iterdir()
    file.write_text(content, encoding="utf-8")
    assert here() == MEASURED
    assert len(measurings) == 2
    assert here() == MEASURED
    assert len(measurings) == 2


def test_the_last_cache_is_the_largest(tmp_path: Path) -> None:
    """Many ARM boards have no third level."""
    assert largest_cache(tmp_path) == 0
    for index, size in enumerate(("64K", "64K", "2048K", "damaged")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n", encoding="ascii")
    assert largest_cache(tmp_path) == 2 * 2**20


@pytest.mark.parametrize("nodes_in", [nodes_in_onnxruntime, nodes_in_openvino])
def test_no_runtime_fuses_the_chain(nodes_in: NodesIn, tmp_path: Path) -> None:
    """The time of a launch is that of the chain over its length, so each product is a kernel."""
    onnx.save(small_chain(CHAIN), tmp_path / "model.onnx")
    chained = [
        [name for name in nodes if name.startswith(SMALL)] for nodes in nodes_in(tmp_path / "model.onnx", tmp_path)
    ]
    assert [len(names) for names in chained if names] == [1] * CHAIN


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_what_is_measured(runtime: str) -> None:
    found = measured_peaks(runtime, 1, {})
    precisions = {"float32"} if runtime == "torch" else {"float32", "int8"}
    if runtime == "openvino":
        from edgevit.runtimes.openvino.session import has_bfloat16

        precisions |= {"bfloat16"} if has_bfloat16() else set()
    assert found.gflops.keys() == precisions
    assert all(rate > 0 for rate in found.gflops.values())
    assert found.bandwidth_gb_s > 0
    assert found.launch_ms > 0
    assert found.conditions["copied_mib"] >= 64
