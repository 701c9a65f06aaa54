"""What an engine is bound to: each fact that counts, version-compatible engines, and manifests of earlier releases."""

from __future__ import annotations

from typing import Any

import pytest

from edgevit.model_file import TargetInfo, TensorrtOptions
from edgevit.targets.engine_binding import differences, runs_elsewhere

VERSIONS = {
    "tensorrt": "10.3.0", "tensorrt_full": "10.3.0.30", "cuda": "12.6.11", "l4t": "36.4.3", "driver": None,
    "jetpack": "6.2",
}  # fmt: skip
HARDWARE = {"module": "p3767-0005", "gpus": [], "sm_count": 8, "power_mode": "MAXN_SUPER", "model": "Orin Nano"}
BOUND, COMPATIBLE = TensorrtOptions(max_batch=4), TensorrtOptions(max_batch=4, version_compatible=True)


def machine(**changes: Any) -> TargetInfo:
    facts = {**VERSIONS, **HARDWARE, **changes}
    versions, hardware = ({name: facts[name] for name in names} for names in (VERSIONS, HARDWARE))
    return TargetInfo(name="orin", runtime="tensorrt", versions=versions, hardware=hardware)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, []),
        ({"jetpack": "6.2.1", "power_mode": "15W", "model": "renamed"}, []),
        ({"tensorrt_full": "10.3.0.26"}, ["tensorrt_full: 10.3.0.30 and 10.3.0.26"]),
        ({"cuda": "12.8.0"}, ["cuda: 12.6.11 and 12.8.0"]),
        ({"l4t": "36.4.4"}, ["l4t: 36.4.3 and 36.4.4"]),
        ({"driver": "580.00"}, ["driver: None and 580.00"]),
        ({"sm_count": 4}, ["sm_count: 8 and 4"]),
        ({"module": "p3767-0003"}, ["module: p3767-0005 and p3767-0003"]),
    ],
)
def test_an_engine_is_bound_to_gpu_tensorrt_cuda_and_driver(changes: dict[str, Any], says: list[str]) -> None:
    assert differences(BOUND, machine(), machine(**changes)) == says


@pytest.mark.parametrize(
    ("tensorrt", "runs"),
    [("10.3.0", True), ("10.13.3", True), ("10.2.1", False), ("11.4.1", False), (None, False)],
)
def test_a_version_compatible_engine_runs_with_later_versions(tensorrt: str | None, runs: bool) -> None:
    now = machine(tensorrt=tensorrt, cuda="13.0.0", l4t="38.2.0")
    assert (differences(COMPATIBLE, machine(), now) == []) == runs
    assert differences(COMPATIBLE, machine(), machine(module="p3701-0005")) == ["module: p3767-0005 and p3701-0005"]
    assert runs_elsewhere(machine(), now)


def test_a_manifest_without_the_newer_facts_is_held_against_what_it_has() -> None:
    old = machine()
    few = {name: old.versions[name] for name in ("tensorrt", "cuda", "jetpack")}
    old = old.model_copy(update={"versions": few})
    assert differences(BOUND, old, machine(l4t="36.5", driver="1")) == []
    assert differences(BOUND, old, machine(tensorrt="10.7.0")) == ["tensorrt: 10.3.0 and 10.7.0"]
