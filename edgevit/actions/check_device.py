"""`edgevit devices check`: what is on a target, and what is missing there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgevit.configs.runtimes import ONNXRUNTIME, TENSORRT
from edgevit.configs.targets import LOCAL_GPU
from edgevit.findings import Finding
from edgevit.runtimes.onnxruntime.cuda_provider import INSTALL_CUDA_PROVIDER, has_cuda_provider
from edgevit.targets.asked import asked
from edgevit.targets.boards import HostFacts, findings, host_facts
from edgevit.targets.named import NamedTarget
from edgevit.targets.probing import probed
from edgevit.targets.reach import reached
from edgevit.targets.tensorrt_tools import way_to_tools


@dataclass(frozen=True)
class CheckedDevice:
    """A target as it was found.

    Attributes:
        facts: what its agent read.
        findings: what was looked at, each gap with the command that mends it.
    """

    name: str
    facts: HostFacts
    findings: tuple[Finding, ...]


def check_device(target: NamedTarget) -> CheckedDevice:
    """Connect to a target and look at what is there.

    Raises:
        TargetError: the target cannot be reached, or its answer cannot be read.
    """
    with reached(target) as session:
        facts = host_facts(probed(session))
    if target.config is None:
        return CheckedDevice(target.name, facts, tuple(_of_local(target.name, facts)))
    looked_at = findings(facts, target.config.runtime)
    return CheckedDevice(target.name, facts, (*looked_at, *asked(target.config, facts)))


def _of_local(name: str, facts: HostFacts) -> Iterator[Finding]:
    """What was looked at on this machine. The target local-gpu needs a GPU.

    It needs TensorRT for engines alone, and the CUDA provider of ONNX Runtime for ONNX files alone.
    """
    if name != LOCAL_GPU:
        yield from findings(facts)
        return
    for finding in findings(facts, TENSORRT.name if facts.has_nvidia_gpu else None):
        if finding.name == "gpu" and finding.state == "absent":
            yield Finding("gpu", "missing", finding.found, "install NVIDIA's driver, or use local-cpu")
        elif finding.name == "gpu" and len(set(facts.gpus)) > 1:
            yield Finding("gpu", "broken", f"{finding.found}: of several kinds", "use local-cpu, or another machine")
        elif finding.name == "gpu" and finding.state == "warning":
            yield replace(finding, state="broken")
        elif finding.name == "tensorrt" and finding.state == "missing":
            mend = finding.mend if facts.tensorrt else way_to_tools(facts)
            yield replace(finding, state="absent", mend=mend)
        else:
            yield finding
    if facts.has_nvidia_gpu:
        yield _cuda_provider()


def _cuda_provider() -> Finding:
    name = "cuda provider"
    if has_cuda_provider():
        return Finding(name, "ok", f"{ONNXRUNTIME.title} has it")
    return Finding(name, "absent", f"the installed {ONNXRUNTIME.title} has none", INSTALL_CUDA_PROVIDER)
