"""edgevit: from a folder of images and a latency budget to a small image classifier on the device.

    import edgevit
    student = edgevit.load("deit_tiny_patch16_224", classes=["bolt", "nut"])
    onnx = edgevit.export(student)
    small = edgevit.quantize(onnx, calibration="photos/train")
    print(edgevit.compare(onnx, small, data="photos/test"))

The command line and this interface run the same stages. `import edgevit` imports neither torch nor onnxruntime.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgevit.version import __version__

if TYPE_CHECKING:
    from edgevit.actions.compare_models import ModelComparison
    from edgevit.actions.first_difference import Difference
    from edgevit.actions.select_student import SelectedStudent
    from edgevit.api.functions import (
        bundle,
        compare,
        compile,
        estimate,
        evaluate,
        export,
        first_difference,
        layer_times,
        load,
        profile,
        quantize,
        run,
        select,
    )
    from edgevit.api.model import Model, Prediction
    from edgevit.api.results import Evaluation, FeatureEvaluation, FewShotEvaluation, Latency, Report, Run
    from edgevit.checking.timed_layers import TimedModel
    from edgevit.errors import EdgevitError
    from edgevit.evaluation.mask_overlap import mask_overlap
    from edgevit.latency_model.estimate import Estimate

__all__ = [
    "Difference",
    "EdgevitError",
    "Estimate",
    "Evaluation",
    "FeatureEvaluation",
    "FewShotEvaluation",
    "Latency",
    "Model",
    "ModelComparison",
    "Prediction",
    "Report",
    "Run",
    "SelectedStudent",
    "TimedModel",
    "__version__",
    "bundle",
    "compare",
    "compile",
    "estimate",
    "evaluate",
    "export",
    "first_difference",
    "layer_times",
    "load",
    "mask_overlap",
    "profile",
    "quantize",
    "run",
    "select",
]

# OpenMP threads that spin for long while they wait starve each other where other work shares the cores: training was
# seen to run 3 to 15 times slower. Not spinning at all costs a third on idle cores; this little costs nothing in either
# case. libgomp reads it when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_HOMES = {
    "edgevit.api.functions": (
        "bundle", "compare", "compile", "estimate", "evaluate", "export", "first_difference", "layer_times", "load",
        "profile", "quantize", "run", "select",
    ),
    "edgevit.api.model": ("Model", "Prediction"),
    "edgevit.api.results": ("Evaluation", "FeatureEvaluation", "FewShotEvaluation", "Latency", "Report", "Run"),
    "edgevit.actions.compare_models": ("ModelComparison",),
    "edgevit.actions.first_difference": ("Difference",),
    "edgevit.actions.select_student": ("SelectedStudent",),
    "edgevit.checking.timed_layers": ("TimedModel",),
    "edgevit.errors": ("EdgevitError",),
    "edgevit.evaluation.mask_overlap": ("mask_overlap",),
    "edgevit.latency_model.estimate": ("Estimate",),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
