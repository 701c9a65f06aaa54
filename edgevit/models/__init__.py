"""Models: made by timm, described by a few words, kept as safetensors.

Names are looked up on first use, so that `edgevit.models.names` and `edgevit.models.catalogue` cost no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgevit.models.checkpoints import load_weights as load_weights
    from edgevit.models.checkpoints import model_from_checkpoint as model_from_checkpoint
    from edgevit.models.checkpoints import open_checkpoint as open_checkpoint
    from edgevit.models.checkpoints import save_checkpoint as save_checkpoint
    from edgevit.models.cost import cost_of as cost_of
    from edgevit.models.cost import macs_of as macs_of
    from edgevit.models.cost import params_of as params_of
    from edgevit.models.creation import BuiltModel as BuiltModel
    from edgevit.models.creation import create_model as create_model
    from edgevit.models.creation import with_new_head as with_new_head
    from edgevit.models.description import ModelDescription as ModelDescription
    from edgevit.models.names import known_model as known_model
    from edgevit.models.timm_models import preprocess_of as preprocess_of

_HOMES = {
    "checkpoints": ("load_weights", "model_from_checkpoint", "open_checkpoint", "save_checkpoint"),
    "cost": ("cost_of", "macs_of", "params_of"),
    "creation": ("BuiltModel", "create_model", "with_new_head"),
    "description": ("ModelDescription",),
    "names": ("known_model",),
    "timm_models": ("preprocess_of",),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
