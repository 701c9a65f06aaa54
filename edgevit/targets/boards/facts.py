"""What a probe says about a machine: board, software, power mode, clocks, temperatures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from edgevit.errors import shortened
from edgevit.targets.boards.clocks import Clock, cpu_clocks, cpu_governors, gpu_clocks, whole_number
from edgevit.targets.boards.heat import Throttling, junction, temperatures_c, throttling
from edgevit.targets.boards.jetson_clocks import clocks_of_answer
from edgevit.targets.boards.nvpmodel import (
    PowerMode,
    plain_name,
    power_mode_of_answer,
    power_mode_of_status,
    power_modes_of_conf,
)
from edgevit.targets.boards.probe import Probe, System
from edgevit.targets.boards.request import (
    DPKG_QUERY,
    JETSON_CLOCKS,
    NVIDIA_SMI,
    NVPMODEL,
    STAND_IN,
    TEGRASTATS,
    TRTEXEC,
)
from edgevit.targets.boards.table import SOCS, Board, Soc, active_sm_count, board_of
from edgevit.targets.boards.tegrastats import TegrastatsSample, samples_of_output
from edgevit.targets.boards.versions import (
    TensorRT,
    TensorRTModule,
    cuda_version,
    full_tensorrt_version,
    has_onnxruntime_wheel,
    jetpack_version,
    l4t_version,
    tensorrt_module,
    tensorrt_of,
    trtexec_place,
    trtexec_version,
)

COMPATIBLE = "/proc/device-tree/compatible"


@dataclass(frozen=True)
class HostFacts:
    """A machine, in one moment. None and empty values are facts that it does not say.

    Attributes:
        kind: a Jetson, or any other Linux machine.
        model: the name that the firmware gives the machine; empty on most PCs.
        module: the module's number, such as p3767-0005: the SKU.
        board: the module's row in the table; None for an unknown module.
        soc: the chip's row in the table.
        processor: the CPU's name.
        system: processor, Python, memory, disk, packages: as the machine's Python says.
        os_name: such as Ubuntu 22.04.5 LTS.
        l4t: the release of Jetson Linux, such as 36.4.3.
        jetpack: such as 6.2.
        tensorrt: its version, and what named it.
        tensorrt_module: the Python module, as the target's Python imports it.
        trtexec: the path or name by which trtexec runs.
        trtexec_tensorrt: the TensorRT of trtexec.
        tensorrt_full: the TensorRT of trtexec, or of the module without trtexec, with all numbers that the machine
            tells, such as 10.3.0.30.
        cuda: the version of /usr/local/cuda.
        gpus: the GPUs that nvidia-smi names, where it is no stub.
        compute_capability: of the GPU, such as 8.7: that of the chip in the table, else nvidia-smi's of the first GPU.
        driver: the version of NVIDIA's driver, by nvidia-smi, where it is no stub. On an Orin it is part of L4T.
        power_mode: the Jetson's power mode.
        power_modes: the modes that the machine knows.
        sm_count: SMs of the GPU that the power mode leaves on.
        gpu_clocks, cpu_clocks, memory_clock: the memory's is known to root only.
        cpu_governors: the names of the CPU's governors.
        clocks_locked: whether the GPU's clock has one value only; on a machine that is no Jetson, the CPU's.
        temperatures_c: zone → °C.
        junction: the zone to watch.
        throttling: events since the start.
        has_onnxruntime_wheel: whether PyPI has ONNX Runtime for this Python, processor and C library.
        telemetry: one line of tegrastats.
        is_stand_in: whether programs play the machine. Its latencies are replayed, not measured.
        silent: programs that did not answer in time, so that a fact is not known.
    """

    kind: Literal["jetson", "linux"]
    model: str
    module: str | None
    board: Board | None
    soc: Soc | None
    processor: str
    system: System
    os_name: str
    l4t: str | None
    jetpack: str | None
    tensorrt: TensorRT | None
    tensorrt_module: TensorRTModule
    trtexec: str | None
    trtexec_tensorrt: str | None
    tensorrt_full: str | None
    cuda: str | None
    gpus: tuple[str, ...]
    compute_capability: str | None
    driver: str | None
    power_mode: PowerMode | None
    power_modes: tuple[PowerMode, ...]
    sm_count: int | None
    gpu_clocks: tuple[Clock, ...]
    cpu_clocks: tuple[Clock, ...]
    memory_clock: Clock | None
    cpu_governors: tuple[str, ...]
    clocks_locked: bool | None
    temperatures_c: Mapping[str, float]
    junction: str | None
    throttling: Throttling | None
    has_onnxruntime_wheel: bool
    telemetry: TegrastatsSample | None
    is_stand_in: bool
    silent: tuple[str, ...]

    @property
    def label(self) -> Literal["measured", "replayed"]:
        """The label of times from this machine."""
        return "replayed" if self.is_stand_in else "measured"

    @property
    def has_nvidia_gpu(self) -> bool:
        """Whether there is an NVIDIA GPU. Every Jetson has one, also where nvidia-smi is a stub."""
        return self.kind == "jetson" or bool(self.gpus)

    @property
    def is_nvidia_smi_silent(self) -> bool:
        """Whether nvidia-smi has not answered in time, so that the GPUs are not known."""
        return NVIDIA_SMI.arguments[0] in self.silent

    @property
    def are_clocks_steady(self) -> bool:
        """Whether the clocks are locked; on a machine that is no Jetson, the governor `performance` does."""
        return bool(self.clocks_locked) or (self.kind == "linux" and self.cpu_governors == ("performance",))


def host_facts(probe: Probe) -> HostFacts:
    """The facts in a probe. Text that cannot be read gives None: a probe of any content gives facts."""
    files, system = probe.files, probe.system
    module, board = module_and_board(files)
    is_jetson = _is_jetson(files)
    shown = clocks_of_answer(_stdout(probe, JETSON_CLOCKS.name))
    modes = power_modes_of_conf(files.get("/etc/nvpmodel.conf", ""))
    mode = _power_mode(probe, modes)
    gpu = gpu_clocks(files) or (shown.gpu if shown else ())
    cpu = cpu_clocks(files)
    temperatures = temperatures_c(files)
    soc = _soc(files, board)
    devices = _gpus(probe)
    samples = samples_of_output(_stdout(probe, TEGRASTATS.name))
    return HostFacts(
        kind="jetson" if is_jetson else "linux",
        model=_text(files, "/proc/device-tree/model"),
        module=module,
        board=board,
        soc=soc,
        processor=_processor(files) or system.machine,
        system=system,
        os_name=_os_name(files),
        l4t=l4t_version(probe),
        jetpack=jetpack_version(probe),
        tensorrt=tensorrt_of(probe),
        tensorrt_module=tensorrt_module(probe),
        trtexec=trtexec_place(probe),
        trtexec_tensorrt=trtexec_version(probe),
        tensorrt_full=full_tensorrt_version(probe),
        cuda=cuda_version(probe),
        gpus=tuple(device.name for device in devices),
        compute_capability=soc.compute_capability if soc else devices[0].compute_capability if devices else None,
        driver=devices[0].driver if devices else None,
        power_mode=mode,
        power_modes=modes,
        sm_count=_sm_count(board, mode, _tpc_pg_mask(files), shown.active_tpcs if shown else None),
        gpu_clocks=gpu,
        cpu_clocks=cpu,
        memory_clock=shown.memory if shown else None,
        cpu_governors=cpu_governors(files),
        clocks_locked=_are_locked(gpu if is_jetson else cpu),
        temperatures_c=temperatures,
        junction=junction(temperatures),
        throttling=throttling(probe),
        has_onnxruntime_wheel=has_onnxruntime_wheel(system),
        telemetry=samples[-1] if samples else None,
        is_stand_in=STAND_IN in files,
        silent=_silent(probe, mode),
    )


def facts_json(facts: HostFacts) -> dict[str, Any]:
    """The facts as JSON values. A time is text in ISO 8601."""
    values = asdict(facts)
    if facts.telemetry and facts.telemetry.time:
        values["telemetry"]["time"] = facts.telemetry.time.isoformat()
    return values


def is_full_power(name: str) -> bool:
    """Whether a power mode lifts every limit of the module: MAXN and MAXN_SUPER."""
    return plain_name(name) in ("MAXN", "MAXN_SUPER")


def _is_jetson(files: Mapping[str, str]) -> bool:
    return "/etc/nv_tegra_release" in files or any(name.startswith("tegra") for name in _compatible(files))


def module_and_board(files: Mapping[str, str]) -> tuple[str | None, Board | None]:
    """The number of the module, and its board, among the files of a machine. None where they are not known.

    The device tree has entries such as `nvidia,p3768-0000+p3767-0005-super`: carrier board, module, and kind of tree.
    """
    modules = re.findall(r"p\d{4}-\d{4}", " ".join(_compatible(files)), re.ASCII)
    return board_of(modules) or (modules[-1] if modules else None, None)


def _soc(files: Mapping[str, str], board: Board | None) -> Soc | None:
    names = [board.soc] if board else _compatible(files)
    return next((SOCS[name] for name in names if name in SOCS), None)


def _compatible(files: Mapping[str, str]) -> list[str]:
    """The names of /proc/device-tree/compatible without their maker, which NUL characters separate."""
    entries = files.get(COMPATIBLE, "").split("\0")
    return [entry.strip().rpartition(",")[2] for entry in entries if entry.strip()]


def _processor(files: Mapping[str, str]) -> str:
    """`model name` of /proc/cpuinfo: PCs and 32-bit ARM have it. 64-bit ARM names no model."""
    name = re.search(r"^model name\s*:\s*(\S.{0,200})$", files.get("/proc/cpuinfo", ""), re.MULTILINE)
    return name[1].strip() if name else ""


def _os_name(files: Mapping[str, str]) -> str:
    name = re.search(r'^PRETTY_NAME="?([^"\n]{1,200})"?$', files.get("/etc/os-release", ""), re.MULTILINE)
    return name[1] if name else ""


class _Gpu(NamedTuple):
    """A GPU as nvidia-smi lists it."""

    name: str
    driver: str
    compute_capability: str | None


def _gpus(probe: Probe) -> list[_Gpu]:
    """The GPUs of nvidia-smi. On an Orin it is a stub, which names `Orin (nvgpu)` and knows nothing of it."""
    answer = probe.commands.get(NVIDIA_SMI.name)
    if answer is None or answer.status != 0:
        return []
    rows = ([shortened(part.strip()) for part in f"{line},,".split(",")[:3]] for line in answer.stdout.splitlines())
    return [
        _Gpu(name, driver, compute if re.fullmatch(r"\d{1,3}\.\d{1,3}", compute, re.ASCII) else None)
        for name, driver, compute in rows
        if name and not name.endswith("(nvgpu)")
    ]


def _silent(probe: Probe, mode: PowerMode | None) -> tuple[str, ...]:
    """The programs whose answers are a part of what the machine is. tegrastats never ends, and is none of them."""
    asked = (JETSON_CLOCKS, NVIDIA_SMI, DPKG_QUERY, *TRTEXEC, *(() if mode else (NVPMODEL,)))
    answers = {command.arguments[0]: probe.commands.get(command.name) for command in asked}
    return tuple(name for name, answer in answers.items() if answer and answer.status is None)


def _power_mode(probe: Probe, modes: tuple[PowerMode, ...]) -> PowerMode | None:
    """The mode by nvpmodel's answer, else by its status file; with the mask of its entry among `modes`."""
    mode = power_mode_of_answer(_stdout(probe, NVPMODEL.name))
    if mode is None:
        return power_mode_of_status(probe.files.get("/var/lib/nvpmodel/status", ""), modes)
    entry = next((entry for entry in modes if plain_name(entry.name) == plain_name(mode.name)), None)
    return replace(mode, tpc_pg_mask=entry.tpc_pg_mask) if entry else mode


