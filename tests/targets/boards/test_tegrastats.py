"""Every recorded line of tegrastats is read, with values checked by hand; damaged lines give no wrong value."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.errors import TargetError
from edgevit.targets.boards.table import BOARDS
from edgevit.targets.boards.tegrastats import (
    Core,
    Rail,
    TegrastatsSample,
    Unit,
    sample_of_line,
    samples_of_output,
    total_power_mw,
)
from tests.targets.standin import STANDINS

RECORDED = Path(__file__).parents[4] / "shared" / "reference" / "device_logs"
LINES = {name: standin.tegrastats[0] for name, standin in STANDINS.items() if standin.tegrastats}
# JetPack 4 on a TX2 and an AGX Xavier, from the sources that device_logs names
TX2 = (
    "RAM 3276/7859MB (lfb 5x4MB) SWAP 1626/12122MB (cached 181MB) CPU [44%@1421,49%@2031,67%@2034,17%@1420,25%@1419,"
    "8%@1420] EMC_FREQ 1%@1866 GR3D_FREQ 0%@114 APE 150 MTS fg 1% bg 1% PLL@42.5C MCPU@42.5C PMIC@50C Tboard@38C "
    "GPU@39.5C BCPU@42.5C thermal@41.3C Tdiode@39.25C VDD_SYS_GPU 182/182 VDD_SYS_SOC 730/730 VDD_4V0_WIFI 0/0 "
    "VDD_IN 5297/5297 VDD_SYS_CPU 1917/1917 VDD_SYS_DDR 1241/1241"
)
XAVIER = (
    "RAM 408/15823MB (lfb 3702x4MB) SWAP 0/7911MB (cached 0MB) CPU [0%@2265,0%@2265] EMC_FREQ 0%@2133 "
    "GR3D_FREQ 0%@1377 APE 150 MTS fg 0% bg 0% AO@26.5C GPU@28C iwlwifi@30C Tdiode@31.25C PMIC@100C AUX@27C CPU@28C "
    "thermal@27.45C Tboard@27C GPU 1155/1155 CPU 385/385 SOC 2502/2502 CV 0/0 VDDRQ 192/192 SYS5V 2692/2692"
)
THOR_USER = (
    "07-02-2026 13:45:44 RAM 36529/125749MB (lfb 12x4MB) SWAP 11/4096MB (cached 9MB) CPU [2%@972,1%@972,0%@972] "
    "cpu@60.406C tj@63.281C soc012@58.468C gpu@62.906C soc345@63.281C VDD_GPU 37528mW/37528mW/37528mW "
    "VDD_CPU_SOC_MSS 18961mW/18961mW/18961mW VIN_SYS_5V0 18331mW/18331mW/18331mW VIN 87426mW/43713mW/87426mW"
)
_TOTAL_RAILS = {board.name: board.total_rails for board in BOARDS}


def test_jetpack_4_on_a_nano() -> None:
    sample = sample_of_line(LINES["jetpack4-nano"])
    assert sample == TegrastatsSample(
        time=None,
        ram_used_mib=331,
        ram_total_mib=3964,
        swap_used_mib=0,
        swap_total_mib=1982,
        cores=(Core(1, 102), Core(0, 102), Core(2, 102), Core(0, 102)),
        gpu=Unit(0, (76,)),
        memory=Unit(3, (204,)),
        temperatures_c={"PLL": 20.5, "CPU": 23.5, "PMIC": 100.0, "GPU": 22.5, "AO": 27.5, "thermal": 23.0},
        rails=(Rail("POM_5V_IN", 933, 933), Rail("POM_5V_GPU", 0, 0), Rail("POM_5V_CPU", 84, 105)),
    )
    assert total_power_mw(sample, _TOTAL_RAILS["Jetson Nano"]) == 933


def test_jetpack_4_on_a_tx2() -> None:
    sample = sample_of_line(TX2)
    assert sample.cores[2] == Core(67, 2034)
    assert sample.temperatures_c["thermal"] == 41.3
    assert total_power_mw(sample, _TOTAL_RAILS["Jetson TX2"]) == 5297


def test_rails_of_an_agx_xavier_are_told_from_temperatures_and_loads_of_the_same_name() -> None:
    sample = sample_of_line(XAVIER)
    assert sample.cores == (Core(0, 2265), Core(0, 2265))
    assert sample.gpu == Unit(0, (1377,))
    assert sample.temperatures_c["GPU"] == 28
    assert [rail.name for rail in sample.rails] == ["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"]
    assert total_power_mw(sample, _TOTAL_RAILS["Jetson AGX Xavier"]) == 1155 + 385 + 2502 + 0 + 192 + 2692


def test_jetpack_5_on_an_agx_orin() -> None:
    sample = sample_of_line(LINES["jetpack5-agx-orin"])
    assert sample.time == datetime(2023, 1, 3, 16, 7, 54)  # the month comes first
    assert sample.gpu == Unit(0, (0, 0))
    assert len(sample.cores) == 12
    assert "GPU" not in sample.temperatures_c  # -256 °C: switched off
    assert sample.temperatures_c["tj"] == 41.656
    assert [rail.name for rail in sample.rails].count("NC") == 2
    assert total_power_mw(sample, _TOTAL_RAILS["Jetson AGX Orin 64GB"]) == 2390 + 796 + 3522 + 301


def test_jetpack_6_on_an_orin_nano() -> None:
    sample = sample_of_line(LINES["jetpack6-orin-nano"])
    assert sample.time == datetime(2026, 4, 19, 1, 31, 10)
    assert sample.swap_total_mib is None
    assert (sample.gpu, sample.memory) == (Unit(0, (1018,)), Unit(0, (3199,)))
    assert sample.temperatures_c["tj"] == 49.593
    assert sample.rails == (
        Rail("VDD_IN", 5971, 5971),
        Rail("VDD_CPU_GPU_CV", 1669, 1669),
        Rail("VDD_SOC", 2308, 2308),
    )
    assert total_power_mw(sample, _TOTAL_RAILS["Jetson Orin Nano 8GB"]) == 5971  # VDD_IN holds the other rails


def test_jetpack_7_on_an_agx_orin_prints_pairs_and_triplets() -> None:
    sample = sample_of_line(LINES["jetpack7-agx-orin"])
    assert sample.gpu == Unit(12, (1300, 1300))
    assert sample.temperatures_c == {"cpu": 52.968, "soc2": 48.406, "soc0": 49.531, "gpu": 47.625}
    assert sample.rails[0] == Rail("VDD_GPU_SOC", 5139, 5139)
    assert total_power_mw(sample, _TOTAL_RAILS["Jetson AGX Orin 64GB"]) == 5139 + 3268 + 5500


def test_jetpack_7_on_a_thor() -> None:
    as_root, as_user = sample_of_line(LINES["jetpack7-thor"]), sample_of_line(THOR_USER)
    assert as_root.gpu == Unit(None, (314, 314, 314))
    assert as_user.gpu is None
    assert as_user.memory is None
    assert total_power_mw(as_root, _TOTAL_RAILS["Jetson Thor T5000"]) == 19780
    assert as_user.rails[-1] == Rail("VIN", 87426, 43713)  # now, mean, highest


def test_a_rail_may_be_negative_but_not_a_board() -> None:
    sample = sample_of_line("RAM 1/2MB VDD_GPU -392mW/-392mW VIN 19780mW/19780mW")
    assert sample.rails[0] == Rail("VDD_GPU", -392, -392)
    assert total_power_mw(sample, ("VIN",)) == 19780
    assert total_power_mw(sample, ("VDD_GPU",)) is None


def test_power_of_the_whole_board_needs_all_of_its_rails() -> None:
    sample = sample_of_line("RAM 1/2MB VDD_GPU_SOC 5139mW/5139mW VDD_CPU_CV 3268mW/3268mW")
    assert total_power_mw(sample, _TOTAL_RAILS["Jetson AGX Orin 64GB"]) is None
    assert total_power_mw(sample, ()) is None


def test_a_number_is_no_power_without_its_unit_or_the_name_of_a_rail() -> None:
    assert sample_of_line("RAM 1/2MB SWAP 3/4 APE 5/6 VDD_IN 7mW/8 VIN 9").rails == ()


def test_a_processor_that_is_off_has_no_load() -> None:
    assert sample_of_line("RAM 1/2MB CPU [1%@102,off]").cores == (Core(1, 102), None)


def test_an_output_that_was_cut_off_loses_its_last_line_only() -> None:
    line = LINES["jetpack4-nano"]
    samples = samples_of_output(f"{line}\nsomething else\n{line}\n{line[:-1]}")
    assert samples == (sample_of_line(line), sample_of_line(line))


@pytest.mark.parametrize(
    "line", ["", "tegrastats: command not found", "RAM 4000/3964MB", "RAM 330/3964", "RAM 1/2MB" * 2000]
)
def test_a_line_without_main_memory_is_refused(line: str) -> None:
    with pytest.raises(TargetError, match="not one of tegrastats"):
        sample_of_line(line)


@pytest.mark.skipif(not RECORDED.is_dir(), reason="needs ../shared/reference/device_logs")
def test_every_recorded_line_is_read() -> None:
    files = sorted(RECORDED.glob("tegrastats_*.txt"))
    assert len(files) == 6
    lines = [line for file in files for line in file.read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) == 20
    for line in lines:
        _check_against_the_line(sample_of_line(line), line)
        sample = sample_of_line(line)
        assert len(sample.rails) == _words_like(r"-?\d+(mW)?(/-?\d+(mW)?)+", line)
        assert len(sample.temperatures_c) == _words_like(r"\w+@\d[\d.]*C(/\d[\d.]*C)?", line)
        assert all(core is not None for core in sample.cores)
        assert sample.cores


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_line_gives_no_value_that_is_not_in_it(data: st.DataObject) -> None:
    """Characters are replaced, inserted and removed, and ends cut off: each value left keeps name, sign and unit."""
    line = data.draw(st.sampled_from([*LINES.values(), TX2, XAVIER, THOR_USER]))
    for _ in range(data.draw(st.integers(1, 6))):
        line = _damaged(line, data)
    try:
        sample = sample_of_line(line)
    except TargetError:
        return
    _check_against_the_line(sample, line)


@settings(max_examples=200)
@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    samples_of_output(text)
    with suppress(TargetError):
        _check_against_the_line(sample_of_line(text), text)


def _words_like(pattern: str, line: str) -> int:
    return sum(re.fullmatch(pattern, word) is not None for word in line.split())


def _damaged(line: str, data: st.DataObject) -> str:
    at = data.draw(st.integers(0, len(line)))
    length = data.draw(st.integers(0, 12))
    inserted = data.draw(st.text(st.sampled_from(" 0123456789-@%/[],.CmWBMRAGPUVDIN_off\x00é٣"), max_size=4))
    return line[:at] + inserted + line[at + length :]


def _check_against_the_line(sample: TegrastatsSample, line: str) -> None:
    """By plain searches for the text of each value, with its name and unit."""
    assert 0 <= sample.ram_used_mib <= sample.ram_total_mib
    assert re.search(rf"RAM\s+0*{sample.ram_used_mib}/0*{sample.ram_total_mib}MB", line)
    for core in filter(None, sample.cores):
        assert 0 <= core.load_percent <= 100
        assert re.search(rf"[\[,]0*{core.load_percent}%@0*{core.mhz}[\],]", line)
    for unit, names in ((sample.gpu, "GR3D(?:_FREQ)?"), (sample.memory, "EMC(?:_FREQ)?")):
        if unit and unit.load_percent is not None:
            assert 0 <= unit.load_percent <= 100
            assert re.search(rf"{names}\s+0*{unit.load_percent}%", line)
    for zone, degrees in sample.temperatures_c.items():
        assert -60 <= degrees <= 200
        assert any(float(text) == degrees for text in re.findall(rf"{zone}@(-?\d+(?:\.\d+)?)C", line))
    for rail in sample.rails:
        sign = "-" if rail.now_mw < 0 else "" if rail.now_mw else "-?"
        number = f"{sign}0*{abs(rail.now_mw)}"
        with_unit = re.search(rf"{rail.name}\s+{number}mW(?:/|\s|$)", line)
        without = re.search(rf"{rail.name}\s+{number}/-?\d+(?:\s|$)", line)
        assert with_unit or without
