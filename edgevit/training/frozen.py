"""Models whose weights stay, and that see many pictures: run as fast as the device can, and no picture twice."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor, nn

from edgevit.artifacts import EMBEDDING, IOSpec, Preprocess, sha256_of
from edgevit.configs import Augmentation
from edgevit.data.dataset import Dataset
from edgevit.data.loading import ViewDataset
from edgevit.errors import EdgevitError
from edgevit.exporting import onnx_from_module
from edgevit.models.cost import macs_of
from edgevit.models.creation import classifier_prefixes, timm_model
from edgevit.models.embedding import Pooled, embedding_width
from edgevit.models.views import MultiViewModel
from edgevit.progress import Bar
from edgevit.provenance import version_of
from edgevit.training.inference import images_on, over_canvases

WORTH_EXPORTING_MACS = 3e11  # of all pictures: some ten seconds of PyTorch on two cores, twice what an export takes
OPSET = 20
LARGEST_DEVIATION = 1e-3  # of the exported model's outputs, relative to the largest one
KEY_BYTES = 16
SHARD_ROWS = 1024
FORMAT = 1
DECIDE_EMBEDDINGS = ("torch", "timm", "numpy", "onnxruntime")

Forward = Callable[[Tensor], Tensor]


def fast_forward(
    model: nn.Module, preprocess: Preprocess, device: torch.device, images: int, embedding: bool = False
) -> Forward:
    """What takes images (N, 3, H, W) through the model in eval mode: to its logits, or to what enters its classifier.

    On the CPU, where so many images are worth the export, ONNX Runtime does it (MobileNetV2 in a fourth of PyTorch's
    time); a model that cannot be exported, or answers otherwise there, stays in PyTorch.
    """
    if device.type == "cpu" and images * macs_of(model, preprocess.height, preprocess.width) >= WORTH_EXPORTING_MACS:
        exported = _in_onnxruntime(model.cpu().eval(), preprocess, embedding)
        if exported is not None:
            return exported
    module = Pooled(model) if embedding else model
    return module.to(device).eval()


class FrozenModel:
    """A classifier whose embeddings of plain pictures are kept on disk, by the pixels that enter the model.

    They are the same for every classifier on the same body, and for every data set that holds the picture.

    Args:
        cache: a folder; without one nothing is kept.
    """

    def __init__(
        self, model: nn.Module, preprocess: Preprocess, device: torch.device, cache: Path | None = None
    ) -> None:
        self._model, self._preprocess, self._device = model, preprocess, device
        self._kept = _Kept(cache / "embeddings" / _body_key(model, preprocess, device)) if cache else None
        self._images = 0
        self._forward: Forward | None = None

    def embeddings(self, dataset: Dataset, batch_size: int = 64, bar: Bar | None = None) -> Tensor:
        """What enters the classifier for each sample in order, (samples, dimensions), float32, on the CPU."""
        views = self._views(dataset)
        kept = self._kept
        if kept is None:
            return over_canvases(self._computed, views, 0, batch_size, bar)
        found = over_canvases(lambda canvases: kept.rows(canvases, self._computed), views, 0, batch_size, bar)
        kept.save()
        return found

    def embeddings_of_views(
        self, dataset: Dataset, augmentation: Augmentation, view: int, seed: int, bar: Bar | None = None
    ) -> Tensor:
        """The same for random view number `view` of each sample; of these nothing is kept."""
        return over_canvases(self._computed, self._views(dataset, augmentation, seed), view, bar=bar)

    def _views(self, dataset: Dataset, augmentation: Augmentation | None = None, seed: int = 0) -> ViewDataset:
        """Counts what is asked for, and forgets how it was computed while there was less."""
        self._images += len(dataset)
        if isinstance(self._forward, nn.Module):
            self._forward = None
        return ViewDataset(dataset, self._preprocess, augmentation, seed)

    def _computed(self, canvases: Tensor) -> Tensor:
        if self._forward is None:
            self._forward = fast_forward(self._model, self._preprocess, self._device, self._images, embedding=True)
        return self._forward(images_on(self._device, canvases, self._preprocess)).float().cpu()


class _Kept:
    """Rows known by the hash of a canvas, in files of many rows each, which are written whole or not at all.

    In memory they lie in one block: many small ones between the large ones of a model would keep those from being used
    again, and memory would grow with every batch.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._places: dict[bytes, int] = {}
        self._block = torch.empty(0, 0)
        self._saved = 0
        for file in sorted(folder.glob("*.npz")):
            self._add(*_read_shard(file))
        self._saved = len(self._places)

    def rows(self, canvases: Tensor, compute: Forward) -> Tensor:
        """A row for each canvas (N, H, W, 3), computed for those that are not known."""
        keys = [hashlib.blake2b(one.tobytes(), digest_size=KEY_BYTES).digest() for one in canvases.numpy()]
        missing = [place for place, key in enumerate(keys) if key not in self._places]
        if missing:
            self._add([keys[place] for place in missing], compute(canvases[missing]))
            if len(self._places) - self._saved >= SHARD_ROWS:
                self.save()
        return self._block[[self._places[key] for key in keys]]

    def save(self) -> None:
        """Write what is new. A reader sees a file whole or not at all."""
        known = len(self._places)
        if self._saved == known:
            return
        new = [key for key, place in self._places.items() if place >= self._saved]
        keys = np.frombuffer(b"".join(new), np.uint8).reshape(-1, KEY_BYTES)
        file = self._folder / f"{uuid4().hex}.npz"
        half = file.with_suffix(".half")
        with half.open("wb") as stream:
            np.savez(stream, keys=keys, rows=self._block[self._saved : known].numpy())
        os.replace(half, file)
        self._saved = known

    def _add(self, keys: Sequence[bytes], rows: Tensor) -> None:
        for key, row in zip(keys, rows, strict=True):
            if key in self._places:
                continue
            place = len(self._places)
            if place >= len(self._block):
                larger = torch.empty(max(SHARD_ROWS, 2 * place), rows.shape[1])
                if place:
                    larger[:place] = self._block[:place]
                self._block = larger
            self._block[place] = row
            self._places[key] = place


