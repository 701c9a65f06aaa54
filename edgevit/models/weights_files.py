"""Users' weights files: their state dicts, the choice of a state dict, and the names of the classes."""

from __future__ import annotations

import argparse
import pickle
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor

from edgevit.errors import ArtifactError, first_line

TORCH_LOAD_ERRORS = (  # of a damaged file
    RuntimeError,
    EOFError,
    BadZipFile,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)
PYTORCH_MAGIC = (b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(2, 6)))  # a zip, a bare pickle
# The keys of weights, in the order of preference. EMA comes first, as in timm's load_state_dict, which knows the first
# key of each kind.
EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
KEYS = (*EMA_KEYS, "state_dict", "model", "", "model_state_dict", "model_state", "net", "weights")
# Names of a whole model inside a training module, which Lightning writes before each key. The last two name different
# models, so that neither is preferred.
MODULES = (*EMA_KEYS[1:], "model", "net", "module", "backbone", "student", "teacher")
CLASS_NAME_KEYS = ("class_names", "label_names", "classes", "CLASSES", "labels", "id2label", "class_to_idx")
RECORDS = ("args", "pretrained_cfg", "meta", "config", "hyper_parameters")


class WeightsFile(NamedTuple):
    """The weights of one model in a user's file.

    Attributes:
        key: of these weights in the file; "" for the file itself.
        other_keys: of other weights in the file.
        class_names: in the order of the outputs; None if the file has no names.
    """

    path: Path
    state: dict[str, Tensor]
    key: str
    other_keys: tuple[str, ...]
    class_names: tuple[str, ...] | None

    @property
    def is_ema(self) -> bool:
        """Whether these are EMA weights, by their key."""
        return any(part in EMA_KEYS for part in self.key.split("."))


def read_weights(path: Path, key: str | None = None) -> WeightsFile:
    """The weights in a .safetensors, .pth, .pt or .th file. A file that could run code is refused.

    Args:
        key: of the weights in the file. By default, EMA weights are taken if there are any, as in timm.

    Raises:
        ArtifactError: the file is missing or damaged, could run code, has no weights, or has no weights at `key`.
    """
    loaded = _read(path)
    states = dict(_state_dicts(loaded))
    if not states:
        raise ArtifactError("no state dict in this file", where=path, expected="a dictionary of tensors")
    key = _usual_key([*states]) if key is None else key
    if key not in states:
        raise ArtifactError(
            "this file holds several weights" if key is None else "this file has no weights at this key",
            where=path,
            got=None if key is None else f"weights_key: {key}",
            expected=f"weights_key: {' or '.join(states)}",
        )
    other_keys = tuple(other for other in states if other != key)
    return WeightsFile(path, clean_state_dict(states[key]), key, other_keys, _class_names(loaded))


def load_tensors(file: Path | BinaryIO) -> object:
    """The content of a file that torch saved, on the CPU. A file that could run code raises UnpicklingError.

    A damaged file raises one of TORCH_LOAD_ERRORS.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on how a file was pickled
        return torch.load(file, map_location="cpu", weights_only=True)


def _usual_key(keys: Sequence[str]) -> str | None:
    """The key of the only weights, or of EMA weights, or of weights with a usual name; None if there is no such key."""
    if len(keys) == 1:
        return keys[0]
    candidates = ((key, *(f"{key}.{module}".lstrip(".") for module in MODULES[:-2])) for key in KEYS)
    return next((candidate for group in candidates for candidate in group if candidate in keys), None)


def _state_dicts(loaded: object, key: str = "", depth: int = 2) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dictionary of tensors in a file, by its dotted key; a dictionary of several models is split."""
    if not isinstance(loaded, Mapping) or not loaded:
        return
    if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()):
        parts = _modules(dict(loaded))
        yield from ((f"{key}.{name}".lstrip("."), part) for name, part in parts.items())
        if not parts:
            yield key, dict(loaded)
    elif depth:
        for name, value in loaded.items():
            if isinstance(name, str) and "optimizer" not in name:
                yield from _state_dicts(value, f"{key}.{name}".lstrip("."), depth - 1)


def _modules(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The models in a training module's state dict, by the names of MODULES; {} if it is one model."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in clean_state_dict(dict(state)).items():
        module, _, inner = name.partition(".")
        parts.setdefault(module, {})[inner] = value
    known = {name: parts[name] for name in MODULES if name in parts and "" not in parts[name]}
    return known if sum(map(len, known.values())) > len(state) // 2 else {}


def _class_names(loaded: object) -> tuple[str, ...] | None:
    """The names of the classes, if a checkpoint records them beside its weights."""
    if not isinstance(loaded, Mapping):
        return None
    for record in (loaded, *(loaded.get(name) for name in RECORDS)):
        fields = vars(record) if isinstance(record, argparse.Namespace) else record
        if isinstance(fields, Mapping):
            for name in CLASS_NAME_KEYS:
                if (names := _names_in(fields.get(name))) is not None:
                    return names
    return None


def _names_in(value: Any) -> tuple[str, ...] | None:
    """Names in their order, from a list of names, a map of names to numbers, or a map of numbers to names."""
    if isinstance(value, Mapping) and value:
        by_index = {index: name for name, index in value.items()} if _all_are(int, value.values()) else dict(value)
        named = {int(index): name for index, name in by_index.items() if _is_index(index)}
        value = [named[index] for index in range(len(named))] if sorted(named) == [*range(len(value))] else None
    return tuple(value) if isinstance(value, (list, tuple)) and value and _all_are(str, value) else None


def _is_index(value: Any) -> bool:
    """Whether a value is a number of at most 9 digits, or such a number as text."""
    if isinstance(value, int):
        return not isinstance(value, bool) and 0 <= value < 10**9
    return isinstance(value, str) and value.isdecimal() and len(value) <= 9


def _all_are(kind: type, values: Any) -> bool:
    return all(isinstance(value, kind) for value in values)


def _read(path: Path) -> object:
    if not path.is_file():
        raise ArtifactError("there is no such file", where=path, expected="weights: .safetensors, .pth, .pt or .th")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ArtifactError(f"not a safetensors file: {error}", where=path) from None
    if path.suffix not in (".pth", ".pt", ".th"):
        raise ArtifactError("unknown format of weights", where=path, expected=".safetensors, .pth, .pt or .th")
    with path.open("rb") as file:
        if not file.read(4).startswith(PYTORCH_MAGIC):
            raise ArtifactError("this is not a PyTorch file", where=path, got=f"{path.stat().st_size} bytes")
    try:
        # timm's train.py writes its arguments into a checkpoint: a Namespace, which is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return load_tensors(path)
    except pickle.UnpicklingError:
        raise ArtifactError(
            "this file holds more than tensors: opening it could run code, so it was not opened",
            where=path,
            expected="tensors only",
            next="ask its author for a .safetensors file",
        ) from None
    except TORCH_LOAD_ERRORS as error:
        raise ArtifactError(f"this PyTorch file is damaged: {first_line(error)}", where=path) from None
