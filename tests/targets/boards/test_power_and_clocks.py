"""nvpmodel, jetson_clocks and the kernel's clocks, in the forms that boards print."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.targets.boards.clocks import Clock, cpu_clocks, gpu_clocks
from edgevit.targets.boards.jetson_clocks import clocks_of_answer
from edgevit.targets.boards.nvpmodel import (
    PowerMode,
    plain_name,
    power_mode_of_answer,
    power_mode_of_status,
    power_modes_of_conf,
)
from edgevit.targets.boards.table import BOARDS, SOCS, active_sm_count

COMPOSED = Path(__file__).parents[4] / "shared" / "reference" / "device_logs" / "format_only"
NANO = """\
SOC family:tegra210  Machine:NVIDIA Jetson Nano Developer Kit
Online CPUs: 0-1
CPU Cluster Switching: Disabled
cpu0: Online=1 Governor=schedutil MinFreq=102000 MaxFreq=1428000 CurrentFreq=1036800 IdleStates: WFI=1 c7=1\x20
cpu2: Online=0 Governor=schedutil MinFreq=102000 MaxFreq=1428000 CurrentFreq=102000 IdleStates: WFI=1 c7=1\x20
GPU MinFreq=76800000 MaxFreq=921600000 CurrentFreq=460800000
EMC MinFreq=204000000 MaxFreq=1600000000 CurrentFreq=1600000000 FreqOverride=0
Fan: speed=0
NV Power Mode: MAXN
"""
THOR = """\
SOC family:tegra264  Machine:NVIDIA Jetson AGX Thor Developer Kit
Online CPUs: 0-13, Offline CPUs:
cpu0:  Governor=schedutil MinFreq=2601000 MaxFreq=2601000 CurrentFreq=2601000 IdleStates: WFI=0 cc7=0
gpu-gpc-0 MinFreq=1575000000 MaxFreq=1575000000 CurrentFreq=1575000000
gpu-nvd-0 MinFreq=1692000000 MaxFreq=1692000000 CurrentFreq=1692000000
EMC MinFreq=665600000 MaxFreq=4266000000 CurrentFreq=4266000000 FreqOverride=1
PVA0_VPS0: Online=0 MinFreq=0 MaxFreq=1215000000 CurrentFreq=1215000000
"""


def test_jetson_clocks_of_jetpack_4() -> None:
    clocks = clocks_of_answer(NANO)
    assert clocks.cpu == (Clock("cpu0", 102, 1428, 1036.8), Clock("cpu2", 102, 1428, 102))
    assert clocks.gpu == (Clock("GPU", 76.8, 921.6, 460.8),)
    assert clocks.memory == Clock("EMC", 204, 1600, 1600)
    assert clocks.active_tpcs is None
    assert not clocks.gpu[0].is_locked


def test_jetson_clocks_of_a_thor_leave_the_video_clock_out() -> None:
    clocks = clocks_of_answer(THOR)
    assert clocks.gpu == (Clock("gpu-gpc-0", 1575, 1575, 1575),)
    assert clocks.gpu[0].is_locked
    assert clocks.cpu[0].max_mhz == 2601


def test_jetson_clocks_without_root_shows_nothing() -> None:
    assert clocks_of_answer("Error: Run this script(/usr/bin/jetson_clocks) as a root user\n") is None


@pytest.mark.parametrize(
    ("answer", "mode"),
    [
        ("NV Power Mode: MAXN_SUPER\n2\n", PowerMode("MAXN_SUPER", 2)),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MODE_15W\n2\n", PowerMode("MODE_15W", 2)),
        # A user who is not root gets the mode, then errors about files that only root reads.
        ("NV Power Mode: MAXN\n0\nNVPM ERROR: Error opening /sys/kernel/nvpmodel_emc_cap: 13\n", PowerMode("MAXN", 0)),
        ("NV Power Mode: 120W", PowerMode("120W", None)),
        ("NV Power Mode: 120W\nNVPM ERROR: 13\n", PowerMode("120W", None)),
        ("NVPM ERROR: Error opening /var/lib/nvpmodel/status: 13\n", None),
        ("", None),
    ],
)
def test_the_power_mode_is_read_by_its_name(answer: str, mode: PowerMode | None) -> None:
    assert power_mode_of_answer(answer) == mode


@pytest.mark.skipif(not COMPOSED.is_dir(), reason="needs ../shared/reference/device_logs")
def test_the_composed_forms_are_read() -> None:
    answers = (COMPOSED / "nvpmodel_q.txt").read_text().split("---")
    assert [power_mode_of_answer(answer) for answer in answers] == [
        PowerMode("MAXN_SUPER", 2), PowerMode("MODE_15W", 2), PowerMode("120W", 1)
    ]  # fmt: skip
    clocks = clocks_of_answer((COMPOSED / "jetson_clocks_show.txt").read_text())
    assert clocks.gpu[0].is_locked
    assert clocks.gpu[0].max_mhz == 1020


def test_names_are_equal_with_and_without_the_prefix_of_older_jetpacks() -> None:
    assert plain_name("MODE_30W") == plain_name("30w") == "30W"


def test_modes_of_the_configuration_file_have_ids_and_masks() -> None:
    conf = (
        "# < POWER_MODEL ID=id_num NAME=mode_name >\n< PARAM TYPE=FILE NAME=TPC_POWER_GATING >\n"
        "TPC_PG_MASK /sys/devices/gpu.0/tpc_pg_mask\n\n< POWER_MODEL ID=0 NAME=MAXN >\n"
        "TPC_POWER_GATING TPC_PG_MASK 240\n< POWER_MODEL ID=3 NAME=25W >\nGPU MAX_FREQ 408000000\n"
        "# < POWER_MODEL ID=4 NAME=40W >\n< PM_CONFIG DEFAULT=3 >\n"
    )
    modes = power_modes_of_conf(conf)
    assert modes == (PowerMode("MAXN", 0, 240), PowerMode("25W", 3, None))
    assert power_mode_of_status("pmode:0003 fmode:quiet\n", modes) == modes[1]
    assert power_mode_of_status("pmode:0007", modes) is None


@pytest.mark.parametrize(
    ("module", "mask", "sms"),
    [
        ("p3701-0005", 0, 16),
        ("p3701-0005", 240, 8),  # 30W
        ("p3701-0005", 248, 6),  # 15W
        ("p3701-0004", 128, 14),
        ("p3767-0000", 240, 8),
        ("p3767-0000", 252, 4),  # 10W and 15W
        ("p3767-0003", 252, 4),  # 7W
        ("p3767-0004", 252, 4),
        ("p3767-0005", 0, 8),  # bits of TPCs that the module does not have
    ],
)
def test_sms_that_a_power_mode_leaves_on(module: str, mask: int, sms: int) -> None:
    board = next(board for board in BOARDS if module in board.modules)
    assert active_sm_count(SOCS[board.soc], board.sm_count, mask) == sms


def test_every_board_is_consistent() -> None:
    modules = [module for board in BOARDS for module in board.modules]
    assert len(set(modules)) == len(modules)
    for board in BOARDS:
        assert board.cuda_cores % board.sm_count == 0
        assert board.total_rails
        cores_per_sm = {"tegra194": 64}.get(board.soc, 128)
        assert board.cuda_cores == cores_per_sm * board.sm_count
        for peaks in filter(None, (board.peaks, board.super_peaks)):
            if board.soc == "tegra234":  # 4 tensor cores an SM, 256 products of float16 a clock each, 2 operations each
                by_hand = board.sm_count * 4 * 256 * 2 * peaks.gpu_mhz * 1e6 / 1e12
                assert peaks.fp16_tflops == pytest.approx(by_hand, rel=0.02)
                assert peaks.int8_tops == pytest.approx(2 * by_hand, rel=0.02)


def test_gpu_clocks_of_every_jetpack_and_no_other_unit() -> None:
    for name in ("57000000.gpu", "17000000.gp10b", "17000000.gv11b", "17000000.ga10b", "17000000.gpu", "gpu-gpc-0"):
        folder = f"/sys/class/devfreq/{name}"
        files = {f"{folder}/min_freq": "306000000\n", f"{folder}/max_freq": "612000000\n", f"{folder}/cur_freq": "0\n"}
        assert gpu_clocks(files) == (Clock(name, 306, 612, 0),)
    for name in ("15340000.vic", "gpu-nvd-0", "bwmgr"):
        folder = f"/sys/class/devfreq/{name}"
        assert not gpu_clocks({f"{folder}/min_freq": "1\n", f"{folder}/max_freq": "1\n"})


def test_a_gpu_below_its_lock_is_held_back() -> None:
    assert Clock("gpu", 1020, 1020, 624).is_below_range
    assert not Clock("gpu", 1020, 1020, 0).is_below_range  # at rest
    assert not Clock("gpu", 306, 1020, 306).is_below_range


def test_a_measured_cpu_clock_wins_over_the_one_that_was_asked_for() -> None:
    folder = "/sys/devices/system/cpu/cpufreq/policy4"
    asked = {"min": 972000, "max": 2601000, "cur": 2601000}
    files = {f"{folder}/scaling_{name}_freq": f"{khz}\n" for name, khz in asked.items()}
    assert cpu_clocks(files) == (Clock("cpu4", 972, 2601, 2601, is_measured=False),)
    measured = {**files, f"{folder}/cpuinfo_cur_freq": "242000\n"}
    assert cpu_clocks(measured) == (Clock("cpu4", 972, 2601, 242, is_measured=True),)


@settings(max_examples=200)
@given(st.sampled_from([NANO, THOR, "NV Power Mode: MAXN\n0\n", "< POWER_MODEL ID=0 NAME=MAXN >\n"]), st.data())
def test_damaged_output_is_read_or_left_out(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.text(max_size=3)) + text[at + data.draw(st.integers(0, 9)) :]
    shown = clocks_of_answer(text)
    for clock in (*shown.cpu, *shown.gpu) if shown else ():
        per_mhz = 1e3 if clock.name.startswith("cpu") else 1e6
        assert str(round(clock.max_mhz * per_mhz)) in text
    mode = power_mode_of_answer(text)
    assert mode is None or mode.name in text
    assert all(mode.name in text and str(mode.id) in text for mode in power_modes_of_conf(text))
