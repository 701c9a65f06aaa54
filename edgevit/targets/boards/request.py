"""The files and commands that the agent reads on a machine. All of them read; none changes a setting.

Sources: NVIDIA's Jetson Linux Developer Guide (nvpmodel, jetson_clocks, tegrastats, over-current counters), the
nvpmodel.conf files of L4T 35 and 36, the kernel's documentation of devfreq, cpufreq and thermal zones.
"""

from __future__ import annotations

from edgevit.targets.agent.protocol import OWN_PYTHON
from edgevit.targets.boards.probe import ProbedCommand

NVPMODEL = ProbedCommand(("nvpmodel", "-q"))
"""The power mode: its name and its id. JetPack 4 and 5 may ask for root."""

JETSON_CLOCKS = ProbedCommand(("jetson_clocks", "--show"), timeout_s=10)
"""Clocks of CPU, GPU and memory, and the active TPCs. It answers root only."""

TEGRASTATS = ProbedCommand(("tegrastats", "--interval", "250"), timeout_s=1.5)
"""Some lines of telemetry. tegrastats runs until it is stopped, so the timeout ends it."""

NVIDIA_SMI = ProbedCommand(
    ("nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"), timeout_s=20
)
"""NVIDIA GPUs. On an Orin it is a stub: the name ends in `(nvgpu)` and the other fields are `[N/A]`."""

TRTEXEC_PLACES = ("/usr/src/tensorrt/bin/trtexec", "trtexec")
"""Where trtexec lies: the folder of the package libnvinfer-bin, then the PATH."""

TRTEXEC = tuple(ProbedCommand((place, "--help"), timeout_s=20) for place in TRTEXEC_PLACES)
"""The first line is a banner that names the version: `[TensorRT v100300]`. There is no `--version`."""

TENSORRT_MODULE = ProbedCommand(
    (
        OWN_PYTHON,
        "-c",
        "import sys; sys.path[:] = [p for p in sys.path if p]; import tensorrt, numpy, PIL.Image; "
        "print(tensorrt.__version__)",
    ),
    timeout_s=60,
)
"""The version of TensorRT's Python module, where it and the packages that the worker needs can be imported."""

DPKG_FORMAT = "${Package}\\t${Version}\\t${db:Status-Status}\\n"
DEBIAN_PACKAGES = (
    "nvidia-l4t-core",
    "nvidia-jetpack",
    "tensorrt",
    "libnvinfer-bin",
    "python3-libnvinfer",
    "libnvinfer8",
    "libnvinfer10",
    "libnvinfer11",
)
DPKG_QUERY = ProbedCommand(("dpkg-query", "--show", f"--showformat={DPKG_FORMAT}", *DEBIAN_PACKAGES), timeout_s=10)
"""Versions of NVIDIA's packages. It ends with status 1 where one of them is missing, and still prints the others."""

VCGENCMD = ProbedCommand(("vcgencmd", "get_throttled"))
"""Raspberry Pi: bits for low voltage, a capped clock and throttling, now and since the start."""

PROBED_COMMANDS: tuple[ProbedCommand, ...] = (
    NVPMODEL,
    JETSON_CLOCKS,
    TEGRASTATS,
    NVIDIA_SMI,
    *TRTEXEC,
    TENSORRT_MODULE,
    DPKG_QUERY,
    VCGENCMD,
)

WITHOUT_TELEMETRY = tuple(command for command in PROBED_COMMANDS if command is not TEGRASTATS)
"""The commands that end by themselves."""

STAND_IN = "/etc/edgevit-stand-in"
"""A file that is on no machine: the folder of a stand-in for a board has it. Latencies from there are replayed."""

_CPUFREQ = (
    "cpuinfo_cur_freq",  # measured by the hardware; root only
    "scaling_cur_freq",  # the clock that was asked for, which can differ from the measured one
    "scaling_min_freq",
    "scaling_max_freq",
    "scaling_governor",
)

PROBED_FILES: tuple[str, ...] = (
    "/proc/device-tree/model",
    "/proc/device-tree/compatible",
    "/proc/cpuinfo",
    "/proc/loadavg",
    "/etc/os-release",
    STAND_IN,
    "/etc/nv_tegra_release",
    "/etc/nvpmodel.conf",
    "/var/lib/nvpmodel/status",
    "/usr/local/cuda/version.json",
    "/usr/local/cuda/version.txt",  # up to CUDA 11.0
    # The GPU is 57000000.gpu (Nano), 17000000.{gp10b,gv11b,ga10b} (to JetPack 5), 17000000.gpu (6), gpu-gpc-0 (Thor).
    *(f"/sys/class/devfreq/*/{name}" for name in ("min_freq", "max_freq", "cur_freq", "governor")),
    "/sys/devices/gpu.0/tpc_pg_mask",  # to JetPack 5
    "/sys/devices/platform/gpu.0/tpc_pg_mask",  # from JetPack 6
    *(f"/sys/devices/system/cpu/cpufreq/policy{n}/{name}" for n in ("[0-9]", "1[0-9]") for name in _CPUFREQ),
    "/sys/devices/system/cpu/online",
    "/sys/class/thermal/thermal_zone*/type",
    "/sys/class/thermal/thermal_zone*/temp",
    "/sys/class/hwmon/hwmon*/name",
    "/sys/class/hwmon/hwmon*/oc[1-3]_event_cnt",
)
"""Glob patterns of the files. A file that is missing, or that this user may not read, is absent from the answer."""
