"""The sampler: runs a program, and reads the state of the machine until the program has ended.

It needs Python 3.8 or later and the standard library alone. edgevit starts
`python -B sampler.py IDLE_S PROCESSOR PROGRAM ARGUMENT...`. Where the machine tells power, the program starts after
SETTLE_S and IDLE_S seconds in which the machine is read at rest; not if IDLE_S is 0. PROCESSOR is what runs the model,
cpu or gpu: the driver of a GPU is asked for its energy only if it works.
The program has the sampler's folder, stdin, stdout and stderr, and its exit status becomes the sampler's. Both are in
one process group, which ends as a whole. After the program, telemetry.json holds

    seconds         how long the program ran
    sampler_cpu_s   processor time of sampling and of tegrastats
    fixed           path → text of files that do not change, read once
    paths           the files that are read again and again
    samples         [time, processor time of the program and of the sampler in ticks, [text or null of each path]]
    lines           [time, a line of tegrastats]; empty where there is no tegrastats
    denied          energy counters that are there and cannot be read
    is_virtual      whether the machine is virtual, as far as its processors tell
    written         time of the last change of each file that the program wrote
    idle            the machine at rest before the program, with all entries but `written`; null without

Times are in seconds from the start of the program. The number and the length of samples and lines are limited: of a
long run, every second, fourth, ... sample is kept, and all of its last minute, as what is counted ends a run.
"""

from __future__ import annotations

import collections
import ctypes
import glob
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from typing import Any

INTERVAL_S = 0.25  # chosen: four samples a second tell clocks and heat, and cost little
MOST_SAMPLES = 2_000  # of a whole run, and as many lines
LATEST = 240  # samples that are kept beside them, and lines
MOST_FILES = 200
MOST_POLICIES = 32  # groups of cores whose clocks are read
LONGEST_TEXT = 512  # bytes of a file
LONGEST_LINE = 4_096  # bytes of a line of tegrastats
MOST_CHILDREN = 20  # of a process
END_S = 2.0  # for tegrastats to end
SETTLE_S = 1.0  # at rest, before idle power is measured. Chosen
TELEMETRY = "telemetry.json"
ROOT = "EDGEVIT_ROOT"  # a variable of a stand-in for a machine: the folder below which its files lie
MORE_PROGRAMS = ("/usr/local/sbin", "/usr/sbin", "/sbin")

# Energy counters of the CPU's packages and memory (RAPL). Those of intel-rapl-mmio count the same energy again.
ENERGY = ("/sys/class/powercap/intel-rapl:*/energy_uj",)
GPU_ENERGY = "nvml/{}/energy_mj"  # no file: the counter of an NVIDIA GPU
# What makes a timing invalid comes first: files beyond MOST_FILES are left out.
FIXED = (
    "/sys/class/hwmon/hwmon*/name",
    "/sys/class/hwmon/hwmon*/in[1-3]_label",
    "/sys/class/powercap/intel-rapl:*/name",
    "/sys/class/powercap/intel-rapl:*/max_energy_range_uj",
    "/sys/class/thermal/thermal_zone*/type",
    "/sys/class/devfreq/*/min_freq",
    "/sys/class/devfreq/*/max_freq",
    "/sys/devices/system/cpu/cpufreq/policy*/scaling_min_freq",
    "/sys/devices/system/cpu/cpufreq/policy*/scaling_max_freq",
)
SAMPLED = (
    "/proc/stat",
    "/sys/class/hwmon/hwmon*/oc[1-3]_event_cnt",
    "/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count",
    "/sys/devices/platform/soc*/*firmware/get_throttled",  # Raspberry Pi
    *ENERGY,
)
CLOCKS = (
    "/sys/class/devfreq/*/cur_freq",
    "/sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq",
    "/sys/devices/system/cpu/cpufreq/policy*/cpuinfo_cur_freq",
)
# Where tegrastats runs, it has already read these sensors, each of which costs some time.
SAMPLED_WITHOUT_TEGRASTATS = ("/sys/class/thermal/thermal_zone*/temp",)
POWERS = ("/energy_uj", "/energy_mj", "/power1_input", "/curr1_input")  # ends of paths
RAILS = ("in[1-3]_input", "curr[1-3]_input", "power1_input")  # of power monitors whose name begins with `ina`


class Thinned:
    """A list of limited length, with the latest items. When it is full, every second one of the others goes.

    From then on, fewer items are added to the others.
    """

    def __init__(self) -> None:
        self._latest: collections.deque[Any] = collections.deque()
        self._earlier: list[Any] = []
        self._every, self._seen = 1, 0

    @property
    def items(self) -> list[Any]:
        """The items that are kept, in their order."""
        return [*self._earlier, *self._latest]

    def add(self, item: Any) -> None:
        """Add an item."""
        self._latest.append(item)
        if len(self._latest) <= LATEST:
            return
        earlier = self._latest.popleft()
        if self._seen % self._every == 0:
            self._earlier.append(earlier)
        self._seen += 1
        if len(self._earlier) > MOST_SAMPLES:
            del self._earlier[1::2]
            self._every *= 2


