"""The training loop. After a kill it resumes, and ends with equal bits on the same machine and number of ranks."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from edgevit.artifacts import Preprocess
from edgevit.configs import Training
from edgevit.context import Context
from edgevit.data.dataset import Dataset
from edgevit.data.transforms import normalize
from edgevit.errors import ArtifactError, Diverged, TrainingError, first_line, is_out_of_memory
from edgevit.inference.over_dataset import accuracy
from edgevit.inference.precision import autocast
from edgevit.models.distillation_token import TwoLogits
from edgevit.training.distillation.feature_projectors import WithFeatures, without_projectors
from edgevit.training.distributed import processes, sharding
from edgevit.training.loop.attention import fastest_attention
from edgevit.training.loop.batches import Batch, Batches, TrainingStream, seed_of, worker_death_as_data_error
from edgevit.training.loop.metrics_log import METRICS, MetricsLog, Row
from edgevit.training.loop.moving_average import MovingAverage
from edgevit.training.loop.optimization import checkpoint_gradients, freeze, optimizer_for, scheduler_for
from edgevit.training.loop.training_state import State, TrainingState
from edgevit.training.objectives import ObjectiveFunction, Outputs, heads_of

MOST_STEPS_BETWEEN_ROWS = 50
SPIKE = 3.0  # a row's loss over the previous row's loss


def fit(
    model: nn.Module,
    objective: ObjectiveFunction,
    streams: Sequence[TrainingStream],
    config: Training,
    context: Context,
    *,
    preprocess: Preprocess,
    out: Path,
    canvas: Preprocess | None = None,
    val: Dataset | None = None,
    save_every_s: float = 20.0,
    scheduler: Callable[[Optimizer], Scheduler] | None = None,
) -> tuple[nn.Module, float | None]:
    """Train `model`. Its weights change.

    The batch of a step, its dropout and its learning rate are functions of (seed, step). So a resume needs only the
    weights, the optimizer's state, the moving average and the number of steps; `context.work` keeps them.

    On several ranks (see `on_ranks`), all ranks call `fit`, and each computes its rows of every batch. Gradients and
    loss are those of the whole batch, except for rounding. Random layers such as dropout draw other numbers than on one
    rank. Batch normalization sees a rank's rows, and its running statistics are rank 0's. Only rank 0 validates, logs
    and saves. With `context.shard`, weights, gradients and the optimizer's state are sharded, and all ranks validate.

    Args:
        model: gives logits (batch, classes), TwoLogits in training mode, or WithFeatures.
        objective: the loss of the model's outputs for a batch.
        streams: the data sets of the batches; an epoch is a pass over the first stream.
        preprocess: the model's preprocessing of canvases.
        out: the folder of `metrics.jsonl`.
        canvas: the size of the canvases; by default the model's, larger if a teacher's input is larger.
        val: the data set for validation after each epoch.
        save_every_s: least time between two saves within an epoch.
        scheduler: sets the learning rates of each step; by default the schedule of `config`.

    Returns:
        The trained model without projectors, in eval mode on the CPU (its moving average where `ema_decay` is given),
        and its accuracy on `val` (on rank 0), 0 to 1.

    Raises:
        Diverged: the loss or the weights are no longer finite; the last good state stays in `context.work`.
        DataError: a process that loads images died.
        ArtifactError: the saved state belongs to another model.
        RecipeError: an option does not work with sharded weights.
        TrainingError: the batch does not fit into memory.
    """
    batches = Batches(
        streams,
        canvas or preprocess,
        config.augmentation,
        config.batch_size,
        config.epochs,
        config.seed,
        processes.rank(),
        processes.count(),
    )
    run = _Run(model, objective, batches, config, context, preprocess, val, scheduler)
    with worker_death_as_data_error(context.workers), fastest_attention(run.model, run.device, config.precision):
        run.train(save_every_s)
    if run.is_first:
        (out / METRICS).write_text(run.log.text(), encoding="utf-8")
    trained: nn.Module = without_projectors(run.result()).cpu().eval()
    if config.grad_checkpointing:
        checkpoint_gradients(trained, enable=False)
    return trained, run.val_top1


class _Run:
    """The state of one training run and its steps."""

    def __init__(
        self,
        model: nn.Module,
        objective: ObjectiveFunction,
        batches: Batches,
        config: Training,
        context: Context,
        preprocess: Preprocess,
        val: Dataset | None,
        scheduler: Callable[[Optimizer], Scheduler] | None,
    ) -> None:
        self.config, self.context, self.preprocess = config, context, preprocess
        self.is_first = processes.rank() == 0
        self.sharded = sharding.is_asked(context)
        self.objective, self.batches = objective, batches
        self.val = val if self.is_first or self.sharded else None
        self.device = torch.device(context.device)
        self.layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model = model
        if config.grad_checkpointing:
            checkpoint_gradients(model)
        self.ema = None if config.ema_decay is None else MovingAverage(model, decay=config.ema_decay, use_warmup=True)
        self.unsharded: nn.Module | None = None
        if self.sharded:
            sharding.check_can_shard(config)
            self.unsharded = copy.deepcopy(model)
        for model in (self.model,) if self.ema is None else (self.model, self.ema.module):
            self._place(model)
        self.frozen = freeze(self.model, config)
        self.optimizer = optimizer_for(self.model, config)
        steps_per_epoch = batches.total_steps / max(1, config.epochs)
        self.scheduler = (
            scheduler(self.optimizer)
            if scheduler
            else scheduler_for(self.optimizer, config, batches.total_steps, steps_per_epoch)
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        compiled: nn.Module = torch.compile(self.model) if config.compile else self.model  # type: ignore[assignment]
        self.forward = compiled if self.sharded else processes.parallel(compiled)
        self.val_top1: float | None = None
        self.step = 0
        self.saved = TrainingState(context)
        self.log = MetricsLog(context.work / METRICS, context.tensorboard if self.is_first else None)

    @property
    def trained(self) -> nn.Module:
        trained: nn.Module = self.model if self.ema is None else self.ema.module
        return trained

    def result(self) -> nn.Module:
        """The trained model with whole weights. All ranks have to call it."""
        if self.unsharded is None:
            return self.trained
        self.unsharded.load_state_dict(sharding.gathered(self.trained.state_dict()))
        return self.unsharded

    def _place(self, module: nn.Module) -> None:
        """Move a module to the device, or shard it there."""
        if self.sharded:
            sharding.shard(module, self.device)
        else:
            module.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]

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
                now = time.monotonic()  # before validation, logs and saves, which are not training time
                epoch_ended = batches.epoch_of(self.step) > batches.epoch_of(self.step - 1) or self.step == total
                if epoch_ended and self.val is not None:
                    self.val_top1 = self._validate()
                if epoch_ended or self.step % every == 0:
                    self._log(row, now - row_at, self.val_top1 if epoch_ended else None)
                    self._mention_spike(last_loss, row.loss)
                    last_loss, row = row.loss, Row()
                    if self._saves(now - saved_at > (save_every_s / 10 if epoch_ended else save_every_s)):
                        self._save()
                        saved_at = time.monotonic()
                if not row.steps:
                    row_at = time.monotonic()
                waits_since = time.monotonic()
        _check_finite(self.trained, self)

    def _train_on(self, batch: Batch) -> tuple[float, float | None, int]:
        """One step. Returns the loss, the accuracy on labelled samples, 0 to 1, and the number of samples."""
        draws = ("step", self.step) if self.is_first else ("step", self.step, processes.rank())
        torch.manual_seed(seed_of(self.config.seed, *draws))
        self.scheduler.step_update(self.step)
        parts = min(self.config.accumulation, batch.samples_in_all // processes.count())  # as many on every rank
        try:
            computed = self._backward(batch, parts)
        except (MemoryError, RuntimeError) as error:
            if sharding.NOT_IN_PARTS in str(error):
                raise sharding.cannot_shard(self.model, error) from None
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
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)
        loss, right, labelled = processes.summed(computed, self.device)
        return loss, right / labelled if labelled else None, batch.samples_in_all

    def _backward(self, batch: Batch, parts: int, together: bool = True) -> list[float]:
        """Compute gradients of the whole batch's loss; without `together`, of these rows' share of the loss.

        Returns these rows' share of the loss, their number of right samples, and their number of labelled samples.
        """
        self.optimizer.zero_grad()
        self.model.train()
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
        images = normalize(part.canvases, self.preprocess).contiguous(memory_format=self.layout)
        with autocast(self.device, self.config.precision):
            outputs = self.forward(images)
        outputs = _float32(outputs)
        loss = self.objective(outputs, part)
        if part.whole is not None:
            loss = loss * (len(part.labels) / part.whole.samples)
        # DDP averages gradients over the ranks, but the whole batch's gradient is the sum of the ranks' shares.
        self.scaler.scale(loss if processes.count() == 1 else loss * processes.count()).backward()  # type: ignore[no-untyped-call]
        return _tally(loss, heads_of(outputs)[0], part.main_labels)

    def _validate(self) -> float:
        assert self.val is not None
        return accuracy(self.trained, self.val, self.preprocess, self.device, self.config.batch_size)

    def _log(self, row: Row, seconds: float, val_top1: float | None) -> None:
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
        if val_top1 is not None:
            done["val_top1"] = val_top1
        if self.is_first:
            self.log.add(done)

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
        if self.sharded:  # the other ranks wait within their pass, so smaller parts cannot be tried
            return TrainingError(
                "the memory does not hold this batch",
                where=self._where(self.step + 1),
                got=f"{-(-len(batch.labels) // parts)} images at once on {self.device}",
                next=f"a larger accumulation (now {parts}), grad_checkpointing: true, or more ranks",
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
            f"training diverged: {what}; {kept}",
            where=self._where(step),
            got=f"learning rate {self._learning_rate():.3g}",
            expected="finite numbers",
            next="lower learning_rate, or set clip_grad_norm: 1",
        )

    def _save(self) -> None:
        """Save the state. All ranks have to call it if weights are sharded."""
        _check_finite(self.model, self)
        learned = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
        }
        state = {
            "step": self.step,
            "val_top1": self.val_top1,
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
            sharding.load(self.model, state["model"])
            sharding.load_optimizer(self.optimizer, state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.ema is not None:
                sharding.load(self.ema.module, state["ema"])
            self.step, self.val_top1, self.log.rows = state["step"], state["val_top1"], state["rows"]
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


def _tally(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss, the number of right samples and the number of labelled samples: (3,) float64, on the device."""
    right = logits.detach().argmax(-1) == labels  # never UNLABELLED
    return torch.stack([loss.detach().double(), right.sum().double(), (labels >= 0).sum().double()])


def _float32(outputs: Outputs) -> Outputs:
    """The outputs in float32 for the loss, whatever autocast returned."""
    if isinstance(outputs, WithFeatures):
        answer = _float32(outputs.answer)
        assert not isinstance(answer, WithFeatures)
        return WithFeatures(
            answer, {term: [feature_map.float() for feature_map in maps] for term, maps in outputs.features.items()}
        )
    if isinstance(outputs, TwoLogits):
        return TwoLogits(*(logits.float() for logits in outputs))
    return outputs.float()
