"""trtexec's command lines by release, and its files and log lines: recorded, and mutated."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.errors import EdgevitError, TargetError
from edgevit.profiling import MeasurePlan
from edgevit.targets.boards.versions import TENSORRT_RELEASES, TensorRTRelease, tensorrt_release
from edgevit.targets.trtexec.answers import (
    BuildFacts,
    Failure,
    Times,
    build_facts_in,
    failure_in,
    largest_outputs,
    largest_times,
    outputs_in,
    times_in,
    version_in,
    warnings_in,
)
from edgevit.targets.trtexec.commands import (
    BatchProfile,
    Input,
    build_arguments,
    layers_arguments,
    outputs_arguments,
    timing_arguments,
)

RECORDED = Path(__file__).parents[3] / "shared" / "reference" / "device_logs"
IMAGE = Input("image", (3, 224, 224))
GONE_IN_11 = {"--fp16", "--int8", "--best", "--bf16", "--fp8", "--int4", "--calib"}
ONLY_IN_11 = {"--includeDataTransfers", "--noSpinWait", "--noCudaGraph"}

# Recorded: the ends of an A100's times file and of two logs. Their sources are named in device_logs.
TIMES = b"""[
  { "startEnqMs" : 2.67333, "endEnqMs" : 2.70722, "startH2dMs" : 2.57741, "endH2dMs" : 2.57741, "startComputeMs" : 2.57741, "endComputeMs" : 3.45088, "startD2hMs" : 3.45088, "endD2hMs" : 3.45088, "h2dMs" : 0, "computeMs" : 0.873472, "d2hMs" : 0, "latencyMs" : 0.873472 }
, { "startEnqMs" : 2.71417, "endEnqMs" : 2.72443, "startH2dMs" : 3.45702, "endH2dMs" : 3.45702, "startComputeMs" : 3.45702, "endComputeMs" : 4.30182, "startD2hMs" : 4.30182, "endD2hMs" : 4.30182, "h2dMs" : 0, "computeMs" : 0.8448, "d2hMs" : 0, "latencyMs" : 0.8448 }
]
"""  # noqa: E501
PASSED = (
    "[05/13/2025-10:36:46] [I] Total GPU Compute Time: 3.00249 s\n"
    "&&&& PASSED TensorRT.trtexec [TensorRT v100300] # /usr/src/tensorrt/bin/trtexec --onnx=ResNet50.onnx --fp16\n"
)
UNSTABLE = (
    "[07/28/2022-15:58:53] [I] Total GPU Compute Time: 3.02554 s\n"
    "[07/28/2022-15:58:53] [W] * GPU compute time is unstable, with coefficient of variance = 1.61678%.\n"
    "[07/28/2022-15:58:53] [W]   If not already in use, locking GPU clock frequency may improve the stability.\n"
)
# Composed, by the texts in the sources of trtexec and of the ONNX parser.
REFUSED_NODE = (
    '[11/29/2026-10:00:00] [E] [TRT] ModelImporter.cpp:948: While parsing node number 12 [Gelu -> "/act/Gelu_out"]:\n'
    "[11/29/2026-10:00:00] [E] [TRT] ModelImporter.cpp:950: --- Begin node ---\n"
    'input: "x"\noutput: "/act/Gelu_out"\nname: "/blocks.0/mlp/act/Gelu"\nop_type: "Gelu"\n\n'
    "[11/29/2026-10:00:00] [E] [TRT] ModelImporter.cpp:951: --- End node ---\n"
    "[11/29/2026-10:00:00] [E] [TRT] ModelImporter.cpp:953: ERROR: onnxOpCheckers.cpp:781 In function checkFallback:\n"
    "[11/29/2026-10:00:00] [E] Failed to parse onnx file\n"
)
UNBUILT = (
    "[11/29/2026-10:00:00] [E] Error[10]: IBuilder::buildSerializedNetwork: Error Code 10: Internal Error "
    "(Could not find any implementation for node {ForeignNode[/norm/Mul.../head/Gemm]}.)\n"
    "[11/29/2026-10:00:00] [E] Engine could not be created from network\n"
)
NO_MEMORY = "[11/29/2026-10:00:00] [E] Error[2]: [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)\n"  # noqa: E501
OTHER_VERSION = (
    "[11/29/2026-10:00:00] [E] Error[6]: The engine plan file is not compatible with this version of TensorRT, "
    "expecting library version 10.3.0.30 got 10.13.3.9, please rebuild.\n"
)


def some_times_in(content: bytes, where: object) -> Times:
    return times_in(content, 1, where)


def test_a_release_is_the_newest_that_is_not_newer_than_the_board() -> None:
    names = {version: tensorrt_release(version).name for version in ("10.3.0", "10.7.0", "10.13.3", "10.16.2", "11.4")}
    assert names == {"10.3.0": "10.3", "10.7.0": "10.3", "10.13.3": "10.13", "10.16.2": "10.16", "11.4": "11.4"}
    assert tensorrt_release("11.1.0").name == "11.4"
    assert tensorrt_release("11.9").name == "11.4"


@pytest.mark.parametrize("version", ["8.6.2", "8.5.2", "10.1.0", "unknown"])
def test_an_old_release_is_refused_with_what_to_do(version: str) -> None:
    with pytest.raises(TargetError, match="too old") as caught:
        tensorrt_release(version)
    assert "JetPack 6.2" in str(caught.value.next)


@pytest.mark.parametrize("version", ["12.0", "12.1.0.7", "100.3"])
def test_a_major_version_that_is_not_in_the_table_is_refused(version: str) -> None:
    with pytest.raises(TargetError, match="newer than") as caught:
        tensorrt_release(version)
    assert (caught.value.expected, "TensorRT 11" in str(caught.value.next)) == ("TensorRT 10.3 to 11", True)


@pytest.mark.parametrize("release", TENSORRT_RELEASES, ids=lambda release: release.name)
def test_each_release_gets_the_flags_that_it_has(release: TensorRTRelease) -> None:
    lines = [
        build_arguments(release, IMAGE, BatchProfile(1, 32), 3, 512),
        build_arguments(release, IMAGE, BatchProfile(1, 32), 3, 512, MeasurePlan(), has_timing_cache=True),
        build_arguments(release.for_version_compatible(), IMAGE, None, 3, None, MeasurePlan()),
        layers_arguments(release, IMAGE, 8, True),
        outputs_arguments(release, IMAGE, 8, True),
        timing_arguments(release, IMAGE, MeasurePlan(), True),
    ]
    flags = {argument.partition("=")[0] for line in lines for argument in line}
    is_11 = release.version[0] == 11
    assert not flags & GONE_IN_11
    assert bool(flags & ONLY_IN_11) == is_11
    assert ("--stronglyTyped" in flags) != is_11
    assert not flags & {"--noDataTransfers", "--useCudaGraph"}  # inputs are copied, and no graph is used, in each


def test_the_build_line() -> None:
    open_batch = build_arguments(TENSORRT_RELEASES[0], IMAGE, BatchProfile(4, 32), 5, 512)
    assert open_batch == (
        "--onnx=model.onnx",
        "--saveEngine=model.engine",
        "--skipInference",
        "--stronglyTyped",
        "--noTF32",
        "--profilingVerbosity=detailed",
        "--builderOptimizationLevel=5",
        "--memPoolSize=workspace:512",
        "--minShapes=image:1x3x224x224",
        "--optShapes=image:4x3x224x224",
        "--maxShapes=image:32x3x224x224",
    )
    fixed = build_arguments(TENSORRT_RELEASES[0], IMAGE, None, 3, None)
    assert not [argument for argument in fixed if "Shapes" in argument or "workspace" in argument]


def test_a_build_that_is_timed_gives_each_option_once() -> None:
    """trtexec refuses an option that is given twice."""
    release = TENSORRT_RELEASES[0].for_version_compatible()
    plan = MeasurePlan(0.2, 1.0, 20, batch_size=4)
    line = build_arguments(release, IMAGE, BatchProfile(4, 32), 3, None, plan, has_timing_cache=True)
    assert len({argument.partition("=")[0] for argument in line}) == len(line)
    assert {"--exportTimes=times.json", "--iterations=24", "--warmUp=200", "--duration=1"} < set(line)
    assert {"--versionCompatible", "--timingCacheFile=timing.cache", "--useSpinWait"} < set(line)
    assert "--skipInference" not in line
    assert "--versionCompatible" in outputs_arguments(release, IMAGE, 8, True)


# From public logs of trtexec 10, and of the builder of TensorRT 8.6 to 10.
BUILT = """
[04/08/2025-23:15:47] [I] [TRT] Engine generation completed in 104.604 seconds.
[TRT] [MemUsageStats] Peak memory usage of TRT CPU/GPU memory allocators: CPU 64 MiB, GPU 1392 MiB
[04/08/2025-23:15:47] [I] Engine built in 104.774 sec.
[04/08/2025-23:15:47] [I] Created engine with size: 231.019 MiB
"""


def test_a_build_tells_its_time_and_its_memory() -> None:
    assert build_facts_in(BUILT) == BuildFacts(104.774, 1392, 64)
    assert build_facts_in(BUILT.replace("GPU 1392", "GPU 9") + BUILT).peak_gpu_mib == 1392
    assert build_facts_in("Engine built in nan sec.\n") == BuildFacts(None, None, None)


def test_the_run_lines() -> None:
    assert layers_arguments(TENSORRT_RELEASES[0], IMAGE, 8, True) == (
        "--loadEngine=model.engine",
        "--shapes=image:8x3x224x224",
        "--useSpinWait",
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=layers.json",
        "--iterations=1",
        "--warmUp=0",
        "--duration=0",
    )
    assert outputs_arguments(TENSORRT_RELEASES[0], IMAGE, 8, True) == (
        "--loadEngine=model.engine",
        "--shapes=image:8x3x224x224",
        "--loadInputs=image:input.raw",
        "--useSpinWait",
        "--exportOutput=outputs.json",
        "--iterations=1",
        "--warmUp=0",
        "--duration=0",
    )
    plan = MeasurePlan(warmup_s=0.25, duration_s=1.5, min_runs=7, batch_size=2)
    timed = timing_arguments(TENSORRT_RELEASES[-1], IMAGE, plan, False)
    assert timed[0] == "--loadEngine=model.engine"
    assert timed[-3:] == ("--iterations=11", "--warmUp=250", "--duration=1.5")
    assert "--shapes" not in " ".join(timed)


@pytest.mark.parametrize("name", ["input:0", "a,b", "a b", ""])
def test_a_name_that_would_be_split_is_refused(name: str) -> None:
    with pytest.raises(TargetError, match="name of the model's input"):
        outputs_arguments(TENSORRT_RELEASES[0], Input(name, (3, 8, 8)), 1, False)


def test_versions_and_warnings_of_a_log() -> None:
    assert version_in(PASSED) == "10.3.0"
    assert version_in(PASSED.replace("v100300", "v101602")) == "10.16.2"
    assert version_in("&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec") is None
    assert warnings_in(PASSED) == ()
    assert warnings_in(UNSTABLE)[0] == "* GPU compute time is unstable, with coefficient of variance = 1.61678%."


def test_times_are_read_apart_from_copies() -> None:
    times = times_in(TIMES, 2, "board")
    assert times.compute.tolist() == [0.873472, 0.8448]
    assert times.to_gpu.tolist() == times.to_host.tolist() == [0, 0]
    assert times.enqueue.tolist() == pytest.approx([2.70722 - 2.67333, 2.72443 - 2.71417])
    assert times.doubts == ()
    slow_cpu = TIMES.replace(b'"endEnqMs" : 2.70722', b'"endEnqMs" : 3.6').replace(b"2.72443", b"3.6")
    assert "to start a run" in times_in(slow_cpu, 2, "board").doubts[0]


def test_outputs_are_read_with_their_shapes() -> None:
    for dimensions in ("(2, 3)", "2x3"):
        text = json.dumps([{"name": "logits", "dimensions": dimensions, "values": [1, 2.5, -3e-05, 0, 5, 6]}])
        logits = outputs_in(text.encode(), "board")["logits"]
        assert logits.dtype == np.float32
        assert np.array_equal(logits, np.array([[1, 2.5, -3e-05], [0, 5, 6]], np.float32))
    wrong = b'[\n  { "name" : "nan"\n  , "dimensions" : "(1, 3)"\n  , "values" : [ nan, -inf, -nan ]\n  }\n]'
    assert np.isnan(outputs_in(wrong, "board")["nan"]).all()


@pytest.mark.parametrize(
    "content",
    [b"", b"[", b"{}", b"[1]", b"\xff", b'[{"name": "x", "dimensions": "(2, 3)", "values": [1]}]', b"[" * 100_000],
)
def test_files_that_are_none_are_refused(content: bytes) -> None:
    for read in (some_times_in, outputs_in):
        with pytest.raises(TargetError, match="cannot be read"):
            read(content, "board")


@pytest.mark.parametrize("time", [b"-1", b"0", b"nan", b"true", b"1e300", b"1" * 400])
def test_a_time_that_is_none_is_refused(time: bytes) -> None:
    with pytest.raises(TargetError, match="cannot be read"):
        times_in(TIMES.replace(b"0.8448,", time + b","), 1, "board")


def test_times_that_are_none_are_refused() -> None:
    for text in (b"[]", b'[{"computeMs": 1}]'):
        with pytest.raises(TargetError, match="cannot be read"):
            times_in(text, 1, "board")


def test_fewer_runs_than_the_plans_are_refused() -> None:
    assert len(times_in(TIMES, 2, "board").compute) == 2
    with pytest.raises(TargetError, match="fewer runs") as caught:
        times_in(TIMES, 3, "board")
    assert (caught.value.got, caught.value.expected) == ("2 runs", "at least 3")


@pytest.mark.parametrize(
    "output",
    [
        '{"name": "x", "dimensions": "-1x5", "values": [1, 2, 3, 4, 5]}',
        '{"name": "x", "dimensions": "0x5", "values": []}',
        '{"name": "x", "dimensions": "1x2x", "values": [1, 2]}',
        '{"name": "x", "dimensions": "2", "values": [1, true]}',
        '{"name": "x", "dimensions": "2", "values": [1, null]}',
        '{"name": "x", "dimensions": "1", "values": [1e39]}',
        '{"name": "x", "dimensions": "1", "values": [-3.5e38]}',
        '{"name": "x", "dimensions": "1", "values": [1]}, {"name": "x", "dimensions": "1", "values": [2]}',
        '{"dimensions": "1", "values": [1]}',
    ],
)
def test_outputs_that_are_none_are_refused(output: str) -> None:
    with pytest.raises(TargetError, match="cannot be read"):
        outputs_in(f"[{output}]".encode(), "board")


def test_a_number_of_many_digits_is_infinite() -> None:
    text = '[{"name": "x", "dimensions": "3", "values": [%s, 3.40282e+38, -1]}]' % ("1" * 5000)
    assert outputs_in(text.encode(), "board")["x"].tolist() == pytest.approx([np.inf, 3.40282e38, -1])


def test_the_largest_files_hold_what_was_asked_for() -> None:
    outputs = "[" + ", ".join(["-1.23457e-05"] * 100_000) + "]"
    assert len(outputs) < largest_outputs([60_000, 40_000]) < 3 * len(outputs)
    line = len(TIMES.splitlines()[1])
    assert largest_times(MeasurePlan(duration_s=1, min_runs=10)) > 50_000 * line  # of 0.02 ms
    assert largest_times(MeasurePlan(duration_s=0.01, min_runs=100_000)) > 100_000 * line


@pytest.mark.parametrize(
    ("log", "kind", "node"),
    [
        (REFUSED_NODE, "node", "Gelu /blocks.0/mlp/act/Gelu"),
        (UNBUILT, "node", "{ForeignNode[/norm/Mul.../head/Gemm]}"),
        (NO_MEMORY, "memory", ""),
        (OTHER_VERSION, "engine", ""),
        ("[11/29/2026-10:00:00] [E] Unknown option: --fp16\n", "other", ""),
        ("", "other", ""),
        ("expecting compute " * 7000, "other", ""),
        ("[E] " + "expecting compute " * 7000 + "\n" + OTHER_VERSION, "engine", ""),
    ],
)
def test_failures_name_their_cause(log: str, kind: str, node: str) -> None:
    failure = failure_in(log)
    assert (failure.kind, failure.node) == (kind, node)


def test_a_node_without_a_line_of_an_error_says_the_last_line() -> None:
    log = 'While parsing node number 3 [Gelu -> "x"]:\nsomething else\nstopped here\n'
    assert failure_in(log) == Failure("node", "Gelu x", "stopped here")


@given(st.data())
def test_no_mutated_text_breaks_a_parser(data: st.DataObject) -> None:
    """Each parser gives a value or says that it cannot read the text, whatever a board sends."""
    source = data.draw(st.sampled_from([PASSED, UNSTABLE, REFUSED_NODE, UNBUILT, NO_MEMORY, TIMES.decode()]))
    start = data.draw(st.integers(0, len(source)))
    end = data.draw(st.integers(start, len(source)))
    mutated = source[:start] + data.draw(st.text(max_size=30)) + source[end:]
    assert failure_in(mutated).kind in ("memory", "engine", "node", "other")
    assert all(len(line) < 500 for line in warnings_in(mutated))
    assert re.fullmatch(r"\d+\.\d+\.\d+", version_in(mutated) or "1.2.3")
    for read in (some_times_in, outputs_in):
        try:
            read(mutated.encode("utf-8", "replace"), "board")
        except EdgevitError:
            continue


@pytest.mark.skipif(not RECORDED.is_dir(), reason="needs ../shared/reference/device_logs")
def test_every_recorded_log_is_read() -> None:
    logs = sorted(RECORDED.glob("trtexec_*.txt"))
    texts = {log.name: log.read_text(encoding="utf-8") for log in logs}
    assert len(texts) >= 9
    with_banner = {name: version_in(text) for name, text in texts.items() if "&&&& PASSED" in text}
    assert with_banner["trtexec_summary_trt10_3_jp6_resnet50_fp16.txt"] == "10.3.0"
    assert all(failure_in(text).kind == "other" for text in texts.values())
    assert len(warnings_in(texts["trtexec_summary_trt8_4_unstable_warning.txt"])) == 2
    recorded = texts["trtexec_export_timing_trt8_a100.json.txt"].partition("\n")[2]
    rows = re.findall(r"\{[^{}]*\}", recorded)
    assert len(times_in(f"[{','.join(rows)}]".encode(), 3, "board").compute) == len(rows) == 3
