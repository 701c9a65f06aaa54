"""What `edgevit devices check` says about a machine: each fact, whether it will do, and the command that mends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgevit.findings import Finding
from edgevit.targets.boards.facts import HostFacts, is_full_power
from edgevit.targets.boards.nvpmodel import PowerMode
from edgevit.targets.boards.table import SOCS, Board, active_sm_count
from edgevit.targets.boards.versions import (
    NEWEST_TENSORRT,
    OLDEST_TENSORRT,
    TENSORRT_RELEASES,
    TensorRT,
    jetpack_of,
    version_numbers,
)

DISK_WANTED_GIB = 2
MEMORY_WANTED_GIB = 2
PERFORMANCE = "sudo sh -c 'echo performance | tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor'"
HOT_C = 75
"""A Raspberry Pi throttles from 80 °C on, an Orin from 99 °C on: a run that starts above this may get there."""

_GIB = 2**30


def findings(facts: HostFacts, runtime: str | None = None) -> tuple[Finding, ...]:
    """One finding for each thing that a target needs, or that changes what is measured on it.

    Args:
        runtime: the runtime that the target is for; None for the one that suits the machine: TensorRT on a Jetson,
            ONNX Runtime elsewhere. What another runtime alone needs is no fault.
    """
    for_kind = _ON_JETSON if facts.kind == "jetson" else _ON_LINUX
    if facts.kind == "linux" and runtime == "tensorrt":
        for_kind = (*for_kind, _tensorrt, _trtexec, _tensorrt_module)
    looked_at = [finding for look in (*_ON_BOTH, *for_kind) if (finding := look(facts))]
    wanted = runtime or ("tensorrt" if facts.kind == "jetson" else "onnxruntime")
    return tuple(_as_asked(_as_needed(finding, wanted), runtime) for finding in looked_at)


_Look = Callable[[HostFacts], Finding | None]


def _machine(facts: HostFacts) -> Finding:
    if facts.system.system != "Linux":
        return Finding("machine", "broken", f"{facts.system.system}: targets are Linux machines")
    name = facts.model or facts.processor
    if facts.kind == "linux":
        return Finding("machine", "ok", f"{name}, {facts.system.machine}, {facts.os_name or facts.system.release}")
    if facts.board is None:
        found = f"{name}, module {facts.module or 'unknown'}: not in the table of boards"
        return Finding("machine", "warning", found, "its peaks and its total power are not known; latency is measured")
    chip = f"{facts.soc.name}, compute capability {facts.soc.compute_capability}" if facts.soc else "unknown chip"
    return Finding("machine", "ok", f"{name}: {facts.board.name} ({facts.module}), {chip}")


def _python(facts: HostFacts) -> Finding:
    return Finding("python", "ok", f"{facts.system.python} at {facts.system.executable}")


def _memory(facts: HostFacts) -> Finding | None:
    total, free = facts.system.memory_bytes, facts.system.memory_free_bytes
    if total is None or free is None:
        return None
    found = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if free >= MEMORY_WANTED_GIB * _GIB:
        return Finding("memory", "ok", found)
    mend = "stop other programs; sudo systemctl isolate multi-user.target stops the desktop"
    return Finding("memory", "warning", f"{found}: a build may run out of it", mend)


def _disk(facts: HostFacts) -> Finding | None:
    free, folder = facts.system.disk_free_bytes, facts.system.work_folder
    if free is None:
        return None
    found = f"{free / _GIB:.1f} GiB free at {folder}"
    if free >= DISK_WANTED_GIB * _GIB:
        return Finding("disk", "ok", found)
    mend = f"free {DISK_WANTED_GIB} GiB there, or give the target a work folder on another disk"
    return Finding("disk", "missing", found, mend)


def _temperature(facts: HostFacts) -> Finding:
    if facts.junction is None:
        return Finding("temperature", "absent", "no thermal zone can be read")
    degrees = facts.temperatures_c[facts.junction]
    found = f"{facts.junction} {degrees:.1f} °C"
    if degrees < HOT_C:
        return Finding("temperature", "ok", found)
    return Finding("temperature", "warning", f"{found}: a run may throttle", "let it cool, or check its fan")


def _throttling(facts: HostFacts) -> Finding | None:
    held = [f"GPU at {clock.current_mhz:.0f} MHz" for clock in facts.gpu_clocks if clock.is_below_range]
    if facts.throttling is None and not held:
        return None
    events = facts.throttling.events if facts.throttling else {}
    counted = [f"{count:,} × {cause}" if count > 1 else cause for cause, count in events.items() if count]
    now = [*held, *(facts.throttling.now if facts.throttling else ())]
    if now:
        return Finding("throttling", "warning", f"now: {', '.join(now)}", "check its power supply and its fan")
    if counted:
        found = f"since the start: {', '.join(counted)}"
        return Finding("throttling", "warning", found, "check its power supply; runs count new events")
    return Finding("throttling", "ok", "none since the start")


def _jetpack(facts: HostFacts) -> Finding:
    release = f"{facts.jetpack or 'unknown'} (L4T {facts.l4t or 'unknown'})"
    row = jetpack_of(facts.l4t)
    if last := _last_jetpack(facts):
        found = f"{release}: this board gets no JetPack after {last}, whose TensorRT is too old"
        return Finding("jetpack", "missing", found, _way_to_tensorrt(facts))
    if row is None:
        return Finding("jetpack", "warning", f"{release}: not in the table of releases")
    if not row.is_supported:
        found = f"{release}: its TensorRT {row.tensorrt} is too old"
        return Finding("jetpack", "missing", found, _way_to_tensorrt(facts))
    return Finding("jetpack", "ok", release)


def _tensorrt(facts: HostFacts) -> Finding:
    if facts.tensorrt is None:
        return Finding("tensorrt", "missing", "not installed", "sudo apt install tensorrt libnvinfer-bin")
    version = version_numbers(facts.tensorrt.version)
    found = f"{facts.tensorrt.version}, by {_source(facts.tensorrt, facts)}"
    if version < OLDEST_TENSORRT:
        return Finding("tensorrt", "missing", f"{found}: too old", _way_to_tensorrt(facts))
    if version[0] > NEWEST_TENSORRT:
        mend = f"install TensorRT {NEWEST_TENSORRT} there, or a newer edgevit here"
        return Finding("tensorrt", "missing", f"{found}: newer than edgevit's engines", mend)
    if facts.trtexec_tensorrt and version_numbers(facts.trtexec_tensorrt) != version[:3]:
        mend = "sudo apt install --reinstall libnvinfer-bin python3-libnvinfer"
        return Finding("tensorrt", "warning", f"{found}, but trtexec is {facts.trtexec_tensorrt}", mend)
    if version[:2] not in [release.version for release in TENSORRT_RELEASES]:
        known = ", ".join(release.name for release in TENSORRT_RELEASES)
        return Finding("tensorrt", "warning", f"{found}: edgevit knows {known}", "check its engines with care")
    if facts.tensorrt.source == "dpkg":
        mend = _python_with_tensorrt(facts) or "sudo apt install libnvinfer-bin python3-libnvinfer"
        return Finding("tensorrt", "missing", f"{found}, but neither its module nor trtexec can be used", mend)
    return Finding("tensorrt", "ok", found)


def _trtexec(facts: HostFacts) -> Finding:
    if facts.trtexec:
        return Finding("trtexec", "ok", f"{facts.trtexec_tensorrt or 'unknown version'} at {facts.trtexec}")
    found = "not installed" + (": the Python module builds and times" if facts.tensorrt_module.version else "")
    return Finding("trtexec", "absent", found, "sudo apt install libnvinfer-bin")


def _tensorrt_module(facts: HostFacts) -> Finding | None:
    """The Python module: with it, an evaluation loads an engine once."""
    module = facts.tensorrt_module
    if module.version:
        return Finding("tensorrt module", "ok", f"{module.version} in Python {facts.system.python}")
    if not module.problem:
        return None
    mend = _python_with_tensorrt(facts) or "sudo apt install python3-libnvinfer python3-numpy python3-pil"
    return Finding("tensorrt module", "absent", f"cannot be imported: {module.problem}", mend)


def _cuda(facts: HostFacts) -> Finding:
    if facts.cuda:
        return Finding("cuda", "ok", facts.cuda)
    return Finding("cuda", "absent", "no version in /usr/local/cuda")


def _power_mode(facts: HostFacts) -> Finding:
    if facts.power_mode is None:
        return Finding("power mode", "warning", "nvpmodel does not say", "sudo nvpmodel -q")
    number = "" if facts.power_mode.id is None else f" (id {facts.power_mode.id} here)"
    all_sms = facts.board.sm_count if facts.board else None
    found = f"{facts.power_mode.name}{number}, {_sms(facts.sm_count, all_sms)}"
    if facts.sm_count is None or all_sms is None or facts.sm_count == all_sms:
        return Finding("power mode", "ok", found)
    return Finding("power mode", "warning", f"{found}: it switches a part of the GPU off", _to_full_power(facts))


def _gpu_clocks(facts: HostFacts) -> Finding:
    if not facts.gpu_clocks:
        return Finding("clocks", "warning", "the GPU's clock cannot be read", "sudo jetson_clocks --show")
    first = facts.gpu_clocks[0]
    if facts.clocks_locked:
        return Finding("clocks", "ok", f"GPU locked at {first.max_mhz:.0f} MHz")
    found = f"GPU from {first.min_mhz:.0f} to {first.max_mhz:.0f} MHz, not locked: latencies will scatter"
    return Finding("clocks", "warning", found, "sudo jetson_clocks")


def _telemetry(facts: HostFacts) -> Finding:
    sample = facts.telemetry
    if sample is None:
        return Finding("telemetry", "warning", "no line of tegrastats can be read: no power, no energy")
    if not sample.rails:
        return Finding("telemetry", "warning", "tegrastats shows no power: no energy")
    load = "" if sample.gpu and sample.gpu.load_percent is not None else ", without the GPU's load"
    return Finding("telemetry", "ok", f"tegrastats: {len(sample.rails)} power rails{load}")


def _cpu_clocks(facts: HostFacts) -> Finding:
    if not facts.cpu_clocks:
        return Finding("clocks", "absent", "the system does not show the CPU's clock")
    low = min(clock.min_mhz for clock in facts.cpu_clocks)
    high = max(clock.max_mhz for clock in facts.cpu_clocks)
    governors = ", ".join(facts.cpu_governors) or "no governor"
    found = f"CPU from {low:.0f} to {high:.0f} MHz, {governors}"
    if facts.are_clocks_steady:
        return Finding("clocks", "ok", found)
    return Finding("clocks", "warning", f"{found}: latencies will scatter", PERFORMANCE)


def _onnxruntime(facts: HostFacts) -> Finding:
    if installed := facts.system.onnxruntime:
        return Finding("onnxruntime", "ok", " ".join(installed))
    if facts.has_onnxruntime_wheel:
        return Finding("onnxruntime", "ok", "not installed; edgevit brings it along")
    where = f"Python {facts.system.python} on {facts.system.machine} with {facts.system.libc or 'an unknown C library'}"
    mend = "give the target a Python from 3.8 to 3.14 on 64-bit x86 or ARM with glibc"
    return Finding("onnxruntime", "missing", f"no wheel for {where}", mend)


def _gpus(facts: HostFacts) -> Finding:
    if facts.gpus:
        return Finding("gpu", "ok", ", ".join(facts.gpus))
    if facts.is_nvidia_smi_silent:
        return Finding("gpu", "warning", "nvidia-smi does not answer in time", "run nvidia-smi by hand there")
    return Finding("gpu", "absent", "nvidia-smi names none")


_ON_BOTH: tuple[_Look, ...] = (_machine, _python, _memory, _disk, _onnxruntime, _temperature, _throttling)
_ON_JETSON: tuple[_Look, ...] = (
    _jetpack,
    _tensorrt,
    _trtexec,
    _tensorrt_module,
    _cuda,
    _power_mode,
    _gpu_clocks,
    _telemetry,
)
_ON_LINUX: tuple[_Look, ...] = (_cpu_clocks, _gpus)
_NEEDED_BY = {"jetpack": "tensorrt", "tensorrt": "tensorrt", "onnxruntime": "onnxruntime"}


def _as_needed(finding: Finding, runtime: str) -> Finding:
    """A finding whose fault is one for another runtime only counts as absent."""
    needed_by = _NEEDED_BY.get(finding.name, runtime)
    return replace(finding, state="absent") if finding.is_fault and needed_by != runtime else finding


def _as_asked(finding: Finding, runtime: str | None) -> Finding:
    """A finding of the runtime that the target was given: if it is absent, it is missing."""
    is_asked = finding.name == runtime and finding.state == "absent"
    return replace(finding, state="missing") if is_asked else finding


def _last_jetpack(facts: HostFacts) -> int | None:
    """The last JetPack of a board whose TensorRT stays too old; None for other boards."""
    return facts.soc.last_jetpack if facts.soc else None


def _way_to_tensorrt(facts: HostFacts) -> str:
    if facts.kind == "linux":
        return "install TensorRT 10 or later"
    if _last_jetpack(facts):
        return "use an Orin or a Thor, or ONNX Runtime on this board's CPU"
    return "install JetPack 6.2 or later"


def _source(tensorrt: TensorRT, facts: HostFacts) -> str:
    return {
        "module": f"the module of Python {facts.system.python}",
        "trtexec": "trtexec",
        "dpkg": "its Debian package",
    }[tensorrt.source]


def _python_with_tensorrt(facts: HostFacts) -> str | None:
    """The advice for a Python that is not JetPack's own, whose `tensorrt` module it cannot import."""
    row = jetpack_of(facts.l4t)
    own = version_numbers(facts.system.python)[:2]
    if row is None or version_numbers(row.python) == own:
        return None
    return f"set the target's Python to /usr/bin/python{row.python}, which JetPack's module is for"


def _sms(count: int | None, of: int | None) -> str:
    if count is None:
        return f"SMs not known, of {of}" if of else "SMs not known"
    return f"{count} of {of} SMs"


def _to_full_power(facts: HostFacts) -> str:
    whole = next((mode for mode in facts.power_modes if _keeps_all_on(mode, facts.board)), None)
    if whole is None:
        return "sudo nvpmodel -m ID, with the id of a mode that keeps the whole GPU on"
    return f"sudo nvpmodel -m {whole.id}  # {whole.name}"


def _keeps_all_on(mode: PowerMode, board: Board | None) -> bool:
    if board is None or mode.tpc_pg_mask is None:
        return is_full_power(mode.name)
    return active_sm_count(SOCS[board.soc], board.sm_count, mode.tpc_pg_mask) == board.sm_count
