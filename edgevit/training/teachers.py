"""Where a student's targets come from. Made so far: live, the teacher looks at the student's own view."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgevit.artifacts import IOSpec
from edgevit.data.transforms import normalise
from edgevit.errors import RecipeError
from edgevit.training.batches import Batch


class LiveTeacher:
    """A model that answers for each batch, in eval mode and without gradients, with the student's classes.

    It sees the same canvases as the student, resized and normalised as its own IOSpec says. Its classes are matched
    with the student's by name; those that the student lacks are left out.

    Raises:
        RecipeError: it lacks a class of the student.
    """

    def __init__(self, model: nn.Module, io: IOSpec, student_classes: tuple[str, ...], device: torch.device) -> None:
        self._model = model.to(device).eval().requires_grad_(False)
        self._preprocess = io.preprocess
        self._columns = matching_columns(io.classes, student_classes).to(device)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Logits (samples, student's classes)."""
        logits: Tensor = self._model(normalise(batch.canvases, self._preprocess))
        return logits[:, self._columns]


def matching_columns(teacher_classes: tuple[str, ...], student_classes: tuple[str, ...]) -> Tensor:
    """For each class of the student, the teacher's output of the same name."""
    place = {name: index for index, name in enumerate(teacher_classes)}
    missing = [name for name in student_classes if name not in place]
    if missing:
        raise RecipeError(
            f"the teacher does not know {len(missing)} of the student's {len(student_classes)} classes",
            got=f"missing: {_shown(missing)}; the teacher's classes: {_shown(teacher_classes)}",
            expected="a teacher trained on, or adapted to, the student's classes",
            next="adapt it first: a fewshot or train stage before this one",
        )
    return torch.tensor([place[name] for name in student_classes])


def _shown(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
