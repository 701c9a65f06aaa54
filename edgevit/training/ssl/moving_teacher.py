"""The base of the learners with a teacher that is a moving average of the student."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgevit.models.creation import BuiltModel
from edgevit.training.ssl.momentum import momentum_for, student_weight
from edgevit.training.ssl.self_supervised import SelfSupervised


class WithMovingTeacher(SelfSupervised):
    """Base of the learners with a teacher: a moving average of the student, without gradients.

    The teacher is in eval mode, so it has no dropout. Its batch normalization is in the mode of the student's, so
    frozen statistics stay frozen.

    Args:
        momentum: that of the recipe; None for `momentum_for` the number of steps.

    Attributes:
        pairs: the modules of the teacher, each with the module of the student that it follows.
    """

    papers_momentum: ClassVar[float] = 0.996
    rises: ClassVar[bool] = True
    averages_statistics: ClassVar[bool] = False

    def __init__(self, built: BuiltModel, momentum: float | None, seed: int) -> None:
        super().__init__(built, seed)
        self.momentum = momentum

    def add_teacher(self, head: nn.Module) -> None:
        """Add the teacher as a copy of the student and of its head."""
        self.head = head
        self.teacher, self.teacher_head = self.copy_of(self.model), self.copy_of(head)
        self.pairs = [(self.teacher, self.model), (self.teacher_head, head)]

    @staticmethod
    def copy_of(student: nn.Module) -> nn.Module:
        """A module of the teacher, without gradients."""
        return copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def of_teacher(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The teacher's embeddings of the views, and the outputs of its head: (views, n, …) each."""
        self.set_teacher_modes()
        embeddings = self.embeddings(self.teacher, views)
        return embeddings, torch.stack([self.teacher_head(embedding) for embedding in embeddings])

    def set_teacher_modes(self) -> None:
        """Set the modes of the teacher's modules, before a pass of the teacher."""
        for teacher, student in self.pairs:
            set_teacher_mode(teacher, student, batch_statistics=not self.averages_statistics)

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> None:
        """Move the teacher."""
        momentum = momentum_for(self.papers_momentum, self.rises, total) if self.momentum is None else self.momentum
        weight = student_weight(momentum, self.rises, step, total)
        for teacher, student in self.pairs:
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), weight=weight)
            if self.averages_statistics:
                move_statistics(teacher, student, weight)


def set_teacher_mode(teacher: nn.Module, student: nn.Module, batch_statistics: bool) -> None:
    """Set a teacher to eval mode; with `batch_statistics`, its batch normalization to the mode of the student's."""
    teacher.eval()
    if batch_statistics:
        for module, of_student in zip(teacher.modules(), student.modules(), strict=True):
            if isinstance(module, _BatchNorm):
                module.train(of_student.training)


def move_statistics(teacher: nn.Module, student: nn.Module, weight: float) -> None:
    """Move the buffers of a teacher, such as running statistics, toward the student's, with the student's weight."""
    for own, of_student in zip(teacher.buffers(), student.buffers(), strict=True):
        if own.is_floating_point():
            own.lerp_(of_student, weight)
        else:
            own.copy_(of_student)
