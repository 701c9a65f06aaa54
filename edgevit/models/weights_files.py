"""Files of weights from elsewhere: what they hold, which of it is taken, and what they say of their classes."""

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

NOT_WHOLE = (
    RuntimeError,
    EOFError,
    BadZipFile,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)  # of torch.load
PYTORCH_BEGINNINGS = (b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(2, 6)))  # a zip, a bare pickle
# Where weights are looked for, in this order: EMA first, as timm does (load_state_dict), which knows the first of each.
EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
KEYS = (*EMA_KEYS, "state_dict", "model", "", "model_state_dict", "model_state", "net", "weights")
# Names of a whole model inside a training module, as Lightning writes them before each key; the last two take turns.
MODULES = (*EMA_KEYS[1:], "model", "net", "module", "backbone", "student", "teacher")
NAMES_OF_CLASSES = ("class_names", "label_names", "classes", "CLASSES", "labels", "id2label", "class_to_idx")
RECORDS = ("args", "pretrained_cfg", "meta", "config", "hyper_parameters")


class WeightsFile(NamedTuple):
    """The weights of one model in a user's file.

    Attributes:
        key: where they are in the file, "" for the file itself.
        others: keys of other weights in the file.
        class_names: in the order of the outputs, where the file has them.
    """

    path: Path
    state: dict[str, Tensor]
    key: str
    others: tuple[str, ...]
    class_names: tuple[str, ...] | None

    @property
    def is_ema(self) -> bool:
        return any(part in EMA_KEYS for part in self.key.split("."))


def read_weights(path: Path, key: str | None = None) -> WeightsFile:
    """The weights in a .safetensors file, or in a .pth, .pt or .th that holds nothing that could run code.

    Args:
        key: where in the file; by default EMA weights where there are any, as timm takes them.

    Raises:
        ArtifactError: the file is missing, unreadable or would run code, or has no weights, or none at `key`.
    """
    loaded = _read(path)
    found = dict(_state_dicts(loaded))
    if not found:
        raise ArtifactError("no state dict in this file", where=path, expected="a dictionary of tensors")
    key = _usual_key([*found]) if key is None else key
    if key not in found:
        raise ArtifactError(
            "this file holds several weights" if key is None else "this file has no weights there",
            where=path,
            got=None if key is None else f"weights_key: {key}",
            expected=f"weights_key: {' or '.join(found)}",
        )
    others = tuple(one for one in found if one != key)
    return WeightsFile(path, clean_state_dict(found[key]), key, others, _class_names(loaded))


def load_tensors(file: Path | BinaryIO) -> object:
    """What torch saved, on the CPU, without running code: UnpicklingError where that would be needed.

    A damaged file raises one of NOT_WHOLE.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on how a file was pickled
        return torch.load(file, map_location="cpu", weights_only=True)


def _usual_key(keys: Sequence[str]) -> str | None:
    """The key of the weights that are usually meant: the only one, or EMA weights, or others of known names."""
    if len(keys) == 1:
        return keys[0]
    places = ((key, *(f"{key}.{module}".lstrip(".") for module in MODULES[:-2])) for key in KEYS)
    return next((place for inner in places for place in inner if place in keys), None)


def _state_dicts(loaded: object, key: str = "", depth: int = 2) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dictionary of tensors in a file, by its dotted key; of several models in one, each."""
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
    """The models in a training module's state dict, by the names of MODULES; {} where it is one model."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in clean_state_dict(dict(state)).items():
        module, _, inner = name.partition(".")
        parts.setdefault(module, {})[inner] = value
    known = {name: parts[name] for name in MODULES if name in parts and "" not in parts[name]}
    return known if sum(map(len, known.values())) > len(state) // 2 else {}


def _class_names(loaded: object) -> tuple[str, ...] | None:
    """The names of the classes, where a checkpoint records them beside its weights."""
    if not isinstance(loaded, Mapping):
        return None
    for record in (loaded, *(loaded.get(name) for name in RECORDS)):
        fields = vars(record) if isinstance(record, argparse.Namespace) else record
        if isinstance(fields, Mapping):
            for name in NAMES_OF_CLASSES:
                if (names := _names_in(fields.get(name))) is not None:
                    return names
    return None


def _names_in(value: Any) -> tuple[str, ...] | None:
    """Names in their order: of a list of them, of numbers by names, or of names by numbers."""
    if isinstance(value, Mapping) and value:
        by_index = {index: name for name, index in value.items()} if _are(int, value.values()) else dict(value)
        places = {int(index): name for index, name in by_index.items() if _is_index(index)}
        value = [places[index] for index in range(len(places))] if sorted(places) == [*range(len(value))] else None
    return tuple(value) if isinstance(value, (list, tuple)) and value and _are(str, value) else None


def _is_index(value: Any) -> bool:
    """Whether it is a number of at most 9 digits, or such a number as text."""
    if isinstance(value, int):
        return not isinstance(value, bool) and 0 <= value < 10**9
    return isinstance(value, str) and value.isdecimal() and len(value) <= 9


def _are(kind: type, values: Any) -> bool:
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
        raise ArtifactError("unknown kind of weights", where=path, expected=".safetensors, .pth, .pt or .th")
    with path.open("rb") as file:
        if not file.read(4).startswith(PYTORCH_BEGINNINGS):
            raise ArtifactError("this is no PyTorch file", where=path, got=f"{path.stat().st_size} bytes")
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
    except NOT_WHOLE as error:
        raise ArtifactError(f"this is no whole PyTorch file: {first_line(error)}", where=path) from None
