"""Class probabilities from a classifier's output. Needs only numpy; this file also ships in bundles."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# The `meaning` of the first output of an IOSpec.
LOGITS = "class scores"
PROBABILITIES = "class probabilities"
INDEPENDENT = "independent class probabilities"  # for several labels per image; they need not add up to 1
ONE_LOGIT = "score of class 1"  # of two classes
ONE_PROBABILITY = "probability of class 1"  # of two classes


def probabilities(output: npt.NDArray[Any], meaning: str) -> npt.NDArray[np.float64]:
    """The probability of each class, (images, classes) float64.

    Scores pass through a softmax; probabilities stay as they are. A single number for two classes, (images, 1), gives
    both: the number or its sigmoid is the probability of class 1.

    Args:
        output: (images, classes), or (images, 1) for a single number.
        meaning: of the output in its IOSpec, a constant of this module.
    """
    values: npt.NDArray[np.float64] = output.astype(np.float64)
    if meaning in (PROBABILITIES, INDEPENDENT):
        return values
    if meaning == ONE_PROBABILITY:
        return np.concatenate([1 - values, values], axis=-1)
    scores = np.concatenate([np.zeros_like(values), values], axis=-1) if meaning == ONE_LOGIT else values
    with np.errstate(invalid="ignore"):  # inf - inf gives NaN
        exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    normalized: npt.NDArray[np.float64] = exponentials / exponentials.sum(-1, keepdims=True)
    return normalized
