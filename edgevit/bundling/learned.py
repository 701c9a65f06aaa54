"""Whether a model learned from a data set, by the manifests of its ancestors."""

from __future__ import annotations

from edgevit.artifacts import Artifact, InputRef, ancestors
from edgevit.provenance import purpose_of_input

LEARN_NOTHING = ("load", "export", "quantize", "compile", "bundle")
PARTS = {"train": {"support", "pool"}}  # roles that are parts of another


def learned_from(model: Artifact, data: Artifact) -> str | None:
    """The id of a stage behind `model` that learned from images of `data`, both of one recipe; None if none did.

    Data sets are compared by name and role, and by content. The history of a file that `load` read is unknown.
    """
    for ancestor in ancestors(model):
        if ancestor.manifest.stage in LEARN_NOTHING:
            continue
        for path, ref in ancestor.manifest.inputs.items():
            is_learned = ref.kind == "dataset" and purpose_of_input(ancestor, path) != "validated on"
            if is_learned and _shares_images(ref, data.ref()):
                return ancestor.id
    return None


def is_traced(model: Artifact) -> bool:
    """Whether the stages that made the model's weights are known."""
    return any(ancestor.kind == "checkpoint" for ancestor in ancestors(model))


def _shares_images(learned: InputRef, data: InputRef) -> bool:
    (learned_set, _, learned_role), (data_set, _, data_role) = learned.id.partition("."), data.id.partition(".")
    if learned_set != data_set:
        return learned.digest == data.digest
    is_whole = "" in (learned_role, data_role) or learned_role == data_role
    return is_whole or data_role in PARTS.get(learned_role, ()) or learned_role in PARTS.get(data_role, ())
