"""The contents of stand-in boards.

Lines of tegrastats are recorded, from the sources that ../shared/reference/device_logs names. The rest is composed, of
the forms that the same boards print: nothing here is a dump of one board.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.targets.standin.trtexec.settings import TrtexecSettings

# NVIDIA's table of the ONNX operators that a parser takes. Its newest column, 10.1, stands for 10.3.
OPERATORS = (str(Path(__file__).parents[3] / "edgevit" / "checking" / "tensorrt_operators.csv"), "tensorrt_10.1")
NO_ROOT = "Error: Run this script(/usr/bin/jetson_clocks) as a root user\n"


@dataclass(frozen=True)
class Standin:
    """One board.

    Attributes:
        files: absolute path → text.
        answers: program → the text that it prints, whatever its options.
        tegrastats: lines that it prints without end; empty: there is no tegrastats.
        python: the Python that the board has.
        module: the version of its `tensorrt` module; None: not there.
        trtexec: what its trtexec is; None: it only answers --help, with its entry in `answers`.
        loaded: the line that it prints while a timing takes its time; empty: the lines of `tegrastats`.
        counter: a file whose number rises with each line of tegrastats; None: no number rises.
    """

    files: dict[str, str]
    answers: dict[str, str]
    tegrastats: tuple[str, ...] = ()
    python: str = "3.10.12"
    module: str | None = None
    machine: str = "aarch64"
    libc: str = "glibc 2.35"
    memory_gib: float = 7.4
    packages: dict[str, str] = field(default_factory=dict)
    trtexec: TrtexecSettings | None = None
    counter: str | None = None
    loaded: str = ""


def heating(standin: Standin, step_c: float = 1.0, lines: int = 200) -> Standin:
    """The board, each of whose lines of tegrastats is warmer than the last one."""
    (line,) = standin.tegrastats
    return replace(standin, tegrastats=tuple(_warmer(line, step_c * number) for number in range(lines)))


def throttling(standin: Standin, slowed_mhz: int = 612) -> Standin:
    """The board, whose GPU has a lower clock in every second line, while a counter of over-current rises."""
    (line,) = standin.tegrastats
    counters = [path for path in standin.files if path.endswith("oc3_event_cnt")]
    slowed = re.sub(r"GR3D_FREQ (\d*%?)@\[\d+", rf"GR3D_FREQ \1@[{slowed_mhz}", line)
    assert slowed != line
    return replace(standin, tegrastats=(line, slowed), counter=counters[0])


def working(standin: Standin, power_mw: int = 12_479) -> Standin:
    """The board, whose module takes more power while a model is timed; recorded in the same log."""
    (line,) = standin.tegrastats
    return replace(standin, loaded=re.sub(r"VDD_IN \d+mW/\d+mW", f"VDD_IN {power_mw}mW/{power_mw}mW", line))


def _warmer(line: str, degrees: float) -> str:
    """The line with higher temperatures. A sensor that is switched off stays so."""
    return re.sub(r"@(\d[\d.]*)C", lambda found: f"@{float(found[1]) + degrees:.3f}C", line)


def _compatible(*names: str) -> str:
    return "".join(f"{name}\0" for name in names)


def _devfreq(name: str, low: int, high: int, now: int) -> dict[str, str]:
    folder = f"/sys/class/devfreq/{name}"
    return {
        f"{folder}/min_freq": f"{low}\n",
        f"{folder}/max_freq": f"{high}\n",
        f"{folder}/cur_freq": f"{now}\n",
        f"{folder}/governor": "nvhost_podgov\n",
    }


def _cpufreq(cluster: int, low: int, high: int, asked: int, measured: int | None) -> dict[str, str]:
    folder = f"/sys/devices/system/cpu/cpufreq/policy{cluster}"
    files = {
        f"{folder}/scaling_min_freq": f"{low}\n",
        f"{folder}/scaling_max_freq": f"{high}\n",
        f"{folder}/scaling_cur_freq": f"{asked}\n",
        f"{folder}/scaling_governor": "schedutil\n",
    }
    return files if measured is None else {**files, f"{folder}/cpuinfo_cur_freq": f"{measured}\n"}


def _zones(**milli: int | str) -> dict[str, str]:
    files = {}
    for number, (name, temperature) in enumerate(milli.items()):
        folder = f"/sys/class/thermal/thermal_zone{number}"
        files[f"{folder}/type"] = f"{name.replace('_', '-')}\n"
        files[f"{folder}/temp"] = f"{temperature}\n"
    return files


def _over_current(hwmon: int, *counts: int) -> dict[str, str]:
    folder = f"/sys/class/hwmon/hwmon{hwmon}"
    events = {f"{folder}/oc{number}_event_cnt": f"{count}\n" for number, count in enumerate(counts, 1)}
    return {f"{folder}/name": "soctherm_oc\n", **events}


def _mode(number: int, name: str, mask: int | None) -> str:
    gating = "" if mask is None else f"TPC_POWER_GATING TPC_PG_MASK {mask}\n"
    return f"< POWER_MODEL ID={number} NAME={name} >\nCPU_ONLINE CORE_0 1\n{gating}GPU MAX_FREQ -1\n\n"


def _conf(*modes: str) -> str:
    """The shape of nvpmodel.conf: its header names power models too, and its definitions name the mask."""
    header = "# < POWER_MODEL ID=id_num NAME=mode_name >\n"
    definition = "< PARAM TYPE=FILE NAME=TPC_POWER_GATING >\nTPC_PG_MASK /sys/devices/gpu.0/tpc_pg_mask\n\n"
    return f"{header}{definition}{''.join(modes)}# the default\n< PM_CONFIG DEFAULT=0 >\n"


def _release(major: int, revision: str) -> str:
    return f"# R{major} (release), REVISION: {revision}, GCID: 1, BOARD: generic, EABI: aarch64, DATE: of a stand-in\n"


def _packages(**versions: str) -> str:
    return "".join(f"{name.replace('_', '-')}\t{version}\tinstalled\n" for name, version in versions.items())


def _trtexec(title: str) -> str:
    return f"&&&& RUNNING TensorRT.trtexec {title} # trtexec --help\n=== Model Options ===\n"


TRTEXEC = {
    "jetpack6-orin-nano": TrtexecSettings((10, 3, 0), "", 236, "Orin", "8.7", 8, 7607, 20, OPERATORS),
    "jetpack7-agx-orin": TrtexecSettings((10, 16, 2), "b10", 241, "Orin", "8.7", 16, 62817, 24),
    "jetpack7-agx-orin-tensorrt11": TrtexecSettings((11, 4, 1), "b101", 243, "Orin", "8.7", 16, 62817, 24),
    "jetpack7-thor": TrtexecSettings((10, 13, 3), "b9", 240, "NVIDIA Thor", "11.0", 20, 125772, 23),
}


STANDINS = {
    "jetpack4-nano": Standin(
        files={
            "/proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
            "/proc/device-tree/compatible": _compatible("nvidia,p3450-0000", "nvidia,jetson-nano", "nvidia,tegra210"),
            "/etc/nv_tegra_release": _release(32, "7.1"),
            "/etc/os-release": 'PRETTY_NAME="Ubuntu 18.04.6 LTS"\n',
            "/usr/local/cuda/version.txt": "CUDA Version 10.2.300\n",
            **_devfreq("57000000.gpu", 76_800_000, 921_600_000, 76_800_000),
            **_zones(AO_therm=27500, CPU_therm=23500, GPU_therm=22500, PMIC_Die=100000),
        },
        answers={
            "nvpmodel": "NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN\n0\n",
            "jetson_clocks": NO_ROOT,
            "trtexec": _trtexec("[TensorRT v8201]"),
            "dpkg-query": _packages(nvidia_l4t_core="32.7.1-20220219090432", libnvinfer8="8.2.1-1+cuda10.2"),
        },
        tegrastats=(
            "RAM 331/3964MB (lfb 758x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) "
            "CPU [1%@102,0%@102,2%@102,0%@102] EMC_FREQ 3%@204 GR3D_FREQ 0%@76 APE 25 PLL@20.5C CPU@23.5C PMIC@100C "
            "GPU@22.5C AO@27.5C thermal@23C POM_5V_IN 933/933 POM_5V_GPU 0/0 POM_5V_CPU 84/105",
        ),
        python="3.6.9",
        libc="glibc 2.27",
        memory_gib=3.9,
    ),
    "jetpack5-agx-orin": Standin(
        files={
            "/proc/device-tree/model": "Jetson AGX Orin\0",
            "/proc/device-tree/compatible": _compatible("nvidia,p3737-0000+p3701-0000", "nvidia,tegra234"),
            "/etc/nv_tegra_release": _release(35, "4.1"),
            "/etc/os-release": 'PRETTY_NAME="Ubuntu 20.04.6 LTS"\n',
            "/etc/nvpmodel.conf": _conf(_mode(0, "MAXN", 0), _mode(1, "MODE_15W", 248), _mode(2, "MODE_30W", 240)),
            "/usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "11.4.19"}}',
            "/sys/devices/gpu.0/tpc_pg_mask": "240\n",
            **_devfreq("17000000.ga10b", 306_000_000, 612_000_000, 306_000_000),
            **_zones(CPU_therm=41437, GPU_therm=-256000, CV0_therm=-256000, tj_therm=41656),
            **_over_current(2, 0, 0, 0),
        },
        answers={
            "nvpmodel": "NV Power Mode: MODE_30W\n2\n",
            "jetson_clocks": NO_ROOT,
            "trtexec": _trtexec("[TensorRT v8502]"),
            "dpkg-query": _packages(nvidia_l4t_core="35.4.1-20230801124926", nvidia_jetpack="5.1.2-b104"),
        },
        tegrastats=(
            "01-03-2023 16:07:54 RAM 2257/30536MB (lfb 5392x4MB) SWAP 0/15268MB (cached 0MB) "
            "CPU [0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729] EMC_FREQ 0%@204 "
            "GR3D_FREQ 0%@0 GR3D2_FREQ 0%@0 NVJPG1 729 VIC_FREQ 115 APE 233 CV0@-256C CPU@41.437C Tboard@29C "
            "SOC2@39.062C Tdiode@30.75C SOC0@39.031C CV1@-256C GPU@-256C tj@41.656C SOC1@38.937C CV2@-256C "
            "VDD_GPU_SOC 2390mW/2390mW VDD_CPU_CV 796mW/796mW VIN_SYS_5V0 3522mW/3522mW NC 0mW/0mW "
            "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW",
        ),
        python="3.8.10",
        module="8.5.2.2",
        libc="glibc 2.31",
        memory_gib=29.8,
    ),
    "jetpack6-orin-nano": Standin(
        files={
            "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
            "/proc/device-tree/compatible": _compatible(
                "nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"
            ),
            "/etc/nv_tegra_release": _release(36, "5.0"),
            "/etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
            "/etc/nvpmodel.conf": _conf(_mode(0, "15W", 240), _mode(1, "25W", 240), _mode(2, "MAXN_SUPER", 240)),
            "/var/lib/nvpmodel/status": "pmode:0002 fmode:cool\n",
            "/usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}',
            "/sys/devices/platform/gpu.0/tpc_pg_mask": "240\n",
            **_devfreq("17000000.gpu", 1_020_000_000, 1_020_000_000, 1_020_000_000),
            **_devfreq("15340000.vic", 115_200_000, 729_600_000, 115_200_000),
            **_cpufreq(0, 1_728_000, 1_728_000, 1_728_000, 1_728_000),
            **_zones(cpu_thermal=48906, gpu_thermal=49593, cv0_thermal=0, tj_thermal=49593),
            **_over_current(3, 0, 0, 27390),
        },
        answers={
            "nvpmodel": "NV Power Mode: MAXN_SUPER\n2\n",
            "jetson_clocks": (
                "SOC family:tegra234  Machine:NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\n"
                "Online CPUs: 0-5\n"
                "cpu0: Online=1 Governor=schedutil MinFreq=1728000 MaxFreq=1728000 CurrentFreq=1728000 "
                "IdleStates: WFI=0 c7=0 \n"
                "GPU MinFreq=1020000000 MaxFreq=1020000000 CurrentFreq=1020000000\n"
                "Active GPU TPCs: 4\n"
                "EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=3199000000 FreqOverride=1\n"
                "NV Power Mode: MAXN_SUPER\n"
            ),
            "trtexec": _trtexec(TRTEXEC["jetpack6-orin-nano"].title),
            "dpkg-query": _packages(nvidia_l4t_core="36.5.0-20260115194252", libnvinfer_bin="10.3.0.30-1+cuda12.5"),
            "nvidia-smi": "Orin (nvgpu), 540.4.0, [N/A]\n",
        },
        tegrastats=(
            "04-19-2026 01:31:10 RAM 519/7607MB (lfb 61x4MB) CPU [0%@1728,0%@1728,0%@1728,9%@1728,0%@1728,0%@1728] "
            "EMC_FREQ 0%@3199 GR3D_FREQ 0%@[1018] NVDEC off NVJPG off NVJPG1 off VIC off OFA off APE 200 cpu@48.906C "
            "soc2@47.656C soc0@48.093C gpu@49.593C tj@49.593C soc1@47.312C VDD_IN 5971mW/5971mW "
            "VDD_CPU_GPU_CV 1669mW/1669mW VDD_SOC 2308mW/2308mW",
        ),
        module="10.3.0",
        trtexec=TRTEXEC["jetpack6-orin-nano"],
    ),
    "jetpack7-agx-orin": Standin(
        files={
            "/proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
            "/proc/device-tree/compatible": _compatible("nvidia,p3737-0000+p3701-0005", "nvidia,tegra234"),
            "/etc/nv_tegra_release": _release(39, "2.0"),
            "/etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\n',
            "/etc/nvpmodel.conf": _conf(_mode(0, "MAXN", 0), _mode(1, "MODE_15W", 248), _mode(2, "MODE_30W", 240)),
            "/usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "13.2.0"}}',
            **_devfreq("17000000.gpu", 306_000_000, 1_300_500_000, 306_000_000),
            **_zones(cpu_thermal=52968, gpu_thermal=47625, tj_thermal=52968),
            **_over_current(4, 0, 0, 0),
        },
        answers={
            "nvpmodel": "NV Power Mode: MAXN\n0\n",
            "jetson_clocks": (
                "SOC family:tegra234  Machine:NVIDIA Jetson AGX Orin Developer Kit\nOnline CPUs: 0-11, Offline CPUs: \n"
                "cpu0:  Governor=schedutil MinFreq=729600 MaxFreq=2201600 CurrentFreq=2201600 IdleStates: WFI=1 c7=1 \n"
                "GPU MinFreq=306000000 MaxFreq=1300500000 CurrentFreq=306000000\nActive GPU TPCs: 8\n"
                "EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=3199000000\n"
            ),
            "trtexec": _trtexec(TRTEXEC["jetpack7-agx-orin"].title),
            "dpkg-query": _packages(nvidia_jetpack="7.2-b49", libnvinfer10="10.16.2.10-1+cuda13.2"),
        },
        tegrastats=(
            "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201,4%@2201,14%@2201,30%@2201,"
            "18%@2201,10%@2201,10%@2201,33%@2201,7%@2201,5%@2201,27%@2201] EMC_FREQ 3%@3199 GR3D_FREQ 12%@[1300,1300] "
            "NVENC0 off NVDEC0 off NVJPG0 off NVJPG1 off VIC off OFA off NVDLA0 off NVDLA1 off PVA0_FREQ off APE 174 "
            "cpu@52.968C/52.968C soc2@48.406C/48.406C soc0@49.531C/49.531C gpu@47.625C/47.625C "
            "VDD_GPU_SOC 5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/3268mW/3268mW VIN_SYS_5V0 5500mW/5500mW/5500mW",
        ),
        python="3.12.3",
        libc="glibc 2.39",
        memory_gib=61.3,
        trtexec=TRTEXEC["jetpack7-agx-orin"],
    ),
    "jetpack7-thor": Standin(
        files={
            "/proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
            "/proc/device-tree/compatible": _compatible(
                "nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"
            ),
            "/etc/nv_tegra_release": _release(38, "4.0"),
            "/etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\n',
            "/etc/nvpmodel.conf": _conf(_mode(0, "MAXN", None), _mode(1, "120W", None)),
            "/usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "13.0.0"}}',
            **_devfreq("gpu-gpc-0", 315_000_000, 1_575_000_000, 315_000_000),
            **_devfreq("gpu-nvd-0", 1_692_000_000, 1_692_000_000, 1_692_000_000),
            **_cpufreq(0, 972_000, 2_601_000, 2_601_000, 242_000),
            **_zones(cpu_thermal=37343, tj_thermal=38875, gpu_thermal=38875),
            **_over_current(5, 0, 0, 179),
        },
        answers={
            "nvpmodel": "NV Power Mode: 120W\n1\n",
            "jetson_clocks": NO_ROOT,
            "trtexec": _trtexec(TRTEXEC["jetpack7-thor"].title),
            "dpkg-query": _packages(nvidia_l4t_core="38.4.0-20251230160601"),
            "nvidia-smi": "NVIDIA Thor, 580.00, 11.0\n",
        },
        tegrastats=(
            "04-21-2026 15:50:52 RAM 105265/125772MB (lfb 34x4MB) CPU [0%@972,0%@972,0%@972,0%@972,0%@972,0%@972,"
            "1%@972,0%@972,0%@972,0%@972,0%@972,8%@972,0%@972,0%@972] EMC_FREQ 0%@2750 GR3D_FREQ @[314,314,314] "
            "NVENC0_FREQ @314 NVENC1_FREQ @314 NVDEC0_FREQ @314 NVDEC1_FREQ @314 NVJPG0_FREQ @314 VIC off "
            "OFA_FREQ @315 PVA0_FREQ off APE 300 cpu@37.343C tj@38.875C soc012@37.468C gpu@38.875C soc345@37.406C "
            "VDD_GPU 1962mW/1962mW VDD_CPU_SOC_MSS 5887mW/5887mW VIN_SYS_5V0 5635mW/5635mW VIN 19780mW/19780mW",
        ),
        python="3.12.3",
        module="10.13.3.9",
        libc="glibc 2.39",
        memory_gib=122.8,
        trtexec=TRTEXEC["jetpack7-thor"],
    ),
    "raspberry-pi-5": Standin(
        files={
            "/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.1\0",
            "/proc/device-tree/compatible": _compatible("raspberrypi,5-model-b", "brcm,bcm2712"),
            "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
            **_cpufreq(0, 1_500_000, 2_400_000, 1_500_000, None),
            **_zones(cpu_thermal=48800),
        },
        answers={"vcgencmd": "throttled=0x50000\n"},
        python="3.13.5",
        libc="glibc 2.41",
        memory_gib=7.9,
    ),
}
STANDINS["jetpack7-agx-orin-tensorrt11"] = replace(
    STANDINS["jetpack7-agx-orin"],
    answers={
        **STANDINS["jetpack7-agx-orin"].answers,
        "trtexec": _trtexec(TRTEXEC["jetpack7-agx-orin-tensorrt11"].title),
        "dpkg-query": _packages(nvidia_jetpack="7.2.2-b10", libnvinfer11="11.4.1.10-1+cuda13.2"),
    },
    trtexec=TRTEXEC["jetpack7-agx-orin-tensorrt11"],
)
