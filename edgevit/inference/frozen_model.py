"""Fast inference with frozen models, in PyTorch or ONNX Runtime, with cached embeddings."""

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
from edgevit.model_file import OnnxruntimeOptions
from edgevit.models.agreement import LARGEST_DEVIATION, deviation
from edgevit.models.cost import macs_of
from edgevit.models.embedding import Pooled, embedding_width
from edgevit.progress import Bar

WORTH_EXPORTING_MACS = 3e11  # all images together: about ten seconds of PyTorch on two cores

Forward = Callable[[Tensor], Tensor]


def fast_forward(
    model: nn.Module, preprocess: Preprocess, device: torch.device, images: int, embedding: bool = False
) -> Forward:
    """A function from images (N, 3, H, W) to logits, or to embeddings (the classifier's input), in eval mode.

    On the CPU, if `images` is large enough to be worth an export, the model runs in ONNX Runtime, where convolutions
    are faster. A model that cannot be exported, or whose outputs differ there, stays in PyTorch.
    """
    exports = _is_worth_exporting(model, preprocess, device, images)
    return _forward(model, preprocess, device, embedding, exports)


class FrozenModel:
    """A classifier with a disk cache of the embeddings of plain images, by the pixels that enter the model.

    Embeddings are shared by all classifiers on the same body, and by all data sets that hold the image. The runtime
    depends on the number of images: another order of stages may change the last digits of an embedding.

    Args:
        cache: the cache folder; None for no cache.
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
        """The embedding of each sample in order, (samples, dimensions), float32, on the CPU."""
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
        """Embeddings of random view number `view` of each sample; like `embeddings`, but not cached."""
        return over_canvases(self._computed, self._views(dataset, augmentation, seed), view, bar=bar)

    def _views(self, dataset: Dataset, augmentation: Augmentation | None = None, seed: int = 0) -> ViewDataset:
        """Views of the data set. Its images are counted, and an export is considered again with the larger number."""
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
    """Whether PyTorch takes much longer for this many images than an export and ONNX Runtime."""
    if device.type != "cpu" or not images:
        return False  # before MACs are counted, which takes a forward pass
    return images * macs_of(model, preprocess.height, preprocess.width) >= WORTH_EXPORTING_MACS


def _forward(model: nn.Module, preprocess: Preprocess, device: torch.device, embedding: bool, exports: bool) -> Forward:
    """A function from images to embeddings or logits: in ONNX Runtime if `exports` and possible, else in PyTorch."""
    exported = _in_onnxruntime(model.cpu().eval(), preprocess, embedding) if exports else None
    if exported is not None:
        return exported
    module = Pooled(model) if embedding else model
    return module.to(device).eval()


@torch.no_grad()
def _in_onnxruntime(model: nn.Module, preprocess: Preprocess, embedding: bool) -> Forward | None:
    """The model in ONNX Runtime; None if it cannot be exported or its outputs differ from PyTorch's."""
    from edgevit.exporting import onnx_from_module  # imported here because most trainings do not need ONNX
    from edgevit.runtimes.onnxruntime.session import inference_session

    classes = model(torch.zeros(1, 3, preprocess.height, preprocess.width)).shape[-1]
    spec = IOSpec.for_classifier(preprocess, tuple(map(str, range(classes))))
    try:
        if embedding:
            spec = spec.with_embedding(embedding_width(model, preprocess))
        with TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            onnx_from_module(model, spec, OPSET, dynamic_batch=True).write(file)
            session = inference_session(file, OnnxruntimeOptions(), threads=torch.get_num_threads(), spins=False)
    except EdgevitError:
        return None
    image, output = spec.inputs[0].name, EMBEDDING if embedding else spec.outputs[0].name

    def forward(images: Tensor) -> Tensor:
        (features,) = session.run([output], {image: images.contiguous().numpy()})
        return torch.from_numpy(features)

    try:
        agrees = deviation(forward, Pooled(model) if embedding else model, preprocess) <= LARGEST_DEVIATION
    except Exception as error:  # onnxruntime's exceptions have no common base class
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        return None
    return forward if agrees else None