class NvidiaCounters:
    """The energy counters of the NVIDIA GPUs, in mJ since the driver was loaded; none where NVML tells none.

    Source: NVML API reference, nvmlDeviceGetTotalEnergyConsumption (Volta and later).
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._gpus: dict[str, Any] = {}  # by GPU_ENERGY
        count = ctypes.c_uint()
        try:
            if library.nvmlInit_v2() == 0 and library.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0:
                handles = {GPU_ENERGY.format(number): self._handle(number) for number in range(count.value)}
                self._gpus = {path: gpu for path, gpu in handles.items() if self._energy_mj(gpu) is not None}
        except AttributeError:  # an older driver has no such function
            pass

    @property
    def paths(self) -> list[str]:
        return list(self._gpus)

    def text(self, path: str) -> str | None:
        """The counter as a file would hold it; None if it cannot be read now."""
        energy_mj = self._energy_mj(self._gpus[path])
        return None if energy_mj is None else str(energy_mj)

    def _handle(self, number: int) -> Any:
        gpu = ctypes.c_void_p()
        self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(gpu))
        return gpu

    def _energy_mj(self, gpu: Any) -> int | None:
        energy_mj = ctypes.c_ulonglong()
        status = self._library.nvmlDeviceGetTotalEnergyConsumption(gpu, ctypes.byref(energy_mj))
        return energy_mj.value if status == 0 else None


class Sampler:
    """Reads files at equal intervals, and the lines of tegrastats as they come, in threads.

    Args:
        program: the process whose processor time is no load of others.
        root: the folder below which the machine's files lie; empty for this machine's own.
        processor: what runs the model, cpu or gpu.
    """

    def __init__(self, program: int, began: float, root: str, processor: str = "cpu") -> None:
        self._program, self._began = program, began
        self._root, self._is_over = root, threading.Event()
        self._samples, self._lines, self._adding = Thinned(), Thinned(), threading.Lock()
        self._cpu_s: list[float] = []  # of each sample, and of each line of tegrastats
        self._tegrastats = started_tegrastats()
        # A Jetson's NVML tells no energy, and the files of a stand-in are not those of this machine.
        asks_driver = processor == "gpu" and self._tegrastats is None and not root
        self._gpus = nvidia_counters() if asks_driver else None
        self._paths = [*self._sampled(), *(self._gpus.paths if self._gpus else ())]
        self._fixed = {path: text for path in self._matching(FIXED) for text in [self._text(path)] if text is not None}
        self._threads = [threading.Thread(target=self._watch, daemon=True)]
        if self._tegrastats is not None:
            self._threads.append(threading.Thread(target=self._follow, daemon=True))
        self._sample()
        for thread in self._threads:
            thread.start()

    def ended(self) -> dict[str, Any]:
        """Stop sampling. Returns the content of telemetry.json, without `written`."""
        self._sample()  # within `seconds`, so that the time since the sample before it counts
        seconds = self._now()
        self._is_over.set()
        watching_ticks = sum(map(ticks_of, self._watching()))
        if self._tegrastats is not None:
            self._tegrastats.kill()
        for thread in self._threads:
            thread.join(END_S)
        if self._tegrastats is not None:
            self._tegrastats.wait()
        return {
            "seconds": seconds,
            "sampler_cpu_s": sum(self._cpu_s) + watching_ticks / os.sysconf("SC_CLK_TCK"),
            "fixed": self._fixed,
            "paths": self._paths,
            "samples": self._samples.items,
            "lines": self._lines.items,
            "denied": [path for path in self._matching(ENERGY) if self._text(path) is None],
            "is_virtual": self._is_virtual(),
        }

    @property
    def reads_power(self) -> bool:
        """Whether some power or energy is read."""
        return self._tegrastats is not None or any(path.endswith(POWERS) for path in self._paths)

    def written(self) -> dict[str, float]:
        """The time of the last change of each file in the current folder."""
        return {name: self._now() - age for name, age in ages_of_files().items()}

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _watch(self) -> None:
        while not self._is_over.wait(INTERVAL_S):
            self._sample()

    def _follow(self) -> None:
        assert self._tegrastats is not None
        assert self._tegrastats.stdout is not None
        while True:
            start_s = time.thread_time()
            line = self._tegrastats.stdout.readline(LONGEST_LINE)
            if not line or self._is_over.is_set():
                return
            self._lines.add([self._now(), line.decode("utf-8", "replace").rstrip("\n")])
            self._cpu_s.append(time.thread_time() - start_s)

    def _sample(self) -> None:
        start_s = time.thread_time()
        own = {self._program, *self._watching(), *family(os.getpid())}
        ticks = sum(map(ticks_of, own))
        sample = [self._now(), ticks, [self._text(path) for path in self._paths]]
        with self._adding:
            self._samples.add(sample)
        self._cpu_s.append(time.thread_time() - start_s)

    def _is_virtual(self) -> bool:
        try:
            with open(self._root + "/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
                return any(line.startswith("flags") and " hypervisor" in line for line in file)
        except OSError:
            return False

    def _watching(self) -> list[int]:
        return [] if self._tegrastats is None else [self._tegrastats.pid]

    def _sampled(self) -> list[str]:
        patterns = list(SAMPLED)
        if self._tegrastats is None:
            patterns += SAMPLED_WITHOUT_TEGRASTATS
            monitors = [path for path in self._matching(("/sys/class/hwmon/hwmon*/name",)) if self._is_power(path)]
            patterns += [os.path.join(os.path.dirname(path), name) for path in monitors for name in RAILS]
        return [path for path in self._matching([*patterns, *CLOCKS]) if self._text(path) is not None]

    def _is_power(self, name_file: str) -> bool:
        return (self._text(name_file) or "").startswith("ina")

    def _matching(self, patterns: Any) -> list[str]:
        """The files, without the root before them."""
        root = self._root
        found: list[str] = []
        for pattern in patterns:
            files = sorted(glob.glob(glob.escape(root) + pattern))
            found += files[:MOST_POLICIES] if "/policy" in pattern else files
        return [path[len(root) :] for path in found[:MOST_FILES]]

    def _text(self, path: str) -> str | None:
        """The beginning of a file, of which the first line counts; None if it cannot be read."""
        if self._gpus is not None and path in self._gpus.paths:
            return self._gpus.text(path)
        try:
            file = os.open(self._root + path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return os.read(file, LONGEST_TEXT).decode("utf-8", "replace").partition("\n")[0]
        except OSError:
            return None
        finally:
            os.close(file)


def at_rest(idle_s: float, root: str, processor: str = "cpu") -> dict[str, Any] | None:
    """The machine over `idle_s`, in which this process waits. None, at once, if it tells no power, or for 0 s."""
    if idle_s <= 0:
        return None
    sampler = Sampler(os.getpid(), time.monotonic(), root, processor)
    if sampler.reads_power:
        time.sleep(SETTLE_S + idle_s)
        return sampler.ended()
    sampler.ended()
    return None


def nvidia_counters() -> NvidiaCounters | None:
    """The energy counters of this machine's NVIDIA GPUs; None without a driver."""
    try:
        return NvidiaCounters(ctypes.CDLL("libnvidia-ml.so.1"))
    except OSError:
        return None


