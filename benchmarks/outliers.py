"""What each compressed form loses on a model with the activations of a pretrained one, and on the model without them.

    python -m benchmarks.outliers CIFAR [--students NAME …] [--images 1000] [--threads 2]

CIFAR is a folder with cifar-10-batches-py. Pretrained ViTs have a large residual stream, layer norms with a few large
channels, and a token of massive activations (Sun et al. 2024, "Massive Activations in Large Language Models"; Xiao et
al. 2023, "SmoothQuant"). `with_outliers` gives similar ones to a ViT and leaves its function as it is. It has limits:
all channels of the massive token are raised alike, and layer norms subtract that; in pretrained models, a few channels
are raised. The inputs of attn.proj and mlp.fc2 get no outliers.

Each model in models/ that is a plain ViT is exported and quantized twice: as it is, and with outliers. Calibration:
minmax, 100 training images. `placement: all`. The forms named "smoothquant: 0" have every layer quantized
(`min_sqnr_db: -100`); the others are as `quantize` writes them by itself. SQNR and agreement of top-1 are against the
float file of the same model, on the first test images, in ONNX Runtime or OpenVINO. float16 is rounded as declared.
Other models are named with the reason why they are left out. Models that an earlier run measured stay in the results.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from timm.layers import LayerScale, Mlp, PatchEmbed
from timm.models import register_model
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from benchmarks.common import conditions, models_before, publish
from benchmarks.reference_students import ReferenceStudent, reference_students
from edgevit.actions.single_stage import SingleStages, single_stages
from edgevit.artifacts import Artifact, Json
from edgevit.cli.output import terminal_context
from edgevit.configs import Cifar, Export, Load, Quantize
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.dataset import Dataset
from edgevit.errors import ArtifactError, ParityError
from edgevit.models import open_checkpoint
from edgevit.runtimes.base import preprocessed
from edgevit.runtimes.parity import centered_outputs, sqnr_db
from edgevit.runtimes.sessions import session_as_declared

NAME = "vit_with_epsilon"  # the name of these models among those of timm
EPSILON = 1e-6  # of timm's layer norms
TAKEN = "a VisionTransformer of timm's with layer norms before each layer, such as deit_tiny_patch16_224"

CALIBRATION, TEST = "cifar.support", "cifar.test"
SHOTS = 10  # training images a class
BATCH = 50
UNSMOOTHED: Json = {"smoothquant": 0, "min_sqnr_db": -100}
FORMS: dict[str, Json] = {  # fields of `quantize`; `export` alone makes float16
    "float16": {},
    "int8": {},
    "int8, smoothquant: 0": UNSMOOTHED,
    "int8, entropy, smoothquant: 0": {"calibrator": "entropy", **UNSMOOTHED},
    "int8, percentile, smoothquant: 0": {"calibrator": "percentile", **UNSMOOTHED},
    "int8, mse, smoothquant: 0": {"calibrator": "mse", **UNSMOOTHED},
    "int8 for openvino": {"runtime": "openvino"},
    "int8 for openvino, smoothquant: 0": {"runtime": "openvino", **UNSMOOTHED},
    "int8 for tensorrt": {"runtime": "tensorrt"},
    "int8 for tensorrt, smoothquant: 0": {"runtime": "tensorrt", **UNSMOOTHED},
    "float8 for tensorrt": {"runtime": "tensorrt", "precision": "float8"},
    "int4 for tensorrt": {"runtime": "tensorrt", "precision": "int4"},
}


@dataclass(frozen=True)
class Outliers:
    """The size of activations.

    Attributes:
        stream: largest |x| of the residual stream, before the massive token is raised.
        massive: what is added to every channel of one patch token.
        gain: of a few channels of each layer norm, over their gain before.
        channels: number of these channels in each layer norm.
        seed: of the choice of channels.
    """

    stream: float = 750.0
    massive: float = 750.0
    gain: float = 64.0
    channels: int = 3
    seed: int = 0


PRETRAINED = Outliers()


class NotAPlainVit(ArtifactError):
    """A model whose residual stream `with_outliers` does not know."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    kept = {model.name: model for model in reference_students()}
    parser.add_argument("--students", nargs="*", default=list(kept), choices=kept, metavar="NAME", help=", ".join(kept))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    cifar = Cifar.model_validate(
        {"source": "cifar10", "path": str(asked.cifar.absolute()), "few_shot": {"shots": SHOTS}}
    )
    data = dataset_artifacts({"cifar": cifar}, Path.cwd(), [CALIBRATION, TEST])
    measured, left_out = models_before("outliers"), models_before("outliers", "left_out")
    with single_stages(terminal_context()) as stages:
        for name in asked.students:
            measured.pop(name, None)
            left_out.pop(name, None)
            try:
                measured[name] = _measured(kept[name], stages, data, asked.images, asked.threads)
            except NotAPlainVit as error:
                left_out[name] = str(error.got)
            publish("outliers", {"models": measured, "left_out": left_out})


