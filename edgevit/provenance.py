"""Where, when and with which versions something was made. No package is imported to learn its version."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgevit.artifacts import Artifact, Contents, Json
from edgevit.configs import Fewshot, Stage
from edgevit.configs.training import Training
from edgevit.version import __version__

WEIGHTS_FROM = "weights_from"  # in provenance
PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "onnxscript", "numpy", "pillow", "scikit-learn")


def provenance() -> Json:
    """Versions, machine, git commit of the current folder, and the time (UTC)."""
    return {
        "edgevit": __version__,
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in PACKAGES},
        "machine": platform.machine(),
        "system": platform.platform(),
        "git_commit": _git_commit(Path.cwd()),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def weights_origin(config: Stage, inputs: Mapping[str, Artifact], contents: Contents) -> Json:
    """{"weights_from": {"body", "classifier"}} of a model: "random", "pretrained", "file" or "trained".

    What trains no weights passes on what its model had. {} of anything but a model, and where nobody recorded it.
    """
    if contents.kind not in ("checkpoint", "onnx", "engine", "bundle") or WEIGHTS_FROM in contents.provenance:
        return {}
    source = inputs.get("init", inputs.get("model"))
    before = source.manifest.provenance.get(WEIGHTS_FROM) if source is not None else None
    if not isinstance(config, Training):
        return {} if before is None else {WEIGHTS_FROM: before}
    if not isinstance(config, Fewshot) and not config.epochs:
        return _as_at_the_start(source, before, contents)
    if not isinstance(config, Fewshot) or contents.metrics.get("method") == "finetune":
        return {WEIGHTS_FROM: {"body": "trained", "classifier": "trained"}}
    return {} if before is None else {WEIGHTS_FROM: {**before, "classifier": "trained"}}


def _as_at_the_start(source: Artifact | None, before: Json | None, contents: Contents) -> Json:
    """Where a training of 0 epochs has its weights from; a classifier of other classes than the source's is new."""
    if source is None:
        return {WEIGHTS_FROM: {"body": "random", "classifier": "random"}}
    if before is None:
        return {}
    is_new = contents.io is None or contents.io.classes != source.io.classes
    return {WEIGHTS_FROM: {**before, "classifier": "random"} if is_new else before}


def untrained(model: Artifact) -> str | None:
    """A sentence about weights of a model that nobody trained; None where all are trained, or nothing is known."""
    origin = model.manifest.provenance.get(WEIGHTS_FROM) or {}
    if origin.get("body") == "random":
        if origin.get("classifier") == "trained":
            return "its weights are random; only its classifier was trained"
        return "its weights are random: nobody trained them"
    if origin.get("classifier") == "random":
        return "its classifier is random: nobody trained it, so that its answers mean nothing"
    return None


def version_of(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _git_commit(folder: Path) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
