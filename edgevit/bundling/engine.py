"""The TensorRT engine of a bundle: the machine that it is bound to, and this machine. Python 3.9 or later is enough.

Bundles with an engine hold this file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

REBUILT = "rebuilt.engine"  # in the recorded command
LARGEST_FACT = 4096  # bytes of a file below /proc
MODULE_STEP = "sudo apt install python3-libnvinfer, which is part of JetPack, and take the Python of the system"
ONNX_STEP = "python3 infer.py --onnx runs model.onnx in ONNX Runtime: pip install -r requirements-onnx.txt"


def tensorrt_version() -> str:
    """The version of this Python's module tensorrt, such as 10.3.0. Raises ImportError if it cannot be imported."""
    return str(import_module("tensorrt").__version__)


def differences(engine: dict[str, Any], version: str, root: Path = Path("/")) -> list[str]:
    """`TensorRT 10.13.3, not 10.3.0` for each fact that the engine is bound to and that differs here.

    Facts that the machine does not tell are left out: a container hides the board's name.

    Args:
        engine: the entry `engine` of bundle.json.
        version: TensorRT's, here.
        root: below which /proc lies.
    """
    bound_to = engine["bound_to"]
    found = []
    built_with = bound_to["versions"]["tensorrt"]
    if not _fits(built_with, version, bool(engine["session_options"].get("version_compatible"))):
        found.append(f"TensorRT {version}, not {built_with}")
    found += list(_other_hardware(bound_to["hardware"], root))
    return found


def next_step(engine: dict[str, Any], folder: Path) -> str:
    """What to do where the engine does not run: build it anew here, or run the ONNX file."""
    build = f"cd {shlex.quote(str(folder))} && {shlex.join(engine['rebuild'])}"
    return f"build it on this machine: {build}; then python3 infer.py --engine {REBUILT}. Or {ONNX_STEP}"


def _fits(built_with: str, version: str, is_compatible: bool) -> bool:
    """Whether the versions are equal, as far as both are given.

    A version-compatible engine takes later versions of the major version, too.
    """
    built, here = _numbers(built_with), _numbers(version)
    shared = min(len(built), len(here))
    if is_compatible:
        return built[:1] == here[:1] and here[:shared] >= built[:shared]
    return built[:shared] == here[:shared]


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,9}", version)]


def _other_hardware(hardware: dict[str, Any], root: Path) -> Iterator[str]:
    """The module of a Jetson, the name of another board, and the GPUs of other machines."""
    module, modules = hardware.get("module"), re.findall(r"p\d{4}-\d{4}", _text(root / "proc/device-tree/compatible"))
    model, model_here = hardware.get("model"), _text(root / "proc/device-tree/model").strip("\0 \n")
    gpus, gpus_here = hardware.get("gpus") or [], sorted(_gpus(root))
    if module and modules and module not in modules:
        yield f"module {modules[-1]}, not {module}"
    if not module and model and model_here and model != model_here:
        yield f"{model_here}, not {model}"
    if gpus and gpus_here and not set(gpus) & set(gpus_here):
        yield f"GPU {', '.join(gpus_here)}, not {', '.join(gpus)}"


def _gpus(root: Path) -> set[str]:
    """The names that NVIDIA's driver gives the GPUs of a PC or server. A Jetson has none there."""
    texts = (_text(file) for file in (root / "proc/driver/nvidia/gpus").glob("*/information"))
    return {name[1].strip() for text in texts if (name := re.search(r"^Model:\s*(\S.*)$", text, re.MULTILINE))}


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(LARGEST_FACT).decode("utf-8", "replace")
    except OSError:
        return ""
