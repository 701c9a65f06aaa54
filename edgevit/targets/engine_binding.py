"""What a compiled model is bound to: the machine that built it, held against the machine that would run it.

Source for engines: NVIDIA's documentation of TensorRT, "Engine Compatibility". An engine runs with the TensorRT that
built it. A version-compatible engine runs with later ones, too.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgevit.model_file import TargetInfo, TensorrtOptions
from edgevit.targets.boards.versions import version_numbers

SOFTWARE = ("tensorrt", "tensorrt_full", "cuda", "l4t", "driver")  # in TargetInfo.versions
GRAPH = ("processor", "architecture", "onnxruntime")  # that a graph of ONNX Runtime is bound to
GPU = ("module", "gpus", "sm_count")  # in TargetInfo.hardware


def differences(options: TensorrtOptions, built: TargetInfo, now: TargetInfo) -> list[str]:
    """`tensorrt: 10.3.0 and 10.13.3` for each fact that an engine is bound to, and that has changed.

    Facts that an older manifest does not have are left out.
    """
    software = _older_software if options.version_compatible else _other_software
    return [*software(built, now), *_other_gpu(built, now)]


def runs_elsewhere(built: TargetInfo, now: TargetInfo) -> bool:
    """Whether an engine would run under other software than it was built and compared under."""
    return any(True for _ in _other_software(built, now))


def graph_differences(built: TargetInfo, now: TargetInfo) -> list[str]:
    """`processor: A and B` for each fact that a graph of ONNX Runtime is bound to, and that differs."""
    was, is_now = ({**info.hardware, **info.versions} for info in (built, now))
    return [f"{name}: {was.get(name)} and {is_now.get(name)}" for name in GRAPH if was.get(name) != is_now.get(name)]


def _other_software(built: TargetInfo, now: TargetInfo) -> Iterator[str]:
    for name in SOFTWARE:
        if name in built.versions and built.versions[name] != now.versions.get(name):
            yield f"{name}: {built.versions[name]} and {now.versions.get(name)}"


def _older_software(built: TargetInfo, now: TargetInfo) -> Iterator[str]:
    """The TensorRT, if it is older or of another major version. CUDA and driver come with it."""
    was, is_now = built.versions.get("tensorrt"), now.versions.get("tensorrt")
    before, after = version_numbers(was or ""), version_numbers(is_now or "")
    if before[:1] != after[:1] or after < before:
        yield f"tensorrt: {was} and {is_now}"


def _other_gpu(built: TargetInfo, now: TargetInfo) -> Iterator[str]:
    names = (*GPU, "model") if built.hardware.get("module") is None else GPU
    for name in names:
        was, is_now = built.hardware.get(name), now.hardware.get(name)
        if was != is_now:
            yield f"{name}: {was} and {is_now}"
