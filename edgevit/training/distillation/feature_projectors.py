"""A student with projectors, which returns its logits and the features that the loss compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from edgevit.configs import AttentionTransfer, FeatureDistillation, Objective, Tap
from edgevit.models.creation import BuiltModel
from edgevit.models.distillation_token import TwoLogits
from edgevit.models.taps import checked_taps, forward_with_taps
from edgevit.training.loop.batches import seed_of

T = TypeVar("T")
FEATURE_TERMS = (FeatureDistillation, AttentionTransfer)


class WithFeatures(NamedTuple):
    """A model's logits, and its features for each loss term that compares features, by the term's index."""

    answer: Tensor | TwoLogits
    features: dict[int, list[Tensor]]


class Taps:
    """The features that the terms of a loss read from one model.

    Args:
        wanted: the taps of each term that compares features, by the term's index.
        size: height and width of the model's input.
        who: "student" or "teacher", for errors.

    Raises:
        RecipeError: the model has no such tap.
    """

    def __init__(self, model: nn.Module, wanted: Mapping[int, Sequence[Tap]], size: tuple[int, int], who: str) -> None:
        self._counts = {term: len(taps) for term, taps in wanted.items()}
        flat = [tap for taps in wanted.values() for tap in taps]
        self._taps, channels = checked_taps(model, flat, size, who)
        self.channels = self._by_term(channels)

    def forward(self, model: nn.Module, images: Tensor) -> WithFeatures:
        """The model's logits and its features at these taps."""
        answer, features = forward_with_taps(model, images, self._taps)
        return WithFeatures(answer, self._by_term(features))

    def _by_term(self, flat: Sequence[T]) -> dict[int, list[T]]:
        rest = iter(flat)
        return {term: [next(rest) for _ in range(count)] for term, count in self._counts.items()}


def student_taps(terms: Sequence[Objective]) -> dict[int, Sequence[Tap]]:
    """The student's taps of each term that compares features, by the term's index."""
    return {index: _listed(term.student) for index, term in enumerate(terms) if isinstance(term, FEATURE_TERMS)}


def teacher_taps(terms: Sequence[Objective]) -> dict[int, Sequence[Tap]]:
    """The teacher's taps of each term that compares features, by the term's index."""
    return {index: _listed(term.teacher) for index, term in enumerate(terms) if isinstance(term, FEATURE_TERMS)}


class StudentWithProjectors(nn.Module):
    """A student with a projector for each `features` term: a linear map to the teacher's channels.

    In training mode it returns WithFeatures, in eval mode the student's logits. Projectors are dropped after training.

    Args:
        model: the student.
        size: height and width of the student's input.
        terms: the terms of the loss.
        teacher_channels: channels of the teacher's features, by the term's index.
        seed: seed of the projectors' initial weights.
    """

    def __init__(
        self,
        model: nn.Module,
        size: tuple[int, int],
        terms: Sequence[Objective],
        teacher_channels: Mapping[int, Sequence[int]],
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self._taps = Taps(model, student_taps(terms), size, "student")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "projectors"))
            self.projectors = nn.ModuleDict(
                {
                    str(index): _projector(term, self._taps.channels[index][0], teacher_channels[index][0])
                    for index, term in enumerate(terms)
                    if isinstance(term, FeatureDistillation)
                }
            )

    def forward(self, images: Tensor) -> WithFeatures | Tensor:
        if not self.training:
            logits: Tensor = self.model(images)
            return logits
        answer, features = self._taps.forward(self.model, images)
        projected = {int(term): [project(features[int(term)][0])] for term, project in self.projectors.items()}
        return WithFeatures(answer, {**features, **projected})


def with_projectors(
    built: BuiltModel, terms: Sequence[Objective], teacher_channels: Mapping[int, Sequence[int]], seed: int
) -> nn.Module:
    """The student; with projectors if a term of the loss compares features."""
    if not student_taps(terms):
        return built.module
    size = (built.preprocess.height, built.preprocess.width)
    return StudentWithProjectors(built.module, size, terms, teacher_channels, seed)


def without_projectors(model: nn.Module) -> nn.Module:
    """The student without its projectors; any other model unchanged."""
    if not isinstance(model, StudentWithProjectors):
        return model
    student: nn.Module = model.model
    return student


def _projector(term: FeatureDistillation, channels: int, teacher_channels: int) -> nn.Module:
    if isinstance(term.student, int):
        return nn.Conv2d(channels, teacher_channels, kernel_size=1)
    return nn.Linear(channels, teacher_channels)


def _listed(taps: Tap | tuple[int, ...]) -> Sequence[Tap]:
    return taps if isinstance(taps, tuple) else (taps,)
