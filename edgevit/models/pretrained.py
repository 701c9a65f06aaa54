"""Whether pretrained weights come with edgevit, are in the cache or can be downloaded, found within ten seconds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from edgevit.errors import ArtifactError
from edgevit.models.bodies import is_body
from edgevit.models.names import listed_names

LIMIT_S = 10.0  # for the hub's answer; without an answer by then, the hub counts as unreachable
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")


def check_pretrained(name: str) -> None:
    """Raise ArtifactError, within `LIMIT_S`, if timm's weights are not in the cache and the hub does not answer."""
    if _hub_id(name) is None or is_cached(name) or hub_answers():
        return
    raise ArtifactError(
        f"the pretrained weights of {name} cannot be fetched: {hub_name()} does not answer",
        got="no such file in the Hugging Face cache",
        expected=f"{_hub_id(name)}, from the hub or its cache",
        next="on a machine with a network, download its model.safetensors; then add weights: FILE to the stage "
        "(export: --weights FILE)",
    )


def can_be_had(name: str, offline: bool = False) -> bool:
    """Whether a model is a body, or timm has weights of it that are in the cache, or that the hub can send."""
    return is_body(name) or (_hub_id(name) is not None and (is_cached(name) or (not offline and hub_answers())))


def is_cached(name: str) -> bool:
    """Whether timm's weights of a model are in the cache of Hugging Face."""
    from huggingface_hub import try_to_load_from_cache

    hub_id = _hub_id(name)
    if hub_id is None:
        return False
    return any(isinstance(try_to_load_from_cache(hub_id, file), str) for file in WEIGHTS_FILES)


@cache
def hub_answers(limit_s: float = LIMIT_S) -> bool:
    """Whether the Hugging Face hub answers within the limit; with HF_HUB_OFFLINE=1 it is not asked.

    It is asked once in a process.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answers: list[bool] = []
    # A thread, since looking up a name has no time limit of its own.
    thread = threading.Thread(target=lambda: answers.append(_answers(constants.ENDPOINT, limit_s)), daemon=True)
    thread.start()
    thread.join(limit_s)
    return answers == [True]


def hub_name() -> str:
    """The address of the hub, for messages."""
    from huggingface_hub import constants

    return constants.ENDPOINT.partition("://")[2]


@contextmanager
def without_network_if_cached(name: str) -> Iterator[None]:
    """Let the hub's client read its cache alone if the weights are there and the hub does not answer."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or (is_cached(name) and not hub_answers())
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def model_of_weights(file: Path) -> str | None:
    """The timm model that a file of weights is named after, as timm names its files; None if there is none.

    "tf_efficientnet_lite2.in1k.fp16.safetensors" is of tf_efficientnet_lite2.in1k.
    """
    parts = file.name.split(".")
    names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in names if name in listed_names()), None)


def _hub_id(name: str) -> str | None:
    import timm

    config = timm.models.get_pretrained_cfg(name)
    return (config.hf_hub_id or None) if config is not None else None


def _answers(address: str, limit_s: float) -> bool:
    if not address.startswith(("http://", "https://")):
        return False
    try:
        with urlopen(Request(address, method="HEAD"), timeout=limit_s):
            return True
    except HTTPError:
        return True  # the hub answers; it refuses only this request
    except (URLError, OSError, ValueError):
        return False
