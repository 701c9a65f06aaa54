"""Corrections for classes of unequal size. Counts are the numbers of training samples of each class, (classes,)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from edgevit.configs import ClassifierTraining
from edgevit.errors import DataError, listed

Floats = npt.NDArray[np.float64]


class ClassBalance(NamedTuple):
    """How a loss corrects for classes of unequal size; by default it does not.

    Attributes:
        class_weights: the rule that gives each class its weight.
        beta: β of the effective number of samples.
        tau: τ of logit adjustment.
    """

    class_weights: Literal["balanced", "effective_number"] | None = None
    beta: float = 0.0
    tau: float = 0.0

    def weights(self, counts: Floats) -> Floats | None:
        """The weight of each class, (classes,); None if all classes weigh the same."""
        if self.class_weights is None:
            return None
        return balanced_weights(counts) if self.class_weights == "balanced" else effective_weights(counts, self.beta)

    def offsets(self, counts: Floats) -> Floats | None:
        """τ · log π, where π is the share of each class in the samples, (classes,); None if τ is 0.

        The loss adds them to the logits (Menon et al. 2021, eq. 10). A classifier that was trained without them has
        them subtracted from its logits (eq. 9).
        """
        return self.tau * np.log(counts / counts.sum()) if self.tau else None

    @property
    def is_on(self) -> bool:
        """Whether anything is corrected."""
        return self.class_weights is not None or self.tau != 0


UNBALANCED = ClassBalance()


def class_balance(config: ClassifierTraining) -> ClassBalance:
    """The correction that a stage asks for in its loss."""
    return ClassBalance(config.class_weights, config.class_weights_beta, config.logit_adjustment)


def balanced_weights(counts: Floats) -> Floats:
    """Weights n / (classes · n_c), which have a mean of 1 over the samples: scikit-learn's "balanced"."""
    weights: Floats = counts.sum() / (len(counts) * counts)
    return weights


def effective_weights(counts: Floats, beta: float) -> Floats:
    """Weights in proportion to 1 / E_c with E_c = (1 − β^n_c) / (1 − β), the effective number of samples.

    Cui et al. 2019, proposition 1 and section 4. They are scaled to a mean of 1 over the samples, so that the learning
    rate means the same as without weights; the paper scales them to a sum of the number of classes.
    """
    weights = 1 / -np.expm1(counts * np.log(beta)) if beta else np.ones(len(counts))
    scaled: Floats = weights * counts.sum() / (weights * counts).sum()
    return scaled


def check_every_class_has_samples(counts: Floats, classes: Sequence[str], where: object) -> None:
    """Raise DataError if a class has no sample: it has no weight and no frequency."""
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        raise DataError(
            "classes without training images cannot be balanced",
            where=where,
            got=listed(empty),
            expected="an image of each class",
            next="leave out class_weights, sampling and logit_adjustment, or these classes",
        )
