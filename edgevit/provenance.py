"""Provenance of results: versions, machine, time, the origin of weights, the data behind a model.

No package is imported to learn its version.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgevit.artifacts import Artifact, Contents, InputRef, Json, ancestors
from edgevit.configs import STAGES, Fewshot, Stage
from edgevit.configs.fields import Purpose, purpose_of
from edgevit.configs.renamed import current_stage
from edgevit.configs.runtimes import RUNTIMES, RuntimeInfo
from edgevit.configs.training import Training
from edgevit.errors import RecipeError
from edgevit.version import __version__

WEIGHTS_FROM = "weights_from"  # in provenance
LEARN_NOTHING = ("load", "export", "quantize", "compile", "select", "bundle")
PARTS = {"train": {"support", "pool"}}  # roles that are parts of another
PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "onnxscript", "numpy", "pillow", "scikit-learn")
SAME_MODULE = {runtime.package: runtime.package_with_cuda for runtime in RUNTIMES.values()}


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

    A classifier is "stale" if its body was trained further without it.
    A stage that trains no weights passes on the origin of its model's weights. {} for an artifact that is no model, and
    for a model of unknown origin.
    """
    if contents.kind not in ("checkpoint", "onnx", "engine", "bundle") or WEIGHTS_FROM in contents.provenance:
        return {}
    source = inputs.get(contents.passed_on or "init", inputs.get("model"))
    origin = source.manifest.provenance.get(WEIGHTS_FROM) if source is not None else None
    if not isinstance(config, Training):
        return {} if origin is None else {WEIGHTS_FROM: origin}
    if not isinstance(config, Fewshot) and not config.epochs:
        return _origin_without_training(source, origin, contents)
    if not isinstance(config, Fewshot) or contents.metrics.get("method") == "finetune":
        return {WEIGHTS_FROM: {"body": "trained", "classifier": "trained"}}
    return {} if origin is None else {WEIGHTS_FROM: {**origin, "classifier": "trained"}}


def _origin_without_training(source: Artifact | None, origin: Json | None, contents: Contents) -> Json:
    """The origin of weights after 0 epochs. The classifier is new if its classes are not those of the source."""
    if source is None:
        return {WEIGHTS_FROM: {"body": "random", "classifier": "random"}}
    if origin is None:
        return {}
    is_new = contents.io is None or contents.io.classes != source.io.classes
    return {WEIGHTS_FROM: {**origin, "classifier": "random"} if is_new else origin}


def data_behind(model: Artifact, of_body: bool = False) -> dict[str, str]:
    """The data sets that a model and its teachers learned from: the id of each by its digest.

    Calibration data and unlabelled images count. Class names and validation data do not.

    Args:
        of_body: leave out calibration data, and the data that only the model's present head was fitted to.
    """
    behind = [artifact for artifact in ancestors(model) if artifact.kind != "evaluation"]
    not_learned = {"names only", "validated on", *(["calibrated by"] if of_body else ())}
    if of_body:
        behind = _without_heads(behind)
    stage_ids = {artifact.id for artifact in behind}
    return {
        ref.digest: ref.id
        for artifact in behind
        for path, ref in artifact.manifest.inputs.items()
        if ref.kind == "dataset" and purpose_of_input(artifact, path) not in not_learned and ref.id not in stage_ids
    }


def _without_heads(behind: Sequence[Artifact]) -> list[Artifact]:
    """The artifacts, in their order, without stages that fitted a head after the last training of the body.

    A head that was fitted before a training counts, because a teacher passes its labels on to the student.
    """
    stages = [STAGES.get(current_stage(artifact.manifest.stage) or artifact.manifest.stage) for artifact in behind]
    trains = [stage is not None and issubclass(stage, Training) for stage in stages]
    fits_head = [
        stage is Fewshot and artifact.metrics.get("method") != "finetune"
        for stage, artifact in zip(stages, behind, strict=True)
    ]
    last = max((i for i, (training, head) in enumerate(zip(trains, fits_head, strict=True)) if training and not head),
               default=-1)  # fmt: skip
    return [artifact for i, artifact in enumerate(behind) if i < last or not fits_head[i]]


def purpose_of_input(artifact: Artifact, path: str) -> Purpose | None:
    """The use that an artifact's stage made of the data set at a path of its config; None if it is not known."""
    stage = artifact.manifest.stage
    config = STAGES.get(current_stage(stage) or stage)
    return None if config is None else purpose_of(config, path)


def learned_from(model: Artifact, data: Artifact) -> str | None:
    """The id of a stage behind `model` that learned from images of `data`, both of one recipe; None if none did.

    Data sets are compared by `share_images`. The history of a file that `load` read is unknown.
    """
    for ancestor in ancestors(model):
        if ancestor.manifest.stage in LEARN_NOTHING:
            continue
        for path, ref in ancestor.manifest.inputs.items():
            is_learned = ref.kind == "dataset" and purpose_of_input(ancestor, path) != "validated on"
            if is_learned and share_images(ref, data.ref()):
                return ancestor.id
    return None


def is_traced(model: Artifact) -> bool:
    """Whether the stages that made the model's weights are known."""
    return any(ancestor.kind == "checkpoint" for ancestor in ancestors(model))


def share_images(first: InputRef, second: InputRef) -> bool:
    """Whether two data sets of one recipe have images in common, by name and role, or by content."""
    (first_set, _, first_role), (second_set, _, second_role) = first.id.partition("."), second.id.partition(".")
    if first_set != second_set:
        return first.digest == second.digest
    is_whole = "" in (first_role, second_role) or first_role == second_role
    return is_whole or second_role in PARTS.get(first_role, ()) or first_role in PARTS.get(second_role, ())


def check_classifier_fits(teacher: Artifact) -> None:
    """Raise RecipeError if a teacher's logits mean nothing: its body was trained without its classifier."""
    origin = teacher.manifest.provenance.get(WEIGHTS_FROM) or {}
    if origin.get("body") == "trained" and origin.get("classifier") in ("random", "stale"):
        raise RecipeError(
            f"the logits of this teacher mean nothing: {untrained(teacher)}",
            where=teacher.id,
            got=f"a {origin['classifier']} classifier",
            expected="a classifier that was trained on the features",
            next="put fewshot or train after pretrain, or distill features: objectives: [{loss: features, …}]",
        )


def untrained(model: Artifact) -> str | None:
    """A sentence about untrained weights of a model; None if all weights are trained, or their origin is unknown."""
    origin = model.manifest.provenance.get(WEIGHTS_FROM) or {}
    if origin.get("body") == "random":
        if origin.get("classifier") == "trained":
            return "its weights are random; only its classifier was trained"
        return "its weights are random: it was not trained"
    if origin.get("classifier") == "random":
        return "its classifier is random: it was not trained, so its predictions mean nothing"
    if origin.get("classifier") == "stale":
        return "its classifier is stale: pretrain changed the features under it, so its predictions mean little"
    return None


def version_of(package: str) -> str | None:
    """The installed version of a distribution, or None. A distribution with the same module may stand in its place."""
    for name in filter(None, (package, SAME_MODULE.get(package))):
        with suppress(PackageNotFoundError):
            return version(name)
    return None


def title_with_version(runtime: RuntimeInfo) -> str:
    """`ONNX Runtime 1.31.1`, as it is installed."""
    return f"{runtime.title} {version_of(runtime.package)}"


@cache
def _git_commit(folder: Path) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