def _measured(
    model: ReferenceStudent, stages: SingleStages, data: Mapping[str, Artifact], images: int, threads: int
) -> Json:
    plain, test = stages.make(model.stage), open_dataset(data[TEST])
    canvases = preprocessed((test.image(index) for index in range(images)), plain.io.preprocess)
    calibration = _first_images(open_dataset(data[CALIBRATION]), plain)
    module = open_checkpoint(plain).module
    changed = with_outliers(module, calibration)
    models = {"plain": plain, "outliers": _loaded(changed, model, stages)}
    assert test.labels is not None
    return {
        "conditions": conditions(),
        "images": images,
        "stream": {
            "plain": stream_sizes(module, calibration),
            "outliers": stream_sizes(changed, calibration),
        },
        "forms": {
            name: _forms(checkpoint, stages, data[CALIBRATION], canvases, test.labels[:images], threads)
            for name, checkpoint in models.items()
        },
    }


def _first_images(dataset: Dataset, model: Artifact) -> Tensor:
    images = (dataset.image(index) for index in range(len(dataset)))
    return torch.from_numpy(preprocessed(images, model.io.preprocess))


def _loaded(changed: VisionTransformer, model: ReferenceStudent, stages: SingleStages) -> Artifact:
    """The checkpoint of a model with outliers."""
    args = {**model.stage.model_args, "of": model.stage.model, "epsilon": epsilon_of(changed)}
    fields = {**model.stage.model_dump(), "id": f"{model.name}-outliers", "model": NAME, "model_args": args}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in changed.state_dict().items()}, weights)
        return stages.make(Load.model_validate({**fields, "weights": str(weights)}))


def _forms(
    checkpoint: Artifact,
    stages: SingleStages,
    calibration: Artifact,
    canvases: NDArray[np.float32],
    labels: NDArray[np.int64],
    threads: int,
) -> dict[str, Json]:
    """Each form of a model: SQNR and agreement with the float file, accuracy and layers kept float, or the refusal."""
    name = checkpoint.id
    as_float = stages.make(Export(stage="export", id=f"{name}-float", model=name), model=checkpoint)
    expected = _answers(as_float, canvases, threads)
    rows: dict[str, Json] = {"float32": {"top1": float(np.mean(expected.argmax(1) == labels))}}
    for form, fields in FORMS.items():
        try:
            made = _form(form, fields, checkpoint, as_float, stages, calibration)
        except ParityError as error:
            rows[form] = {"refused": str(error)}
            continue
        got = _answers(made, canvases, threads)
        rows[form] = {
            "sqnr_db": sqnr_db(got, expected),
            "agreement": float(np.mean(got.argmax(1) == expected.argmax(1))),
            "top1": float(np.mean(got.argmax(1) == labels)),
            "kept_float": made.metrics.get("kept_float", 0),
        }
    return rows


def _form(
    form: str, fields: Json, checkpoint: Artifact, as_float: Artifact, stages: SingleStages, calibration: Artifact
) -> Artifact:
    name = checkpoint.id
    if form == "float16":
        return stages.make(
            Export(stage="export", id=f"{name}-float16", model=name, precision="float16"), model=checkpoint
        )
    asked = {"stage": "quantize", "id": f"{name}-int8", "model": name, "calibration": CALIBRATION, "placement": "all"}
    return stages.make(Quantize.model_validate({**asked, **fields}), model=as_float, calibration=calibration)


