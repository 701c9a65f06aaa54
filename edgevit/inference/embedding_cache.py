"""A cache of embeddings on disk. An embedding is the input of a model's classifier."""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor, nn

from edgevit.artifacts import Preprocess, sha256_of
from edgevit.models.timm_models import classifier_prefixes, timm_model
from edgevit.models.views import MultiViewModel
from edgevit.provenance import version_of
from edgevit.sealed_files import opened_sealed, write_sealed

KEY_BYTES = 16
SHARD_ROWS = 1024
FORMAT = 2  # sealed
ABANDONED_S = 3600  # an incomplete file of this age belongs to a run that was killed
NOT_OF_THE_BODY = ("training", "num_classes", "distilled_training")
_NOT_WHOLE = (ValueError, EOFError, LookupError, TypeError, zipfile.BadZipFile)  # of np.load
DECIDE_EMBEDDINGS = ("torch", "timm", "numpy", "onnxruntime")


class EmbeddingCache:
    """Embeddings by the hash of a canvas, the image at the model's size.

    A file holds many rows and is written whole or not at all. The key of the cache covers the model's weights and
    layers except the classifier, so another model's cache is never read. In memory the rows are one block: many small
    blocks between the model's large buffers would keep these from being reused, and memory would grow.

    Args:
        folder: the folder with the caches of all models.
    """

    def __init__(self, folder: Path, model: nn.Module, preprocess: Preprocess, device: torch.device) -> None:
        key = body_key(model, preprocess, device)
        self._folder, self._owner = folder / key, f"embeddings {key}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._places: dict[bytes, int] = {}
        self._block = torch.empty(0, 0)
        self._saved = 0
        for half in self._folder.glob("*.half"):
            if time.time() - half.stat().st_mtime > ABANDONED_S:
                half.unlink(missing_ok=True)
        for file in sorted(self._folder.glob("*.npz")):
            self._add(*_read_shard(file, self._owner))
        self._saved = len(self._places)

    def rows(self, canvases: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The embedding of each canvas (N, H, W, 3), as (N, dimensions). `compute` is called for missing ones only."""
        keys = [hashlib.blake2b(canvas.tobytes(), digest_size=KEY_BYTES).digest() for canvas in canvases.numpy()]
        missing = [place for place, key in enumerate(keys) if key not in self._places]
        if missing:
            self._add([keys[place] for place in missing], compute(canvases[missing]))
            if len(self._places) - self._saved >= SHARD_ROWS:
                self.save()
        return self._block[[self._places[key] for key in keys]]

    def save(self) -> None:
        """Write the new rows. A reader sees a file whole or not at all."""
        known = len(self._places)
        if self._saved == known:
            return
        new = [key for key, place in self._places.items() if place >= self._saved]
        keys = np.frombuffer(b"".join(new), np.uint8).reshape(-1, KEY_BYTES)
        file = self._folder / f"{uuid4().hex}.npz"
        self._folder.mkdir(parents=True, exist_ok=True)  # the folder may have been removed meanwhile
        content = io.BytesIO()
        np.savez(content, keys=keys, rows=self._block[self._saved : known].numpy())
        write_sealed(file, self._owner, content.getbuffer())
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


def body_key(model: nn.Module, preprocess: Preprocess, device: torch.device) -> str:
    """A key of all that decides embeddings except the image: the model without its classifier, and the environment."""
    inner, heads = timm_model(model), classifier_prefixes(model)
    layers = [
        (name, type(module).__qualname__, module.extra_repr(), _settings(module))
        for name, module in inner.named_modules()
        if not f"{name}.".startswith(heads)
    ]
    weights = hashlib.sha256()
    for name, tensor in (*inner.named_parameters(), *inner.named_buffers()):
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


def _settings(module: nn.Module) -> list[str]:
    """A layer's settings besides its weights, such as the number of heads, which timm's `extra_repr` does not show."""
    plain = (bool, int, float, str, tuple, type(None))
    return [
        f"{name}={value!r}"
        for name, value in sorted(vars(module).items())
        if isinstance(value, plain) and not name.startswith("_") and name not in NOT_OF_THE_BODY
    ]


def _read_shard(file: Path, owner: str) -> tuple[Sequence[bytes], Tensor]:
    """The keys and rows of a file. A damaged file, or a file of another model, is removed and gives no rows."""
    with suppress(OSError):
        with opened_sealed(file, owner) as stream, suppress(*_NOT_WHOLE):
            if stream is not None:
                arrays = np.load(stream, allow_pickle=False)
                return [key.tobytes() for key in arrays["keys"]], torch.from_numpy(arrays["rows"])
        file.unlink(missing_ok=True)
    return [], torch.empty(0, 0)
