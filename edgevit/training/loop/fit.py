"""The training loop. After a kill it resumes, and ends with equal bits on the same machine and number of ranks."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from edgevit.artifacts import Preprocess
from edgevit.configs import Training, ViewSpec
from edgevit.context import Context
from edgevit.errors import ArtifactError, Diverged, TrainingError, first_line, is_out_of_memory
from edgevit.memory import freed_memory_kept
from edgevit.training.distributed import processes, sharding
from edgevit.training.loop.attention import fastest_attention
from edgevit.training.loop.batches import Batch, Batches, TrainingStream, seed_of, worker_death_as_data_error
from edgevit.training.loop.learner import Learner, Step, Validate
from edgevit.training.loop.metrics_log import METRICS, MetricsLog, Row
from edgevit.training.loop.moving_average import MovingAverage
from edgevit.training.loop.optimization import checkpoint_gradients, freeze, optimizer_for, scheduler_for
from edgevit.training.loop.precision import precision_of_training
from edgevit.training.loop.training_state import State, TrainingState

MOST_STEPS_BETWEEN_ROWS = 50
SPIKE = 3.0  # a row's loss over the previous row's loss


@freed_memory_kept()
def fit(
    learner: Learner,
    streams: Sequence[TrainingStream],
    config: Training,
    context: Context,
    *,
    out: Path,
    canvas: Preprocess | None = None,
    views: Sequence[ViewSpec] = (),
    validate: Validate | None = None,
    ends: Callable[[float], bool] | None = None,
    save_every_s: float = 20.0,
    scheduler: Callable[[Optimizer], Scheduler] | None = None,
) -> tuple[nn.Module, Mapping[str, float]]:
    """Train the learner's model. Its weights change.

    The batch of a step, its dropout and its learning rate are functions of (seed, step). So a resume needs only the
    learner's state, the optimizer's state, the moving average and the number of steps; `context.work` keeps them.

    On several ranks (see `on_ranks`), all ranks call `fit`, and each computes its rows of every batch. Gradients and
    loss are those of the whole batch, except for rounding. Random layers such as dropout draw other numbers than on one
    rank. Batch normalization sees a rank's rows, and its running statistics are rank 0's. Only rank 0 validates, logs
    and saves. With `context.shard`, weights, gradients and the optimizer's state are sharded, and all ranks validate.

    Args:
        streams: the data sets of the batches; an epoch is a pass over the first stream.
        out: the folder of `metrics.jsonl`.
        canvas: the size of the views; by default the model's, larger if a teacher's input is larger.
        views: the views of each row; by default one of the size of `canvas`.
        validate: measures the result after each epoch.
        ends: told the loss of each step; true ends the training there, without a check of its weights.
        save_every_s: least time between two saves within an epoch.
        scheduler: sets the learning rates of each step; by default the schedule of `config`.

    Returns:
        The trained model, stripped, in eval mode on the CPU (its moving average where `ema_decay` is given), and the
        last numbers of `validate` (on rank 0).

    Raises:
        Diverged: the loss or the weights are no longer finite; the last good state stays in `context.work`.
        DataError: a process that loads images died.
        ArtifactError: the saved state belongs to another model.
        RecipeError: an option does not work with sharded weights.
        TrainingError: the batch does not fit into memory.
    """
    batches = Batches(
        streams,
        canvas or learner.preprocess,
        config.augmentation,
        config.batch_size,
        config.epochs,
        config.seed,
        processes.rank(),
        processes.count(),
        views,
    )
    run = _Run(learner, batches, config, context, validate, ends, scheduler)
    with worker_death_as_data_error(context.workers), fastest_attention(learner, run.device, run.precision):
        run.train(save_every_s)
    if run.is_first:
        (out / METRICS).write_text(run.log.text(), encoding="utf-8")
    trained: nn.Module = learner.stripped(run.result()).cpu().eval()
    if config.grad_checkpointing:
        checkpoint_gradients(trained, enable=False)
    return trained, run.validated


class _Computed(NamedTuple):
    """A step's loss, its accuracy on labelled samples, 0 to 1, its further means, and its number of samples."""

    loss: float
    accuracy: float | None
    means: Mapping[str, float]
    samples: int


