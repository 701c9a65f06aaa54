"""Names of timm models and bodies, from a stored list, so that checking a recipe imports no torch."""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path

NAMES_FILE = Path(__file__).with_name("timm_names.txt")


def known_model(name: str) -> bool:
    """Whether timm has a model `name`, with or without the tag of its weights ("resnet50", "resnet50.a1_in1k").

    A name that the list lacks is looked up in timm, which may be newer than the list.
    """
    return name in listed_names() or name in names_in_timm()


def nearest_models(name: str, count: int = 3) -> list[str]:
    """The listed names most like `name`, best first; empty if no name is near."""
    candidates = [known for known in sorted(listed_names()) if ("." in known) == ("." in name)]
    similarity = difflib.SequenceMatcher(b=name)

    def nearness(known: str) -> float:
        """Similarity to the whole name, or to a prefix of the typed length: "deit_tny" means deit_tiny_patch16_224."""
        ratios = []
        for text in (known, known[: len(name) + 1]):
            similarity.set_seq1(text)
            ratios.append(similarity.ratio())
        return max(ratios)

    near = sorted(((nearness(known), known) for known in candidates), key=lambda pair: (-pair[0], pair[1]))[:count]
    return [known for ratio, known in near if ratio >= 0.6]


@cache
def listed_names() -> frozenset[str]:
    """The stored names: architectures, alone and with each tag of pretrained weights."""
    return frozenset(NAMES_FILE.read_text(encoding="utf-8").split())


@cache
def names_in_timm() -> set[str]:
    """The names in the installed timm and of the bodies: architectures, alone and with each tag of their weights."""
    import timm

    import edgevit.models.timm_bodies  # noqa: F401 - registers the bodies

    return {*timm.list_models(), *timm.list_pretrained()}


if __name__ == "__main__":
    NAMES_FILE.write_text("\n".join(sorted(names_in_timm())) + "\n", encoding="utf-8")
