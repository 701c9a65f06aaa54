"""Models whose weights stay, and that see many images: run as fast as the device can, and no image twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from edgevit.artifacts import EMBEDDING, IOSpec, Preprocess
from edgevit.configs import OPSET, Augmentation
from edgevit.data.dataset import Dataset
from edgevit.data.loading import ViewDataset
from edgevit.errors import EdgevitError
from edgevit.inference.embedding_cache import EmbeddingCache
from edgevit.inference.over_dataset import images_on, over_canvases
from edgevit.models.agreement import LARGEST_DEVIATION, deviation
from edgevit.models.cost import macs_of
from edgevit.models.embedding import Pooled, embedding_width
from edgevit.progress import Bar

WORTH_EXPORTING_MACS = 3e11  # of all images: some ten seconds of PyTorch on two cores, twice what an export takes

Forward = Callable[[Tensor], Tensor]


def fast_forward(
    model: nn.Module, preprocess: Preprocess, device: torch.device, images: int, embedding: bool = False
) -> Forward:
    """What takes images (N, 3, H, W) through the model in eval mode: to its logits, or to what enters its classifier.

    On the CPU, where so many images are worth the export, ONNX Runtime does it (MobileNetV2 in a fourth of PyTorch's
    time); a model that cannot be exported, or answers otherwise there, stays in PyTorch.
    """
    exports = _is_worth_exporting(model, preprocess, device, images)
    return _forward(model, preprocess, device, embedding, exports)


class FrozenModel:
    """A classifier whose embeddings of plain images are kept on disk, by the pixels that enter the model.

    They are the same for every classifier on the same body, and for every data set that holds the image. Which
    runtime computes one depends on how many are asked for: another order of stages may change its last digits.

    Args:
        cache: a folder; without one nothing is kept.
    """

    def __init__(
        self, model: nn.Module, preprocess: Preprocess, device: torch.device, cache: Path | None = None
    ) -> None:
        self._model, self._preprocess, self._device = model, preprocess, device
        self._kept = EmbeddingCache(cache / "embeddings", model, preprocess, device) if cache else None
        self._images = 0
        self._forward: Forward | None = None
        self._settled = False

    def embeddings(self, dataset: Dataset, batch_size: int = 64, bar: Bar | None = None) -> Tensor:
        """What enters the classifier for each sample in order, (samples, dimensions), float32, on the CPU."""
        views = self._views(dataset)
        kept = self._kept
        if kept is None:
            return over_canvases(self._computed, views, 0, batch_size, bar)
        features = over_canvases(lambda canvases: kept.rows(canvases, self._computed), views, 0, batch_size, bar)
        kept.save()
        return features

    def embeddings_of_views(
        self, dataset: Dataset, augmentation: Augmentation, view: int, seed: int, bar: Bar | None = None
    ) -> Tensor:
        """The same for random view number `view` of each sample; of these nothing is kept."""
        return over_canvases(self._computed, self._views(dataset, augmentation, seed), view, bar=bar)

    def _views(self, dataset: Dataset, augmentation: Augmentation | None = None, seed: int = 0) -> ViewDataset:
        """Counts what is asked for, and forgets how it was computed while there was less."""
        self._images += len(dataset)
        if not self._settled:
            self._forward = None
        return ViewDataset(dataset, self._preprocess, augmentation, seed)

    def _computed(self, canvases: Tensor) -> Tensor:
        if self._forward is None:
            self._settled = _is_worth_exporting(self._model, self._preprocess, self._device, self._images)
            self._forward = _forward(self._model, self._preprocess, self._device, True, exports=self._settled)
        return self._forward(images_on(self._device, canvases, self._preprocess)).float().cpu()


def _is_worth_exporting(model: nn.Module, preprocess: Preprocess, device: torch.device, images: int) -> bool:
    """Whether so many images take much longer in PyTorch than the export and ONNX Runtime do."""
    if device.type != "cpu" or not images:
        return False  # without counting, which takes an image through the model
    return images * macs_of(model, preprocess.height, preprocess.width) >= WORTH_EXPORTING_MACS


def _forward(model: nn.Module, preprocess: Preprocess, device: torch.device, embedding: bool, exports: bool) -> Forward:
    """To the embedding or the logits: in ONNX Runtime where that is asked for and possible, else in PyTorch."""
    exported = _in_onnxruntime(model.cpu().eval(), preprocess, embedding) if exports else None
    if exported is not None:
        return exported
    module = Pooled(model) if embedding else model
    return module.to(device).eval()


@torch.no_grad()
def _in_onnxruntime(model: nn.Module, preprocess: Preprocess, embedding: bool) -> Forward | None:
    """The model in ONNX Runtime, or None where it cannot be exported or answers otherwise there."""
    from edgevit.exporting import onnx_from_module  # here alone: most trainings do without ONNX
    from edgevit.runtimes.onnxruntime.session import inference_session

    classes = model(torch.zeros(1, 3, preprocess.height, preprocess.width)).shape[-1]
    spec = IOSpec.for_classifier(preprocess, tuple(map(str, range(classes))))
    try:
        if embedding:
            spec = spec.with_embedding(embedding_width(model, preprocess))
        with TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            onnx_from_module(model, spec, OPSET, dynamic_batch=True).write(file)
            session = inference_session(file, {}, threads=torch.get_num_threads(), spins=False)
    except EdgevitError:
        return None
    image, output = spec.inputs[0].name, EMBEDDING if embedding else spec.outputs[0].name

    def forward(images: Tensor) -> Tensor:
        (features,) = session.run([output], {image: images.contiguous().numpy()})
        return torch.from_numpy(features)

    try:
        agrees = deviation(forward, Pooled(model) if embedding else model, preprocess) <= LARGEST_DEVIATION
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        return None
    return forward if agrees else None