def _read_shard(file: Path) -> tuple[Sequence[bytes], Tensor]:
    """The rows of a file; none of a damaged one, which is removed."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            keys, rows = [key.tobytes() for key in arrays["keys"]], torch.from_numpy(arrays["rows"])
        if len(keys) != len(rows) or rows.ndim != 2:
            raise ValueError("not as it was written")
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        file.unlink(missing_ok=True)
        return [], torch.empty(0, 0)
    return keys, rows


def _body_key(model: nn.Module, preprocess: Preprocess, device: torch.device) -> str:
    """Names a model without its classifier, and all else that decides its embeddings but the picture."""
    inner, heads = timm_model(model), classifier_prefixes(model)
    layers = [
        (name, type(module).__qualname__, module.extra_repr())
        for name, module in inner.named_modules()
        if not f"{name}.".startswith(heads)
    ]
    weights = hashlib.sha256()
    for name, tensor in inner.state_dict().items():
        if not name.startswith(heads):
            weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    facts = {
        "format": FORMAT,
        "classifiers": heads,
        "views": model.views if isinstance(model, MultiViewModel) else (),
        "layers": layers,
        "weights": weights.hexdigest(),
        "preprocess": preprocess.model_dump(mode="json"),
        "device": device.type,
        "versions": {name: version_of(name) for name in DECIDE_EMBEDDINGS},
    }
    return sha256_of(facts)[:40]


@torch.no_grad()
def _in_onnxruntime(model: nn.Module, preprocess: Preprocess, embedding: bool) -> Forward | None:
    """The model in ONNX Runtime, or None where it cannot be exported or answers otherwise there."""
    from edgevit.runtimes.onnxruntime.session import inference_session

    pictures = torch.randn(2, 3, preprocess.height, preprocess.width, generator=torch.Generator().manual_seed(0))
    expected = model(pictures)
    spec = IOSpec.for_classifier(preprocess, tuple(str(index) for index in range(expected.shape[-1])))
    try:
        if embedding:
            spec = spec.with_embedding(embedding_width(model, preprocess))
            expected = Pooled(model)(pictures)
        with TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            onnx_from_module(model, spec, file, OPSET, dynamic_batch=True)
            session = inference_session(file, {}, threads=torch.get_num_threads())
    except EdgevitError:
        return None
    image, output = spec.inputs[0].name, EMBEDDING if embedding else spec.outputs[0].name

    def forward(images: Tensor) -> Tensor:
        (found,) = session.run([output], {image: images.contiguous().numpy()})
        return torch.from_numpy(found)

    try:
        deviation = float((forward(pictures) - expected).abs().max() / expected.abs().max())
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        return None
    return forward if deviation <= LARGEST_DEVIATION else None
