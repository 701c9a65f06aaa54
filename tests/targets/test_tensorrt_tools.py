"""What uses TensorRT on a machine: of what is there, and of what targets.yaml asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgevit.configs.targets import MachineTarget, TensorrtChoice
from edgevit.errors import TargetError
from edgevit.targets.asked import asked
from edgevit.targets.boards import HostFacts, host_facts
from edgevit.targets.boards.versions import TensorRTModule
from edgevit.targets.tensorrt_tools import TensorrtTools, tools_of
from tests.targets.boards.reader import read_probe

TRTEXEC, MODULE = "10.3.0", "10.3.0.30"


@pytest.fixture(scope="module")
def orin(tmp_path_factory: pytest.TempPathFactory) -> HostFacts:
    return host_facts(read_probe("jetpack6-orin-nano", tmp_path_factory.mktemp("orin")))


def with_tools(facts: HostFacts, trtexec: str | None, module: str | None) -> HostFacts:
    has_module = TensorRTModule(module, "" if module else "No module named 'tensorrt'")
    place = None if trtexec is None else "trtexec"
    return replace(facts, trtexec=place, trtexec_tensorrt=trtexec, tensorrt_module=has_module)


@pytest.mark.parametrize(
    ("trtexec", "module", "choice", "expected"),
    [
        (TRTEXEC, MODULE, None, TensorrtTools(TRTEXEC, MODULE, "trtexec", True)),
        (TRTEXEC, None, None, TensorrtTools(TRTEXEC, MODULE, "trtexec", False)),
        (TRTEXEC, "10.13.3.9", None, TensorrtTools(TRTEXEC, MODULE, "trtexec", False)),
        (None, MODULE, None, TensorrtTools(MODULE, MODULE, None, True)),
        (TRTEXEC, MODULE, "trtexec", TensorrtTools(TRTEXEC, MODULE, "trtexec", False)),
        (TRTEXEC, MODULE, "python", TensorrtTools(MODULE, MODULE, None, True)),
        (TRTEXEC, "10.13.3.9", "python", TensorrtTools("10.13.3.9", "10.13.3.9", None, True)),
        ("8.5.2", "10.13.3.9", "python", TensorrtTools("10.13.3.9", "10.13.3.9", None, True)),
    ],
)
def test_what_is_there_is_used(
    trtexec: str | None, module: str | None, choice: TensorrtChoice | None, expected: Any, orin: HostFacts
) -> None:
    tools = tools_of(with_tools(orin, trtexec, module), choice, "orin")
    assert tools == expected
    assert tools.versions["tensorrt"] == expected.version
    assert tools.versions["tensorrt_full"] == expected.full_version
    assert ("tensorrt_by" in tools.versions) == (expected.trtexec is None)


@pytest.mark.parametrize(
    ("trtexec", "module", "choice", "next_step"),
    [
        (None, None, None, "sudo apt install libnvinfer-bin python3-libnvinfer"),
        (None, MODULE, "trtexec", "sudo apt install libnvinfer-bin"),
        (TRTEXEC, None, "python", "sudo apt install python3-libnvinfer"),
        ("8.5.2", MODULE, None, "install JetPack 6.2 or later on a Jetson, TensorRT 10.3 or later elsewhere"),
    ],
)
def test_what_is_not_there_is_an_error_with_the_next_step(
    trtexec: str | None, module: str | None, choice: TensorrtChoice | None, next_step: str, orin: HostFacts
) -> None:
    with pytest.raises(TargetError) as caught:
        tools_of(with_tools(orin, trtexec, module), choice, "orin")
    assert caught.value.next == next_step


def test_devices_check_names_what_is_asked_for_and_missing(orin: HostFacts) -> None:
    def gaps(choice: TensorrtChoice | None) -> list[str]:
        config = MachineTarget.model_validate({"host": "ssh://orin.local", "tensorrt": choice})
        return [finding.found for finding in asked(config, with_tools(orin, TRTEXEC, None))]

    assert gaps(None) == gaps("trtexec") == []
    assert gaps("python") == ["python in targets.yaml: no Python module: No module named 'tensorrt'"]
