"""A probe comes from another machine: its types and sizes are checked, whatever it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.errors import TargetError
from edgevit.targets.agent.protocol import LONGEST_TEXT, MOST_COMMANDS, MOST_FILES, MOST_TEXT
from edgevit.targets.boards import probe_from_json
from tests.targets.boards.reader import read
from tests.targets.standin import STANDINS, build


@pytest.fixture
def answer(tmp_path: Path) -> dict[str, Any]:
    standin = STANDINS["raspberry-pi-5"]
    return read(build(standin, tmp_path), standin)


def test_a_probe_keeps_what_was_read(answer: dict[str, Any]) -> None:
    probe = probe_from_json(json.loads(json.dumps(answer)), "pi")
    assert probe.files["/proc/device-tree/model"] == "Raspberry Pi 5 Model B Rev 1.1\0"
    assert probe.commands["vcgencmd get_throttled"].stdout == "throttled=0x50000\n"
    assert probe.commands["vcgencmd get_throttled"].status == 0
    assert probe.system.libc == "glibc 2.41"
    assert probe.system.is_root is False


def test_what_the_system_does_not_say_is_null(answer: dict[str, Any]) -> None:
    answer["system"].update(memory_bytes=None, memory_free_bytes=None, disk_free_bytes=None)
    assert probe_from_json(answer, "pi").system.memory_bytes is None


LARGE_FILES = MOST_TEXT // LONGEST_TEXT


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda a: a.pop("files"), "the probe"),
        (lambda a: a.update(more={}), "the probe"),
        (lambda a: a.update(files=[]), "files"),
        (lambda a: a["files"].update(x=1), "files: x"),
        (lambda a: a["files"].update(x="a" * (LONGEST_TEXT + 1)), "files: x"),
        (lambda a: a.update(files={str(n): "" for n in range(MOST_FILES + 1)}), "files"),
        (
            lambda a: a.update(files={str(n): "a" * LONGEST_TEXT for n in range(MOST_TEXT // LONGEST_TEXT + 1)}),
            "the probe",
        ),
        (lambda a: a.update(commands={str(n): {} for n in range(MOST_COMMANDS + 1)}), "commands"),
        (lambda a: a["commands"].update(x={"status": "0", "stdout": "", "stderr": ""}), "commands: x"),
        (lambda a: a["commands"].update(x={"status": True, "stdout": "", "stderr": ""}), "commands: x"),
        (lambda a: a["commands"].update(x={"status": 0, "stdout": None, "stderr": ""}), "commands: x"),
        (lambda a: a["system"].pop("cpus"), "system"),
        (lambda a: a["system"].update(cpus=0), "system.cpus"),
        (lambda a: a["system"].update(cpus=True), "system.cpus"),
        (lambda a: a["system"].update(cpus=None), "system.cpus"),
        (lambda a: a["system"].update(memory_bytes=-1), "system.memory_bytes"),
        (lambda a: a["system"].update(disk_free_bytes=1e9), "system.disk_free_bytes"),
        (lambda a: a["system"].update(is_root=1), "system.is_root"),
        (lambda a: a["system"].update(packages={"numpy": 1}), "system.packages"),
        (lambda a: a["system"].update(python="3" * 5000), "system.python"),
    ],
)
def test_a_wrong_type_or_size_is_named(answer: dict[str, Any], change: Any, place: str) -> None:
    change(answer)
    with pytest.raises(TargetError, match="is not a probe") as caught:
        probe_from_json(answer, "pi")
    assert caught.value.where == "pi"
    assert place in caught.value.what
    assert caught.value.expected
    assert len(str(caught.value)) < 1000


_KEYS = st.sampled_from(["files", "commands", "system", "status"]) | st.text(max_size=5)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=100)
@given(_JSON)
def test_no_answer_is_more_than_refused(value: Any) -> None:
    with pytest.raises(TargetError):
        probe_from_json(value, "board")
