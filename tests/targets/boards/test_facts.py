"""Facts and findings of stand-in boards, read from their files and programs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.findings import Finding
from edgevit.targets.boards import PROBED_COMMANDS, PROBED_FILES, Probe, facts_json, findings, host_facts
from edgevit.targets.boards.nvpmodel import PowerMode
from edgevit.targets.boards.probe import CommandAnswer
from edgevit.targets.boards.request import NVIDIA_SMI, TENSORRT_MODULE
from edgevit.targets.boards.versions import (
    JETPACKS,
    TensorRT,
    has_onnxruntime_wheel,
    jetpack_of,
    trtexec_version,
    version_numbers,
)
from tests.targets.boards.reader import read_probe
from tests.targets.standin import STANDINS


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Probe]:
    return {name: read_probe(name, tmp_path_factory.mktemp(name)) for name in STANDINS}


def found(probe: Probe, **system: Any) -> dict[str, Finding]:
    probe = replace(probe, system=replace(probe.system, **system))
    return {finding.name: finding for finding in findings(host_facts(probe))}


@pytest.mark.parametrize(
    ("name", "board", "module", "jetpack", "l4t", "cuda", "mode", "sms", "locked"),
    [
        ("jetpack4-nano", "Jetson Nano", "p3450-0000", "4.6.1", "32.7.1", "10.2.300", "MAXN", 1, False),
        (
            "jetpack5-agx-orin", "Jetson AGX Orin Developer Kit 32GB", "p3701-0000", "5.1.2", "35.4.1", "11.4.19",
            "MODE_30W", 8, False,
        ),
        (
            "jetpack6-orin-nano", "Jetson Orin Nano 8GB", "p3767-0005", "6.2.2", "36.5.0", "12.6.11",
            "MAXN_SUPER", 8, True,
        ),
        ("jetpack7-agx-orin", "Jetson AGX Orin 64GB", "p3701-0005", "7.2", "39.2.0", "13.2.0", "MAXN", 16, False),
        (
            "jetpack7-agx-orin-tensorrt11", "Jetson AGX Orin 64GB", "p3701-0005", "7.2.2", "39.2.0", "13.2.0",
            "MAXN", 16, False,
        ),
        ("jetpack7-thor", "Jetson Thor T5000", "p3834-0008", "7.1", "38.4.0", "13.0.0", "120W", None, False),
    ],
)  # fmt: skip
def test_facts_of_a_jetson(
    probes: dict[str, Probe], name: str, board: str, module: str, jetpack: str, l4t: str, cuda: str, mode: str,
    sms: int | None, locked: bool,
) -> None:  # fmt: skip
    facts = host_facts(probes[name])
    assert facts.kind == "jetson"
    assert (facts.board.name, facts.module) == (board, module)
    assert (facts.jetpack, facts.l4t, facts.cuda) == (jetpack, l4t, cuda)
    assert (facts.power_mode.name, facts.sm_count, facts.clocks_locked) == (mode, sms, locked)
    assert facts.telemetry is not None
    assert facts.is_stand_in


def test_facts_of_a_raspberry_pi(probes: dict[str, Probe]) -> None:
    facts = host_facts(probes["raspberry-pi-5"])
    assert facts.kind == "linux"
    assert facts.model == "Raspberry Pi 5 Model B Rev 1.1"
    assert facts.os_name == "Debian GNU/Linux 13 (trixie)"
    assert (facts.board, facts.soc, facts.l4t, facts.tensorrt, facts.power_mode, facts.telemetry) == (None,) * 6
    assert facts.clocks_locked is False
    assert facts.throttling.events["low voltage"] == 1
    assert facts.throttling.now == ()
    assert found(probes["raspberry-pi-5"])["throttling"].found == "since the start: low voltage, throttling"
    assert found(probes["raspberry-pi-5"])["onnxruntime"].found == "not installed; edgevit brings it along"


@pytest.mark.parametrize(
    ("name", "tensorrt", "trtexec"),
    [
        ("jetpack4-nano", TensorRT("8.2.1", "trtexec"), "8.2.1"),
        ("jetpack5-agx-orin", TensorRT("8.5.2.2", "module"), "8.5.2"),
        ("jetpack6-orin-nano", TensorRT("10.3.0", "module"), "10.3.0"),
        ("jetpack7-agx-orin", TensorRT("10.16.2", "trtexec"), "10.16.2"),
        ("jetpack7-thor", TensorRT("10.13.3.9", "module"), "10.13.3"),
    ],
)
def test_tensorrt_and_what_named_it(probes: dict[str, Probe], name: str, tensorrt: TensorRT, trtexec: str) -> None:
    facts = host_facts(probes[name])
    assert facts.tensorrt == tensorrt
    assert (facts.trtexec, facts.trtexec_tensorrt) == ("trtexec", trtexec)


@pytest.mark.parametrize(
    ("answer", "version", "state", "words"),
    [
        (CommandAnswer(0, "10.3.0\n", ""), "10.3.0", "ok", "10.3.0 in Python 3.10.12"),
        (CommandAnswer(0, "a line of a start file\n10.13.3.9\n", ""), "10.13.3.9", "ok", "10.13.3.9 in Python"),
        (CommandAnswer(1, "", "…\nNo module named 'PIL'\n"), None, "absent", "be imported: No module named 'PIL'"),
        (CommandAnswer(0, "", ""), None, "absent", "cannot be imported: it fails"),
        (CommandAnswer(None, "", ""), None, "absent", "cannot be imported: it takes too long"),
    ],
)
def test_the_python_module_is_there_if_it_can_be_imported(
    answer: CommandAnswer, version: str | None, state: str, words: str, probes: dict[str, Probe]
) -> None:
    orin = probes["jetpack6-orin-nano"]
    probe = replace(orin, commands={**orin.commands, TENSORRT_MODULE.name: answer})
    assert host_facts(probe).tensorrt_module.version == version
    finding = found(probe)["tensorrt module"]
    assert finding.state == state
    assert words in finding.found
    assert "python3-libnvinfer" in (finding.mend or "") or state == "ok"


def test_the_full_version_is_that_of_the_tensorrt_of_trtexec(probes: dict[str, Probe]) -> None:
    assert host_facts(probes["jetpack6-orin-nano"]).tensorrt_full == "10.3.0.30"  # of the package
    assert host_facts(probes["jetpack7-thor"]).tensorrt_full == "10.13.3.9"  # of the module
    other = {"tensorrt": "10.7.0.23"}  # of pip, beside that of JetPack
    probe = replace(probes["jetpack7-thor"], system=replace(probes["jetpack7-thor"].system, packages=other))
    assert host_facts(probe).tensorrt_full == "10.13.3"


def test_the_full_version_is_that_of_the_module_without_trtexec(probes: dict[str, Probe]) -> None:
    orin = probes["jetpack6-orin-nano"]
    commands = {name: answer for name, answer in orin.commands.items() if "trtexec" not in name}
    module = {TENSORRT_MODULE.name: CommandAnswer(0, "10.3.0\n", "")}
    facts = host_facts(replace(orin, commands={**commands, **module}))
    assert (facts.trtexec, facts.tensorrt_full) == (None, "10.3.0.30")  # of the package


def test_a_driver_is_named_where_nvidia_smi_is_no_stub(probes: dict[str, Probe]) -> None:
    assert host_facts(probes["jetpack7-thor"]).driver == "580.00"
    assert host_facts(probes["jetpack6-orin-nano"]).driver is None


def test_a_program_that_does_not_answer_leaves_a_fact_unknown(probes: dict[str, Probe]) -> None:
    probe = probes["jetpack6-orin-nano"]
    assert host_facts(probe).silent == ()  # though tegrastats never ends
    late = replace(probe, commands={**probe.commands, "nvpmodel -q": CommandAnswer(None, "", "")})
    assert host_facts(late).silent == ()  # a file tells the mode, too
    assert host_facts(late).power_mode == host_facts(probe).power_mode
    alone = replace(late, files={name: text for name, text in late.files.items() if "nvpmodel" not in name})
    assert (host_facts(alone).silent, host_facts(alone).power_mode) == (("nvpmodel",), None)


def test_the_clock_that_was_measured_is_told_from_the_one_that_was_asked_for(probes: dict[str, Probe]) -> None:
    (clock,) = host_facts(probes["jetpack7-thor"]).cpu_clocks
    assert (clock.current_mhz, clock.is_measured) == (242, True)
    (asked,) = host_facts(probes["raspberry-pi-5"]).cpu_clocks
    assert not asked.is_measured


def test_the_junction_is_tj_where_there_is_one_and_never_the_pmic(probes: dict[str, Probe]) -> None:
    assert host_facts(probes["jetpack6-orin-nano"]).junction == "tj"
    assert "cv0" not in host_facts(probes["jetpack6-orin-nano"]).temperatures_c
    nano = host_facts(probes["jetpack4-nano"])
    assert (nano.junction, nano.temperatures_c["pmic-die"]) == ("ao", 100)


def test_a_stub_of_nvidia_smi_names_no_gpu(probes: dict[str, Probe]) -> None:
    assert host_facts(probes["jetpack6-orin-nano"]).gpus == ()
    assert host_facts(probes["jetpack7-thor"]).gpus == ("NVIDIA Thor",)


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ("NVIDIA L4, 570.86.15, 8.9\nNVIDIA L4, 570.86.15, 8.9\n", "8.9"),
        ("NVIDIA L4, 570.86.15, [N/A]\n", None),
        ("NVIDIA L4, 570.86.15\n", None),
        ("", None),
    ],
)
def test_the_compute_capability_of_a_pc_is_nvidia_smis(
    probes: dict[str, Probe], printed: str, told: str | None
) -> None:
    probe = probes["raspberry-pi-5"]
    facts = host_facts(replace(probe, commands={**probe.commands, NVIDIA_SMI.name: CommandAnswer(0, printed, "")}))
    assert facts.compute_capability == told
    assert set(facts.gpus) == ({"NVIDIA L4"} if printed else set())


def test_the_compute_capability_of_a_jetson_is_its_chips(probes: dict[str, Probe]) -> None:
    assert host_facts(probes["jetpack6-orin-nano"]).compute_capability == "8.7"
    assert host_facts(probes["jetpack7-thor"]).compute_capability == "11.0"


def test_an_orin_with_everything_has_no_fault(probes: dict[str, Probe]) -> None:
    names = found(probes["jetpack6-orin-nano"])
    assert {name for name, finding in names.items() if finding.state != "ok"} == {"throttling"}
    assert "27,390 × peak over-current" in names["throttling"].found
    assert names["power mode"].found == "MAXN_SUPER (id 2 here), 8 of 8 SMs"
    assert names["clocks"].found == "GPU locked at 1020 MHz"
    assert names["temperature"].found == "tj 49.6 °C"


@pytest.mark.parametrize(
    ("name", "finding", "words", "mend"),
    [
        ("jetpack4-nano", "jetpack", "no JetPack after 4", "use an Orin"),
        ("jetpack4-nano", "tensorrt", "8.2.1, by trtexec: too old", "use an Orin"),
        ("jetpack5-agx-orin", "jetpack", "its TensorRT 8.5.2 is too old", "install JetPack 6.2 or later"),
        ("jetpack5-agx-orin", "tensorrt", "8.5.2.2, by the module of Python 3.8.10: too old", "JetPack 6.2"),
    ],
)
def test_a_jetpack_with_tensorrt_8_is_refused_with_what_to_do(
    probes: dict[str, Probe], name: str, finding: str, words: str, mend: str
) -> None:
    refused = found(probes[name])[finding]
    assert refused.is_fault
    assert words in refused.found
    assert mend in refused.mend


def test_jetpack_6_0_is_refused_and_6_1_is_not(probes: dict[str, Probe]) -> None:
    probe = probes["jetpack6-orin-nano"]
    for revision, fault in (("3.0", True), ("4.0", False)):
        release = f"# R36 (release), REVISION: {revision}, GCID: 1"
        finding = found(replace(probe, files={**probe.files, "/etc/nv_tegra_release": release}))["jetpack"]
        assert finding.is_fault == fault


def test_a_power_mode_that_switches_sms_off_names_the_command_of_this_machine(probes: dict[str, Probe]) -> None:
    finding = found(probes["jetpack5-agx-orin"])["power mode"]
    assert (finding.state, finding.mend) == ("warning", "sudo nvpmodel -m 0  # MAXN")
    assert "8 of 16 SMs" in finding.found


def test_sms_are_known_by_the_configuration_file_where_nothing_else_says_them(probes: dict[str, Probe]) -> None:
    probe = probes["jetpack5-agx-orin"]
    files = {path: text for path, text in probe.files.items() if not path.endswith("tpc_pg_mask")}
    assert host_facts(replace(probe, files=files)).sm_count == 8
    del files["/etc/nvpmodel.conf"]
    assert host_facts(replace(probe, files=files)).sm_count is None
    shown = "GPU MinFreq=1 MaxFreq=2 CurrentFreq=1\nActive GPU TPCs: 4\n"
    clocks = {"jetson_clocks --show": CommandAnswer(0, shown, "")}
    assert host_facts(replace(probe, files=files, commands={**probe.commands, **clocks})).sm_count == 8


def test_the_power_mode_is_known_without_nvpmodel(probes: dict[str, Probe]) -> None:
    probe = probes["jetpack6-orin-nano"]
    commands = {name: answer for name, answer in probe.commands.items() if name != "nvpmodel -q"}
    assert host_facts(replace(probe, commands=commands)).power_mode == PowerMode("MAXN_SUPER", 2, 240)


def test_clocks_that_are_not_locked_are_warned_of(probes: dict[str, Probe]) -> None:
    finding = found(probes["jetpack7-thor"])["clocks"]
    assert (finding.state, finding.mend) == ("warning", "sudo jetson_clocks")
    assert finding.found == "GPU from 315 to 1575 MHz, not locked: latencies will scatter"


def test_a_python_that_is_not_jetpacks_own_is_told_which_one_is(probes: dict[str, Probe]) -> None:
    probe = probes["jetpack6-orin-nano"]
    commands = {name: answer for name, answer in probe.commands.items() if not name.startswith("trtexec")}
    finding = found(replace(probe, commands=commands), python="3.12.1", packages={})["tensorrt"]
    assert finding.is_fault
    assert finding.found == "10.3.0.30, by its Debian package, but neither its module nor trtexec can be used"
    assert finding.mend.startswith("set the target's Python to /usr/bin/python3.10")
    assert "apt install" in found(replace(probe, commands=commands), packages={})["tensorrt"].mend


def test_a_module_and_a_trtexec_of_two_versions_are_warned_of(probes: dict[str, Probe]) -> None:
    finding = found(probes["jetpack6-orin-nano"], packages={"tensorrt": "10.7.0"})["tensorrt"]
    assert finding.state == "warning"
    assert "but trtexec is 10.3.0" in finding.found


def test_a_tensorrt_of_a_later_major_version_is_missing(probes: dict[str, Probe]) -> None:
    finding = found(probes["jetpack6-orin-nano"], packages={"tensorrt": "12.0.1"})["tensorrt"]
    assert (finding.state, "newer than edgevit's engines" in finding.found) == ("missing", True)
    assert "install TensorRT 11" in finding.mend


def test_little_room_is_named_with_what_frees_it(probes: dict[str, Probe]) -> None:
    names = found(probes["jetpack6-orin-nano"], disk_free_bytes=2**30, memory_free_bytes=2**30)
    assert (names["disk"].state, names["memory"].state) == ("missing", "warning")
    assert "2 GiB" in names["disk"].mend
    unknown = found(probes["jetpack6-orin-nano"], disk_free_bytes=None, memory_bytes=None)
    assert not {"disk", "memory"} & unknown.keys()


def test_a_hot_board_and_one_that_throttles_are_warned_of(probes: dict[str, Probe]) -> None:
    probe = probes["jetpack6-orin-nano"]
    hot = {path: text.replace("49593", "91000") for path, text in probe.files.items()}
    hot["/sys/class/devfreq/17000000.gpu/cur_freq"] = "624750000\n"
    names = found(replace(probe, files=hot))
    assert names["temperature"].found == "tj 91.0 °C: a run may throttle"
    assert names["throttling"].found == "now: GPU at 625 MHz"


@pytest.mark.parametrize(
    ("python", "machine", "libc", "has_wheel"),
    [
        ("3.10.12", "aarch64", "glibc 2.35", True),
        ("3.13.5", "x86_64", "glibc 2.41", True),
        ("3.7.3", "aarch64", "glibc 2.28", False),
        ("3.11.2", "armv7l", "glibc 2.36", False),
        ("3.12.1", "x86_64", "", False),  # musl
        ("3.8.10", "aarch64", "glibc 2.24", False),
    ],
)
def test_whether_onnx_runtime_has_wheels(
    probes: dict[str, Probe], python: str, machine: str, libc: str, has_wheel: bool
) -> None:
    probe = probes["raspberry-pi-5"]
    assert has_onnxruntime_wheel(replace(probe.system, python=python, machine=machine, libc=libc)) == has_wheel
    assert found(probe, python=python, machine=machine, libc=libc)["onnxruntime"].is_fault != has_wheel


def test_releases_of_jetson_linux_have_their_jetpack() -> None:
    known = {"32.7.1": "4.6.1", "35.4.1": "5.1", "36.3.0": "6.0", "36.4.0": "6.1", "36.4.3": "6.2", "36.4.7": "6.2.1"}
    known |= {"36.5.0": "6.2.2", "38.2.2": "7.0", "38.4.0": "7.1", "39.2.1": "7.2"}
    assert {l4t: jetpack_of(l4t).version for l4t in known} == known
    assert jetpack_of("40.1") is None
    assert jetpack_of(None) is None
    for row in JETPACKS:
        assert row.is_supported == (version_numbers(row.tensorrt) >= (10, 3))


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("v8502", "8.5.2"),
        ("v8201", "8.2.1"),
        ("v100300", "10.3.0"),
        ("v101602", "10.16.2"),
        ("v110401", "11.4.1"),
        ("v1", None),
    ],
)
def test_the_banner_of_trtexec(probes: dict[str, Probe], banner: str, version: str | None) -> None:
    answer = CommandAnswer(0, f"&&&& RUNNING TensorRT.trtexec [TensorRT {banner}] # trtexec --help\n", "")
    assert trtexec_version(replace(probes["raspberry-pi-5"], commands={"trtexec --help": answer})) == version


def test_facts_are_json(probes: dict[str, Probe]) -> None:
    for name, probe in probes.items():
        values = json.loads(json.dumps(facts_json(host_facts(probe)), allow_nan=False))
        assert values["kind"] == ("linux" if name == "raspberry-pi-5" else "jetson")
    values = facts_json(host_facts(probes["jetpack6-orin-nano"]))
    assert values["telemetry"]["time"] == "2026-04-19T01:31:10"
    assert values["power_mode"] == {"name": "MAXN_SUPER", "id": 2, "tpc_pg_mask": 240}


def test_every_gap_has_a_sentence_on_one_line(probes: dict[str, Probe]) -> None:
    for probe in probes.values():
        for finding in found(probe).values():
            assert finding.found
            assert "\n" not in finding.found + finding.mend
            if finding.is_fault:
                assert finding.mend


_ODD = ("240", "-1", "NV Power Mode: ", '{"cuda": 1}', "[" * 50_000, "nvidia,tegra")
_TEXT = st.text(max_size=60) | st.sampled_from(_ODD)


@settings(max_examples=60)
@given(st.data())
def test_a_probe_of_any_content_gives_facts_and_findings(probes: dict[str, Probe], data: st.DataObject) -> None:
    probe = probes[data.draw(st.sampled_from(sorted(probes)))]
    paths = st.sampled_from(sorted({*probe.files, *PROBED_FILES}))
    names = st.sampled_from([command.name for command in PROBED_COMMANDS])
    answers = st.builds(CommandAnswer, st.none() | st.integers(-9, 255), _TEXT, _TEXT)
    damaged = replace(
        probe,
        files={**probe.files, **data.draw(st.dictionaries(paths, _TEXT, max_size=4))},
        commands={**probe.commands, **data.draw(st.dictionaries(names, answers, max_size=3))},
        system=replace(probe.system, python=data.draw(_TEXT), libc=data.draw(_TEXT)),
    )
    facts = host_facts(damaged)
    assert findings(facts)
    json.dumps(facts_json(facts), allow_nan=False)
    assert facts.sm_count is None or 0 <= facts.sm_count <= facts.board.sm_count


def test_what_another_runtime_needs_is_no_fault(probes: dict[str, Probe]) -> None:
    facts = host_facts(probes["jetpack5-agx-orin"])  # TensorRT 8.5.2, and a Python that ONNX Runtime has wheels for
    assert {finding.name for finding in findings(facts) if finding.is_fault} == {"jetpack", "tensorrt"}
    assert not [finding for finding in findings(facts, "onnxruntime") if finding.is_fault]
    nano = host_facts(probes["jetpack4-nano"])  # Python 3.6
    assert [finding.name for finding in findings(nano, "onnxruntime") if finding.is_fault] == ["onnxruntime"]