class _Run:
    """The state of one training run and its steps."""

    def __init__(
        self,
        learner: Learner,
        batches: Batches,
        config: Training,
        context: Context,
        validate: Validate | None,
        ends: Callable[[float], bool] | None,
        scheduler: Callable[[Optimizer], Scheduler] | None,
    ) -> None:
        self.learner, self.batches, self.config, self.context = learner, batches, config, context
        self.is_first = processes.rank() == 0
        self.sharded = sharding.is_asked(context)
        self.validate = validate if self.is_first or self.sharded else None
        self.ends = ends or (lambda loss: False)
        self.device = torch.device(context.device)
        inner = learner.stripped(learner.model)
        if config.grad_checkpointing:
            checkpoint_gradients(inner)
        self.ema = (
            None
            if config.ema_decay is None
            else MovingAverage(learner.result(), decay=config.ema_decay, use_warmup=True)
        )
        self.unsharded: nn.Module | None = None
        if self.sharded:
            sharding.check_can_shard(config)
            self.unsharded = copy.deepcopy(learner.result())
            for model in (learner.model,) if self.ema is None else (learner.model, self.ema.module):
                sharding.shard(model, self.device)
        for module in (learner,) if self.ema is None else (learner, self.ema.module):
            self._place(module)
        self.frozen = freeze(inner, config)
        images = batches.total_steps * config.batch_size
        self.precision = precision_of_training(
            config, None if self.sharded else inner, learner.preprocess, images, context
        )
        learner.compute_as(config, self.precision)
        self.optimizer = optimizer_for(inner, config, _outside(inner, learner))
        steps_per_epoch = batches.total_steps / max(1, config.epochs)
        self.scheduler = (
            scheduler(self.optimizer)
            if scheduler
            else scheduler_for(self.optimizer, config, batches.total_steps, steps_per_epoch)
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")
        self.forward = learner if self.sharded else processes.parallel(learner)
        self.validated: Mapping[str, float] = {}
        self.names: tuple[str, ...] = ()  # of the learner's further means
        self.step = 0
        self.saved = TrainingState(context)
        self.log = MetricsLog(context.work / METRICS, context.tensorboard if self.is_first else None)

    @property
    def trained(self) -> nn.Module:
        trained: nn.Module = self.learner.result() if self.ema is None else self.ema.module
        return trained

    def result(self) -> nn.Module:
        """The trained model with whole weights. All ranks have to call it."""
        if self.unsharded is None:
            return self.trained
        self.unsharded.load_state_dict(sharding.gathered(self.trained.state_dict()))
        return self.unsharded

    def _place(self, module: nn.Module) -> None:
        """Move a module to the device, unless it is sharded there."""
        if not self.sharded:
            layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
            module.to(self.device, memory_format=layout)  # type: ignore[call-overload]

    def train(self, save_every_s: float) -> None:
        self._resume()
        total, batches = self.batches.total_steps, self.batches
        every = min(MOST_STEPS_BETWEEN_ROWS, max(1, total // 100))
        saved_at = row_at = waits_since = time.monotonic()
        row, last_loss = Row(), math.inf
        with self.context.progress.bar(self.context.stage_id or "training", total, "steps") as bar:
            bar.advance(self.step)
            for batch in batches.load(self.step, self.context.workers, pinned=self.device.type == "cuda"):
                row.waited_s += time.monotonic() - waits_since
                row.add(*self._train_on(batch.to(self.device)))
                bar.advance(1, loss=row.loss, **({} if row.accuracy is None else {"accuracy": row.accuracy}))
                if self.ends(row.last_loss):
                    return
                now = time.monotonic()  # before validation, logs and saves, which are not training time
                epoch_ended = batches.epoch_of(self.step) > batches.epoch_of(self.step - 1) or self.step == total
                if epoch_ended and self.validate is not None:
                    self.validated = self.validate(self.trained)
                if epoch_ended or self.step % every == 0:
                    self._log(row, now - row_at, self.validated if epoch_ended else {})
                    self.learner.check(row.means, self.step / total, self._where(self.step))
                    self._mention_spike(last_loss, row.loss)
                    last_loss, row = row.loss, Row()
                    if self._saves(now - saved_at > (save_every_s / 10 if epoch_ended else save_every_s)):
                        self._save()
                        saved_at = time.monotonic()
                if not row.steps:
                    row_at = time.monotonic()
                waits_since = time.monotonic()
        _check_finite(self.trained, self)

    def _train_on(self, batch: Batch) -> _Computed:
        """One step."""
        draws = ("step", self.step) if self.is_first else ("step", self.step, processes.rank())
        torch.manual_seed(seed_of(self.config.seed, *draws))
        self.scheduler.step_update(self.step)
        parts = min(self.config.accumulation, batch.samples_in_all // processes.count())  # as many on every rank
        try:
            computed = self._backward(batch, parts)
        except (MemoryError, RuntimeError) as error:
            if sharding.NOT_IN_PARTS in str(error):
                raise sharding.cannot_shard(self.learner.model, error) from None
            if not is_out_of_memory(error):
                raise
            computed = None
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise self._too_small(batch, parts) from None
        if computed is None:  # outside the handler, which would keep the memory of the failed computation
            raise self._too_large(batch, parts)
        if self.config.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.learner.parameters(), self.config.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.learner.after_step(self.step, self.batches.total_steps)
        if self.ema is not None:
            self.ema.update(self.learner.result(), step=self.step)
        loss, right, labelled, *means = processes.summed(computed, self.device)
        accuracy = right / labelled if labelled else None
        return _Computed(loss, accuracy, dict(zip(self.names, means, strict=True)), batch.samples_in_all)

    def _backward(self, batch: Batch, parts: int, together: bool = True) -> list[float]:
        """Compute gradients of the whole batch's loss; without `together`, of these rows' share of the loss.

        Returns these rows' share of the loss, their number of right samples, their number of labelled samples, and
        their share of each further mean.
        """
        self.optimizer.zero_grad()
        self.learner.train()
        for module in self.frozen:
            module.eval()
        tallies = []
        for number in range(parts):
            part = batch if parts == 1 else batch.part(number, parts)
            with nullcontext() if together and number == parts - 1 else processes.unsynchronized(self.forward):
                tallies.append(self._backward_of(part))
        tally: list[float] = torch.stack(tallies).sum(0).tolist()  # the step's only wait for the device
        if not math.isfinite(tally[0]):
            raise self.diverged(f"the loss is {tally[0]}", self.step + 1)
        return tally

    def _backward_of(self, part: Batch) -> Tensor:
        """Add the part's gradients. Returns the `_tally` of its share of the loss."""
        step: Step = self.forward(part)
        share = 1.0 if part.whole is None else len(part.labels) / part.whole.samples
        loss = step.loss if part.whole is None else step.loss * share
        # DDP averages gradients over the ranks, but the whole batch's gradient is the sum of the ranks' shares.
        self.scaler.scale(loss if processes.count() == 1 else loss * processes.count()).backward()  # type: ignore[no-untyped-call]
        self.names = tuple(step.means)
        return _tally(loss, step, share)

    def _log(self, row: Row, seconds: float, validated: Mapping[str, float]) -> None:
        done = {
            "epoch": self.batches.epoch_of(self.step),
            "step": self.step,
            "loss": row.loss,
            "learning_rate": self._learning_rate(),
            "images_per_s": round(row.samples / max(seconds, 1e-9), 1),
            "waiting": round(row.waited_s / max(seconds, 1e-9), 3),
        }
        if row.accuracy is not None:
            done["top1"] = row.accuracy
        if self.is_first:
            self.log.add({**done, **row.means, **validated})

    def _learning_rate(self) -> float:
        """The largest learning rate of the parameter groups."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def _mention_spike(self, before: float, now: float) -> None:
        if now > SPIKE * abs(before):
            self.context.progress.say(
                f"    the loss rose from {before:.3g} to {now:.3g} before step {self.step}; where it stays high, lower "
                f"learning_rate (now {self._learning_rate():.3g}) or set clip_grad_norm: 1"
            )

    def _where(self, step: int) -> str:
        return f"stage '{self.context.stage_id}', step {step} of {self.batches.total_steps}"

    def _saves(self, is_due: bool) -> bool:
        """Whether this rank saves now. Rank 0's clock decides. Only rank 0 saves; all ranks if weights are sharded."""
        return (
            processes.from_rank_0([float(is_due)], self.device) == [1.0] if self.sharded else self.is_first and is_due
        )

    def _too_large(self, batch: Batch, parts: int) -> TrainingError:
        if self.sharded or not self.learner.takes_parts:  # other ranks wait within their pass: no parts can be tried
            return TrainingError(
                "the memory does not hold this batch",
                where=self._where(self.step + 1),
                got=f"{-(-len(batch.labels) // parts)} images at once on {self.device}",
                next=self._way_to_fit(parts),
            )
        fits = self._fitting_parts(batch, parts)
        images = -(-len(batch.labels) // fits) if fits else 0
        return TrainingError(
            "the memory does not hold this batch",
            where=self._where(self.step + 1),
            got=f"{-(-len(batch.labels) // parts)} images at once on {self.device}",
            expected=f"{images} images at once, which fit" if fits else "more memory: not even two images fit",
            next=f"set accumulation: {fits}, which keeps the batch of {batch.samples_in_all}" if fits else None,
        )

    def _way_to_fit(self, parts: int) -> str:
        first = f"a larger accumulation (now {parts})" if self.learner.takes_parts else "a smaller batch_size"
        return f"{first}, grad_checkpointing: true, or more ranks"

    def _too_small(self, batch: Batch, parts: int) -> TrainingError:
        return TrainingError(
            "batch normalization needs two images at once",
            where=self._where(self.step + 1),
            got=f"{len(batch.labels)} images in {parts} parts",
            next="a larger batch_size, or less accumulation" + (" or fewer ranks" if processes.count() > 1 else ""),
        )

    def _fitting_parts(self, batch: Batch, parts: int) -> int | None:
        """The smallest doubling of `parts` that fits into memory, found by trying one part; None if none fits."""
        while len(batch.labels) >= 4 * parts:  # batch normalization needs two images at once
            parts *= 2
            self.optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                self._backward(batch.part(0, parts), 1, together=False)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                return parts
        return None

    def diverged(self, what: str, step: int) -> Diverged:
        last = self.saved.last
        kept = f"the last good state is kept in {last}" if last.is_file() else "nothing had been saved yet"
        return Diverged(
            f"training diverged: {what}",
            where=self._where(step),
            got=f"learning rate {self._learning_rate():.3g}; {kept}",
            expected="finite numbers",
            next="lower learning_rate, or set clip_grad_norm: 1",
        )

    def _save(self) -> None:
        """Save the state. All ranks have to call it if weights are sharded."""
        _check_finite(self.learner, self)
        learned = {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
        }
        state = {
            "step": self.step,
            "validated": dict(self.validated),
            "rows": self.log.rows,
            "scaler": self.scaler.state_dict(),
            **sharding.gathered(learned, keep=self.is_first),
        }
        if self.is_first:
            self.saved.save(self.step, state)

    def _resume(self) -> None:
        """Resume from the last good state, if there is one. All ranks have to call it."""
        self.context.work.mkdir(parents=True, exist_ok=True)
        state = self.saved.load()
        if state is not None:
            self._take(state)
            self.context.progress.say(f"    goes on after step {self.step} of {self.batches.total_steps}")
        self._check_ranks_agree()
        if self.is_first:
            self.log.begin()

    def _take(self, state: State) -> None:
        try:
            sharding.load(self.learner, state["learner"])
            sharding.load_optimizer(self.optimizer, state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.ema is not None:
                sharding.load(self.ema.module, state["ema"])
            self.step, self.validated, self.log.rows = state["step"], state["validated"], state["rows"]
        except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"the saved state does not fit this training: {first_line(error)}",
                where=self.saved.last,
                next=f"remove the folder {self.context.work}: the training then starts from its beginning",
            ) from None

    def _check_ranks_agree(self) -> None:
        steps = processes.summed([float(self.step)], self.device)[0] / processes.count()
        if steps != self.step:
            raise TrainingError(
                "the ranks read different saved states",
                where=self.saved.last,
                got=f"step {self.step} on rank {processes.rank()}, step {steps:g} on average",
                next="check the disk that the ranks share, and run the same command again",
            )


def _check_finite(model: nn.Module, run: _Run) -> None:
    if not all(bool(torch.isfinite(sharding.local(parameter)).all()) for parameter in model.parameters()):
        raise run.diverged("a weight is not finite", run.step)


def _tally(loss: Tensor, step: Step, share: float) -> Tensor:
    """The loss, the numbers of right and of labelled samples, and the share of each further mean.

    (3 + means,) float64, on the device.
    """
    none = loss.new_zeros((), dtype=torch.float64)
    counts = [none if count is None else count.double() for count in (step.right, step.labelled)]
    means = [share * mean.detach().double() for mean in step.means.values()]
    return torch.stack([loss.detach().double(), *counts, *means])


def _outside(inner: nn.Module, learner: Learner) -> list[nn.Parameter]:
    """The learner's trained parameters outside of the model that is saved, such as projectors."""
    inside = {id(parameter) for parameter in inner.parameters()}
    return [other for other in learner.parameters() if id(other) not in inside and other.requires_grad]