def _answers(model: Artifact, canvases: NDArray[np.float32], threads: int) -> NDArray[np.float64]:
    """Centered logits (images, classes)."""
    session = session_as_declared(model.file("model.onnx"), model.io, model.model_file.options, threads)
    return centered_outputs(session, np.array_split(canvases, max(1, len(canvases) // BATCH)))


def with_outliers(model: nn.Module, images: Tensor, outliers: Outliers = PRETRAINED) -> VisionTransformer:
    """A copy of a ViT with large activations and, to rounding, equal logits.

    - The residual stream is scaled: embeddings, and the last layer of attention and MLP. Layer norms forget the scale,
      if their ε is multiplied by its square.
    - The position embedding of the first patch is raised by a constant, which layer norms subtract with the mean.
    - A few channels of each layer norm are multiplied, and the weights that read them are divided.

    The ε is no weight: `vit_with_epsilon` builds the model again.

    Args:
        images: (N, 3, H, W). The residual stream is as large as asked for on them.

    Raises:
        NotAPlainVit: the error names what is different.
    """
    if reason := _why_refused(model):
        raise NotAPlainVit(
            "outliers cannot be given to this model", where=type(model).__name__, got=reason, expected=TAKEN
        )
    assert isinstance(model, VisionTransformer)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        _scale_stream(changed, outliers.stream / max(stream_sizes(model, images)))
        assert changed.pos_embed is not None
        changed.pos_embed[:, 0 if changed.no_embed_class else changed.num_prefix_tokens] += outliers.massive
        generator = torch.Generator().manual_seed(outliers.seed)
        for norm, readers in _normed_layers(changed):
            channels = torch.randperm(norm.weight.numel(), generator=generator)[: outliers.channels]
            norm.weight[channels] *= outliers.gain
            norm.bias[channels] *= outliers.gain
            for reader in readers:
                reader.weight[:, channels] /= outliers.gain
    return changed


@torch.no_grad()
def stream_sizes(model: nn.Module, images: Tensor) -> list[float]:
    """The largest |x| that enters each layer norm of the residual stream, in the order of the layers."""
    sizes: list[float] = []
    hooks = [
        norm.register_forward_pre_hook(lambda _, inputs: sizes.append(float(inputs[0].abs().max())))
        for norm, _ in _normed_layers(model)
    ]
    try:
        model.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


@register_model
def vit_with_epsilon(
    pretrained: bool = False, *, of: str = "deit_tiny_patch16_224", epsilon: float = EPSILON, **options: Any
) -> VisionTransformer:
    """timm's ViT of the name `of`, with this ε in each layer norm of the residual stream."""
    model: Any = timm.create_model(of, **options)
    for norm, _ in _normed_layers(model):
        norm.eps = epsilon
    vit: VisionTransformer = model
    return vit


def epsilon_of(model: nn.Module) -> float:
    """The ε of the layer norms of the residual stream, an argument of `vit_with_epsilon`."""
    return _normed_layers(model)[0].norm.eps


class _NormedLayers(NamedTuple):
    """A layer norm of the residual stream, and the layers that read it."""

    norm: nn.LayerNorm
    readers: Sequence[nn.Linear]


def _normed_layers(model: Any) -> list[_NormedLayers]:
    """The layer norms of the residual stream, in the order of the layers."""
    layers = [
        _NormedLayers(norm, (reader,))
        for block in model.blocks
        for norm, reader in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1))
    ]
    last = model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
    heads = (model.head, *([model.head_dist] if hasattr(model, "head_dist") else []))
    return [*layers, _NormedLayers(last, heads)]


def _scale_stream(model: VisionTransformer, factor: float) -> None:
    """Multiply the residual stream of a ViT by a factor, and the ε of its layer norms by the square."""
    for norm, _ in _normed_layers(model):
        norm.eps *= factor**2
    for writer in _writers(model):
        writer *= factor


def _writers(model: Any) -> Iterator[Tensor]:
    """The weights and biases that make the residual stream: sums of what they give."""
    embeddings = (model.cls_token, model.reg_token, model.pos_embed, getattr(model, "dist_token", None))
    yield from (embedding for embedding in embeddings if embedding is not None)
    yield from model.patch_embed.proj.parameters()
    for block in model.blocks:
        for scale, layer in ((block.ls1, block.attn.proj), (block.ls2, block.mlp.fc2)):
            yield from (scale if isinstance(scale, LayerScale) else layer).parameters()


def _why_refused(model: nn.Module) -> str:
    """What makes a model other than a plain ViT; "" for a plain ViT."""
    if not isinstance(model, VisionTransformer):
        return "another kind of model"
    if type(model.patch_embed) is not PatchEmbed:
        return f"patches from {type(model.patch_embed).__name__}"
    last = [norm for norm in (model.norm, model.fc_norm) if not isinstance(norm, nn.Identity)]
    norms = [*last, *(norm for block in model.blocks for norm in (block.norm1, block.norm2))]
    heads = [model.head, *([model.head_dist] if hasattr(model, "head_dist") else [])]
    reasons = {
        "a norm before the blocks": not isinstance(model.norm_pre, nn.Identity),
        "a norm in the patch embedding": not isinstance(model.patch_embed.norm, nn.Identity),
        "no position embedding": model.pos_embed is None,
        f"global_pool {model.global_pool}": model.global_pool not in ("token", "avg"),
        "blocks other than timm's Block with Attention and Mlp": not all(map(_is_plain, model.blocks)),
        f"{len(last)} norms behind the blocks": len(last) != 1,
        "norms other than LayerNorm": not all(isinstance(norm, nn.LayerNorm) for norm in norms),
        "norms without weight and bias": any(_lacks_parameters(norm) for norm in norms),
        "a head that is not Linear": not all(isinstance(head, nn.Linear) for head in heads),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _lacks_parameters(norm: Any) -> bool:
    return getattr(norm, "weight", None) is None or getattr(norm, "bias", None) is None


def _is_plain(block: nn.Module) -> bool:
    return type(block) is Block and type(block.attn) is Attention and type(block.mlp) is Mlp


if __name__ == "__main__":
    main()
