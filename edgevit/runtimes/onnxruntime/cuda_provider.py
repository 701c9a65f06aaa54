"""Whether the installed ONNX Runtime has its CUDA provider. ONNX Runtime itself is not imported."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from edgevit.configs.runtimes import ONNXRUNTIME
from edgevit.configs.targets import LOCAL_GPU
from edgevit.errors import MissingDependency
from edgevit.provenance import version_of

LIBRARY = "capi/*onnxruntime_providers_cuda.*"  # of the module; its name has a prefix and an ending of the system
INSTALL_CUDA_PROVIDER = (
    f"pip uninstall {ONNXRUNTIME.package}, then pip install '{ONNXRUNTIME.package_with_cuda}[cuda,cudnn]'"
)


def has_cuda_provider() -> bool:
    """Whether the library of the CUDA provider is installed. It may still fail to load: see `cuda_session`."""
    module = find_spec(ONNXRUNTIME.package)
    folders = (module.submodule_search_locations if module else None) or ()
    return any(any(Path(folder).glob(LIBRARY)) for folder in folders)


def check_has_cuda_provider() -> None:
    """Raise MissingDependency if the installed ONNX Runtime has no CUDA provider."""
    if not has_cuda_provider():
        raise MissingDependency(
            f"the installed {ONNXRUNTIME.title} has no CUDA provider",
            where=LOCAL_GPU,
            got=f"{ONNXRUNTIME.package} {version_of(ONNXRUNTIME.package)}",
            next=INSTALL_CUDA_PROVIDER,
        )