def _tpc_pg_mask(files: Mapping[str, str]) -> int | None:
    folders = ("/sys/devices/platform/gpu.0", "/sys/devices/gpu.0")
    masks = (whole_number(files.get(f"{folder}/tpc_pg_mask", "")) for folder in folders)
    return next((mask for mask in masks if mask is not None and mask >= 0), None)


def _sm_count(board: Board | None, mode: PowerMode | None, mask: int | None, active_tpcs: int | None) -> int | None:
    """By the kernel's mask, else by jetson_clocks, else by the power mode."""
    if board is None:
        return None
    soc = SOCS[board.soc]
    if soc.tpcs == 0:
        return board.sm_count
    if mask is None and active_tpcs is not None:
        return min(board.sm_count, 2 * active_tpcs)
    known_mask = mode.tpc_pg_mask if mask is None and mode else mask
    if soc.tpcs and known_mask is not None:
        return active_sm_count(soc, board.sm_count, known_mask)
    return board.sm_count if mode and is_full_power(mode.name) else None


def _are_locked(clocks: tuple[Clock, ...]) -> bool | None:
    return all(clock.is_locked for clock in clocks) if clocks else None


def _text(files: Mapping[str, str], path: str) -> str:
    """A file of the device tree, whose text ends in NUL."""
    return shortened(" ".join(files.get(path, "").strip("\0").split()))


def _stdout(probe: Probe, name: str) -> str:
    answer = probe.commands.get(name)
    return answer.stdout if answer else ""
