"""What `edgevit doctor` looks at: each finding was tried, not only looked up."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from edgevit.configs.runtimes import ONNXRUNTIME, OPENVINO, TENSORRT
from edgevit.errors import MissingDependency, TargetError
from edgevit.findings import Finding, State
from edgevit.profiling.conditions import gpus
from edgevit.provenance import version_of

FREE_GIB_WANTED = 5


def examine() -> list[Finding]:
    """Try every runtime and device on this machine."""
    checks = (
        _python, _torch_cpu, _torch_cuda, _timm, _hub, _onnxruntime, _openvino, _tensorrt, _tensorrt_check, _disk,
    )  # fmt: skip
    return [_tried(check) for check in checks]


def training_device(wanted: str, option: str = "--device") -> str:
    """The torch device for `auto`, `cpu` or `cuda`; torch is imported only where an NVIDIA GPU answers.

    Args:
        option: the option or argument that errors name.

    Raises:
        TargetError: there is no such device, or CUDA does not work here.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise TargetError(f"'{wanted}' is no device", where=option, expected="auto, cpu or cuda")
    if wanted == "cpu" or (wanted == "auto" and not _has_gpu(option)):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise TargetError("CUDA does not work here", where=f"{option} cuda", next="edgevit doctor")
    return "cpu"


def _has_gpu(option: str) -> bool:
    try:
        return bool(gpus())
    except TimeoutError as error:
        raise TargetError(str(error), where=f"{option} auto", next=f"run nvidia-smi by hand, or {option} cpu") from None


def _tried(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - whatever a broken installation throws is the finding
        name = check.__name__.strip("_").replace("torch_", "torch on ").replace("_", "-")
        first = str(error).splitlines()[0] if str(error) else ""
        return Finding(
            name, "broken", f"{type(error).__name__}: {first}"[:100], "pip install --force-reinstall edgevit"
        )


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.machine()}")


def _torch_cpu() -> Finding:
    import torch

    weights = torch.ones(8, 8)
    if (weights @ weights).sum().item() != 512:
        return Finding(
            "torch on cpu", "broken", "a product of ones came out wrong", "pip install --force-reinstall torch"
        )
    return Finding("torch on cpu", "ok", f"torch {torch.__version__}, {torch.get_num_threads()} threads")


def _torch_cuda() -> Finding:
    import torch

    if not torch.cuda.is_available():
        why = "this torch was built without CUDA" if torch.version.cuda is None else "no NVIDIA driver answers"
        return Finding(
            "torch on cuda", "absent", why, "needed for local-gpu only: an NVIDIA GPU, its driver, a CUDA torch"
        )
    ones = torch.ones(8, 8, device="cuda")
    return Finding("torch on cuda", "ok", f"{torch.cuda.get_device_name()}, sum {(ones @ ones).sum().item():.0f}")


def _timm() -> Finding:
    import timm

    return Finding("timm", "ok", f"{timm.__version__}, {len(timm.list_models())} models")


def _hub() -> Finding:
    from edgevit.models.pretrained import hub_answers, hub_name

    if hub_answers():
        return Finding("hub", "ok", f"{hub_name()} answers")
    why = "needed for pretrained weights only: a network, or weights: FILE in a recipe (init: --weights FILE)"
    return Finding("hub", "absent", f"{hub_name()} does not answer", why)


def _onnxruntime() -> Finding:
    import onnxruntime
    from onnx import TensorProto, helper

    node = helper.make_node("Add", ["x", "x"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([node], "doctor", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (twice,) = session.run(None, {"x": np.array([1, 2], dtype=np.float32)})
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    state: State = "ok" if twice.tolist() == [2, 4] else "broken"
    return Finding(ONNXRUNTIME.name, state, f"{onnxruntime.__version__}, providers {providers}")


def _openvino() -> Finding:
    if find_spec(OPENVINO.package) is None:
        why = f"often the fastest on x86 CPUs: {OPENVINO.install_command}"
        return Finding(OPENVINO.name, "absent", "not installed", why)
    from edgevit.runtimes.openvino.session import has_bfloat16

    return Finding(OPENVINO.name, "ok", f"{version_of(OPENVINO.package)}{', bfloat16' if has_bfloat16() else ''}")


def _tensorrt() -> Finding:
    if find_spec(TENSORRT.package) is None:
        why = f"needed for TensorRT engines only: {TENSORRT.install_command}"
        return Finding(TENSORRT.name, "absent", "not installed", why)
    import tensorrt

    return Finding(TENSORRT.name, "ok", str(tensorrt.__version__ or version_of(TENSORRT.package)))


def _tensorrt_check() -> Finding:
    from edgevit.checking.nvidia import INSTALL_COMMAND, runs_here, working_builder

    if not runs_here():
        return Finding("tensorrt-check", "absent", "for x86-64 Linux only", "`edgevit check` goes by rules alone here")
    try:
        return Finding("tensorrt-check", "ok", f"{working_builder()} builds graphs here")
    except MissingDependency:
        why = f"needed for `edgevit check` to ask NVIDIA's builder: {INSTALL_COMMAND}"
        return Finding("tensorrt-check", "absent", "not installed", why)
    except TargetError as error:
        return Finding("tensorrt-check", "broken", error.what, error.next or "")


def _disk() -> Finding:
    free_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    if free_gib < FREE_GIB_WANTED:
        return Finding(
            "disk", "broken", f"{free_gib:.1f} GiB free here", "free some room, or use --runs on another disk"
        )
    return Finding("disk", "ok", f"{free_gib:.0f} GiB free here")
