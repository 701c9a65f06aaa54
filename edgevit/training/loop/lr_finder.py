"""The learning-rate range test: a short training whose rate rises from very small to very large."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer

from edgevit.configs import Training
from edgevit.context import Context
from edgevit.errors import Diverged, TrainingError
from edgevit.progress import Bar, SilentProgress
from edgevit.training.loop.fit import fit
from edgevit.training.loop.setup import TrainingSetup

# fastai's values with two changes. A start at 1e-6, where no optimizer learns yet, leaves more steps for useful rates.
# fastai's smoothing of 0.98 would show a change of the loss late, after half the test.
LOWEST, HIGHEST, STEPS, DIVERGED = 1e-6, 10.0, 100, 4.0
SMOOTHING = 0.9
FIRST = 10  # steps at very small rates: they show the variation of the loss between batches


@dataclass(frozen=True)
class RangeTest:
    """The loss at each learning rate.

    Attributes:
        learning_rates: as values of the stage's field `learning_rate`.
        losses: losses of single batches.
        smoothed: exponential moving average of the losses, with Adam's bias correction.
        diverged: whether the test ended early: the smoothed loss rose to 4 times its minimum, or a loss is not finite.
    """

    learning_rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    diverged: bool

    @property
    def minimum(self) -> int:
        """The step of the smallest smoothed loss. The first `FIRST` steps are left out: they are hardly smoothed."""
        later = range(min(FIRST, len(self.smoothed) - 1), len(self.smoothed))
        return min(later, key=lambda step: self.smoothed[step])

    @property
    def suggestion(self) -> float | None:
        """A tenth of the rate with the smallest smoothed loss (Howard and Gugger 2020, chapter 5).

        None if the loss never fell by more than its standard deviation over the first `FIRST` steps.
        """
        first = self.losses[:FIRST]
        noise = stdev(first) if len(first) > 1 else 0.0
        if self.smoothed[self.minimum] >= mean(first) - noise:
            return None
        return self.learning_rates[self.minimum] / 10


def range_test(
    setup: TrainingSetup,
    config: Training,
    context: Context,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
) -> RangeTest:
    """Train with a learning rate that rises exponentially, until the loss diverges (Smith 2017).

    It trains by `fit`, with the stage's own optimizer, batches and precision. The model's weights change; nothing is
    kept on disk.

    Raises:
        TrainingError: the loss is not finite at the smallest rate.
    """
    growth = (highest / lowest) ** (1 / (steps - 1))
    rates = tuple(lowest * growth**step for step in range(steps))
    enough = math.ceil(steps * config.batch_size / len(setup.streams[0].dataset))
    changes = {"epochs": max(config.epochs, enough), "learning_rate": lowest, "ema_decay": None, "compile": False}
    with (
        tempfile.TemporaryDirectory(prefix="edgevit-") as folder,
        context.progress.bar(context.stage_id or "training", steps, "steps") as bar,
    ):
        watched = _Watched(rates, bar)
        try:
            fit(
                setup.learner,
                setup.streams,
                config.model_copy(update=changes),
                replace(context, work=Path(folder), tensorboard=None, progress=SilentProgress()),
                out=Path(folder),
                canvas=setup.canvas,
                ends=watched.ends,
                save_every_s=math.inf,
                scheduler=lambda optimizer: _Rising(optimizer, growth),
            )
        except Diverged:
            watched.diverged = True
    if not watched.losses:
        raise TrainingError(
            "the loss is not finite from the start, whatever the learning rate",
            where=f"stage '{context.stage_id}'",
            next="check the data and the initial model",
        )
    done = len(watched.losses)
    return RangeTest(rates[:done], tuple(watched.losses), tuple(watched.smoothed), watched.diverged)


class _Rising(Scheduler):
    """An exponential schedule: `step_update(n)` sets each rate to its first value times growthⁿ."""

    def __init__(self, optimizer: Optimizer, growth: float) -> None:
        super().__init__(optimizer, "lr", t_in_epochs=False)
        self._growth = growth

    def _get_lr(self, t: int) -> list[float]:
        return [first * self._growth**t for first in self.base_values]


class _Watched:
    """The losses of the steps. The training ends after the last step or at divergence."""

    def __init__(self, rates: Sequence[float], bar: Bar) -> None:
        self._rates, self._bar = rates, bar
        self._average = 0.0
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self.diverged = False

    def ends(self, loss: float) -> bool:
        """Take the loss of a step. Returns whether the test ends here."""
        self.losses.append(loss)
        self._average = SMOOTHING * self._average + (1 - SMOOTHING) * loss
        self.smoothed.append(self._average / (1 - SMOOTHING ** len(self.losses)))
        self._bar.advance(1, loss=self.smoothed[-1], learning_rate=self._rates[len(self.losses) - 1])
        self.diverged = self.smoothed[-1] > DIVERGED * min(self.smoothed)
        return self.diverged or len(self.losses) == len(self._rates)
