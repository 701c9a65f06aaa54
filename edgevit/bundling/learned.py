"""Whether a model learned from a data set, by the manifests behind it."""

from __future__ import annotations

from edgevit.artifacts import Artifact, InputRef, ancestors

LEARN_NOTHING = ("load", "export", "quantize", "compile", "bundle")
PARTS = {"train": {"support", "pool"}}  # roles that are parts of another


def learned_from(model: Artifact, data: Artifact) -> str | None:
    """The id of a stage behind `model` that learned from images of `data`, both of one recipe; None if none did.

    Data sets are compared by name and role, and by content. A file behind a `load` stage is not looked into.
    """
    for made in ancestors(model):
        if made.manifest.stage in LEARN_NOTHING:
            continue
        for field, ref in made.manifest.inputs.items():
            if ref.kind == "dataset" and not field.endswith("val") and _shares_images(ref, data.ref()):
                return made.id
    return None


def is_traced(model: Artifact) -> bool:
    """Whether the stages that made the model's weights are known."""
    return any(made.kind == "checkpoint" for made in ancestors(model))


def _shares_images(one: InputRef, other: InputRef) -> bool:
    (name, _, role), (other_name, _, other_role) = one.id.partition("."), other.id.partition(".")
    if name != other_name:
        return one.digest == other.digest
    whole = "" in (role, other_role) or role == other_role
    return whole or other_role in PARTS.get(role, ()) or role in PARTS.get(other_role, ())
