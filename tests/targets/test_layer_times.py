"""trtexec's file of --exportProfile: recorded, and mutated; the options that ask for it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.errors import TargetError
from edgevit.profiling import MeasurePlan
from edgevit.targets.boards.versions import TENSORRT_RELEASES, TensorRTRelease
from edgevit.targets.trtexec.answers import layer_times_in
from edgevit.targets.trtexec.commands import Input, profile_arguments
from tests.targets.standin.trtexec.flags import flags_of

RECORDED = Path(__file__).parents[3] / "shared/reference/device_logs/trtexec_export_profile_trt8_a100.json.txt"
# The beginning of that file, closed.
PROFILE = b"""[
  { "count" : 1 }
, { "name" : "Reformatting CopyNode for Input Tensor 0 to Conv_0 + Relu_1", "timeMs" : 0.080896, "averageMs" : 0.080896, "medianMs" : 0.080896, "percentage" : 7.95569 }
, { "name" : "Conv_0 + Relu_1", "timeMs" : 0.111616, "averageMs" : 0.111616, "medianMs" : 0.111616, "percentage" : 10.9768 }
, { "name" : "Reformatting CopyNode for Input Tensor 0 to Conv_5 + Add_6 + Relu_7", "timeMs" : 0, "averageMs" : 0, "medianMs" : 0, "percentage" : 0 }
]
"""  # noqa: E501


def test_the_recorded_file() -> None:
    layers, runs = layer_times_in(PROFILE, "orin")
    assert runs == 1
    assert [layer.median_ms for layer in layers] == [0.080896, 0.111616, 0]
    assert layers[1].name == "Conv_0 + Relu_1"


@pytest.mark.skipif(not RECORDED.is_file(), reason="needs ../shared/reference/device_logs")
def test_each_recorded_line() -> None:
    lines = [line for line in RECORDED.read_bytes().splitlines() if line.endswith(b"}")]  # the last one is cut off
    layers, _ = layer_times_in(b"\n".join([b"[", *lines, b"]"]), "orin")
    assert len(layers) == len(lines) - 1
    assert sum(layer.median_ms for layer in layers) > 0.3


@given(st.data())
def test_mutated_files_are_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(PROFILE)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(TargetError):
        layers, runs = layer_times_in(bytes(content), "orin")
        assert runs >= 1
        assert all(layer.median_ms >= 0 for layer in layers)


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b'[{"count": 1}]', b'[{"count": 0}, {}]', PROFILE.replace(b"0.111616", b"-1")]
)
def test_what_is_no_profile_is_refused(content: bytes) -> None:
    with pytest.raises(TargetError, match="cannot be read"):
        layer_times_in(content, "orin")


@pytest.mark.parametrize("release", TENSORRT_RELEASES, ids=lambda release: release.name)
def test_each_release_knows_the_options(release: TensorRTRelease) -> None:
    arguments = profile_arguments(release, Input("image", (3, 32, 32)), MeasurePlan(batch_size=4), is_open=True)
    assert {argument.partition("=")[0] for argument in arguments} <= flags_of(release.version)
    assert "--exportProfile=profile.json" in arguments
    assert ("--separateProfileRun" in arguments) == (release.version < (11,))
