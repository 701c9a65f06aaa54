"""The packages that a bundle needs, with the oldest versions that run it."""

from __future__ import annotations

from onnx import ModelProto

from edgevit.configs.runtimes import ONNXRUNTIME, RUNTIMES
from edgevit.graphs.walk import opset_of
from edgevit.provenance import version_of

# The oldest versions that the programs of a bundle are tested with, on Python 3.9, and the first that are not allowed.
RANGES = {
    "numpy": ("1.26", "3"),
    "pillow": ("10.3", "14"),
    "onnxruntime": ("1.19", "2"),
    "openvino": ("2025.0", "2027"),
}
# (onnxruntime, newest opset, newest IR version): the first release that loads them, found by loading a file of each.
ONNXRUNTIME_RELEASES = (
    ("1.19", 21, 10),
    ("1.21", 22, 10),
    ("1.23", 23, 11),
    ("1.24", 25, 13),
    ("1.25", 26, 13),
    ("1.32", 27, 14),
)
ONNX_REQUIREMENTS = "requirements-onnx.txt"  # of a bundle with a TensorRT engine, for its ONNX file
OF_JETPACK = f"""\
# The engine needs no package of PyPI. JetPack has Python, TensorRT's module, numpy and Pillow:
# sudo apt install python3-libnvinfer python3-numpy python3-pil
# {ONNX_REQUIREMENTS} is for infer.py --onnx.
"""


def packages_of(runtime: str) -> tuple[str, ...]:
    """The distributions on PyPI that a bundle for this runtime needs."""
    return ("numpy", "pillow", RUNTIMES[runtime].package)


def requirements_text(runtime: str, model: ModelProto, is_compiled: bool) -> str:
    """The content of requirements.txt: ranges, in which pip finds versions for each Python from 3.9 on.

    A compiled model needs the version of the runtime that compiled it.
    """
    package = RUNTIMES[runtime].package
    wanted = {name: f">={oldest},<{RANGES[name][1]}" for name, oldest in _oldest_versions(runtime, model).items()}
    if is_compiled:
        wanted[package] = f"=={version_of(package)}"
    lines = [f"{name}{versions}" for name, versions in wanted.items()]
    checked = ", ".join(f"{name} {version_of(name)}" for name in packages_of(runtime))
    return "".join(f"{line}\n" for line in (f"# This bundle was checked with {checked}.", *lines))


def _oldest_versions(runtime: str, model: ModelProto) -> dict[str, str]:
    """The oldest version of each package that runs the model."""
    versions = {name: RANGES[name][0] for name in packages_of(runtime)}
    if runtime == ONNXRUNTIME.name:
        versions[ONNXRUNTIME.package] = oldest_onnxruntime(model)
    return versions


def oldest_onnxruntime(model: ModelProto) -> str:
    """The oldest release of ONNX Runtime that reads a model of this opset and IR version.

    The installed version if the model is newer than every known release.
    """
    for version, newest_opset, newest_ir in ONNXRUNTIME_RELEASES:
        if opset_of(model) <= newest_opset and model.ir_version <= newest_ir:
            return version
    return str(version_of(ONNXRUNTIME.package))
