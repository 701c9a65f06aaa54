"""Checkpoints: safetensors and a description. A user's weights are loaded without running code from their file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from edgevit.artifacts import Artifact, Contents, IOSpec, Json
from edgevit.disks import write_synced
from edgevit.errors import ArtifactError, RecipeError, listed
from edgevit.models.cost import cost_of
from edgevit.models.creation import BuiltModel, build, create_model, with_new_head
from edgevit.models.description import ModelDescription
from edgevit.models.distillation_token import DistillationToken, DistillationTokenModel, Inference
from edgevit.models.folding import Folded
from edgevit.models.timm_models import classifier_prefixes, timm_model
from edgevit.models.views import TestTimeViews
from edgevit.models.weights_files import WeightsFile

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
SHOWN_KEYS = 3
CONVERTED_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of weights in a user's file


def save_checkpoint(model: nn.Module, description: ModelDescription, out: Path) -> None:
    """Write `model.safetensors` (the timm model's state dict) and `model.json` into folder `out`.

    Equal weights give equal bytes.
    """
    state = {key: value.detach().cpu().contiguous().clone() for key, value in timm_model(model).state_dict().items()}
    write_synced(out / WEIGHTS, save(state))
    (out / DESCRIPTION).write_text(description.model_dump_json(indent=2) + "\n", encoding="utf-8")


def checkpoint_contents(
    built: BuiltModel,
    classes: tuple[str, ...],
    out: Path,
    metrics: Json,
    provenance: Json,
    log: str | None = None,
    *,
    unnamed: bool = False,
) -> Contents:
    """Write a model into the folder `out` of a stage; gives the stage's contents.

    Args:
        metrics, provenance: of the stage, in addition to the model's cost and license.
        log: a file in `out` about the training. It is not part of the result.
        unnamed: the classes have no names, so that `classes` are the positions of the outputs.
    """
    save_checkpoint(built.module, built.description, out)
    io = IOSpec.for_classifier(built.preprocess, classes)
    return Contents(
        kind="checkpoint",
        metrics={**cost_of(built.module, built.preprocess), **metrics},
        logs=(log,) if log is not None and (out / log).is_file() else (),
        io=io if unnamed else io.calling_its_classes(classes),
        provenance={"weights_licence": built.description.licence, **provenance},
    )


def model_from_checkpoint(artifact: Artifact) -> nn.Module:
    """The module of a checkpoint, in eval mode, on the CPU; it gives one tensor, logits (batch, classes)."""
    return open_checkpoint(artifact).module


def open_checkpoint(artifact: Artifact) -> BuiltModel:
    """The model of a checkpoint.

    Raises ArtifactError if the artifact is not a checkpoint or was altered after it was made.
    """
    return _opened(artifact, _description_of(artifact))


def open_to_train(artifact: Artifact, drop_rates: Mapping[str, float]) -> BuiltModel:
    """The model of a checkpoint to train further: with these drop rates, and without test-time views."""
    return _opened(artifact, _description_of(artifact).without_change(TestTimeViews), drop_rates)


def open_to_reshape(artifact: Artifact) -> BuiltModel:
    """The model of a checkpoint to prune, factorize or merge the tokens of.

    Raises RecipeError for a checkpoint of qat: its trained ranges would belong to another model.
    """
    built = open_to_train(artifact, {})
    if built.description.change(Folded):
        raise RecipeError(
            "a model that qat trained keeps its shape",
            where=artifact.id,
            got="a checkpoint with folded batch norms and trained ranges",
            expected="a checkpoint from before qat",
            next="prune, factorize and merge tokens first, then qat",
        )
    return built


def starting_model(
    name: str | None,
    init: Artifact | None,
    classes: tuple[str, ...],
    image_size: int | None,
    model_args: Mapping[str, Any],
    *,
    distillation_token: bool = False,
    inference: Inference | None = None,
    drop_rates: Mapping[str, float] | None = None,
    seed: int = 0,
) -> BuiltModel:
    """The model that training starts from: a new one, or the checkpoint `init`, with a new head if its classes differ.

    Test-time views of the checkpoint are dropped: training sees one view of an image.
    """
    if init is None:
        assert name is not None
        return create_model(
            name,
            len(classes),
            image_size,
            model_args,
            distillation_token=distillation_token,
            inference=inference,
            drop_rates=drop_rates,
            seed=seed,
        )
    start = open_to_train(init, drop_rates or {})
    size = start.preprocess.height
    if image_size not in (None, size):
        raise RecipeError(
            "a checkpoint keeps its image size",
            got=f"image_size {image_size}",
            expected=f"{size}, as in {init.id}, or none",
        )
    start = _with_inference(start, inference)
    return start if start.classes == classes else with_new_head(start, len(classes), drop_rates, seed)


def _with_inference(built: BuiltModel, inference: Inference | None) -> BuiltModel:
    """A model whose output comes from the heads that `inference` names; unchanged if None."""
    if inference is None:
        return built
    if not isinstance(built.module, DistillationTokenModel):
        raise RecipeError(
            "'inference' needs a checkpoint with two heads, and this checkpoint has one",
            got=f"inference: {inference}",
            expected="a checkpoint that was trained with distillation_token: true",
        )
    built.module.inference = inference
    return built._replace(description=built.description.with_change(DistillationToken(inference=inference)))


def load_weights(built: BuiltModel, weights: WeightsFile) -> bool:
    """Load a user's weights into a model. A classifier of another shape is left out: the model keeps its classifier.

    Weights in float16, bfloat16 and float64 are converted to the model's float32. Batch norm's count of batches may be
    missing: old files lack it, and the outputs do not depend on it.

    Returns:
        Whether the classifier came from the file.

    Raises:
        ArtifactError: the weights belong to another model, are of another type, or are not finite.
    """
    state = weights.state
    own = timm_model(built.module).state_dict()
    heads = classifier_prefixes(built.module)
    new = {
        key: own[key] for key in own if key.startswith(heads) and key in state and state[key].shape != own[key].shape
    }
    taken = {key: state[key] for key in own if key in state and key not in new and own[key].is_floating_point()}
    _check_values(taken, weights.path)
    uncounted = {key: own[key] for key in own if key.endswith("num_batches_tracked") and key not in state}
    load_state(built.module, {**state, **new, **uncounted}, weights.path)
    return not new


def num_classes_of_weights(built: BuiltModel, weights: WeightsFile) -> int:
    """The number of classes in a user's weights; the model's own number if the weights have no classifier."""
    for prefix in classifier_prefixes(built.module):
        if f"{prefix}weight" in weights.state:
            return int(weights.state[f"{prefix}weight"].shape[0])
    return built.description.num_classes


def _check_values(state: Mapping[str, Tensor], where: Path) -> None:
    """Raise ArtifactError if weights are not floating-point numbers, or a weight is NaN or infinite."""
    others = {key: value.dtype for key, value in state.items() if value.dtype not in CONVERTED_TYPES}
    of_other_types = [f"{key} ({str(dtype).removeprefix('torch.')})" for key, dtype in others.items()]
    if of_other_types:
        raise ArtifactError(
            "these weights are quantized or complex, and their scales are not known",
            where=where,
            got=listed(of_other_types, SHOWN_KEYS),
            expected="float32, float16, bfloat16 or float64",
            next="take the weights from before quantization",
        )
    not_finite = [key for key, value in state.items() if not value.isfinite().all()]
    if not_finite:
        raise ArtifactError(
            "weights are NaN or infinite",
            where=where,
            got=listed(not_finite, SHOWN_KEYS),
            expected="finite numbers",
            next="take an earlier checkpoint of the training, or a file in float32 if this one is in float16",
        )


def load_state(model: nn.Module, state: Mapping[str, Tensor], where: Path) -> None:
    """Load a complete state dict; ArtifactError names the first keys and shapes that differ."""
    target = timm_model(model)
    own = target.state_dict()
    missing = [key for key in own if key not in state]
    unknown = [key for key in state if key not in own]
    reshaped = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if missing or unknown or reshaped:
        parts = (("lacks", missing), ("has unknown", unknown), ("has another shape for", reshaped))
        raise ArtifactError(
            "these weights belong to another model",
            where=where,
            got="; ".join(f"{verb} {listed(keys, SHOWN_KEYS)}" for verb, keys in parts if keys),
            expected=f"{len(own)} tensors of {type(target).__name__}",
            next=_way_to_fit(missing + unknown, reshaped),
        )
    target.load_state_dict(dict(state))


def _way_to_fit(other_keys: Sequence[str], reshaped: Sequence[str]) -> str:
    """The next step for weights that do not fit. Position embeddings belong to one image size."""
    if not other_keys and all("pos_embed" in key for key in reshaped):
        return "give the image_size that these weights were trained at: their position embeddings belong to it"
    return "check model, model_args and image_size"


def _description_of(artifact: Artifact) -> ModelDescription:
    if artifact.kind != "checkpoint":
        raise ArtifactError("this is not a checkpoint", where=artifact.path, got=artifact.kind, expected="checkpoint")
    return _read_description(artifact.file(DESCRIPTION))


def _opened(
    artifact: Artifact, description: ModelDescription, drop_rates: Mapping[str, float] | None = None
) -> BuiltModel:
    weights = artifact.file(WEIGHTS)
    module = build(description, drop_rates)
    load_state(module, load_file(weights), weights)
    return BuiltModel(module, description, artifact.io.preprocess, artifact.io.classes)


def _read_description(path: Path) -> ModelDescription:
    try:
        return ModelDescription.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ArtifactError(f"not a model description: {error.errors()[0]['msg']}", where=path) from None
