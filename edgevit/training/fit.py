"""The one training loop. It can be killed at any moment and goes on, on one device, to the same bits."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers  # type: ignore[attr-defined]
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import Tensor, nn

from edgevit.artifacts import Preprocess
from edgevit.configs import Training
from edgevit.context import Context
from edgevit.data.dataset import Dataset
from edgevit.data.transforms import normalise
from edgevit.errors import RecipeError, TrainingError, did_you_mean
from edgevit.models.checkpoints import write_to_disk
from edgevit.models.distillation_token import TwoLogits
from edgevit.training.batches import Batches, TrainingStream, seed_of
from edgevit.training.inference import accuracy
from edgevit.training.objectives import ObjectiveFunction, learning_rate_at

LAST, METRICS = "last.pt", "metrics.jsonl"
MOST_STEPS_BETWEEN_ROWS = 50


def fit(
    model: nn.Module,
    objective: ObjectiveFunction,
    streams: Sequence[TrainingStream],
    config: Training,
    context: Context,
    *,
    preprocess: Preprocess,
    out: Path,
    val: Dataset | None = None,
    save_every_s: float = 20.0,
) -> tuple[nn.Module, float | None]:
    """Train `model` in place.

    The batch of a step, its dropout and its learning rate are functions of (seed, step), so that weights, optimiser,
    moving average and the number of steps are all that has to survive a kill; they are kept in `context.work`.

    Args:
        model: gives logits (batch, classes), or both heads' in training mode.
        objective: the loss of the model's outputs for a batch.
        streams: where batches come from; an epoch is a pass over the first.
        preprocess: how canvases enter the model.
        out: where `metrics.jsonl` goes.
        val: looked at after each epoch.
        save_every_s: least time between two saves within an epoch.

    Returns:
        The trained model, in eval mode on the CPU (its moving average where `ema_decay` is given), and its accuracy on
        `val`.

    Raises:
        TrainingError: the loss or the weights are no longer finite; the last good state stays in `context.work`.
    """
    run = _Run(model, objective, streams, config, context, preprocess, val, save_every_s)
    run.train()
    (out / METRICS).write_bytes((context.work / METRICS).read_bytes())
    return run.trained.cpu().eval(), run.val_top1


class _Run:
    """The state of one training run and its steps."""

    def __init__(
        self,
        model: nn.Module,
        objective: ObjectiveFunction,
        streams: Sequence[TrainingStream],
        config: Training,
        context: Context,
        preprocess: Preprocess,
        val: Dataset | None,
        save_every_s: float,
    ) -> None:
        self.config, self.context, self.preprocess = config, context, preprocess
        self.objective, self.val, self.save_every_s = objective, val, save_every_s
        self.device = torch.device(context.device)
        self.model = model.to(self.device)
        self.optimizer = optimizer_for(self.model, config)
        self.ema = None if config.ema_decay is None else ModelEmaV3(model, decay=config.ema_decay, use_warmup=True)
        self.batches = Batches(streams, preprocess, config.augmentation, config.batch_size, config.epochs, config.seed)
        self.val_top1: float | None = None
        self.step = 0
        self.log = _MetricsLog(context.work / METRICS)

    @property
    def trained(self) -> nn.Module:
        return self.model if self.ema is None else self.ema.module

    def train(self) -> None:
        self._resume()
        self.log.cut_after(self.step)
        total, batches = self.batches.total_steps, self.batches
        every = min(MOST_STEPS_BETWEEN_ROWS, max(1, total // 100))
        saved_at = row_at = time.monotonic()
        row = _Row()
        with self.context.progress.bar(self.context.stage_id or "training", total, "steps") as bar:
            bar.advance(self.step)
            for batch in batches.load(self.step, self.context.workers):
                row.add(*self._train_on(batch.to(self.device)))
                bar.advance(1, loss=row.loss, **({} if row.accuracy is None else {"accuracy": row.accuracy}))
                epoch_ended = batches.epoch_of(self.step) > batches.epoch_of(self.step - 1) or self.step == total
                if epoch_ended and self.val is not None:
                    self.val_top1 = self._validate()
                if not (epoch_ended or self.step % every == 0):
                    continue
                now = time.monotonic()
                self._log(row, now - row_at, self.val_top1 if epoch_ended else None)
                row, row_at = _Row(), now
                if now - saved_at > (self.save_every_s / 10 if epoch_ended else self.save_every_s):
                    self._save()
                    saved_at = time.monotonic()
        _check_finite(self.trained, self)

    def _train_on(self, batch: Any) -> tuple[float, float | None, int]:
        """One step. Gives its loss, the share of labelled samples that it got right, and its number of samples."""
        rate = self._learning_rate_of(self.step + 1)
        torch.manual_seed(seed_of(self.config.seed, "step", self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        outputs = self.model.train()(normalise(batch.canvases, self.preprocess))
        loss = self.objective(outputs, batch)
        loss_value = float(loss.detach())
        if not math.isfinite(loss_value):
            raise self.diverged(f"the loss is {loss_value}", self.step + 1)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm)
        self.optimizer.step()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)
        return loss_value, _share_right(outputs, batch.labels), len(batch.labels)

    def _learning_rate_of(self, step: int) -> float:
        """The rate that step 1, 2, … is taken with."""
        config, total = self.config, self.batches.total_steps
        return learning_rate_at(step - 1, total, config.learning_rate, config.schedule, config.warmup_fraction)

    def _validate(self) -> float:
        assert self.val is not None
        return accuracy(self.trained, self.val, self.preprocess, self.device, self.config.batch_size)

    def _log(self, row: _Row, seconds: float, val_top1: float | None) -> None:
        done = {
            "epoch": self.batches.epoch_of(self.step),
            "step": self.step,
            "loss": row.loss,
            "learning_rate": self._learning_rate_of(self.step),
            "images_per_s": round(row.samples / max(seconds, 1e-9), 1),
        }
        self.log.add(done if val_top1 is None else {**done, "val_top1": val_top1})

    def diverged(self, what: str, step: int) -> TrainingError:
        last = self.context.work / LAST
        kept = f"the last good state is kept in {last}" if last.is_file() else "nothing had been saved yet"
        return TrainingError(
            f"training diverged: {what}; {kept}",
            where=f"stage '{self.context.stage_id}', step {step} of {self.batches.total_steps}",
            got=f"learning rate {self._learning_rate_of(max(step, 1)):.3g}",
            expected="finite numbers",
            next="lower learning_rate, or set clip_grad_norm: 1",
        )

    def _save(self) -> None:
        """Write the state in one step: a reader sees the old file or the new one, whole."""
        _check_finite(self.model, self)
        state = {
            "step": self.step,
            "val_top1": self.val_top1,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
        }
        half = self.context.work / f"{LAST}.half"
        serialised = io.BytesIO()
        torch.save(state, serialised)
        write_to_disk(half, serialised.getbuffer())
        os.replace(half, self.context.work / LAST)

    def _resume(self) -> None:
        last = self.context.work / LAST
        self.context.work.mkdir(parents=True, exist_ok=True)
        if not last.is_file():
            return
        state = torch.load(last, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.step, self.val_top1 = state["step"], state["val_top1"]
        self.context.progress.say(f"    goes on after step {self.step} of {self.batches.total_steps}")


class _Row:
    """Means since the last row of the log."""

    def __init__(self) -> None:
        self.steps, self.samples, self._loss, self._right = 0, 0, 0.0, list[float]()

    def add(self, loss: float, right: float | None, samples: int) -> None:
        self.steps += 1
        self.samples += samples
        self._loss += loss
        if right is not None:
            self._right.append(right)

    @property
    def loss(self) -> float:
        return self._loss / self.steps

    @property
    def accuracy(self) -> float | None:
        return sum(self._right) / len(self._right) if self._right else None


class _MetricsLog:
    """`metrics.jsonl`: one JSON a line, flushed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def cut_after(self, step: int) -> None:
        """Drop the rows of steps that have to be done again, and a half-written last one."""
        lines = self._path.read_text().splitlines(keepends=True) if self._path.is_file() else []
        whole = [line for line in lines if line.endswith("\n")]
        self._path.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))

    def add(self, row: dict[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def optimizer_for(model: nn.Module, config: Training) -> torch.optim.Optimizer:
    """timm's optimiser of this name; norms and biases have no weight decay. RecipeError for an unknown name."""
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            model, opt=config.optimizer, lr=config.learning_rate, weight_decay=config.weight_decay
        )
    except (ValueError, AssertionError):
        raise RecipeError(
            "timm has no such optimiser",
            got=config.optimizer,
            expected="a name such as adamw, sgd, lamb or lion",
            next=did_you_mean(config.optimizer, map(str, list_optimizers())),
        ) from None
    return optimizer


def _check_finite(model: nn.Module, run: _Run) -> None:
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise run.diverged("a weight is not finite", run.step)


def _share_right(outputs: Tensor | TwoLogits, labels: Tensor) -> float | None:
    logits = outputs.class_logits if isinstance(outputs, TwoLogits) else outputs
    labelled = labels >= 0
    if not bool(labelled.any()):
        return None
    return float((logits.detach()[labelled].argmax(-1) == labels[labelled]).float().mean())