def started_tegrastats() -> subprocess.Popen[bytes] | None:
    """tegrastats, whose lines come through a pipe; None where there is none."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *MORE_PROGRAMS))
    program = shutil.which("tegrastats", path=path)
    if program is None:
        return None
    command = [program, "--interval", str(int(INTERVAL_S * 1000))]
    environment = {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"}
    try:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
    except OSError:
        return None


def family(process: int) -> list[int]:
    """A process and the processes that it and they have started, and that run; as far as the kernel tells."""
    children: list[int] = []
    for thread in glob.glob(f"/proc/{process}/task/*/children")[:MOST_FILES]:
        try:
            with open(thread, "rb") as file:
                children += [int(child) for child in file.read(LONGEST_LINE).split()]
        except (OSError, ValueError):
            continue
    return [process, *(other for child in children[:MOST_CHILDREN] for other in family(child))]


def ticks_of(process: int) -> int:
    """The processor time of a process and of its children that have ended; 0 if it is not there."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            fields = file.read(4_096).rpartition(b")")[2].split()
        return sum(map(int, fields[11:15]))
    except (OSError, ValueError):
        return 0


def ages_of_files() -> dict[str, float]:
    """Seconds since the last change of each plain file in the current folder."""
    now = time.time()
    ages: dict[str, float] = {}
    with os.scandir(".") as entries:
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(info.st_mode) and len(ages) < MOST_FILES:
                ages[entry.name] = now - info.st_mtime
    return ages


def end_like(status: int) -> None:
    """End with an exit status, or by the signal that has ended the program."""
    if status < 0:
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def main() -> None:
    """Run the program that the arguments name."""
    root, (idle_s, processor, *command) = os.environ.get(ROOT, ""), sys.argv[1:]
    idle, began = at_rest(float(idle_s), root, processor), time.monotonic()
    try:
        program = subprocess.Popen(command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")
    sampler = Sampler(program.pid, began, root, processor)
    status = program.wait()
    try:
        content = json.dumps({**sampler.ended(), "written": sampler.written(), "idle": idle})
        with open(TELEMETRY, "w", encoding="ascii") as file:
            file.write(content)
    except OSError as error:  # such as a full disk: the program's own files count
        print(f"edgevit-sampler: {error}", file=sys.stderr)
    end_like(status)


if __name__ == "__main__":
    main()
